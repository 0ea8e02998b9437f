//! The nodes, and who of them waits where.
//!
//! Each inner node keeps its children that can be granted something now, by lane and turn; a child is in these sets exactly
//! if it wants something and no ceiling below the parent is in the way. [`Shaper::refresh`] restores that after
//! any change, from a node upwards for as long as something changes.

use std::collections::BTreeSet;

use super::super::bucket::Bucket;
use super::{MAX_CHUNK, MIN_BURST, Shaper, Share};

/// Where the gateway is.
pub(super) const ROOT: u32 = 0;

pub(super) const LANES: usize = 8;

/// A node that may be gone: its place, and how often the place was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    generation: u32,
    pub(super) parent: Option<u32>,
    pub(super) kind: Kind,
    pub(super) weight: u64,
    /// What it may have at most.
    pub(super) ceiling: Option<Bucket>,
    ceiling_rate: u64,
    /// What it has had less than its floor.
    pub(super) floor: Option<Bucket>,
    floor_rate: u64,
    /// Its turn among its siblings in each lane; the smallest is first.
    pub(super) turns: [u128; LANES],
    /// Its turn among its siblings with floors that are due.
    pub(super) floor_turn: u128,
    pub(super) place: Place,
    pub(super) wake: Option<u64>,
    floor_wake: Option<u64>,
}

/// What the parent of a node knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The lane of the parent in which it waits: that of the most urgent job below it. `None`: it waits for nothing, or may
    /// have nothing.
    pub(super) lane: Option<u8>,
    /// Whether it is among the parent's `due`.
    due: bool,
    /// Whether it or somebody below wants something, be it held up by a ceiling or not.
    wants: bool,
    /// The floors that are to be honoured at and below it. Bytes per second.
    pub(super) claim: u64,
}

#[derive(Debug)]
pub(super) enum Kind {
    Inner(Box<Inner>),
    Job(Leaf),
    /// A place that can be used again.
    Free,
}

/// What only a node with children has.
#[derive(Debug, Default)]
pub(super) struct Inner {
    children: BTreeSet<u32>,
    /// Children that can be granted something, by lane.
    pub(super) lanes: [Queue; LANES],
    /// Those whose floor, or that of somebody below, is due.
    pub(super) due: Queue,
    /// How many children want something.
    wanting: usize,
    /// The claims of the children.
    pub(super) claims: u64,
    /// What each lane has to its credit for having waited behind another. 1 / [`LANE_SHARE`](super::LANE_SHARE) bytes.
    pub(super) waited: [i64; LANES],
}

/// Children by turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) waiting: BTreeSet<(u128, u32)>,
    /// The turn of who was served last: the virtual time.
    pub(super) turn: u128,
}

/// What only a job has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    pub(super) lane: u8,
    pub(super) wanted: u64,
    /// Granted and not refunded.
    pub(super) granted: u64,
}

impl Kind {
    pub(super) fn inner() -> Self {
        Self::Inner(Box::default())
    }

    pub(super) fn leaf(&self) -> Option<&Leaf> {
        if let Self::Job(leaf) = self { Some(leaf) } else { None }
    }

    pub(super) fn leaf_mut(&mut self) -> Option<&mut Leaf> {
        if let Self::Job(leaf) = self { Some(leaf) } else { None }
    }

    pub(super) fn inner_mut(&mut self) -> Option<&mut Inner> {
        if let Self::Inner(inner) = self { Some(inner) } else { None }
    }

    /// The first lane in which somebody could be granted something if this node's own ceiling allows it.
    pub(super) fn lane(&self) -> Option<u8> {
        match self {
            Self::Inner(inner) => {
                Some(inner.mask().trailing_zeros() as u8).filter(|lane| usize::from(*lane) < LANES)
            }
            Self::Job(leaf) => (leaf.wanted > 0).then_some(leaf.lane),
            Self::Free => None,
        }
    }

    pub(super) fn waits(&self) -> bool {
        self.lane().is_some()
    }
}

impl Inner {
    /// In which lanes children wait: a bit each.
    pub(super) fn mask(&self) -> u8 {
        let bits = self.lanes.iter().enumerate().map(|(i, lane)| u8::from(!lane.waiting.is_empty()) << i);
        bits.fold(0, |mask, bit| mask | bit)
    }
}

