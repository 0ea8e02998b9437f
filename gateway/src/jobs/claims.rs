//! One attempt at a job at a time.
//!
//! A client that was killed comes back before its old session is known to be dead. The newer attempt takes over:
//! the old one is told, journals what it holds, and lets go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use metra_core::code::Code;
use metra_core::id::JobKey;
use metra_session::SinkJob;
use tokio::sync::Notify;

type Name = (String, JobKey);

/// Who works at which job of which user.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Inner>);

#[derive(Default)]
struct Inner {
    held: Mutex<HashMap<Name, Holder>>,
    changed: Notify,
}

#[derive(Default)]
struct Holder {
    job: Option<Arc<SinkJob>>,
    superseded: bool,
}

/// The right to work at a job; given back when dropped.
pub(crate) struct Claim {
    claims: Claims,
    name: Name,
}

impl Claims {
    /// Takes a job over, when whoever has it has let go.
    pub(crate) async fn take(&self, user: &str, key: JobKey) -> Claim {
        let name = (user.to_owned(), key);
        loop {
            let changed = self.0.changed.notified();
            {
                let mut held = self.lock();
                match held.get_mut(&name) {
                    None => {
                        held.insert(name.clone(), Holder::default());
                        return Claim { claims: self.clone(), name };
                    }
                    Some(holder) if holder.superseded => {}
                    Some(holder) => {
                        holder.supersede();
                        // It may still wait for its turn.
                        self.0.changed.notify_waiters();
                    }
                }
            }
            changed.await;
        }
    }

    /// Resolves when nobody works at anything.
    pub(crate) async fn idle(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.lock().is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Holder>> {
        self.0.held.lock().expect("no panic while held")
    }
}

impl Holder {
    fn supersede(&mut self) {
        self.superseded = true;
        if let Some(job) = &self.job {
            job.cancel(Code::Superseded, "a newer attempt has taken this job over");
        }
    }
}

impl Claim {
    /// Resolves when another attempt has come.
    pub(crate) async fn superseded(&self) {
        loop {
            let changed = self.claims.0.changed.notified();
            if self.claims.lock().get(&self.name).is_some_and(|holder| holder.superseded) {
                return;
            }
            changed.await;
        }
    }

    /// Says which job is to be cancelled when another attempt comes.
    pub(crate) fn set_job(&self, job: &Arc<SinkJob>) {
        if let Some(holder) = self.claims.lock().get_mut(&self.name) {
            holder.job = Some(job.clone());
            if holder.superseded {
                holder.supersede();
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.name);
        self.claims.0.changed.notify_waiters();
    }
}
