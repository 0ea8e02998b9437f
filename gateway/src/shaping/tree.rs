//! One direction: tenants, users and jobs by name in a shaper that knows numbers.

use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime};

use metra_core::priority::Priority;
use metra_policy::shape::config::{Rates, Shaping as Rules};
use metra_policy::shape::shaper::{self, JobId, Shaper, Share, TenantId, UserId};

use super::{LOOK, Owner, Ticket};

pub(super) struct Tree {
    shaper: Shaper,
    gateway: Share,
    tenants: BTreeMap<String, Tenant>,
    jobs: HashMap<Ticket, Job>,
    tickets: HashMap<JobId, Ticket>,
    calendars: bool,
    /// When calendars were looked at.
    looked: Instant,
}

struct Tenant {
    id: TenantId,
    share: Share,
    users: BTreeMap<String, User>,
    /// Jobs of all of them.
    jobs: usize,
}

struct User {
    id: UserId,
    share: Share,
    /// Jobs of it; one whom the rules do not name is forgotten with the last.
    jobs: usize,
}

struct Job {
    id: JobId,
    owner: Owner,
    lane: Priority,
}

/// Whether anybody's rate is limited at any time.
pub(crate) fn is_limited(rules: &Rules) -> bool {
    rates(rules).any(|rates| rates.share.ceiling.is_some() || !rates.calendar.is_empty())
}

fn rates(rules: &Rules) -> impl Iterator<Item = &Rates> {
    let tenants = rules.tenants.values();
    let below =
        tenants.flat_map(|t| std::iter::once(&t.rates).chain(t.users.values().map(|user| &user.rates)));
    std::iter::once(&rules.gateway).chain(below)
}

impl Tree {
    pub(super) fn new(rules: &Rules, now: Instant, at: SystemTime) -> Self {
        let gateway = rules.gateway.share_at(at);
        let mut shaper = Shaper::new(gateway, now);
        let mut tenants = BTreeMap::new();
        for (name, tenant) in &rules.tenants {
            let share = tenant.rates.share_at(at);
            let id = shaper.add_tenant(share, now);
            let mut users = BTreeMap::new();
            for (user, about) in &tenant.users {
                let share = about.rates.share_at(at);
                let id = shaper.add_user(id, share, now);
                users.extend(id.map(|id| (user.clone(), User { id, share, jobs: 0 })));
            }
            tenants.insert(name.clone(), Tenant { id, share, users, jobs: 0 });
        }
        let calendars = rates(rules).any(|rates| !rates.calendar.is_empty());
        Self {
            shaper,
            gateway,
            tenants,
            jobs: HashMap::new(),
            tickets: HashMap::new(),
            calendars,
            looked: now,
        }
    }

    /// Other rules. Whoever runs goes on with what he had asked for; what buckets held is forgotten. Jobs whose tenant is gone go on
    /// without limits of their own.
    pub(super) fn replace(&mut self, rules: &Rules, now: Instant, at: SystemTime) {
        let before = std::mem::replace(self, Self::new(rules, now, at));
        for (ticket, job) in before.jobs {
            let wanted = before.shaper.wanted(job.id);
            self.add(ticket, &job.owner, job.lane, now);
            self.ask(ticket, wanted, now);
        }
    }

    pub(super) fn add(&mut self, ticket: Ticket, owner: &Owner, lane: Priority, now: Instant) {
        let (shaper, share) = (&mut self.shaper, Share::default());
        // One that the rules do not name any more has no limits.
        let tenant = self.tenants.entry(owner.tenant.clone()).or_insert_with(|| Tenant {
            id: shaper.add_tenant(share, now),
            share,
            users: BTreeMap::new(),
            jobs: 0,
        });
        let id = match tenant.users.get_mut(&owner.user) {
            Some(user) => {
                user.jobs += 1;
                user.id
            }
            None => {
                let Some(id) = shaper.add_user(tenant.id, share, now) else { return };
                tenant.users.insert(owner.user.clone(), User { id, share, jobs: 1 });
                id
            }
        };
        tenant.jobs += 1;
        if let Some(id) = shaper.add_job(id, lane, share, now) {
            self.jobs.insert(ticket, Job { id, owner: owner.clone(), lane });
            self.tickets.insert(id, ticket);
        }
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        let Some(job) = self.jobs.remove(&ticket) else { return };
        self.shaper.remove_job(job.id);
        self.tickets.remove(&job.id);
        let Some(tenant) = self.tenants.get_mut(&job.owner.tenant) else { return };
        let Some(user) = tenant.users.get_mut(&job.owner.user) else { return };
        user.jobs -= 1;
        tenant.jobs -= 1;
        // A user with limits keeps what he has used of them.
        if user.jobs == 0 && user.share == Share::default() {
            self.shaper.remove_user(user.id);
            tenant.users.remove(&job.owner.user);
        }
    }

