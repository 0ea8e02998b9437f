//! Frames out of a stream of bytes that arrives in pieces of any size.

use super::codec::WireError;
use super::{Frame, varint};
use crate::limits::FRAME_MAX;

/// Cuts a control stream into frames. Holds at most one incomplete frame, if [`next`](FrameDecoder::next) is called
/// until it gives `None` after each [`push`](FrameDecoder::push): at most [`FRAME_MAX`] bytes and one piece.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are done with.
    done: usize,
    failed: Option<WireError>,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next piece of the stream. Does nothing once the stream has failed.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.drain(..self.done);
            self.done = 0;
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next frame that is complete; `None` if more bytes are needed. Frames of unknown types are passed over.
    ///
    /// # Errors
    /// The peer broke the format. There is no way on: the same error comes again, and the link must be closed with
    /// its [`code`](WireError::code).
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator that ends could not go on after the next push"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.cut();
        if let Err(error) = result {
            self.failed = Some(error);
            self.buffer = Vec::new();
            self.done = 0;
        }
        result
    }

    /// Whether the stream may end here: no frame is incomplete.
    pub fn is_between_frames(&self) -> bool {
        self.failed.is_none() && self.done == self.buffer.len()
    }

    fn cut(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            let mut input = &self.buffer[self.done..];
            let (Some(kind), Some(len)) = (varint::take(&mut input), varint::take(&mut input)) else {
                return Ok(None);
            };
            if len > FRAME_MAX as u64 {
                return Err(WireError::FrameTooLong { kind, len });
            }
            let Some(payload) = input.get(..len as usize) else {
                return Ok(None);
            };
            self.done = self.buffer.len() - input.len() + payload.len();
            if let Some(frame) = Frame::decode(kind, payload)? {
                return Ok(Some(frame));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::code::Code;
    use crate::id::{ChunkIndex, JobId};
    use crate::wire::codec::tests::any_frame;
    use crate::wire::grease;

    fn drain(decoder: &mut FrameDecoder) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.next().unwrap()).collect()
    }

    fn unknown(kind: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        varint::put(kind, &mut out);
        varint::put(len as u64, &mut out);
        out.resize(out.len() + len, 0xaa);
        out
    }

    #[test]
    fn longest_frame_passes_and_one_more_byte_fails_at_once() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&unknown(0x21, FRAME_MAX));
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.is_between_frames());

        let whole = unknown(0x21, FRAME_MAX + 1);
        decoder.push(&whole[..5]);
        let error = WireError::FrameTooLong { kind: 0x21, len: FRAME_MAX as u64 + 1 };
        assert_eq!(decoder.next(), Err(error));
        decoder.push(&whole[5..]);
        assert_eq!(decoder.next(), Err(error), "a failed stream stays failed");
        assert_eq!(decoder.buffer.capacity(), 0);
        assert_eq!(error.code(), Code::Limit);
    }

    #[test]
    fn memory_is_bounded_by_a_frame_and_a_piece() {
        let mut decoder = FrameDecoder::new();
        let whole = unknown(0x5f, FRAME_MAX);
        for _ in 0..20 {
            for piece in whole.chunks(1000) {
                decoder.push(piece);
                assert_eq!(decoder.next(), Ok(None));
            }
        }
        assert!(decoder.buffer.capacity() <= 2 * (FRAME_MAX + 1000), "{}", decoder.buffer.capacity());
    }

    #[test]
    fn a_frame_that_is_cut_off_is_noticed() {
        let mut bytes = Vec::new();
        Frame::Gone { job: JobId(1), chunk: ChunkIndex(2) }.encode(&mut bytes);
        let mut decoder = FrameDecoder::new();
        decoder.push(&bytes[..bytes.len() - 1]);
        assert_eq!(decoder.next(), Ok(None));
        assert!(!decoder.is_between_frames());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            frames in prop::collection::vec(any_frame(), 0..8),
            sizes in prop::collection::vec(1usize..40, 1..20),
            meaningless in any::<u64>(),
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                grease(meaningless, &mut bytes);
                frame.encode(&mut bytes);
            }
            let mut decoder = FrameDecoder::new();
            let (mut got, mut rest) = (Vec::new(), bytes.as_slice());
            for size in sizes.into_iter().cycle() {
                let (piece, more) = rest.split_at(size.min(rest.len()));
                rest = more;
                decoder.push(piece);
                got.extend(drain(&mut decoder));
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(decoder.is_between_frames());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = FrameDecoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
