//! How fast the links of a session may send for the moment, where its jobs wait for what they are granted: as
//! `shaping` says of each job, of all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use metra_core::id::JobId;
use metra_core::receipt::Direction;
use metra_transport::{AbortOnDrop, Rt};
use tokio::sync::watch;

use crate::sessions::Live;

/// Those of the jobs of one session that run. Bytes per second.
#[derive(Default)]
pub(crate) struct Paces(Mutex<HashMap<JobId, (Direction, Option<u64>)>>);

/// A job counts; until it is dropped.
pub(crate) struct Paced {
    live: Arc<Live>,
    job: JobId,
    direction: Direction,
    _task: AbortOnDrop<()>,
}

/// Counts a job, and does what `pace` says of it, which says it again and again: to links that come later, too.
pub(crate) fn follow(
    rt: &Rt,
    live: &Arc<Live>,
    job: JobId,
    direction: Direction,
    mut pace: watch::Receiver<Option<u64>>,
) -> Paced {
    let first = *pace.borrow_and_update();
    live.paces().0.lock().expect("no panic while held").insert(job, (direction, first));
    apply(live, direction);
    let task = {
        let live = live.clone();
        rt.spawn(async move {
            while pace.changed().await.is_ok() {
                let now = *pace.borrow_and_update();
                if let Some(of_job) = live.paces().0.lock().expect("no panic while held").get_mut(&job) {
                    of_job.1 = now;
                }
                apply(&live, direction);
            }
        })
    };
    Paced { live: live.clone(), job, direction, _task: task.abort_on_drop() }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.live.paces().0.lock().expect("no panic while held").remove(&self.job);
        apply(&self.live, self.direction);
    }
}

impl Paces {
    /// Of all jobs in one direction together, bits per second. `None`: there is none, or one that does not wait.
    fn together(&self, direction: Direction) -> Option<u64> {
        let jobs = self.0.lock().expect("no panic while held");
        let mut paces = jobs.values().filter(|job| job.0 == direction).map(|job| job.1).peekable();
        paces.peek()?;
        let bytes = paces.try_fold(0u64, |sum, pace| pace.map(|pace| sum.saturating_add(pace)))?;
        Some(bytes.saturating_mul(8))
    }
}

/// Each link may be as fast as all of them: which of them carries how much is not known here.
fn apply(live: &Live, direction: Direction) {
    let pace = live.paces().together(direction);
    for link in live.session().links() {
        match direction {
            Direction::Push => link.pace_peer(pace),
            Direction::Pull => link.link().set_pace(pace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_does_not_wait_lets_all_of_its_direction_go() {
        let paces = Paces::default();
        assert_eq!(paces.together(Direction::Push), None);
        let set = |job, direction, pace| {
            paces.0.lock().expect("no panic while held").insert(JobId(job), (direction, pace));
        };
        set(1, Direction::Push, Some(1000));
        set(2, Direction::Push, Some(500));
        set(3, Direction::Pull, None);
        assert_eq!(paces.together(Direction::Push), Some(12_000));
        assert_eq!(paces.together(Direction::Pull), None);
        set(2, Direction::Push, None);
        assert_eq!(paces.together(Direction::Push), None);
    }
}
