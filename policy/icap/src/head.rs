//! The head of a response: status line and headers, in bounded memory.

use crate::IcapError;

/// Bytes of a head, ICAP's or an encapsulated one.
pub(crate) const HEAD_MAX: usize = 32 * 1024;
/// Headers of a head.
const HEADERS_MAX: usize = 128;

/// A parsed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Printable, possibly empty.
    pub(crate) reason: String,
    /// Names in lower case; values of folded lines joined with one space.
    headers: Vec<(String, String)>,
}

impl Head {
    /// Where the head at the start of `data` ends: behind its empty line. `None`: more is needed.
    ///
    /// # Errors
    /// It is longer than [`HEAD_MAX`]. Fault: the peer.
    pub(crate) fn end(data: &[u8]) -> Result<Option<usize>, IcapError> {
        let within = &data[..data.len().min(HEAD_MAX)];
        match within.windows(4).position(|four| four == b"\r\n\r\n") {
            Some(at) => Ok(Some(at + 4)),
            None if data.len() >= HEAD_MAX => Err(IcapError::Protocol("a head is too long")),
            None => Ok(None),
        }
    }

    /// Parses a head with its empty line. `protocol`: what the status line starts with, as in `ICAP/1.`.
    ///
    /// # Errors
    /// It is none, or has too many headers. Fault: the peer.
    pub(crate) fn parse(data: &[u8], protocol: &str) -> Result<Self, IcapError> {
        let text = String::from_utf8_lossy(data);
        let mut lines = text.strip_suffix("\r\n\r\n").unwrap_or(&text).split("\r\n");
        let (status, reason) = status_line(lines.next().unwrap_or_default(), protocol)
            .ok_or(IcapError::Protocol("the status line is none"))?;
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            // c-icap folds X-Violations-Found.
            if line.starts_with([' ', '\t']) {
                let (_, value) =
                    headers.last_mut().ok_or(IcapError::Protocol("the first header is folded"))?;
                value.push(' ');
                value.push_str(line.trim());
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(IcapError::Protocol("a header has no colon"))?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(IcapError::Protocol("the name of a header is none"));
            }
            if headers.len() == HEADERS_MAX {
                return Err(IcapError::Protocol("there are too many headers"));
            }
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { status, reason: printable(reason), headers })
    }

    /// The first header of this name, which is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether a list in a header has this member, in any case.
    pub(crate) fn lists(&self, name: &str, member: &str) -> bool {
        let values = self.headers.iter().filter(|(n, _)| n == name);
        values.flat_map(|(_, v)| v.split(',')).any(|m| m.trim().eq_ignore_ascii_case(member))
    }
}

fn status_line<'a>(line: &'a str, protocol: &str) -> Option<(u16, &'a str)> {
    let rest = line.strip_prefix(protocol)?;
    let (minor, rest) = rest.split_once(' ')?;
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(minor) || status.len() != 3 || !digits(status) {
        return None;
    }
    Some((status.parse().ok().filter(|s| *s >= 100)?, reason))
}

/// Text from the peer as it may stand in messages and logs: without control characters, at most 200 characters.
pub(crate) fn printable(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Head, IcapError> {
        Head::parse(text.as_bytes(), "ICAP/1.")
    }

    #[test]
    fn heads() {
        let text = "ICAP/1.0 200 O\u{1}K\r\nA: 1\r\nx-v: 1\r\n\t-\r\n\t Name\r\nAllow: 206, 204\r\n\r\n";
        let head = parse(text).unwrap();
        assert_eq!((head.status, head.reason.as_str()), (200, "OK"));
        assert_eq!((head.header("a"), head.header("x-v")), (Some("1"), Some("1 - Name")));
        assert!(head.lists("allow", "204") && !head.lists("allow", "20"));
        assert_eq!(Head::end(format!("{text}more").as_bytes()).unwrap(), Some(text.len()));
        assert_eq!(Head::end(&text.as_bytes()[..text.len() - 1]).unwrap(), None);
    }

    #[test]
    fn what_is_no_head() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n\r\n",
            "ICAP/1.0 99 x\r\n\r\n",
            "ICAP/1.0 2000\r\n\r\n",
            "ICAP/1.0 +20\r\n\r\n",
            "ICAP/1. 200\r\n\r\n",
            "ICAP/1.0 200 OK\r\n folded\r\n\r\n",
            "ICAP/1.0 200 OK\r\nno colon\r\n\r\n",
            "ICAP/1.0 200 OK\r\nna me: x\r\n\r\n",
            "ICAP/1.0 200 OK\r\n: x\r\n\r\n",
        ] {
            assert!(matches!(parse(text), Err(IcapError::Protocol(_))), "{text:?}");
        }
        let headers = |n: usize| format!("ICAP/1.0 200 OK\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert!(parse(&headers(HEADERS_MAX)).is_ok());
        assert!(parse(&headers(HEADERS_MAX + 1)).is_err());
        assert!(Head::end(&vec![b'a'; HEAD_MAX - 1]).unwrap().is_none());
        assert!(Head::end(&vec![b'a'; HEAD_MAX]).is_err());
    }
}
