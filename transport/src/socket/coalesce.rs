//! [`Coalescer`]: joins batches of datagrams that follow one another (sans-io).
//!
//! quinn hands over at most 10 datagrams a call; the kernel takes up to 64 KB. A batch that may be followed by
//! more of its kind is copied and held; the next one is appended if it goes to the same place with datagrams of
//! the same size. What is held goes out when it is full, when something that cannot be appended comes, or when
//! [`Coalescer::flush`] is called. Order is kept.
//!
//! ```text
//!  10 x 1452 --> hold 10 --> 20 --> 30 --> 40: full, one call to the kernel
//!  ACK (small, alone), nothing held --> straight through
//!  a short last datagram --> appended, ends the batch, goes out
//!  10 x 8952 (over 64 KB) --> 7 and 3
//! ```
//!
//! Memory: one batch that the kernel would not take, or 64 KB, whichever is more. When the kernel takes no
//! more, nothing new is accepted.

use std::io;
use std::net::{IpAddr, SocketAddr};

use quinn::udp::{EcnCodepoint, Transmit};

/// The most that one call may carry: IPv4 counts its 20 bytes and UDP's 8 into 65,535. Bytes.
pub(super) const BATCH_MAX: usize = 65_507;

/// Holds what is not sent yet.
#[derive(Debug)]
pub(super) struct Coalescer {
    /// False: nothing is held to wait for more; batches are only split.
    joins: bool,
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
    pub(super) fn new(joins: bool) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let key = Key { destination: nowhere, ecn: None, src_ip: None, segment: 1 };
        Self { joins, key, held: Vec::new(), sent: 0, additions: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.held.len()
    }

    /// How many batches have been held so far.
    pub(super) fn additions(&self) -> u64 {
        self.additions
    }

