//! Jobs of a session that wait for their turn.
//!
//! The client may lose its link and open the job again on another one: it keeps its place, and hears of it there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use metra_core::code::Code;
use metra_core::id::{JobId, JobKey};
use metra_core::priority::Priority;
use metra_core::wire::Frame;
use metra_session::LinkHandle;
use tokio::sync::watch;

use super::Claim;
use crate::sessions::Live;
use crate::shaping::{Place, Shaping, Turn};

/// Those of one session.
#[derive(Default)]
pub(crate) struct Seats(Mutex<HashMap<JobId, Seat>>);

struct Seat {
    key: JobKey,
    link: watch::Sender<LinkHandle>,
}

/// A job that comes.
pub(super) struct Comes {
    pub(super) job: JobId,
    pub(super) key: JobKey,
    pub(super) priority: Priority,
}

/// Takes the seat away when dropped.
struct Taken<'a>(&'a Seats, JobId);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Seats {
    /// Whether the job waits already; it hears of that over `link` then.
    ///
    /// # Errors
    /// The number belongs to another job, which is the client's fault.
    pub(crate) fn moved(&self, job: JobId, key: JobKey, link: &LinkHandle) -> Result<bool, (Code, String)> {
        match self.lock().get(&job) {
            None => Ok(false),
            Some(seat) if seat.key == key => {
                seat.link.send_replace(link.clone());
                Ok(true)
            }
            Some(_) => Err((Code::Protocol, "this number belongs to another job of the session".to_owned())),
        }
    }

    /// Takes a place for the job among those of its tenant, waits until it may begin, and tells the client where it stands. The
    /// link over which it was opened last; `None`: the client does not want it any more.
    ///
    /// # Errors
    /// It will not begin: too many wait, a newer attempt has come, or the session ends.
    pub(super) async fn take(
        &self,
        shaping: &Arc<Shaping>,
        live: &Live,
        Comes { job, key, priority }: Comes,
        link: &LinkHandle,
        claim: Option<&Claim>,
    ) -> Result<Option<(Place, LinkHandle)>, (Code, String)> {
        let mut place = shaping.enter(&shaping.owner(live.account()), priority)?;
        if place.turn() == Turn::Begins {
            return Ok(Some((place, link.clone())));
        }
        let Some(mut waiting) = live.session().wait_with(job) else {
            return Err((Code::Protocol, "this number belongs to another job of the session".to_owned()));
        };
        let (seat, mut moved) = watch::channel(link.clone());
        self.lock().insert(job, Seat { key, link: seat });
        let _taken = Taken(self, job);
        loop {
            let link = moved.borrow_and_update().clone();
            let Turn::Waits(position) = place.turn() else { return Ok(Some((place, link))) };
            tracing::info!(user = live.account().name, job = job.0, position, "job waits");
            let hears = async {
                // A link that is full or lost: the client hears of the next position, or of this one on the next link.
                link.send(&Frame::Queued { job, position }).await;
                std::future::pending().await
            };
            let superseded = async {
                match claim {
                    Some(claim) => claim.superseded().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = hears => {}
                () = place.changed() => {}
                _ = moved.changed() => {}
                error = waiting.given_up() => {
                    return if error.by_peer { Ok(None) } else { Err((error.code, error.reason)) };
                }
                () = superseded => {
                    return Err((Code::Superseded, "a newer attempt has taken this job over".to_owned()));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Seat>> {
        self.0.lock().expect("no panic while held")
    }
}
