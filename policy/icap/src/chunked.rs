//! Chunked bodies: writing them, and passing over those of a response.

use crate::IcapError;

/// Bytes of the line that begins a chunk, and of a trailer's line.
const LINE_MAX: usize = 1024;
/// Lines of a trailer.
const TRAILERS_MAX: usize = 32;
/// The end of a preview or a body.
pub(crate) const END: &[u8] = b"0\r\n\r\n";
/// The end of a preview that is all there is (RFC 3507 section 4.5).
pub(crate) const END_OF_ALL: &[u8] = b"0; ieof\r\n\r\n";

/// Appends a chunk. An empty one would be the end, and is left out.
pub(crate) fn put(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Passes over a chunked body: what is in it does not matter here, only where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    state: State,
    line: Vec<u8>,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The line with the size of the next chunk.
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The end of the line behind a chunk.
    DataEnd,
    /// Lines behind the last chunk.
    Trailer,
    Done,
}

impl Skip {
    pub(crate) fn new() -> Self {
        Self { state: State::Size, line: Vec::new(), trailers: 0 }
    }

    /// Whether the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes bytes in; returns how many belong to the body. Fewer than given: it has ended.
    ///
    /// # Errors
    /// That is no chunked body. Fault: the peer.
    pub(crate) fn take(&mut self, data: &[u8]) -> Result<usize, IcapError> {
        let mut at = 0;
        while at < data.len() && self.state != State::Done {
            if let State::Data(left) = &mut self.state {
                let part = (data.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= part as u64;
                at += part;
                if *left == 0 {
                    self.state = State::DataEnd;
                }
                continue;
            }
            let byte = data[at];
            at += 1;
            if byte != b'\n' {
                if self.line.len() == LINE_MAX {
                    return Err(IcapError::Protocol("a line of a chunked body is too long"));
                }
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line =
                line.strip_suffix(b"\r").ok_or(IcapError::Protocol("a line of a chunked body has no CR"))?;
            self.line(line)?;
        }
        Ok(at)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), IcapError> {
        self.state = match self.state {
            State::Size => match size(line).ok_or(IcapError::Protocol("the size of a chunk is none"))? {
                0 => State::Trailer,
                size => State::Data(size),
            },
            State::DataEnd if line.is_empty() => State::Size,
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer if self.trailers < TRAILERS_MAX => {
                self.trailers += 1;
                State::Trailer
            }
            _ => return Err(IcapError::Protocol("a chunk is longer than its size")),
        };
        Ok(())
    }
}

/// The size at the start of a line, before any extension.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii();
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn skip(data: &[u8], piece: usize) -> Result<(usize, bool), IcapError> {
        let (mut skip, mut at) = (Skip::new(), 0);
        for part in data.chunks(piece) {
            let taken = skip.take(part)?;
            at += taken;
            if taken < part.len() {
                break;
            }
        }
        Ok((at, skip.is_done()))
    }

    #[test]
    fn bodies() {
        let mut body = Vec::new();
        put(b"hello", &mut body);
        put(b"", &mut body);
        put(&[b'x'; 300], &mut body);
        body.extend_from_slice(END);
        for piece in [1, 2, 7, 1000] {
            let more = [body.as_slice(), b"ICAP/1.0"].concat();
            assert_eq!(skip(&more, piece).unwrap(), (body.len(), true));
            assert_eq!(skip(&body[..body.len() - 1], piece).unwrap(), (body.len() - 1, false));
        }
        for (body, done) in [
            ("0; ieof\r\n\r\n", true),
            ("5 ;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n", true),
            ("ffffffffffffffff\r\nx", false),
        ] {
            assert_eq!(skip(body.as_bytes(), 1).unwrap(), (body.len(), done), "{body:?}");
        }
    }

    #[test]
    fn what_is_no_body() {
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "5\nhello",
            "1\r\nab\r\n",
            "1\r\na\n",
            "10000000000000000\r\n",
            "0\r\nA\n\r\n",
        ] {
            assert!(skip(body.as_bytes(), 1).is_err(), "{body:?}");
        }
        assert!(skip(&[b'0'; LINE_MAX], 9).is_ok());
        assert!(skip(&[b'0'; LINE_MAX + 1], 9).is_err());
        let trailers = |n| format!("0\r\n{}\r\n", "A: b\r\n".repeat(n));
        assert!(skip(trailers(TRAILERS_MAX).as_bytes(), 9).unwrap().1);
        assert!(skip(trailers(TRAILERS_MAX + 1).as_bytes(), 9).is_err());
    }
}
