//! What tenants and users have used of a day and a month.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use metra_policy::shape::config::Shaping as Rules;
use metra_policy::shape::{Exceeded, Quota, QuotaLimits, QuotaState, Zone};

use super::Owner;

/// Those who have a quota. One that is taken out of the rules is kept where it is, should it come back.
pub(super) struct Quotas {
    counts: BTreeMap<String, Count>,
    /// Of those who have none now.
    idle: HashMap<String, QuotaState>,
}

struct Count {
    quota: Quota,
    zone: Zone,
    /// Files of jobs that have not ended: they count, but are not written down, as a job that is begun again after a crash
    /// brings them again.
    open_files: u64,
    /// Not written since it was changed.
    changed: bool,
}

/// Whether anybody has a quota.
pub(super) fn is_limited(rules: &Rules) -> bool {
    named(rules).next().is_some()
}

/// Everybody who has a quota, by the name under which it is kept. Names of tenants have no slash.
fn named(rules: &Rules) -> impl Iterator<Item = (String, QuotaLimits, &Zone)> {
    let all = rules.tenants.iter().flat_map(|(name, tenant)| {
        let users = tenant.users.iter().map(move |(user, about)| (format!("{name}/{user}"), about.quota));
        std::iter::once((name.clone(), tenant.quota))
            .chain(users)
            .map(|(name, quota)| (name, quota, &tenant.zone))
    });
    all.filter(|(_, quota, _)| *quota != QuotaLimits::default())
}

impl Quotas {
    /// Goes on from what was kept. What is not understood of that is said, and counts from nothing.
    pub(super) fn new(rules: &Rules, kept: &[(String, String)]) -> Self {
        let mut idle = HashMap::new();
        for (name, text) in kept {
            match QuotaState::of_text(text) {
                Some(state) => _ = idle.insert(name.clone(), state),
                None => tracing::error!(
                    name,
                    text,
                    "what has been used of a quota cannot be read; it counts from nothing"
                ),
            }
        }
        let mut quotas = Self { counts: BTreeMap::new(), idle };
        quotas.replace(rules);
        quotas
    }

    pub(super) fn replace(&mut self, rules: &Rules) {
        let mut before = std::mem::take(&mut self.counts);
        for (name, limits, zone) in named(rules) {
            let count = match before.remove(&name) {
                Some(mut count) if count.zone == *zone => {
                    count.quota.set_limits(limits);
                    count
                }
                Some(count) => {
                    let quota = Quota::new(limits, zone.clone(), count.quota.state());
                    Count { quota, zone: zone.clone(), ..count }
                }
                None => {
                    let state = self.idle.remove(&name).unwrap_or_default();
                    let quota = Quota::new(limits, zone.clone(), state);
                    Count { quota, zone: zone.clone(), open_files: 0, changed: false }
                }
            };
            self.counts.insert(name, count);
        }
        self.idle.extend(before.into_iter().map(|(name, count)| (name, count.quota.state())));
    }

    /// Counts for the user and the tenant, or for neither.
    ///
    /// # Errors
    /// It would be too much for one of them.
    pub(super) fn charge(
        &mut self,
        owner: &Owner,
        bytes: u64,
        files: u64,
        at: SystemTime,
    ) -> Result<(), Exceeded> {
        if self.counts.is_empty() {
            return Ok(());
        }
        let names = names(owner);
        for name in &names {
            if let Some(count) = self.counts.get(name) {
                count.quota.check(bytes, files, at)?;
            }
        }
        for name in &names {
            if let Some(count) = self.counts.get_mut(name) {
                count.quota.charge(bytes, files, at)?;
                count.open_files += files;
                count.changed = true;
            }
        }
        Ok(())
    }

    /// A job has ended, for which so many files had been charged. Gives back bytes and files that it did not move.
    pub(super) fn end(&mut self, owner: &Owner, back: (u64, u64), files: u64, charged: SystemTime) {
        for name in names(owner) {
            if let Some(count) = self.counts.get_mut(&name) {
                count.quota.give_back(back.0, back.1, charged);
                count.open_files = count.open_files.saturating_sub(files);
                count.changed = true;
            }
        }
    }

    /// What is to be written down: name and state of those that have changed.
    pub(super) fn unwritten(&mut self) -> Vec<(String, String)> {
        let changed = self.counts.iter_mut().filter(|(_, count)| count.changed);
        changed
            .map(|(name, count)| {
                count.changed = false;
                let mut state = count.quota.state();
                state.day_files = state.day_files.saturating_sub(count.open_files);
                state.month_files = state.month_files.saturating_sub(count.open_files);
                (name.clone(), state.to_text())
            })
            .collect()
    }

    /// It could not be written.
    pub(super) fn write_again(&mut self) {
        self.counts.values_mut().for_each(|count| count.changed = true);
    }
}

fn names(owner: &Owner) -> [String; 2] {
    [owner.tenant.clone(), format!("{}/{}", owner.tenant, owner.user)]
}