    /// Takes `batch`: sends it, or holds it. `send` is called with batches of at most `max_segments` datagrams
    /// and [`BATCH_MAX`] bytes (one datagram may be longer).
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
            let waits = self.joins && is_batch && may_grow(length);
            if !waits && length <= limit.max(key.segment) {
                return send(batch);
            }
            self.key = key;
        }
        self.held.extend_from_slice(batch.contents);
        self.additions += 1;
        let is_whole = length.is_multiple_of(self.key.segment);
        if !self.joins || !is_whole || self.held.len() - self.sent + length > limit {
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
    /// Those of `send`. After `WouldBlock` the rest is still held; after any other error the batch that failed
    /// is dropped, as a network may drop it.
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
        let same_size =
            key.segment == self.key.segment || (length == key.segment && key.segment < self.key.segment);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// A kernel that takes what it is told to.
    #[derive(Default)]
    struct Kernel {
        /// Calls that will be refused with `WouldBlock`, by order; then all are taken.
        refuse: Vec<bool>,
        /// Length of each batch taken, and its segment size.
        batches: Vec<(usize, usize)>,
        /// Datagrams taken, with their destination port.
        datagrams: Vec<(u16, Vec<u8>)>,
    }

    impl Kernel {
        fn take(&mut self, batch: &Transmit<'_>) -> io::Result<()> {
            if self.refuse.pop().unwrap_or(false) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let segment = batch.segment_size.unwrap_or(batch.contents.len());
            self.batches.push((batch.contents.len(), segment));
            let port = batch.destination.port();
            self.datagrams.extend(batch.contents.chunks(segment).map(|datagram| (port, datagram.to_vec())));
            Ok(())
        }
    }

    fn batch(port: u16, contents: &[u8], segment: usize) -> Transmit<'_> {
        Transmit {
            destination: SocketAddr::from(([127, 0, 0, 1], port)),
            ecn: None,
            contents,
            segment_size: (contents.len() > segment).then_some(segment),
            src_ip: None,
        }
    }

    /// Offers batches of the given (datagrams, bytes each, bytes of the last), then flushes.
    fn sent(batches: &[(usize, usize, usize)]) -> Vec<(usize, usize)> {
        let (mut coalescer, mut kernel) = (Coalescer::new(true), Kernel::default());
        for (count, segment, last) in batches {
            let contents = vec![7; (count - 1) * segment + last];
            coalescer.offer(&batch(1, &contents, *segment), 64, &mut |b| kernel.take(b)).unwrap();
        }
        coalescer.flush(64, &mut |b| kernel.take(b)).unwrap();
        assert!(coalescer.is_empty());
        kernel.batches
    }

    #[test]
    fn batches_of_a_kind_are_joined_up_to_the_limit() {
        let ten = (10, 1452, 1452);
        assert_eq!(sent(&[ten; 4]), [(40 * 1452, 1452)]);
        assert_eq!(sent(&[ten; 5]), [(40 * 1452, 1452), (10 * 1452, 1452)]);
    }

    #[test]
    fn a_short_datagram_ends_a_batch() {
        let ten = (10, 1452, 1452);
        assert_eq!(sent(&[ten, (10, 1452, 100), ten]), [(19 * 1452 + 100, 1452), (10 * 1452, 1452)]);
        assert_eq!(sent(&[ten, (1, 100, 100), ten]), [(10 * 1452 + 100, 1452), (10 * 1452, 1452)]);
    }

    #[test]
    fn other_sizes_and_places_are_not_joined() {
        assert_eq!(sent(&[(10, 1200, 1200), (10, 1452, 1452)]), [(12_000, 1200), (14_520, 1452)]);
        // A probe is longer than the others.
        assert_eq!(sent(&[(10, 1200, 1200), (1, 1452, 1452)]), [(12_000, 1200), (1452, 1452)]);
        let (mut coalescer, mut kernel) = (Coalescer::new(true), Kernel::default());
        let contents = [1; 3000];
        for port in [1, 2] {
            coalescer.offer(&batch(port, &contents, 1000), 64, &mut |b| kernel.take(b)).unwrap();
        }
        assert_eq!(kernel.batches, [(3000, 1000)], "the first goes when the second comes");
    }

    #[test]
    fn what_cannot_grow_goes_at_once() {
        let (mut coalescer, mut kernel) = (Coalescer::new(true), Kernel::default());
        // An acknowledgement; a batch with a short end; a batch with room for no other of its kind.
        for (length, segment) in [(40, 40), (2900, 1452), (7 * 8952, 8952)] {
            let contents = vec![1; length];
            coalescer.offer(&batch(1, &contents, segment), 64, &mut |b| kernel.take(b)).unwrap();
            assert!(coalescer.is_empty(), "{length}");
        }
        assert_eq!(kernel.batches.len(), 3);
    }

    #[test]
    fn without_joining_nothing_waits() {
        let (mut coalescer, mut kernel) = (Coalescer::new(false), Kernel::default());
        let contents = vec![1; 89_520];
        for (length, segment) in [(14_520, 1452), (14_520, 1452), (89_520, 8952)] {
            coalescer.offer(&batch(1, &contents[..length], segment), 64, &mut |b| kernel.take(b)).unwrap();
            assert!(coalescer.is_empty());
        }
        let split = [(7 * 8952, 8952), (3 * 8952, 8952)];
        assert_eq!(kernel.batches, [[(14_520, 1452); 2], split].concat());
    }

    #[test]
    fn too_large_a_batch_is_split() {
        assert_eq!(sent(&[(10, 8952, 8952)]), [(7 * 8952, 8952), (3 * 8952, 8952)]);
        assert_eq!(
            sent(&[(1, 65_527, 65_527)]),
            [(65_527, 65_527)],
            "a single datagram is not ours to judge"
        );
    }

    #[test]
    fn a_full_kernel_stops_the_intake() {
        let (mut coalescer, mut kernel) = (Coalescer::new(true), Kernel::default());
        kernel.refuse = vec![true; 3];
        let contents = vec![1; 10 * 1452];
        let mut accepted = 0;
        while coalescer.offer(&batch(1, &contents, 1452), 64, &mut |b| kernel.take(b)).is_ok()
            && accepted < 10
        {
            accepted += 1;
        }
        assert_eq!(accepted, 4, "the fourth filled the batch; it is held, and the fifth is not taken");
        assert!(kernel.batches.is_empty());
        coalescer.flush(64, &mut |b| kernel.take(b)).unwrap_err();
        coalescer.flush(64, &mut |b| kernel.take(b)).unwrap();
        assert_eq!(kernel.batches, [(40 * 1452, 1452)]);
    }

    #[test]
    fn a_failed_batch_is_dropped() {
        let mut coalescer = Coalescer::new(true);
        coalescer.offer(&batch(1, &[1; 3000], 1000), 64, &mut |_| Ok(())).unwrap();
        let broken = |_: &Transmit<'_>| Err(io::ErrorKind::PermissionDenied.into());
        assert!(coalescer.flush(64, &mut { broken }).is_err());
        let mut kernel = Kernel::default();
        coalescer.flush(64, &mut |b| kernel.take(b)).unwrap();
        assert!(kernel.batches.is_empty() && coalescer.is_empty());
    }

    proptest! {
        #[test]
        fn every_datagram_goes_out_once_and_in_order(
            offers in prop::collection::vec(
                (1u16..3, 1usize..12, prop::sample::select(vec![100usize, 1200, 1452, 8952]), 1usize..=100, 0u8..4),
                1..60,
            ),
            refuse in prop::collection::vec(any::<bool>(), 0..60),
            max_segments in prop::sample::select(vec![1usize, 16, 64]),
            joins in any::<bool>(),
        ) {
            let (mut coalescer, mut kernel) = (Coalescer::new(joins), Kernel { refuse, ..Kernel::default() });
            let mut expected = Vec::new();
            for (number, (port, count, segment, last, then)) in offers.into_iter().enumerate() {
                let last = segment * last / 100;
                let contents = vec![number as u8; (count - 1) * segment + last.max(1)];
                let offered = batch(port, &contents, segment);
                // quinn keeps a batch that is not taken, and offers it again.
                while coalescer.offer(&offered, max_segments, &mut |b| kernel.take(b)).is_err() {}
                expected.extend(contents.chunks(segment).map(|datagram| (port, datagram.to_vec())));
                prop_assert!(coalescer.held.len() <= 2 * BATCH_MAX.max(12 * segment), "bounded");
                if then == 0 {
                    let _ = coalescer.flush(max_segments, &mut |b| kernel.take(b));
                }
            }
            while coalescer.flush(max_segments, &mut |b| kernel.take(b)).is_err() {}
            for (length, segment) in &kernel.batches {
                prop_assert!(*length <= BATCH_MAX && length.div_ceil(*segment) <= max_segments);
            }
            prop_assert_eq!(kernel.datagrams, expected);
        }
    }
}
