//! [`Pipe`]: what becomes of each packet.

use std::time::Duration;

use super::schedule::Rates;
use super::spec::{Direction, SpecError};

/// What a pipe must know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// With its IP header. Bytes.
    pub len: u32,
    /// Whether it says that it can be marked (ECT(0) or ECT(1), RFC 3168).
    pub ecn: bool,
    /// Whether it is UDP.
    pub udp: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It does not arrive.
    Dropped(Drop),
    /// It arrives, perhaps twice.
    Passes(Arrival, Option<Arrival>),
}

/// How a packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When. Since the start; never before the packet was offered.
    pub at: Duration,
    /// Marked: "congestion experienced".
    pub marked: bool,
    /// Which bit is wrong, as any number: take it modulo the bits that there are.
    pub wrong_bit: Option<u64>,
}

/// Why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// The link is out, or does not let UDP through.
    Blocked,
    /// It is longer than the MTU.
    TooLong,
    /// The policer's bucket was empty.
    Policed,
    /// The queue was full.
    Queue,
    /// Lost at random.
    Lost,
}

/// What has happened so far. Packets, but for the last three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// That were offered.
    pub offered: u64,
    /// That arrive; duplicates are not counted.
    pub passed: u64,
    /// That were dropped because the link was out, or blocked.
    pub blocked: u64,
    /// That were too long.
    pub too_long: u64,
    /// That the policer dropped.
    pub policed: u64,
    /// That found the queue full.
    pub queue: u64,
    /// That were lost at random.
    pub lost: u64,
    /// That were marked.
    pub marked: u64,
    /// That arrive twice.
    pub duplicated: u64,
    /// That arrive with a wrong bit.
    pub corrupted: u64,
    /// Bytes that were offered.
    pub offered_bytes: u64,
    /// Bytes that arrive.
    pub bytes: u64,
    /// The longest that the queue was. Bytes.
    pub queue_max: u64,
}

/// One direction of a link, with its queue.
#[derive(Clone, Debug)]
pub struct Pipe {
    spec: Direction,
    rates: Option<Rates>,
    random: fastrand::Rng,
    counts: Counts,
    /// When the last byte in the queue leaves it. ns.
    free_at: u64,
    /// When the last packet arrives, for those that may not overtake it. ns.
    last_arrival: u64,
    /// Whether this is a bad time of the burst model.
    bad: bool,
    /// Tokens of the policer, and when they were counted. Bytes, ns.
    tokens: (f64, u64),
    /// How many events are past.
    events_past: usize,
    /// What events change.
    delay: u64,
    loss: f64,
    mtu: Option<u32>,
    out_until: u64,
    udp_blocked: bool,
}

impl Pipe {
    /// An idle pipe. The seed decides over its random numbers.
    ///
    /// # Errors
    /// What makes no sense in `spec`.
    pub fn new(spec: &Direction, seed: u64) -> Result<Self, SpecError> {
        spec.check()?;
        let bits = |mbit: f64| (mbit * 1e6).round().max(1.0) as u64;
        let rates = spec.rate_mbit.map(|rate| {
            let changes = spec.events.iter().filter_map(|e| Some((nanos(e.at_s, 1e9), bits(e.rate_mbit?))));
            Rates::new(std::iter::once((0, bits(rate))).chain(changes).collect())
        });
        Ok(Self {
            rates,
            random: fastrand::Rng::with_seed(seed),
            counts: Counts::default(),
            free_at: 0,
            last_arrival: 0,
            bad: false,
            tokens: (spec.police.map_or(0.0, |p| p.burst_bytes as f64), 0),
            events_past: 0,
            delay: nanos(spec.delay_ms, 1e6),
            loss: spec.loss_percent / 100.0,
            mtu: spec.mtu,
            out_until: 0,
            udp_blocked: false,
            spec: spec.clone(),
        })
    }

    /// Offers a packet at `now`, which never goes back.
    pub fn offer(&mut self, now: Duration, packet: Packet) -> Passage {
        let now = now.as_nanos() as u64;
        self.pass_events(now);
        self.counts.offered += 1;
        self.counts.offered_bytes += u64::from(packet.len);
        let draws = self.draw();
        match self.carry(now, packet, &draws) {
            Ok((at, marked)) => {
                self.counts.passed += 1;
                self.counts.bytes += u64::from(packet.len);
                self.counts.marked += u64::from(marked);
                self.counts.corrupted += u64::from(draws.wrong_bit.is_some());
                self.counts.duplicated += u64::from(draws.twice);
                let at = Duration::from_nanos(at);
                let again = draws.twice.then_some(Arrival { at, marked, wrong_bit: None });
                Passage::Passes(Arrival { at, marked, wrong_bit: draws.wrong_bit }, again)
            }
            Err(why) => {
                let counts = &mut self.counts;
                *match why {
                    Drop::Blocked => &mut counts.blocked,
                    Drop::TooLong => &mut counts.too_long,
                    Drop::Policed => &mut counts.policed,
                    Drop::Queue => &mut counts.queue,
                    Drop::Lost => &mut counts.lost,
                } += 1;
                Passage::Dropped(why)
            }
        }
    }

