//! How jobs share what the gateway may move: rates, quotas, turns.
//!
//! ```text
//!  job --enter--> queue (a place among the tenant's jobs) --Place--> begin --Share--> Allowance of the job
//!                                                                                        |  ask
//!                    calendars, configuration --shares--> Tree, one for each direction <-+
//!                                                           |  poll
//!                                            quotas <-------+-------> grant
//! ```
//!
//! `metra_policy::shape` decides; here are the time, the jobs, and the task that hands out what is granted. Everything is behind one
//! lock, which is held for microseconds; a grant is 64 KiB to 4 MiB. Without any limit in the configuration jobs are
//! granted what they ask for where they stand.

mod pace;
mod quotas;
#[cfg(test)]
mod tests;
mod tree;
mod turns;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metra_core::code::Code;
use metra_core::priority::Priority;
use metra_core::receipt::Direction;
use metra_policy::shape::config::Shaping as Rules;
use metra_session::{Allowance, Grantor, JobError};
use metra_store::Catalogue;
use metra_transport::{AbortOnDrop, Rt};
use metrics::Counter;
use tokio::sync::{Notify, watch};

use self::pace::{Pace, Sharer, TICK};
use self::quotas::Quotas;
use self::tree::Tree;
pub(crate) use self::tree::is_limited;
use self::turns::Turns;
pub(crate) use self::turns::{Place, Turn};
use crate::account::Account;
use crate::audit::timestamp;
use crate::measure;

/// How often calendars are looked at, and quotas are written.
const LOOK: Duration = Duration::from_millis(250);
const KEEP: Duration = Duration::from_secs(1);
/// Grants between two looks at who asks.
const BATCH: usize = 256;

/// The time on the wall.
pub(crate) type Wall = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// A job, from when it comes to when it has ended. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// Whose a job is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    tenant: String,
    user: String,
}

/// See the module's documentation.
pub(crate) struct Shaping {
    rt: Rt,
    wall: Wall,
    catalogue: Arc<Catalogue>,
    state: Mutex<State>,
    /// Somebody asks, or the rules are others.
    wake: Notify,
}

struct State {
    rules: Rules,
    /// Nobody is limited by anything but the number of jobs.
    free: bool,
    uploads: Tree,
    downloads: Tree,
    quotas: Quotas,
    turns: Turns,
    jobs: HashMap<Ticket, Job>,
    tickets: u64,
    /// When it was looked at how fast jobs may send, and that it is time to do so again.
    paced: Instant,
    pace_now: bool,
}

/// A job that runs.
struct Job {
    owner: Owner,
    direction: Direction,
    allowance: Arc<Allowance>,
    granted: Counter,
    /// Bytes and files that were charged to quotas, and when for the last time.
    bytes: u64,
    files: u64,
    charged: SystemTime,
    /// Why it may not have more.
    exceeded: watch::Sender<Option<String>>,
    pace: Pace,
    /// How fast it may send, bytes per second.
    paced: watch::Sender<Option<u64>>,
}

/// What a job has of its owner's; given back when dropped.
pub(crate) struct Share {
    shaping: Arc<Shaping>,
    ticket: Ticket,
    allowance: Arc<Allowance>,
    exceeded: watch::Receiver<Option<String>>,
    pace: watch::Receiver<Option<u64>>,
    /// Bytes and files.
    moved: (u64, u64),
    _place: Place,
}

/// The end of an [`Allowance`] that asks.
struct Asks {
    shaping: Arc<Shaping>,
    ticket: Ticket,
}

/// What is to be told when the lock has been let go.
#[derive(Default)]
struct Told {
    granted: Vec<(Arc<Allowance>, u64)>,
}

impl Told {
    fn tell(self) {
        for (allowance, bytes) in self.granted {
            allowance.grant(bytes);
        }
    }
}