impl Node {
    pub(super) fn new(kind: Kind, parent: Option<u32>, share: Share, generation: u32, now: u64) -> Self {
        let (top, bottom) = sizes(share.burst);
        let (floor_top, floor_bottom) = floor_sizes(share.floor.bytes());
        let floor = || Bucket::empty(share.floor, floor_top, floor_bottom, now);
        Self {
            generation,
            parent,
            kind,
            weight: u64::from(share.weight.max(1)),
            ceiling: share.ceiling.map(|rate| Bucket::full(rate, top, bottom, now)),
            ceiling_rate: share.ceiling.map_or(u64::MAX, |rate| rate.bytes()),
            floor: (share.floor.bytes() > 0).then(floor),
            floor_rate: share.floor.bytes(),
            turns: [0; LANES],
            floor_turn: 0,
            place: Place::default(),
            wake: None,
            floor_wake: None,
        }
    }

    /// Whether it can be granted something.
    pub(super) fn is_shown(&self) -> bool {
        self.place.lane.is_some()
    }
}

/// How much a ceiling's bucket holds and lends: the burst together.
fn sizes(burst: u64) -> (u64, u64) {
    let burst = burst.max(MIN_BURST);
    let lent = (burst / 2).min(MAX_CHUNK);
    (burst - lent, lent)
}

/// How much of a floor is remembered. What it has had too little: for as long as two chunks of others may be in the way, and
/// 100 ms for whoever polls late. Too much: as many chunks, for the floor of a child that is more than its own.
fn floor_sizes(rate: u64) -> (u64, u64) {
    (rate / 10 + 2 * MAX_CHUNK, 2 * MAX_CHUNK)
}

impl Shaper {
    pub(super) fn find(&self, id: Id) -> Option<u32> {
        let node = self.nodes.get(id.index as usize)?;
        (node.generation == id.generation && !matches!(node.kind, Kind::Free)).then_some(id.index)
    }

    pub(super) fn id(&self, index: u32) -> Id {
        Id { index, generation: self.nodes[index as usize].generation }
    }

    pub(super) fn add(&mut self, parent: u32, kind: Kind, share: Share) -> Id {
        let index = self.free.pop().unwrap_or(self.nodes.len() as u32);
        let generation = self.nodes.get(index as usize).map_or(0, |old| old.generation);
        let node = Node::new(kind, Some(parent), share, generation, self.now);
        match self.nodes.get_mut(index as usize) {
            Some(place) => *place = node,
            None => self.nodes.push(node),
        }
        if let Some(inner) = self.nodes[parent as usize].kind.inner_mut() {
            inner.children.insert(index);
        }
        Id { index, generation }
    }

    pub(super) fn remove(&mut self, id: Id) {
        let Some(i) = self.find(id) else { return };
        let parent = self.nodes[i as usize].parent;
        self.uproot(i);
        if let Some(parent) = parent {
            if let Some(inner) = self.nodes[parent as usize].kind.inner_mut() {
                inner.children.remove(&i);
            }
            self.refresh(parent);
        }
    }

    /// Frees a node and all below it. The tree is no deeper than its four levels.
    fn uproot(&mut self, i: u32) {
        self.show(i, Place::default());
        self.set_timers(i, None, None);
        let node = &mut self.nodes[i as usize];
        let kind = std::mem::replace(&mut node.kind, Kind::Free);
        node.generation = node.generation.wrapping_add(1);
        node.parent = None;
        if let Kind::Inner(inner) = kind {
            for child in inner.children {
                self.nodes[child as usize].parent = None;
                self.uproot(child);
            }
        }
        self.free.push(i);
    }

    pub(super) fn set(&mut self, i: u32, share: Share) {
        let now = self.now;
        // What is queued by the old weight and claim is taken out, and comes back by the new ones.
        self.show(i, Place::default());
        let node = &mut self.nodes[i as usize];
        let new = Node::new(Kind::Free, None, share, 0, now);
        let (top, bottom) = sizes(share.burst);
        node.ceiling = match (node.ceiling, share.ceiling) {
            (Some(old), Some(rate)) => Some(old.reshaped(rate, top, bottom, now)),
            // Where there was no limit until now, there is no pause that would have earned a burst.
            (None, Some(rate)) => Some(Bucket::empty(rate, top, bottom, now)),
            (_, None) => None,
        };
        let (top, bottom) = floor_sizes(share.floor.bytes());
        node.floor = match (node.floor, new.floor) {
            (Some(old), Some(_)) => Some(old.reshaped(share.floor, top, bottom, now)),
            (_, floor) => floor,
        };
        (node.weight, node.ceiling_rate, node.floor_rate) = (new.weight, new.ceiling_rate, new.floor_rate);
        self.refresh(i);
        if let Some(parent) = self.nodes[i as usize].parent {
            self.refresh(parent);
        }
    }