    /// Bytes that wait for the link.
    pub fn backlog(&self, now: Duration) -> u64 {
        self.backlog_at(now.as_nanos() as u64)
    }

    /// The longest IP packet that gets through, as far as events are past. Bytes; `None`: any.
    pub fn mtu(&self) -> Option<u32> {
        self.mtu
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn carry(&mut self, now: u64, packet: Packet, draws: &Draws) -> Result<(u64, bool), Drop> {
        if now < self.out_until || (self.udp_blocked && packet.udp) {
            return Err(Drop::Blocked);
        }
        if self.mtu.is_some_and(|mtu| packet.len > mtu) {
            return Err(Drop::TooLong);
        }
        self.police(now, packet.len)?;
        let backlog = self.backlog_at(now);
        let len = u64::from(packet.len);
        if self.spec.queue_bytes.is_some_and(|limit| backlog + len > limit) {
            return Err(Drop::Queue);
        }
        self.counts.queue_max = self.counts.queue_max.max(backlog + len);
        let marked = packet.ecn && self.spec.mark_above_bytes.is_some_and(|limit| backlog > limit);
        if let Some(rates) = &self.rates {
            self.free_at = rates.finish(self.free_at.max(now), len);
        }
        if draws.lost {
            return Err(Drop::Lost);
        }
        let mut at = self.free_at.max(now) + self.delay + draws.jitter;
        if !self.spec.reorder {
            at = at.max(self.last_arrival);
            self.last_arrival = at;
        }
        Ok((at, marked))
    }

    fn backlog_at(&self, now: u64) -> u64 {
        match &self.rates {
            Some(rates) if self.free_at > now => rates.bytes(now, self.free_at),
            _ => 0,
        }
    }

    fn police(&mut self, now: u64, len: u32) -> Result<(), Drop> {
        let Some(police) = self.spec.police else { return Ok(()) };
        let (tokens, counted) = self.tokens;
        let filled = tokens + (now - counted) as f64 * police.rate_mbit / 8e3;
        let filled = filled.min(police.burst_bytes as f64);
        let enough = filled >= f64::from(len);
        self.tokens = (if enough { filled - f64::from(len) } else { filled }, now);
        if enough { Ok(()) } else { Err(Drop::Policed) }
    }

    /// Always the same number of draws.
    fn draw(&mut self) -> Draws {
        let random = &mut self.random;
        let chance: [f64; 5] = std::array::from_fn(|_| random.f64());
        let jitter = random.f64() * self.spec.jitter_ms * 1e6;
        let bit = random.u64(..);
        let mut lost = chance[0] < self.loss;
        if let Some(burst) = self.spec.burst {
            let turn = if self.bad { burst.leave_percent } else { burst.enter_percent };
            self.bad ^= chance[1] * 100.0 < turn;
            lost |= self.bad && chance[2] * 100.0 < burst.loss_percent;
        }
        Draws {
            lost,
            twice: chance[3] * 100.0 < self.spec.duplicate_percent,
            wrong_bit: (chance[4] * 100.0 < self.spec.corrupt_percent).then_some(bit),
            jitter: jitter as u64,
        }
    }

    fn pass_events(&mut self, now: u64) {
        while let Some(event) = self.spec.events.get(self.events_past) {
            let at = nanos(event.at_s, 1e9);
            if at > now {
                return;
            }
            self.events_past += 1;
            self.delay = event.delay_ms.map_or(self.delay, |ms| nanos(ms, 1e6));
            self.loss = event.loss_percent.map_or(self.loss, |percent| percent / 100.0);
            self.mtu = event.mtu.or(self.mtu);
            self.out_until = event.outage_ms.map_or(self.out_until, |ms| at + nanos(ms, 1e6));
            self.udp_blocked = event.block_udp.unwrap_or(self.udp_blocked);
        }
    }
}

struct Draws {
    lost: bool,
    twice: bool,
    wrong_bit: Option<u64>,
    jitter: u64,
}

fn nanos(value: f64, scale: f64) -> u64 {
    (value * scale).round() as u64
}
