//! Who may move how many bytes, and when: the gateway, its tenants, their users, their jobs.
//!
//! ```text
//!  ask(job, bytes) --> wanted --+
//!                               v
//!  poll(now) --> which child is due? --> floors first, then lanes, then weights --> Grant { job, bytes }
//!     ^             gateway -> tenant -> user -> job; who is over a ceiling is not asked
//!     +-- next_wake(): when a ceiling lets more through
//! ```
//!
//! Every node (gateway, tenant, user, job) has a [`Share`]. A grant goes down the tree, and at each node to the child that
//! is first by this order:
//!
//! 1. **Floors.** A child that has had less than its floor, or has somebody below it who has. Among several, in proportion to
//!    their floors: so floors that do not fit are scaled.
//! 2. **Lanes.** A node waits in one lane, that of the most urgent job below it: so jobs in many lanes gain nothing. The lowest lane in
//!    which anybody waits is first; but every other lane that waits has [`LANE_SHARE`] of what goes by lanes here.
//! 3. **Weights.** By start-time fair queueing (Goyal, Vin and Cheng 1996), for each lane: the child with the smallest turn, and
//!    what it gets moves its turn by bytes through weight.
//!
//! A ceiling is a bucket of `burst` bytes at every node; a grant takes from all on its way. Half of the bucket, and no more
//! than [`MAX_CHUNK`], is lent in advance: so a chunk is granted whole and nobody waits with a part of one, and still no
//! node gets more than ceiling x window + burst in any window.
//!
//! Order of calls: `add_*`, then `ask` whenever a job wants more, `poll` until it says `None`, after every change and when
//! [`next_wake`](Shaper::next_wake) has come. Nodes can be added, changed and removed at any time; the next `poll` goes by it.
//! A grant costs O(log n) for n nodes. Memory is what the nodes take (about 450 bytes a job).
//!
//! Non-goals: pacing of packets (the link's), which chunk goes (the source's), and what a job has been granted and not used yet:
//! who grants credit ahead has to send it. Uploads and downloads do not share a wire: each direction is a `Shaper` of its own.

#[cfg(test)]
mod driver;
#[cfg(test)]
mod fluid_tests;
mod pick;
#[cfg(test)]
mod tests;
mod tree;
#[cfg(test)]
mod virtual_time;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use metra_core::priority::Priority;

use super::Rate;
use tree::{Kind, Leaf, Node};

/// What a node may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// What it has whenever it wants it, before anybody gets more than a floor. Floors of the children of one parent that
    /// are more than the parent may have are scaled down in proportion. A child's floor counts, too, where the parent
    /// has none: it is a claim on all that stands above it.
    pub floor: Rate,
    /// What it never exceeds but for the burst; `None`: no limit of its own. Zero: it stands still.
    pub ceiling: Option<Rate>,
    /// Bytes that it may have at once after a pause, beyond the ceiling; [`MIN_BURST`] at least. Below twice
    /// [`MAX_CHUNK`], large chunks are granted in parts.
    pub burst: u64,
    /// Its part of what is above the floors, against its siblings; zero counts as one.
    pub weight: u32,
}

impl Share {
    /// The same with a ceiling that is no higher than `cap`: for a calendar.
    #[must_use]
    pub fn capped(self, cap: Option<Rate>) -> Self {
        let ceiling = match (self.ceiling, cap) {
            (Some(ceiling), Some(cap)) => Some(ceiling.min(cap)),
            (one, other) => one.or(other),
        };
        Self { ceiling, ..self }
    }
}

impl Default for Share {
    /// No floor, no ceiling, [`DEFAULT_BURST`], weight 1.
    fn default() -> Self {
        Self { floor: Rate::ZERO, ceiling: None, burst: DEFAULT_BURST, weight: 1 }
    }
}

/// A tenant in a [`Shaper`]. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(tree::Id);

/// A user of a tenant in a [`Shaper`]. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(tree::Id);

