//! One direction of one link: takes packets out of one interface, and puts them into another when the model says so.
//!
//! ```text
//!  Tun::read --> firewall --> Pipe::offer each of the Parts --> held, in order of arrival --> runs --> Tun::write
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use metra_sim_model::{Arrival, Counts, Passage, Pipe};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;

use super::ip::Header;
use super::offload::{Parts, Run, VIRTIO, finish, runs};
use super::sys::{Tun, make_urgent};

/// What a lane does not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Nothing is stopped.
    Open,
    /// UDP is.
    NoUdp,
    /// All is but TCP to and from these.
    Only(Vec<SocketAddr>),
}

impl Filter {
    fn stops(&self, header: &Header, packet: &[u8]) -> bool {
        match self {
            Self::Open => false,
            Self::NoUdp => header.udp(),
            Self::Only(places) => !places.iter().any(|place| header.tcp_of(packet, *place)),
        }
    }
}

/// One direction of one link, and what can be seen of it while it runs.
#[derive(Debug)]
pub(crate) struct Lane {
    pipe: Mutex<Pipe>,
    filter: Filter,
    mtu: usize,
    stopped: AtomicU64,
    delivered: AtomicU64,
    delivered_bytes: AtomicU64,
    undelivered: AtomicU64,
    latest: AtomicU64,
}

/// What a lane did, beyond what the model counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Deeds {
    /// Packets that the firewall stopped. They did not use the link.
    pub(crate) stopped: u64,
    /// Packets that the receiving interface took.
    pub(crate) delivered: u64,
    /// Their bytes.
    pub(crate) delivered_bytes: u64,
    /// Packets that should have arrived and did not: refused by the interface, or too many to hold.
    pub(crate) undelivered: u64,
    /// How late a packet was at most. µs.
    pub(crate) latest_us: u64,
}

impl Lane {
    /// An idle lane for packets of up to `mtu` bytes.
    pub(crate) fn new(pipe: Pipe, filter: Filter, mtu: u32) -> Self {
        Self {
            pipe: Mutex::new(pipe),
            filter,
            mtu: mtu as usize,
            stopped: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivered_bytes: AtomicU64::new(0),
            undelivered: AtomicU64::new(0),
            latest: AtomicU64::new(0),
        }
    }

    /// What the model has counted.
    pub(crate) fn counts(&self) -> Counts {
        self.pipe().counts()
    }

    /// Bytes that wait for the link.
    pub(crate) fn backlog(&self, now: Duration) -> u64 {
        self.pipe().backlog(now)
    }

    /// What the lane did.
    pub(crate) fn deeds(&self) -> Deeds {
        Deeds {
            stopped: self.stopped.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            delivered_bytes: self.delivered_bytes.load(Relaxed),
            undelivered: self.undelivered.load(Relaxed),
            latest_us: self.latest.load(Relaxed) / 1000,
        }
    }

    /// Carries packets for ever.
    ///
    /// # Errors
    /// When an interface fails.
    pub(crate) fn run(&self, from: &Tun, to: &Tun, start: Instant) -> io::Result<()> {
        // The kernel may be late by 50 µs otherwise, to save power.
        prctl::set_timerslack(1)?;
        // A link does not wait for those who use it. Where this is not allowed, delays are less exact on a busy machine.
        let _ = make_urgent();
        let mut held = Held::new(self.mtu);
        loop {
            let woken = start.elapsed();
            let full = self.take(from, &mut held, start)?;
            self.give(to, &mut held, start);
            let now = start.elapsed();
            if full {
                continue;
            }
            let next = held.next();
            if next.is_some_and(|at| at <= now) {
                continue;
            }
            let until_next = next.map(|at| at - now);
            // Under load packets are taken and given in groups: most of their cost is waking up.
            let group = (woken + GROUP).saturating_sub(now);
            if until_next.is_some_and(|wait| wait <= GROUP) && !group.is_zero() {
                ppoll(&mut [], Some(TimeSpec::from_duration(group)), None)?;
            } else {
                let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
                ppoll(&mut fds, until_next.map(TimeSpec::from_duration), None)?;
            }
        }
    }