    /// Lets those come forward whose time has come.
    pub(super) fn wake(&mut self) {
        while let Some(&(at, i)) = self.wakes.first()
            && at <= self.now
        {
            self.refresh(i);
        }
        while let Some(&(at, i)) = self.floors.first()
            && at <= self.now
        {
            self.refresh(i);
        }
    }

    /// Brings up to date in what queues a node is, and then its parent for as long as that changes something for it.
    pub(super) fn refresh(&mut self, mut i: u32) {
        let now = self.now;
        loop {
            let node = &mut self.nodes[i as usize];
            let wanted = node.kind.lane();
            let mut wake = None;
            let mut lane = wanted;
            if let Some(ceiling) = &mut node.ceiling {
                ceiling.fill(now);
                if !ceiling.is_open() {
                    lane = None;
                    wake = ceiling.opens_at().filter(|_| wanted.is_some());
                }
            }
            let (mut due, wants, claims) = match &node.kind {
                Kind::Inner(inner) => (!inner.due.waiting.is_empty(), inner.wanting > 0, inner.claims),
                Kind::Job(_) | Kind::Free => (false, wanted.is_some(), 0),
            };
            let mut floor_wake = None;
            if let Some(floor) = &mut node.floor {
                floor.fill(now);
                due |= floor.is_open();
                if lane.is_some() && !floor.is_open() {
                    floor_wake = floor.opens_at();
                }
            }
            due &= lane.is_some();
            let claim = if wants { node.floor_rate.max(claims).min(node.ceiling_rate) } else { 0 };
            let place = Place { lane, due, wants, claim };
            let changed = node.place != place;
            let parent = node.parent;
            self.set_timers(i, wake, floor_wake);
            if !changed {
                return;
            }
            self.show(i, place);
            match parent {
                Some(parent) => i = parent,
                None => return,
            }
        }
    }

    /// Puts a node into the queues of its parent, or takes it out.
    fn show(&mut self, i: u32, place: Place) {
        let node = &mut self.nodes[i as usize];
        let before = std::mem::replace(&mut node.place, place);
        let (mut turns, mut floor_turn) = (node.turns, node.floor_turn);
        let Some(parent) = node.parent else { return };
        let Some(inner) = self.nodes[parent as usize].kind.inner_mut() else { return };
        inner.claims = (inner.claims + place.claim).saturating_sub(before.claim);
        inner.wanting = (inner.wanting + usize::from(place.wants)).saturating_sub(usize::from(before.wants));
        for (lane, (queue, turn)) in inner.lanes.iter_mut().zip(&mut turns).enumerate() {
            let waits = |place: Place| place.lane.map(usize::from) == Some(lane);
            queue.put(i, turn, waits(before), waits(place));
        }
        inner.due.put(i, &mut floor_turn, before.due, place.due);
        let node = &mut self.nodes[i as usize];
        (node.turns, node.floor_turn) = (turns, floor_turn);
    }

    fn set_timers(&mut self, i: u32, wake: Option<u64>, floor_wake: Option<u64>) {
        let node = &mut self.nodes[i as usize];
        let timers =
            [(&mut node.wake, wake, &mut self.wakes), (&mut node.floor_wake, floor_wake, &mut self.floors)];
        for (old, new, set) in timers {
            if *old == new {
                continue;
            }
            if let Some(at) = *old {
                set.remove(&(at, i));
            }
            if let Some(at) = new {
                set.insert((at, i));
            }
            *old = new;
        }
    }
}

/// How far a turn in a lane moves for so many bytes. In units so small that what a division leaves out never adds up to a byte
/// in a thousand.
pub(super) fn lane_step(bytes: u64, weight: u64) -> u128 {
    (u128::from(bytes) << 44) / u128::from(weight)
}

/// How far a turn among floors moves for so many bytes.
pub(super) fn floor_step(bytes: u64, claim: u64) -> u128 {
    (u128::from(bytes) << 64) / u128::from(claim.max(1))
}

impl Queue {
    /// Puts a child in that was not there, or takes it out. One that comes back is not before those that waited meanwhile: whoever
    /// was idle is no winner.
    fn put(&mut self, i: u32, turn: &mut u128, was: bool, is: bool) {
        match (was, is) {
            (true, false) => {
                self.waiting.remove(&(*turn, i));
            }
            (false, true) => {
                *turn = self.turn.max(*turn);
                self.waiting.insert((*turn, i));
            }
            _ => {}
        }
    }

    /// Serves a child that waits here: its turn moves on by `step`.
    pub(super) fn serve(&mut self, i: u32, turn: &mut u128, step: u128) {
        self.waiting.remove(&(*turn, i));
        self.turn = *turn;
        *turn += step;
        self.waiting.insert((*turn, i));
    }
}