/// A job of a user in a [`Shaper`]. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(tree::Id);

/// Bytes that a job may move now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what is granted is charged; what is not used is to be refunded"]
pub struct Grant {
    /// The job that asked.
    pub job: JobId,
    /// 1 to [`MAX_CHUNK`], and no more than was asked for. No less than [`MIN_GRANT`], unless less was asked for.
    pub bytes: u64,
}

/// The smallest burst, bytes. Less is taken as this.
pub const MIN_BURST: u64 = 2 * MIN_GRANT;

/// The burst of who names none, bytes: a chunk of any size is granted whole.
pub const DEFAULT_BURST: u64 = 2 * MAX_CHUNK;

/// The least that is granted to who asked for more, bytes.
pub const MIN_GRANT: u64 = 64 * 1024;

/// The most that is granted at once, bytes: the largest chunk.
pub const MAX_CHUNK: u64 = 4 * 1024 * 1024;

/// What is granted at once to who asks for more than the largest chunk, bytes.
pub const PIECE: u64 = 1024 * 1024;

/// One part in so many of what a node has above floors is for each lane that waits there behind another (1.6 %).
pub const LANE_SHARE: u64 = 64;

/// The hierarchy, and what everybody in it wants. See the module's documentation for how it decides.
#[derive(Debug)]
pub struct Shaper {
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Nodes over their ceiling with somebody below who wants something, by when they are open again.
    wakes: BTreeSet<(u64, u32)>,
    /// Nodes that have had their floor and want more, by when it is due again.
    floors: BTreeSet<(u64, u32)>,
    start: Instant,
    /// Nanoseconds since `start`; never goes back.
    now: u64,
}

impl Shaper {
    /// A gateway without tenants. Its floor and weight mean nothing.
    pub fn new(gateway: Share, now: Instant) -> Self {
        let root = Node::new(Kind::inner(), None, gateway, 0, 0);
        let (wakes, floors) = (BTreeSet::new(), BTreeSet::new());
        Self { nodes: vec![root], free: Vec::new(), wakes, floors, start: now, now: 0 }
    }

    /// Adds a tenant.
    pub fn add_tenant(&mut self, share: Share, now: Instant) -> TenantId {
        self.advance(now);
        TenantId(self.add(tree::ROOT, Kind::inner(), share))
    }

    /// Adds a user; `None` if the tenant is gone.
    pub fn add_user(&mut self, tenant: TenantId, share: Share, now: Instant) -> Option<UserId> {
        self.advance(now);
        let parent = self.find(tenant.0)?;
        Some(UserId(self.add(parent, Kind::inner(), share)))
    }

    /// Adds a job that wants nothing yet; `None` if the user is gone.
    pub fn add_job(&mut self, user: UserId, lane: Priority, share: Share, now: Instant) -> Option<JobId> {
        self.advance(now);
        let parent = self.find(user.0)?;
        Some(JobId(self.add(parent, Kind::Job(Leaf { lane: lane.number(), wanted: 0, granted: 0 }), share)))
    }

    /// Removes a tenant with all users and jobs. What is gone already stays so.
    pub fn remove_tenant(&mut self, tenant: TenantId) {
        self.remove(tenant.0);
    }

    /// Removes a user with all jobs. What is gone already stays so.
    pub fn remove_user(&mut self, user: UserId) {
        self.remove(user.0);
    }

    /// Removes a job, and what it wants. What was granted and is not used is to be refunded before. What is gone already
    /// stays so.
    pub fn remove_job(&mut self, job: JobId) {
        self.remove(job.0);
    }

    /// Changes what the gateway may have, from now on. Tokens above a new burst are dropped.
    pub fn set_gateway(&mut self, share: Share, now: Instant) {
        self.advance(now);
        self.set(tree::ROOT, share);
    }

    /// Changes what a tenant may have, from now on. Tokens above a new burst are dropped. False if it is gone.
    pub fn set_tenant(&mut self, tenant: TenantId, share: Share, now: Instant) -> bool {
        self.advance(now);
        self.find(tenant.0).map(|i| self.set(i, share)).is_some()
    }