    /// Takes a batch. Whether there may be more.
    fn take(&self, from: &Tun, held: &mut Held, start: Instant) -> io::Result<bool> {
        let mut pipe = self.pipe();
        let mut taken = 0;
        while taken < BATCH {
            let len = match from.read(&mut held.read) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let read = std::mem::take(&mut held.read);
            taken += self.take_frame(&mut pipe, &read[..len], held, start);
            held.read = read;
        }
        Ok(true)
    }

    /// Takes the packets of a frame: how many.
    fn take_frame(&self, pipe: &mut Pipe, frame: &[u8], held: &mut Held, start: Instant) -> usize {
        let parts = Parts::of(frame).and_then(|parts| Some((parts, Header::of(parts.packet())?)));
        let Some((parts, header)) = parts else {
            self.stopped.fetch_add(1, Relaxed);
            return 1;
        };
        let count = parts.count();
        if self.filter.stops(&header, parts.packet()) {
            self.stopped.fetch_add(count as u64, Relaxed);
            return count;
        }
        for part in 0..count {
            if let Passage::Passes(first, second) =
                pipe.offer(start.elapsed(), header.packet(parts.len(part)))
            {
                for arrival in second.into_iter().chain([first]) {
                    let mut frame = held.buffer();
                    parts.put(part, &mut frame);
                    self.hold(held, frame, header, arrival);
                }
            }
        }
        count
    }

    fn hold(&self, held: &mut Held, mut frame: Vec<u8>, header: Header, arrival: Arrival) {
        if arrival.marked {
            header.mark(&mut frame[VIRTIO..]);
        }
        if let Some(bit) = arrival.wrong_bit {
            finish(&mut frame);
            header.damage(&mut frame[VIRTIO..], bit);
        }
        if let Err(frame) = held.put(Parcel { at: arrival.at, frame }) {
            self.undelivered.fetch_add(1, Relaxed);
            held.free(frame);
        }
    }

    /// Gives what is due.
    fn give(&self, to: &Tun, held: &mut Held, start: Instant) {
        loop {
            let now = start.elapsed();
            let due: Vec<Parcel> = std::iter::from_fn(|| held.due(now)).take(BATCH).collect();
            if due.is_empty() {
                return;
            }
            for run in runs(due.iter().map(|parcel| &*parcel.frame)) {
                self.give_run(to, &due, &run, start);
            }
            for Parcel { frame, .. } in due {
                held.free(frame);
            }
        }
    }

    /// Gives packets as one, if they can be; else, or where the kernel does not know how (of UDP before Linux 6.2), one by
    /// one.
    fn give_run(&self, to: &Tun, due: &[Parcel], run: &Run, start: Instant) {
        let parcels = || run.packets.iter().map(|place| &due[*place]);
        let first = &due[run.packets[0]];
        let late = (start.elapsed() - first.at).as_nanos() as u64;
        self.latest.fetch_max(late, Relaxed);
        let whole = run.head(first.packet()).is_some_and(|head| {
            let payloads = parcels().map(|parcel| IoSlice::new(&parcel.packet()[run.headers()..]));
            let parts: Vec<_> = std::iter::once(IoSlice::new(&head)).chain(payloads).collect();
            to.write(&parts).is_ok()
        });
        for parcel in parcels() {
            if whole || to.write(&[IoSlice::new(&parcel.frame)]).is_ok() {
                self.delivered.fetch_add(1, Relaxed);
                self.delivered_bytes.fetch_add(parcel.packet().len() as u64, Relaxed);
            } else {
                self.undelivered.fetch_add(1, Relaxed);
            }
        }
    }

    fn pipe(&self) -> std::sync::MutexGuard<'_, Pipe> {
        self.pipe.lock().expect("a pipe does not panic")
    }
}

