//! The wire format of MTP: frames on a control stream, and chunks.
//!
//! `type varint | length varint | payload`, with the varints of RFC 9000, section 16. Unknown types are skipped.
//! The layouts are specified in `docs/protocol.md`; the vectors under `tests/vectors/` hold encoder and decoder to
//! it.

mod codec;
mod decoder;
mod frame;
pub mod stream;
pub mod varint;

pub use codec::{ChunkHeader, WireError, filler, grease, greeting};
pub use decoder::FrameDecoder;
pub use frame::{
    Auth, EntryStatus, Finished, Frame, Hello, Keep, ManifestEnd, Overwrite, PeerLimits, Placement, Pull,
    Push, Symlinks, Welcome,
};