    /// Changes what a user may have, as [`set_tenant`](Self::set_tenant) does.
    pub fn set_user(&mut self, user: UserId, share: Share, now: Instant) -> bool {
        self.advance(now);
        self.find(user.0).map(|i| self.set(i, share)).is_some()
    }

    /// Changes what a job may have, as [`set_tenant`](Self::set_tenant) does.
    pub fn set_job(&mut self, job: JobId, share: Share, now: Instant) -> bool {
        self.advance(now);
        self.find(job.0).map(|i| self.set(i, share)).is_some()
    }

    /// Moves a job to another lane, from now on. False if it is gone.
    pub fn set_lane(&mut self, job: JobId, lane: Priority, now: Instant) -> bool {
        self.advance(now);
        let changed = self.with_leaf(job, |leaf| leaf.lane = lane.number());
        changed.is_some()
    }

    /// A job wants so many bytes more than it has asked for before. False if it is gone.
    pub fn ask(&mut self, job: JobId, bytes: u64, now: Instant) -> bool {
        self.advance(now);
        self.with_leaf(job, |leaf| leaf.wanted = leaf.wanted.saturating_add(bytes)).is_some()
    }

    /// A job wants nothing more for the moment. Returns what it had asked for and was not granted.
    pub fn retract(&mut self, job: JobId) -> u64 {
        self.with_leaf(job, |leaf| std::mem::take(&mut leaf.wanted)).unwrap_or(0)
    }

    /// Bytes that a job has asked for and was not granted yet.
    pub fn wanted(&self, job: JobId) -> u64 {
        self.find(job.0).and_then(|i| self.nodes[i as usize].kind.leaf()).map_or(0, |leaf| leaf.wanted)
    }

    /// The next grant, if anybody may have one now. To be called until it says `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Grant> {
        self.advance(now);
        self.wake();
        self.pick()
    }

    /// When [`poll`](Self::poll) can grant more, after it has said `None`, if nothing else changes. `None`: nobody wants anything
    /// that they will ever be allowed.
    pub fn next_wake(&self) -> Option<Instant> {
        let root = &self.nodes[tree::ROOT as usize];
        let first = self.wakes.first().map(|(at, _)| *at);
        let at = match root.wake {
            // The gateway itself is over its ceiling: what opens below it before does not matter, ...
            Some(open) if root.kind.waits() => Some(open),
            _ if root.is_shown() => Some(self.now),
            // ... and if nobody below is open yet, both have to be.
            _ => first,
        };
        at.and_then(|at| self.start.checked_add(Duration::from_nanos(at)))
    }

    /// Gives back what a job was granted and will not use, to all ceilings above it. Its turn is spent. More than it was granted
    /// since it was added is not taken back.
    pub fn refund(&mut self, job: JobId, bytes: u64) {
        let Some(mut i) = self.find(job.0) else { return };
        let Some(leaf) = self.nodes[i as usize].kind.leaf_mut() else { return };
        let bytes = bytes.min(leaf.granted);
        leaf.granted -= bytes;
        loop {
            if let Some(ceiling) = &mut self.nodes[i as usize].ceiling {
                ceiling.fill(self.now);
                ceiling.put_back(bytes);
            }
            self.refresh(i);
            match self.nodes[i as usize].parent {
                Some(parent) => i = parent,
                None => return,
            }
        }
    }

    /// Lets time go on; it never goes back.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.start).as_nanos();
        self.now = self.now.max(u64::try_from(passed).unwrap_or(u64::MAX));
    }

    fn with_leaf<T>(&mut self, job: JobId, change: impl FnOnce(&mut Leaf) -> T) -> Option<T> {
        let i = self.find(job.0)?;
        let result = change(self.nodes[i as usize].kind.leaf_mut()?);
        self.refresh(i);
        Some(result)
    }
}
