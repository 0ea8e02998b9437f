//! [`Coalescer`]: joins batches of datagrams that follow one another (sans-io).
//!
//! quinn hands over at most 10 datagrams a call; the kernel takes up to 64 KB. A batch that may be followed by more of
//! its kind is copied and held; the next one is appended if it goes to the same place with datagrams of the same size. What is held goes out when it is
//! full, when something that cannot be appended comes, or when [`Coalescer::flush`] is called. Order is kept.
//!
//! ```text
//!  10 x 1452 --> hold 10 --> 20 --> 30 --> 40: full, one call to the kernel
//!  ACK (small, alone), nothing held --> straight through
//!  a short last datagram --> appended, ends the batch, goes out
//!  10 x 8952 (over 64 KB) --> 7 and 3
//! ```
//!
//! Memory: one batch that the kernel would not take, or 64 KB, whichever is more. When the kernel takes no more,
//! nothing new is accepted.

use std::io;
use std::net::{IpAddr, SocketAddr};

use quinn::udp::{EcnCodepoint, Transmit};

/// The most that one call may carry: IPv4 counts its 20 bytes and UDP's 8 into 65,535. Bytes.
pub(super) const BATCH_MAX: usize = 65_507;

/// Holds what is not sent yet.
#[derive(Debug)]
pub(super) struct Coalescer {
    /// Where what is held goes; meaningless while nothing is held.
    key: Key,
    held: Vec<u8>,
    /// Bytes at the front of `held` that are sent already.
    sent: usize,
    /// Counts the batches held so far: shows whether anything was added since the last look.
    additions: u64,
}

/// What datagrams must share to go out in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
    /// Bytes; all datagrams are as long, but the last, which may be shorter.
    segment: usize,
}

impl Coalescer {
    pub(super) fn new() -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let key = Key { destination: nowhere, ecn: None, src_ip: None, segment: 1 };
        Self { key, held: Vec::new(), sent: 0, additions: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.held.len()
    }

    /// How many batches have been held so far.
    pub(super) fn additions(&self) -> u64 {
        self.additions
    }

    /// Takes `batch`: sends it, or holds it. `send` is called with batches of at most `max_segments` datagrams and [`BATCH_MAX`]
    /// bytes (one datagram may be longer).
    ///
    /// # Errors
    /// Those of `send`; `batch` is not taken then. If it could be taken but not sent, it is held.
    pub(super) fn offer(
        &mut self,
        batch: &Transmit<'_>,
        max_segments: usize,
        send: &mut impl FnMut(&Transmit<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let key = Key::of(batch);
        if !self.is_empty() && !self.fits(&key, batch.contents.len(), max_segments) {
            self.flush(max_segments, send)?;
        }
        let limit = limit(key.segment, max_segments);
        let length = batch.contents.len();
        // Worth waiting for more: a true batch of whole datagrams, with room for another of its kind.
        let may_grow = |length: usize| length.is_multiple_of(key.segment) && 2 * length <= limit;
        if self.is_empty() {
            let is_batch = length > key.segment;
            if !(is_batch && may_grow(length)) && length <= limit.max(key.segment) {
                return send(batch);
            }
            self.key = key;
        }
        self.held.extend_from_slice(batch.contents);
        self.additions += 1;
        let is_whole = length.is_multiple_of(self.key.segment);
        if !is_whole || self.held.len() - self.sent + length > limit {
            return match self.flush(max_segments, send) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                _ => Ok(()),
            };
        }
        Ok(())
    }

    /// Sends what is held.
    ///
    /// # Errors
    /// Those of `send`. After `WouldBlock` the rest is still held; after any other error the batch that failed is dropped, as a
    /// network may drop it.
    pub(super) fn flush(
        &mut self,
        max_segments: usize,
        send: &mut impl FnMut(&Transmit<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let limit = limit(self.key.segment, max_segments).max(self.key.segment);
        while self.sent < self.held.len() {
            let contents = &self.held[self.sent..self.held.len().min(self.sent + limit)];
            let batch = Transmit {
                destination: self.key.destination,
                ecn: self.key.ecn,
                contents,
                segment_size: (contents.len() > self.key.segment).then_some(self.key.segment),
                src_ip: self.key.src_ip,
            };
            let length = contents.len();
            match send(&batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    self.sent += length;
                    return Err(error);
                }
                Ok(()) => self.sent += length,
            }
        }
        self.held.clear();
        self.sent = 0;
        Ok(())
    }

    /// Whether `length` bytes with this key may be appended to what is held.
    fn fits(&self, key: &Key, length: usize, max_segments: usize) -> bool {
        let held = self.held.len() - self.sent;
        let same_place = self.key.destination == key.destination
            && self.key.ecn == key.ecn
            && self.key.src_ip == key.src_ip;
        // A single datagram shorter than the others may be the last.
        let same_size = key.segment == self.key.segment
            || (length == key.segment && key.segment < self.key.segment);
        same_place
            && same_size
            && held.is_multiple_of(self.key.segment)
            && held + length <= limit(self.key.segment, max_segments)
    }
}

impl Key {
    fn of(batch: &Transmit<'_>) -> Self {
        Self {
            destination: batch.destination,
            ecn: batch.ecn,
            src_ip: batch.src_ip,
            // An empty datagram does not occur in QUIC; 1 keeps the arithmetic defined.
            segment: batch.segment_size.unwrap_or(batch.contents.len()).max(1),
        }
    }
}

/// The most bytes of datagrams of `segment` bytes that one call may carry; 0 if `segment` alone is over it.
fn limit(segment: usize, max_segments: usize) -> usize {
    (BATCH_MAX / segment).min(max_segments.max(1)) * segment
}
