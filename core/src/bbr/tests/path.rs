//! One link with a tail-drop queue, and bulk flows over it, in virtual time.
//!
//! A flow does what the adapter on quinn does: a batch is made, told of, held until the pacer lets it leave, and only then
//! comes the next. Times are nanoseconds since the start.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::cubic::Cubic;
use super::*;

/// Packets of a batch, and of an acknowledgement unless [`ACK_DELAY`] is over before.
const BATCH: u64 = 10;
const ACK_EVERY: u64 = 31;
const ACK_DELAY: u64 = 5_000_000;
/// What is held by the socket is held at least so long.
const QUANTUM: u64 = 250_000;
/// RFC 9002 section 6.1.1.
const PACKET_THRESHOLD: u64 = 3;

#[derive(Clone, Debug)]
pub(super) struct Link {
    /// Bytes per second.
    pub(super) rate: f64,
    /// Round-trip time without a queue. Nanoseconds.
    pub(super) rtt: u64,
    /// Bytes.
    pub(super) buffer: f64,
    /// Share of packets that is lost behind the queue, and how many in a row on average: 1 is each by itself (Gilbert 1960).
    pub(super) loss: f64,
    pub(super) burst: f64,
    /// What enters now is lost.
    pub(super) is_out: bool,
}

impl Link {
    /// `buffer` in bandwidth-delay products.
    pub(super) fn new(mbit: f64, rtt_ms: u64, buffer: f64, loss: f64) -> Self {
        let (rate, rtt) = (mbit * 1e6 / 8.0, rtt_ms * 1_000_000);
        Self { rate, rtt, buffer: buffer * rate * rtt as f64 / 1e9, loss, burst: 1.0, is_out: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Send,
    /// The packets from the first to below the second come to the queue.
    Enter(u64, u64),
    /// So many packets have crossed, of which the last is the second.
    Arrive(u64, u64),
    AckTimer,
    /// All up to this one that arrived.
    Acked(u64),
    Probe,
}

pub(super) struct Path {
    /// With another rate, what is in the queue already takes as long as it would have.
    pub(super) link: Link,
    pub(super) flows: Vec<Flow>,
    pub(super) now: u64,
    base: Instant,
    events: BinaryHeap<Reverse<(u64, u64, usize, Event)>>,
    order: u64,
    /// When the queue is empty if nothing more comes.
    busy_until: u64,
    /// What comes now is lost, in bursts.
    is_bad: bool,
    random: u64,
    /// The queue that packets met since [`Path::reset`]: sum and count, and the longest. Nanoseconds.
    queue: (f64, u64),
    pub(super) queue_max: u64,
    /// Packets for which there was no room, since then.
    pub(super) dropped: u64,
}

pub(super) struct Flow {
    pub(super) bbr: Bbr,
    /// Decides instead, if there.
    cubic: Option<Cubic>,
    pacer: Pacer,
    packets: VecDeque<Packet>,
    /// Number of the first of `packets`.
    first: u64,
    in_flight: u64,
    is_sending: bool,
    /// Packets that arrived and are not acknowledged, and the last of them.
    pending: (u64, u64),
    ack_armed: bool,
    rtt: u64,
    last_sent: u64,
    probes: u32,
    /// When the first packet was made of those that are lost in a row.
    lost_since: Option<u64>,
    /// Bytes that arrived since [`Path::reset`].
    pub(super) received: u64,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    made: u64,
    is_lost: bool,
}

impl Path {
    pub(super) fn new(link: Link, seed: u64) -> Self {
        Self {
            link,
            flows: Vec::new(),
            now: 0,
            base: Instant::now(),
            events: BinaryHeap::new(),
            order: 0,
            busy_until: 0,
            is_bad: false,
            random: seed,
            queue: (0.0, 0),
            queue_max: 0,
            dropped: 0,
        }
    }

    /// One more flow, which begins now.
    pub(super) fn join(&mut self, params: Params) {
        let seed = self.flows.len() as u64 + self.random;
        self.flows.push(Flow {
            bbr: Bbr::new(params, self.instant(self.now), MSS, 10 * MSS, seed),
            cubic: None,
            pacer: Pacer::new(self.instant(self.now), ms(50)),
            packets: VecDeque::new(),
            first: 0,
            in_flight: 0,
            is_sending: false,
            pending: (0, 0),
            ack_armed: false,
            rtt: self.link.rtt,
            last_sent: self.now,
            probes: 0,
            lost_since: None,
            received: 0,
        });
        let flow = self.flows.len() - 1;
        self.wake(flow);
        self.at(self.now + self.flows[flow].probe_after(), flow, Event::Probe);
    }

    /// One of CUBIC, which begins now.
    pub(super) fn join_cubic(&mut self) {
        self.join(Params::default());
        let last = self.flows.len() - 1;
        self.flows[last].cubic = Some(Cubic::new());
    }

    /// One more flow of a policy, with a target or ceiling in parts of the link.
    pub(super) fn join_as(&mut self, policy: Policy, part: Option<f64>) {
        self.join(Params::default());
        let rate = part.map(|part| (part * self.link.rate * 8.0) as u64);
        let now = self.instant(self.now);
        let flow = self.flows.last_mut().unwrap();
        flow.bbr.set_rate(now, RatePolicy::new(policy, rate).unwrap());
    }

    /// Until `seconds` after the start.
    pub(super) fn run_until(&mut self, seconds: f64) {
        let end = (seconds * 1e9) as u64;
        while self.events.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Some(Reverse((at, _, flow, event))) = self.events.pop() else { break };
            self.now = at;
            match event {
                Event::Send => self.send(flow),
                Event::Enter(from, to) => self.enter(flow, from, to),
                Event::Arrive(count, last) => self.arrive(flow, count, last),
                Event::AckTimer => self.ack(flow),
                Event::Acked(upto) => self.acked(flow, upto),
                Event::Probe => self.probe(flow),
            }
        }
        self.now = end;
    }

    /// Begins to measure anew.
    pub(super) fn reset(&mut self) {
        (self.queue, self.queue_max, self.dropped) = ((0.0, 0), 0, 0);
        self.flows.iter_mut().for_each(|flow| flow.received = 0);
    }

    /// What arrives of flow `flow` from now for `seconds`, as a share of the link.
    pub(super) fn share(&mut self, flow: usize, seconds: f64) -> f64 {
        self.reset();
        self.run_until(self.now as f64 / 1e9 + seconds);
        self.flows[flow].received as f64 / (self.link.rate * seconds)
    }

    /// The mean queue that packets met, in round-trip times of the link.
    pub(super) fn queue_mean(&self) -> f64 {
        self.queue.0 / self.queue.1.max(1) as f64 / self.link.rtt as f64
    }

    fn at(&mut self, at: u64, flow: usize, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, flow, event)));
    }

    pub(super) fn instant(&self, at: u64) -> Instant {
        self.base + Duration::from_nanos(at)
    }

    fn wake(&mut self, flow: usize) {
        if !std::mem::replace(&mut self.flows[flow].is_sending, true) {
            self.at(self.now, flow, Event::Send);
        }
    }

    fn send(&mut self, index: usize) {
        let now = self.instant(self.now);
        let flow = &mut self.flows[index];
        flow.is_sending = flow.may_send();
        if !flow.is_sending {
            return;
        }
        let bytes = BATCH * MSS;
        let leaves = flow.pacer.leave(now, bytes, flow.pacing_rate()).max(now);
        flow.bbr.on_sent(now, leaves, bytes);
        let held = (leaves - now).as_nanos() as u64;
        let enters = self.now + if held > 0 { held.max(QUANTUM) } else { 0 };
        self.make(index, enters, BATCH);
        self.at(enters, index, Event::Send);
    }

    /// Packets that are made now and come to the queue at `enters`.
    fn make(&mut self, index: usize, enters: u64, count: u64) {
        let flow = &mut self.flows[index];
        let from = flow.first + flow.packets.len() as u64;
        flow.packets.extend((0..count).map(|_| Packet { made: self.now, is_lost: false }));
        flow.in_flight += count * MSS;
        flow.last_sent = enters;
        self.at(enters, index, Event::Enter(from, from + count));
    }

    fn enter(&mut self, index: usize, from: u64, to: u64) {
        let (mut arrived, mut last) = (0, 0);
        for number in from..to {
            let met = self.busy_until.saturating_sub(self.now);
            self.queue = (self.queue.0 + met as f64, self.queue.1 + 1);
            self.queue_max = self.queue_max.max(met);
            let is_full = met as f64 * self.link.rate / 1e9 + MSS as f64 > self.link.buffer;
            self.dropped += u64::from(is_full);
            let mut is_lost = self.link.is_out || is_full;
            if !is_lost {
                self.busy_until = self.now + met + (MSS as f64 / self.link.rate * 1e9) as u64;
                is_lost = self.is_lost();
            }
            if !is_lost {
                (arrived, last) = (arrived + 1, number);
            }
            let flow = &mut self.flows[index];
            if let Some(packet) = flow.packets.get_mut((number - flow.first) as usize) {
                packet.is_lost = is_lost;
            }
        }
        if arrived > 0 {
            self.at(self.busy_until + self.link.rtt / 2, index, Event::Arrive(arrived, last));
        }
    }

    fn arrive(&mut self, index: usize, count: u64, last: u64) {
        let flow = &mut self.flows[index];
        flow.received += count * MSS;
        flow.pending = (flow.pending.0 + count, last);
        if flow.pending.0 >= ACK_EVERY {
            self.ack(index);
        } else if !std::mem::replace(&mut flow.ack_armed, true) {
            self.at(self.now + ACK_DELAY, index, Event::AckTimer);
        }
    }

    fn ack(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        flow.ack_armed = false;
        let (count, last) = std::mem::take(&mut flow.pending);
        if count > 0 {
            self.at(self.now + self.link.rtt / 2, index, Event::Acked(last));
        }
    }

    fn acked(&mut self, index: usize, upto: u64) {
        let (base, now) = (self.base, self.instant(self.now));
        let instant = |at: u64| base + Duration::from_nanos(at);
        let flow = &mut self.flows[index];
        flow.probes = 0;
        let persists = 3 * flow.probe_after();
        let (mut kept, mut lost) = (Vec::new(), None);
        while flow.first <= upto {
            let Some(packet) = flow.packets.pop_front() else { break };
            flow.first += 1;
            if !packet.is_lost {
                flow.in_flight -= MSS;
                flow.lost_since = None;
                flow.rtt = self.now - packet.made;
                flow.bbr.on_packet_acked(now, instant(packet.made), MSS);
                if let Some(cubic) = &mut flow.cubic {
                    cubic.on_acked(seconds(self.now), seconds(packet.made), 1.0, seconds(flow.rtt));
                }
            } else if flow.first + PACKET_THRESHOLD <= upto + 1 || packet.made + flow.rtt * 9 / 8 < self.now {
                let since = *flow.lost_since.get_or_insert(packet.made);
                let (bytes, persistent) = lost.map_or((0, false), |(_, bytes, was)| (bytes, was));
                lost = Some((packet.made, bytes + MSS, persistent || packet.made - since > persists));
            } else {
                kept.push(packet);
            }
        }
        flow.first -= kept.len() as u64;
        kept.into_iter().rev().for_each(|packet| flow.packets.push_front(packet));
        flow.bbr.on_acked(now, flow.in_flight, false);
        if let Some((made, bytes, persistent)) = lost {
            flow.in_flight -= bytes;
            flow.bbr.on_lost(now, instant(made), bytes, persistent);
            if let Some(cubic) = &mut flow.cubic {
                cubic.on_lost(seconds(self.now), seconds(made));
            }
        }
        self.wake(index);
    }

    /// A probe when nothing was heard for long (RFC 9002 section 6.2.4); the controller is not told.
    fn probe(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        let wait = flow.probe_after() << flow.probes.min(10);
        let due = flow.last_sent + wait;
        if due > self.now {
            return self.at(due, index, Event::Probe);
        }
        flow.probes += 1;
        self.make(index, self.now, 2);
        self.at(self.now + wait, index, Event::Probe);
    }

    fn is_lost(&mut self) -> bool {
        let Link { loss, burst, .. } = self.link;
        let chance = self.chance();
        if burst <= 1.0 {
            return chance < loss;
        }
        let (ends, begins) = (1.0 / burst, loss / (1.0 - loss) / burst);
        self.is_bad = if self.is_bad { chance >= ends } else { chance < begins };
        self.is_bad
    }

    fn chance(&mut self) -> f64 {
        // xorshift64* (Vigna 2016).
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn seconds(at: u64) -> f64 {
    at as f64 / 1e9
}

impl Flow {
    fn may_send(&self) -> bool {
        match &self.cubic {
            Some(cubic) => (self.in_flight as f64) < cubic.cwnd * MSS as f64,
            None => self.bbr.in_flight() < self.bbr.cwnd(),
        }
    }

    /// Bytes per second. CUBIC's is that of RFC 9002 section 7.7.
    fn pacing_rate(&self) -> f64 {
        match &self.cubic {
            Some(cubic) => 1.25 * cubic.cwnd * MSS as f64 / seconds(self.rtt),
            None => self.bbr.pacing_rate(),
        }
    }

    /// The probe timeout, but for its backoff.
    fn probe_after(&self) -> u64 {
        self.rtt * 5 / 4 + ACK_DELAY
    }
}
