//! Whose job begins: so many of a tenant run, the others wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use metra_core::priority::Priority;
use metra_policy::shape::config::Shaping as Rules;
use metra_policy::shape::{Admission, AdmissionError, AdmissionEvent};
use tokio::sync::watch;

use super::{Owner, Shaping, Ticket};
use crate::measure;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It waits, at this position; 1 is next.
    Waits(u64),
    /// It may begin.
    Begins,
}

/// The jobs of all tenants.
pub(super) struct Turns {
    tenants: BTreeMap<String, Admission<Ticket>>,
    watched: HashMap<Ticket, (String, watch::Sender<Turn>)>,
}

/// A job's place, waiting or not; free for others when dropped.
pub(crate) struct Place {
    shaping: Arc<Shaping>,
    owner: Owner,
    ticket: Ticket,
    priority: Priority,
    turn: watch::Receiver<Turn>,
}

impl Turns {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut turns = Self { tenants: BTreeMap::new(), watched: HashMap::new() };
        turns.replace(rules);
        turns
    }

    /// Other rules. Whoever has a place keeps it.
    pub(super) fn replace(&mut self, rules: &Rules) {
        for (name, tenant) in &rules.tenants {
            match self.tenants.get_mut(name) {
                Some(admission) => admission.set_limits(tenant.jobs, tenant.queue),
                None => _ = self.tenants.insert(name.clone(), Admission::new(tenant.jobs, tenant.queue)),
            }
        }
        // Those of a tenant that is gone begin, as nobody says that they should not.
        let gone = self.tenants.iter_mut().filter(|(name, _)| !rules.tenants.contains_key(*name));
        gone.for_each(|(_, admission)| admission.set_limits(usize::MAX, usize::MAX));
        self.tenants
            .retain(|name, admission| rules.tenants.contains_key(name) || admission.counts() != (0, 0));
        for name in self.tenants.keys().cloned().collect::<Vec<_>>() {
            self.tell(&name);
        }
    }

    /// A job comes. Where it stands, now and from now on.
    ///
    /// # Errors
    /// As many wait as may.
    pub(super) fn enter(
        &mut self,
        tenant: &str,
        ticket: Ticket,
        lane: Priority,
    ) -> Result<watch::Receiver<Turn>, AdmissionError> {
        let Some(admission) = self.tenants.get_mut(tenant) else { return Err(AdmissionError::Full) };
        admission.arrive(ticket, lane)?;
        let (watched, turn) = watch::channel(Turn::Waits(u64::MAX));
        self.watched.insert(ticket, (tenant.to_owned(), watched));
        self.tell(tenant);
        Ok(turn)
    }

    fn leave(&mut self, ticket: Ticket) {
        let Some((tenant, _)) = self.watched.remove(&ticket) else { return };
        if let Some(admission) = self.tenants.get_mut(&tenant) {
            admission.leave(ticket);
        }
        self.tell(&tenant);
    }

    fn tell(&mut self, tenant: &str) {
        let Some(admission) = self.tenants.get_mut(tenant) else { return };
        while let Some(event) = admission.poll_event() {
            let (ticket, turn) = match event {
                AdmissionEvent::Started(ticket) => (ticket, Turn::Begins),
                AdmissionEvent::Position(ticket, position) => (ticket, Turn::Waits(position as u64)),
            };
            if let Some((_, watched)) = self.watched.get(&ticket) {
                watched.send_replace(turn);
            }
        }
        let (running, waiting) = admission.counts();
        measure::turns(tenant, running, waiting);
    }
}

impl Place {
    pub(super) fn new(
        shaping: Arc<Shaping>,
        owner: Owner,
        ticket: Ticket,
        priority: Priority,
        turn: watch::Receiver<Turn>,
    ) -> Self {
        Self { shaping, owner, ticket, priority, turn }
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(super) fn priority(&self) -> Priority {
        self.priority
    }

    /// Where it stands.
    pub(crate) fn turn(&mut self) -> Turn {
        *self.turn.borrow_and_update()
    }

    /// Resolves when it stands elsewhere than [`turn`](Self::turn) said last.
    pub(crate) async fn changed(&mut self) {
        if self.turn.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shaping.lock().turns.leave(self.ticket);
    }
}