impl Shaping {
    /// Begins with what earlier runs have used of quotas. The task works until it is dropped.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub(crate) fn start(
        rt: &Rt,
        rules: Rules,
        catalogue: Arc<Catalogue>,
        wall: Wall,
    ) -> Result<(Arc<Self>, AbortOnDrop<()>), metra_store::CatalogueError> {
        let (now, at) = (rt.now(), wall());
        let state = State {
            uploads: Tree::new(&rules, now, at),
            downloads: Tree::new(&rules, now, at),
            quotas: Quotas::new(&rules, &catalogue.quotas()?),
            turns: Turns::new(&rules),
            jobs: HashMap::new(),
            tickets: 0,
            paced: now,
            pace_now: false,
            free: is_free(&rules),
            rules,
        };
        let shaping =
            Arc::new(Self { rt: rt.clone(), wall, catalogue, state: Mutex::new(state), wake: Notify::new() });
        let task = rt.spawn(shaping.clone().run()).abort_on_drop();
        Ok((shaping, task))
    }

    /// Other rules are in force from now on, for what runs, too.
    pub(crate) fn replace(&self, rules: Rules) {
        let (now, at) = (self.rt.now(), (self.wall)());
        let mut state = self.lock();
        state.uploads.replace(&rules, now, at);
        state.downloads.replace(&rules, now, at);
        state.quotas.replace(&rules);
        state.turns.replace(&rules);
        state.free = is_free(&rules);
        state.rules = rules;
        drop(state);
        // Who waited for what is not limited any more has it now.
        self.wake.notify_one();
    }

    /// Whose the jobs of an account are.
    pub(crate) fn owner(&self, account: &Account) -> Owner {
        let state = self.lock();
        let known = account.tenant.as_deref().filter(|tenant| state.rules.tenants.contains_key(*tenant));
        let tenant = known.unwrap_or_else(|| state.rules.tenant_of(&account.name));
        Owner { tenant: tenant.to_owned(), user: account.name.clone() }
    }

    /// A job comes: it has a place at once, or waits for one.
    ///
    /// # Errors
    /// [`Code::Busy`]: as many wait as may.
    pub(crate) fn enter(
        self: &Arc<Self>,
        owner: &Owner,
        priority: Priority,
    ) -> Result<Place, (Code, String)> {
        let mut state = self.lock();
        state.tickets += 1;
        let ticket = Ticket(state.tickets);
        let lane = state.lane(owner, priority);
        let turn = state.turns.enter(&owner.tenant, ticket, lane);
        let turn = turn.map_err(|e| (Code::Busy, format!("{e}; try again later")))?;
        Ok(Place::new(self.clone(), owner.clone(), ticket, priority, turn))
    }

    /// Its turn has come: what it may have from now on.
    pub(crate) fn begin(self: &Arc<Self>, place: Place, direction: Direction) -> Share {
        let (ticket, owner) = (place.ticket(), place.owner().clone());
        let allowance = Allowance::new(Arc::new(Asks { shaping: self.clone(), ticket }));
        let (exceeded, heard) = watch::channel(None);
        let (paced, pace) = watch::channel(None);
        let mut state = self.lock();
        let lane = state.lane(&owner, place.priority());
        let now = self.rt.now();
        let tree = if direction == Direction::Push { &mut state.uploads } else { &mut state.downloads };
        tree.add(ticket, &owner, lane, now);
        let job = Job {
            granted: measure::granted(&owner.tenant, direction),
            owner,
            direction,
            allowance: allowance.clone(),
            bytes: 0,
            files: 0,
            charged: (self.wall)(),
            exceeded,
            pace: Pace::default(),
            paced,
        };
        state.jobs.insert(ticket, job);
        if state.is_more_urgent(ticket) {
            // Others make room for it now.
            state.pace_now = true;
            self.wake.notify_one();
        }
        drop(state);
        Share {
            shaping: self.clone(),
            ticket,
            allowance,
            exceeded: heard,
            pace,
            moved: (0, 0),
            _place: place,
        }
    }

    /// Writes down what has been used of quotas, if that is not written yet.
    pub(crate) async fn keep(&self) {
        let states = self.lock().quotas.unwritten();
        if states.is_empty() {
            return;
        }
        let catalogue = self.catalogue.clone();
        let written = self.rt.blocking(move || catalogue.put_quotas(&states)).await;
        if let Err(error) = written {
            tracing::error!(%error, "what has been used of quotas could not be written; it is tried again");
            self.lock().quotas.write_again();
        }
    }

    /// Hands out what is granted, follows calendars, writes down what has been used.
    async fn run(self: Arc<Self>) {
        let mut keep_at = self.rt.now() + KEEP;
        loop {
            let wake = self.wake.notified();
            let now = self.rt.now();
            if now >= keep_at {
                self.keep().await;
                keep_at = now + KEEP;
            }
            let mut told = Told::default();
            let (next, busy) = {
                let mut state = self.lock();
                let at = (self.wall)();
                let State { rules, uploads, downloads, .. } = &mut *state;
                uploads.look(rules, now, at);
                downloads.look(rules, now, at);
                // Before: who is granted something now has waited for it.
                state.pace(now);
                let busy = state.hand_out(now, at, &mut told);
                (state.next(now, keep_at), busy)
            };
            told.tell();
            let next = if busy { now } else { next };
            tokio::select! {
                () = wake => {}
                () = self.rt.sleep_until(next) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// Whether nobody is limited by anything but the number of jobs.
fn is_free(rules: &Rules) -> bool {
    !is_limited(rules) && !quotas::is_limited(rules)
}

impl State {
    /// How urgent a job is: as was asked for, or as its tenant and user may be.
    fn lane(&self, owner: &Owner, asked: Priority) -> Priority {
        let tenant = self.rules.tenants.get(&owner.tenant);
        let user = tenant.and_then(|tenant| tenant.users.get(&owner.user));
        let best = tenant.map(|t| t.best_lane).max(user.map(|u| u.best_lane));
        best.map_or(asked, |best| asked.max(best))
    }

    fn tree(&mut self, ticket: Ticket) -> Option<&mut Tree> {
        let job = self.jobs.get(&ticket)?;
        Some(if job.direction == Direction::Push { &mut self.uploads } else { &mut self.downloads })
    }

    /// Grants what can be granted now. Returns whether there is more.
    fn hand_out(&mut self, now: Instant, at: SystemTime, told: &mut Told) -> bool {
        for _ in 0..BATCH {
            let grant = self.uploads.poll(now).or_else(|| self.downloads.poll(now));
            let Some((ticket, bytes)) = grant else { return false };
            self.grant(ticket, bytes, at, told);
        }
        true
    }

    /// Whether a job is more urgent than one of the others in its direction.
    fn is_more_urgent(&self, ticket: Ticket) -> bool {
        let Some(job) = self.jobs.get(&ticket) else { return false };
        let tree = if job.direction == Direction::Push { &self.uploads } else { &self.downloads };
        let others = self.jobs.iter().filter(|(_, other)| other.direction == job.direction);
        others.into_iter().any(|(other, _)| tree.lane(*other) > tree.lane(ticket))
    }

    /// Says to each job whose rate is limited how fast it may send.
    fn pace(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.paced);
        if elapsed < TICK && !self.pace_now {
            return;
        }
        (self.paced, self.pace_now) = (now, false);
        let State { jobs, uploads, downloads, .. } = self;
        for (direction, tree) in [(Direction::Push, uploads), (Direction::Pull, downloads)] {
            let mut of_tree: Vec<(&Ticket, &mut Job)> =
                jobs.iter_mut().filter(|(_, job)| job.direction == direction).collect();
            let sharer = |(ticket, job): &mut (&Ticket, &mut Job)| Sharer {
                speed: job.pace.look(elapsed, tree.waits(**ticket), job.allowance.behind()),
                floor: tree.floor(**ticket),
                lane: tree.lane(**ticket),
            };
            let mut sharers: Vec<Sharer> = of_tree.iter_mut().map(sharer).collect();
            pace::divide(tree.ceiling(), &mut sharers);
            for ((ticket, job), Sharer { speed, .. }) in of_tree.into_iter().zip(sharers) {
                // Whose rate nobody limits has its path for itself.
                let pace = speed.pace().filter(|_| tree.limits(*ticket));
                tracing::trace!(
                    user = job.owner.user,
                    ?direction,
                    waits = tree.waits(*ticket),
                    behind = job.allowance.behind(),
                    ?speed,
                    "paced"
                );
                job.allowance.set_pace(pace);
                if pace.is_some() || job.paced.borrow().is_some() {
                    job.paced.send_replace(pace);
                }
            }
        }
    }

    /// When there is something to do, if nobody asks before.
    fn next(&self, now: Instant, keep_at: Instant) -> Instant {
        let calendars = (self.uploads.has_calendars()).then(|| now + LOOK);
        let paces = (!self.free && !self.jobs.is_empty()).then(|| self.paced + TICK);
        let wakes = [self.uploads.next_wake(), self.downloads.next_wake(), calendars, paces];
        wakes.into_iter().flatten().fold(keep_at, Instant::min)
    }

    /// Charges what the tree lets a job have, and gives it to the job; or the job has had enough.
    fn grant(&mut self, ticket: Ticket, bytes: u64, at: SystemTime, told: &mut Told) {
        let Some(job) = self.jobs.get_mut(&ticket) else { return };
        match self.quotas.charge(&job.owner, bytes, 0, at) {
            Ok(()) => {
                job.bytes += bytes;
                job.charged = at;
                job.granted.increment(bytes);
                job.pace.granted(bytes);
                told.granted.push((job.allowance.clone(), bytes));
            }
            Err(exceeded) => {
                job.exceeded.send_replace(Some(said(&exceeded)));
                if let Some(tree) = self.tree(ticket) {
                    tree.refund(ticket, bytes);
                    tree.retract(ticket);
                }
            }
        }
    }
}

/// What a job is told that has had enough.
fn said(exceeded: &metra_policy::shape::Exceeded) -> String {
    let millis = exceeded.resets_at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let when = timestamp(u64::try_from(millis).unwrap_or(u64::MAX));
    format!("{exceeded}; it begins anew at {when}")
}

impl Grantor for Asks {
    fn ask(&self, bytes: u64) {
        let mut told = Told::default();
        {
            let mut state = self.shaping.lock();
            if state.free {
                let at = (self.shaping.wall)();
                state.grant(self.ticket, bytes, at, &mut told);
            } else {
                let now = self.shaping.rt.now();
                let ticket = self.ticket;
                if let Some(tree) = state.tree(ticket) {
                    tree.ask(ticket, bytes, now);
                }
                self.shaping.wake.notify_one();
            }
        }
        told.tell();
    }

    fn files(&self, files: u64) -> Result<(), JobError> {
        let at = (self.shaping.wall)();
        let mut state = self.shaping.lock();
        let State { jobs, quotas, .. } = &mut *state;
        let Some(job) = jobs.get_mut(&self.ticket) else { return Ok(()) };
        quotas.charge(&job.owner, 0, files, at).map_err(|e| JobError::new(Code::Limit, said(&e)))?;
        job.files += files;
        job.charged = at;
        Ok(())
    }
}

impl Share {
    /// To be asked before anything is moved.
    pub(crate) fn allowance(&self) -> Arc<Allowance> {
        self.allowance.clone()
    }

    /// How fast the job may send for the moment, bytes per second; `None`: as fast as it can. Said again while it is something.
    pub(crate) fn pace(&self) -> watch::Receiver<Option<u64>> {
        self.pace.clone()
    }

    /// Resolves when the job may not have more, with what to say to the client.
    pub(crate) fn exceeded(&self) -> impl Future<Output = String> + Send + use<> {
        let mut heard = self.exceeded.clone();
        async move {
            let said = heard.wait_for(Option::is_some).await.ok().and_then(|said| said.clone());
            match said {
                Some(said) => said,
                // It has ended.
                None => std::future::pending().await,
            }
        }
    }

    /// The job has ended, and has moved so many bytes and files. What was charged beyond that is given back.
    pub(crate) fn ended(mut self, bytes: u64, files: u64) {
        self.moved = (bytes, files);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let unused = self.allowance.unused();
        let mut state = self.shaping.lock();
        if let Some(tree) = state.tree(self.ticket) {
            tree.refund(self.ticket, unused);
            tree.remove(self.ticket);
        }
        let Some(job) = state.jobs.remove(&self.ticket) else { return };
        let bytes = job.bytes.saturating_sub(self.moved.0);
        let files = job.files.saturating_sub(self.moved.1);
        state.quotas.end(&job.owner, (bytes, files), job.files, job.charged);
        drop(state);
        self.shaping.wake.notify_one();
    }
}
