//! A path that does what a test says: so much leaves in each tick and is acknowledged a round trip later, whatever the
//! controller would have liked.

use std::collections::VecDeque;

use super::*;

/// The round-trip time to begin with, and its part after which the next batch leaves.
pub(super) const RTT: Duration = Duration::from_millis(100);
pub(super) const TICKS: u32 = 50;
/// Bytes per second to begin with: batches of 20 packets.
pub(super) const RATE: f64 = 15_000_000.0;

pub(super) struct Script {
    pub(super) bbr: Bbr,
    pub(super) now: Instant,
    /// Bytes per second that leave.
    pub(super) rate: f64,
    /// `rate` is multiplied with this in each round trip.
    pub(super) growth: f64,
    pub(super) rtt: Duration,
    /// Share of each batch that is lost.
    pub(super) loss: f64,
    /// Whether acknowledgements carry marks.
    pub(super) is_marked: bool,
    pub(super) app_limited: bool,
    /// Nothing arrives, and nothing is heard.
    pub(super) is_silent: bool,
    /// In flight besides what the script sends. Bytes.
    pub(super) standing: u64,
    sent: VecDeque<Sent>,
}

struct Sent {
    made: Instant,
    due: Instant,
    bytes: u64,
    lost: u64,
}

impl Script {
    pub(super) fn new(params: Params) -> Self {
        let now = Instant::now();
        Self {
            bbr: Bbr::new(params, now, MSS, 10 * MSS, 7),
            now,
            rate: RATE,
            growth: 1.0,
            rtt: RTT,
            loss: 0.0,
            is_marked: false,
            app_limited: false,
            is_silent: false,
            standing: 0,
            sent: VecDeque::new(),
        }
    }

    /// A flow that has found its rate and cruises.
    pub(super) fn cruising(params: Params) -> Self {
        let mut script = Self::new(params);
        script.run_until(State::ProbeCruise, 20);
        assert!((script.bbr.look().bandwidth / RATE - 1.0).abs() < 0.1);
        script
    }

    pub(super) fn state(&self) -> State {
        self.bbr.look().state
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.sent.iter().map(|sent| sent.bytes).sum::<u64>() + self.standing
    }

    pub(super) fn tick(&mut self) {
        self.now += RTT / TICKS;
        let due = self.sent.iter().take_while(|sent| !self.is_silent && sent.due <= self.now).count();
        let due: Vec<_> = self.sent.drain(..due).collect();
        self.arrive(&due);
        self.rate *= self.growth.powf(1.0 / f64::from(TICKS));
        let bytes = (self.rate * RTT.as_secs_f64() / f64::from(TICKS)) as u64;
        if bytes > 0 {
            self.bbr.on_sent(self.now, self.now, bytes);
            let lost = if self.is_silent { bytes } else { (bytes as f64 * self.loss) as u64 };
            self.sent.push_back(Sent { made: self.now, due: self.now + self.rtt, bytes, lost });
        }
    }

    /// One acknowledgement of all of it, and then what is lost by it.
    fn arrive(&mut self, due: &[Sent]) {
        let lost: u64 = due.iter().map(|sent| sent.lost).sum();
        for sent in due.iter().filter(|sent| sent.bytes > sent.lost) {
            self.bbr.on_packet_acked(self.now, sent.made, sent.bytes - sent.lost);
        }
        if due.iter().any(|sent| sent.bytes > sent.lost) {
            self.bbr.on_acked(self.now, self.in_flight() + lost, self.app_limited);
            if self.is_marked {
                self.bbr.on_ecn(self.now);
            }
        }
        if let Some(sent) = due.iter().rfind(|sent| sent.lost > 0) {
            self.bbr.on_lost(self.now, sent.made, lost, false);
        }
    }

    /// Nothing is heard for so many ticks, and then all of it at once.
    pub(super) fn hold(&mut self, ticks: u32) {
        let until = self.now + RTT / TICKS * ticks;
        for sent in &mut self.sent {
            sent.due = sent.due.max(until);
        }
        (0..ticks).for_each(|_| self.tick());
    }

    /// All that is under way is lost, and known to be with the next acknowledgement.
    pub(super) fn loss_of_all(&mut self) {
        for sent in &mut self.sent {
            (sent.lost, sent.due) = (sent.bytes, self.now);
        }
        // A probe brings the first acknowledgement; the controller was not told of it.
        let made = self.now - Duration::from_micros(1);
        self.sent.push_back(Sent { made, due: self.now, bytes: MSS, lost: 0 });
    }

    /// All that is under way is forgotten: when the last of it was made, and how much it was.
    pub(super) fn forget_all(&mut self) -> (Instant, u64) {
        let bytes = self.in_flight();
        let made = self.sent.back().map_or(self.now, |sent| sent.made);
        self.sent.clear();
        (made, bytes)
    }

    /// Round trips of the path as it was at first.
    pub(super) fn rounds(&mut self, rounds: u32) {
        (0..rounds * TICKS).for_each(|_| self.tick());
    }

    /// Fails if it is still `state` after so many rounds; how many ticks it took. With nothing to drain, Drain and DOWN are
    /// over with the acknowledgement that began them.
    pub(super) fn run_out_of(&mut self, state: State, rounds: u32) -> u32 {
        for ticks in 0..rounds * TICKS {
            if self.state() != state {
                return ticks;
            }
            self.tick();
        }
        panic!("{:?} after {rounds} rounds", self.bbr.look());
    }

    /// Fails if it is not `state` within so many rounds; how many ticks it took.
    pub(super) fn run_until(&mut self, state: State, rounds: u32) -> u32 {
        for ticks in 0..rounds * TICKS {
            if self.state() == state {
                return ticks;
            }
            self.tick();
        }
        panic!("still {:?} after {rounds} rounds, not {state:?}", self.bbr.look());
    }
}
