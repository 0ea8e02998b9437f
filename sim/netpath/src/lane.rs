//! One direction of one link: takes packets out of one interface, and puts them into another when the model says so.
//!
//! ```text
//!  Tun::read --> firewall --> Pipe::offer --> held, in order of arrival --> Tun::write
//! ```

use std::collections::VecDeque;
use std::io;
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
        for _ in 0..BATCH {
            let mut buffer = held.buffer();
            let len = match from.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    held.free(buffer);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            let packet = &mut buffer[..len];
            let header = match Header::of(packet) {
                Some(header) if !self.filter.stops(&header, packet) => header,
                _ => {
                    self.stopped.fetch_add(1, Relaxed);
                    held.free(buffer);
                    continue;
                }
            };
            match pipe.offer(start.elapsed(), header.packet(len)) {
                Passage::Dropped(_) => held.free(buffer),
                Passage::Passes(first, second) => {
                    if let Some(second) = second {
                        let mut copy = held.buffer();
                        copy[..len].copy_from_slice(&buffer[..len]);
                        self.hold(held, copy, len, header, second);
                    }
                    self.hold(held, buffer, len, header, first);
                }
            }
        }
        Ok(true)
    }

    fn hold(&self, held: &mut Held, mut buffer: Buffer, len: usize, header: Header, arrival: Arrival) {
        let packet = &mut buffer[..len];
        if arrival.marked {
            header.mark(packet);
        }
        if let Some(bit) = arrival.wrong_bit {
            header.damage(packet, bit);
        }
        if let Err(buffer) = held.put(arrival.at, buffer, len) {
            self.undelivered.fetch_add(1, Relaxed);
            held.free(buffer);
        }
    }

    /// Gives what is due.
    fn give(&self, to: &Tun, held: &mut Held, start: Instant) {
        let mut now = start.elapsed();
        let (mut packets, mut bytes, mut latest) = (0, 0, 0);
        while let Some((at, buffer, len)) = held.due(now) {
            if to.write(&buffer[..len]).is_ok() {
                packets += 1;
                bytes += len as u64;
            } else {
                self.undelivered.fetch_add(1, Relaxed);
            }
            held.free(buffer);
            latest = latest.max((now - at).as_nanos() as u64);
            now = start.elapsed();
        }
        self.delivered.fetch_add(packets, Relaxed);
        self.delivered_bytes.fetch_add(bytes, Relaxed);
        self.latest.fetch_max(latest, Relaxed);
    }

    fn pipe(&self) -> std::sync::MutexGuard<'_, Pipe> {
        self.pipe.lock().expect("a pipe does not panic")
    }
}

type Buffer = Box<[u8]>;

/// Packets on their way, in order of arrival; and buffers to use again.
#[derive(Debug)]
struct Held {
    packets: VecDeque<(Duration, Buffer, usize)>,
    free: Vec<Buffer>,
    mtu: usize,
}

impl Held {
    fn new(mtu: usize) -> Self {
        Self { packets: VecDeque::new(), free: Vec::new(), mtu }
    }

    fn buffer(&mut self) -> Buffer {
        self.free.pop().unwrap_or_else(|| vec![0; self.mtu].into())
    }

    fn free(&mut self, buffer: Buffer) {
        self.free.push(buffer);
    }

    /// Gives the buffer back if there are too many.
    fn put(&mut self, at: Duration, buffer: Buffer, len: usize) -> Result<(), Buffer> {
        if self.packets.len() >= MOST / self.mtu {
            return Err(buffer);
        }
        // Nearly always the last; jitter that changes the order puts it a little before that.
        let place = match self.packets.back() {
            Some((last, ..)) if *last > at => self.packets.partition_point(|(other, ..)| *other <= at),
            _ => self.packets.len(),
        };
        self.packets.insert(place, (at, buffer, len));
        Ok(())
    }

    /// When the next is due.
    fn next(&self) -> Option<Duration> {
        self.packets.front().map(|(at, ..)| *at)
    }

    fn due(&mut self, now: Duration) -> Option<(Duration, Buffer, usize)> {
        if self.next()? <= now { self.packets.pop_front() } else { None }
    }
}

/// Packets that are taken at once.
const BATCH: usize = 64;

/// Packets that are due within this time may be given together; those that come meanwhile are taken as late. So both add
/// at most this much to the delay of a busy link, and nothing to that of an idle one.
const GROUP: Duration = Duration::from_micros(150);

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
            buffer[0] = mark;
            held.put(ms(at), buffer, 1).unwrap();
        }
        assert_eq!(held.next(), Some(ms(5)));
        assert!(held.due(ms(4)).is_none());
        let mut order = Vec::new();
        while let Some((_, buffer, _)) = held.due(ms(10)) {
            order.push(buffer[0]);
            held.free(buffer);
        }
        assert_eq!(order, [0, 4, 2, 1, 3]);
        assert_eq!((held.free.len(), held.next()), (5, None));
    }

    #[test]
    fn there_is_an_end_to_what_is_held() {
        let mut held = Held::new(MOST / 2);
        for fits in [true, true, false] {
            assert_eq!(held.put(Duration::ZERO, Box::default(), 0).is_ok(), fits);
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