    pub(super) fn ask(&mut self, ticket: Ticket, bytes: u64, now: Instant) {
        if let Some(job) = self.jobs.get(&ticket) {
            self.shaper.ask(job.id, bytes, now);
        }
    }

    /// What the job had asked for and was not granted, which it is not to be granted any more. Bytes.
    pub(super) fn retract(&mut self, ticket: Ticket) -> u64 {
        self.jobs.get(&ticket).map_or(0, |job| self.shaper.retract(job.id))
    }

    /// Whether the job, or anybody whose it is, has a ceiling now.
    pub(super) fn limits(&self, ticket: Ticket) -> bool {
        let Some(Job { owner, .. }) = self.jobs.get(&ticket) else { return false };
        let tenant = self.tenants.get(&owner.tenant);
        let user = tenant.and_then(|tenant| tenant.users.get(&owner.user));
        let shares = [Some(self.gateway), tenant.map(|t| t.share), user.map(|u| u.share)];
        shares.into_iter().flatten().any(|share| share.ceiling.is_some())
    }

    /// What all together may move now, bytes per second, if that is limited.
    pub(super) fn ceiling(&self) -> Option<u64> {
        self.gateway.ceiling.map(|rate| rate.bytes())
    }

    /// How urgent the job is.
    pub(super) fn lane(&self, ticket: Ticket) -> Priority {
        self.jobs.get(&ticket).map_or_else(Priority::default, |job| job.lane)
    }

    /// What the job has whenever it wants it, if all of its tenant and its user want something: the part of their floors. Bytes per
    /// second.
    pub(super) fn floor(&self, ticket: Ticket) -> u64 {
        let Some(Job { owner, .. }) = self.jobs.get(&ticket) else { return 0 };
        let Some(tenant) = self.tenants.get(&owner.tenant) else { return 0 };
        let Some(user) = tenant.users.get(&owner.user) else { return 0 };
        let part = |share: Share, jobs: usize| share.floor.bytes() / jobs.max(1) as u64;
        part(tenant.share, tenant.jobs).max(part(user.share, user.jobs))
    }

    /// Whether the job waits for what it has asked for.
    pub(super) fn waits(&self, ticket: Ticket) -> bool {
        self.jobs.get(&ticket).is_some_and(|job| self.shaper.wanted(job.id) > 0)
    }

    pub(super) fn refund(&mut self, ticket: Ticket, bytes: u64) {
        if let Some(job) = self.jobs.get(&ticket) {
            self.shaper.refund(job.id, bytes);
        }
    }

    /// Who may have how much now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(Ticket, u64)> {
        loop {
            let shaper::Grant { job, bytes } = self.shaper.poll(now)?;
            if let Some(ticket) = self.tickets.get(&job) {
                return Some((*ticket, bytes));
            }
        }
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.shaper.next_wake()
    }

    pub(super) fn has_calendars(&self) -> bool {
        self.calendars
    }

    /// Follows the calendars.
    pub(super) fn look(&mut self, rules: &Rules, now: Instant, at: SystemTime) {
        if !self.calendars || now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let gateway = rules.gateway.share_at(at);
        if gateway != self.gateway {
            self.gateway = gateway;
            self.shaper.set_gateway(gateway, now);
        }
        for (name, about) in &rules.tenants {
            let Some(tenant) = self.tenants.get_mut(name) else { continue };
            let share = about.rates.share_at(at);
            if share != tenant.share {
                tenant.share = share;
                self.shaper.set_tenant(tenant.id, share, now);
            }
            for (name, about) in &about.users {
                let Some(user) = tenant.users.get_mut(name) else { continue };
                let share = about.rates.share_at(at);
                if share != user.share {
                    user.share = share;
                    self.shaper.set_user(user.id, share, now);
                }
            }
        }
    }
}

#[cfg(test)]
impl Tree {
    /// Jobs and users that are known.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.jobs.len() + self.tickets.len(), self.tenants.values().map(|tenant| tenant.users.len()).sum())
    }
}