/// A packet on its way.
#[derive(Debug)]
struct Parcel {
    /// When it arrives.
    at: Duration,
    /// With its virtio header.
    frame: Vec<u8>,
}

impl Parcel {
    fn packet(&self) -> &[u8] {
        &self.frame[VIRTIO..]
    }
}

/// Packets on their way, in order of arrival; and buffers to use again.
#[derive(Debug)]
struct Held {
    parcels: VecDeque<Parcel>,
    free: Vec<Vec<u8>>,
    mtu: usize,
    /// What is read goes here.
    read: Vec<u8>,
}

impl Held {
    fn new(mtu: usize) -> Self {
        Self { parcels: VecDeque::new(), free: Vec::new(), mtu, read: vec![0; VIRTIO + LONGEST] }
    }

    /// For a frame.
    fn buffer(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| Vec::with_capacity(VIRTIO + self.mtu))
    }

    fn free(&mut self, buffer: Vec<u8>) {
        self.free.push(buffer);
    }

    /// Gives the buffer back if there are too many.
    fn put(&mut self, parcel: Parcel) -> Result<(), Vec<u8>> {
        if self.parcels.len() >= MOST / self.mtu {
            return Err(parcel.frame);
        }
        let at = parcel.at;
        // Nearly always the last; jitter that changes the order puts it a little before that.
        let place = match self.parcels.back() {
            Some(last) if last.at > at => self.parcels.partition_point(|other| other.at <= at),
            _ => self.parcels.len(),
        };
        self.parcels.insert(place, parcel);
        Ok(())
    }

    /// When the next is due.
    fn next(&self) -> Option<Duration> {
        self.parcels.front().map(|parcel| parcel.at)
    }

    fn due(&mut self, now: Duration) -> Option<Parcel> {
        if self.next()? <= now { self.parcels.pop_front() } else { None }
    }
}

/// Packets that are taken at once, more or less, and packets that are given at once.
const BATCH: usize = 64;

/// Packets that are due within this time may be given together; those that come meanwhile are taken as late. So both add
/// at most this much to the delay of a busy link, and nothing to that of an idle one.
const GROUP: Duration = Duration::from_micros(150);

/// The longest IP packet. Bytes.
const LONGEST: usize = 65_535;

/// Memory for packets on their way: 1 Gbit/s for 4 s, or 10 Gbit/s for 400 ms. Bytes.
const MOST: usize = 512 << 20;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_first_is_given_first_and_buffers_are_used_again() {
        let ms = Duration::from_millis;
        let mut held = Held::new(1500);
        for (at, mark) in [(5, 0), (7, 1), (6, 2), (7, 3), (5, 4)] {
            let mut buffer = held.buffer();
            buffer.push(mark);
            held.put(Parcel { at: ms(at), frame: buffer }).unwrap();
        }
        assert_eq!(held.next(), Some(ms(5)));
        assert!(held.due(ms(4)).is_none());
        let mut order = Vec::new();
        while let Some(Parcel { frame, .. }) = held.due(ms(10)) {
            order.push(frame[0]);
            held.free(frame);
        }
        assert_eq!(order, [0, 4, 2, 1, 3]);
        assert_eq!((held.free.len(), held.next()), (5, None));
    }

    #[test]
    fn there_is_an_end_to_what_is_held() {
        let mut held = Held::new(MOST / 2);
        for fits in [true, true, false] {
            let parcel = Parcel { at: Duration::ZERO, frame: Vec::new() };
            assert_eq!(held.put(parcel).is_ok(), fits);
        }
    }

    #[test]
    fn firewalls_stop_what_they_say() {
        let udp = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17][..], &[0; 18]].concat();
        let header = Header::of(&udp).unwrap();
        let stops = |filter: Filter| filter.stops(&header, &udp);
        let places = vec!["0.0.0.0:0".parse().unwrap()];
        assert!(!stops(Filter::Open) && stops(Filter::NoUdp) && stops(Filter::Only(places)));
    }
}
