//! The sans-io heart of Metra.
//!
//! Chunks, manifests, the wire format of MTP, and the two state machines that move a job: [`source`] (knows what
//! there is, answers requests) and [`sink`] (knows what is missing, asks). Nothing here opens a socket, a file or
//! a task, reads a clock or draws a random number: time, bytes and randomness are arguments. The same code
//! therefore runs in the gateway, in the client, in virtual time and under a fuzzer.

pub mod bbr;
pub mod chunker;
pub mod code;
pub mod credit;
#[doc(hidden)]
pub mod fuzzing;
pub mod id;
pub mod manifest;
pub mod measure;
pub mod path;
pub mod priority;
pub mod ranges;
pub mod rate;
pub mod receipt;
pub mod sink;
pub mod source;
pub mod wire;

/// What every peer must accept, and no peer may exceed. See `docs/protocol.md`, section "Limits".
pub mod limits {
    /// Smallest content-defined chunk, except for the last one of a file. Bytes.
    pub const CHUNK_MIN: usize = 256 * 1024;
    /// Average content-defined chunk. Bytes.
    pub const CHUNK_AVG: usize = 1024 * 1024;
    /// Largest chunk. Bytes.
    pub const CHUNK_MAX: usize = 4 * 1024 * 1024;
    /// Files smaller than this are packed with their neighbours into one chunk. Bytes.
    pub const PACK_BELOW: u64 = CHUNK_MIN as u64;
    /// Longest payload of a frame on a control stream. Bytes.
    pub const FRAME_MAX: usize = 256 * 1024;
    /// Longest path of an entry, in bytes of UTF-8.
    pub const PATH_MAX: usize = 4096;
    /// Longest component of a path, in bytes of UTF-8 (`NAME_MAX` of the systems in use).
    pub const NAME_MAX: usize = 255;
    /// Longest text (reason, message, user name) on the wire, in bytes of UTF-8.
    pub const TEXT_MAX: usize = 1024;
    /// Longest bearer token or ticket on the wire. Bytes.
    pub const SECRET_MAX: usize = 4096;
    /// Most entries of a manifest.
    pub const ENTRIES_MAX: u32 = 4_000_000;
    /// Most chunks of a manifest.
    pub const CHUNKS_MAX: u32 = 4_000_000;
    /// Most ranges in one frame.
    pub const RANGES_MAX: usize = 4096;
    /// Jobs that one session may have open at a time.
    pub const JOBS_MAX: usize = 16;
    /// How often a chunk that fails its hash is asked for before the job fails.
    pub const CHUNK_ATTEMPTS: u8 = 5;
    /// Records of a job that may be sent before its sink is ready, and that it holds until then. Bytes, encoded.
    pub const EARLY_MAX: usize = 16 * 1024;
}
