//! Whose job runs and whose waits.

use std::collections::{BTreeSet, VecDeque};

use metra_core::priority::Priority;
use thiserror::Error;

/// The jobs of one tenant: so many run, the rest waits by lane, and by arrival within a lane.
///
/// Order of calls: [`arrive`](Self::arrive), [`leave`](Self::leave) and the setters as things happen; after each of them
/// [`poll_event`](Self::poll_event) until it says `None`. What runs is never stopped for somebody more urgent. Memory is what the
/// two limits allow, events included: of a position only the latest is told.
#[derive(Clone, Debug)]
pub struct Admission<J> {
    run: usize,
    queue: usize,
    running: BTreeSet<J>,
    /// Running, and not told yet.
    started: VecDeque<J>,
    /// In order.
    waiting: Vec<Waiting<J>>,
    /// Below this index, everybody knows the position.
    told: usize,
    arrivals: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting<J> {
    lane: Priority,
    arrival: u64,
    job: J,
    /// The position that was told last; 0: none.
    told: usize,
}

/// What happened to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionEvent<J> {
    /// It runs. It goes on doing so until it leaves.
    Started(J),
    /// It waits, and so many are before it or it: 1 is next.
    Position(J, usize),
}

/// Why a job does not even wait. A retry is safe, later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AdmissionError {
    /// As many wait as may. Fault: the tenant, who has too many jobs.
    #[error("too many jobs of the tenant are waiting")]
    Full,
    /// The job is here already. Fault: the caller.
    #[error("the job is here already")]
    Known,
}

impl<J: Copy + Ord> Admission<J> {
    /// At most `run` jobs run (0: none does) and `queue` wait.
    pub fn new(run: usize, queue: usize) -> Self {
        let (running, started, waiting) = (BTreeSet::new(), VecDeque::new(), Vec::new());
        Self { run, queue, running, started, waiting, told: 0, arrivals: 0 }
    }

    /// A job comes. It runs at once if there is room, which implies that nobody waits.
    ///
    /// # Errors
    /// See [`AdmissionError`]; nothing has changed then.
    pub fn arrive(&mut self, job: J, lane: Priority) -> Result<(), AdmissionError> {
        if self.running.contains(&job) || self.index(job).is_some() {
            return Err(AdmissionError::Known);
        }
        if self.running.len() >= self.run && self.waiting.len() >= self.queue {
            return Err(AdmissionError::Full);
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.insert(Waiting { lane, arrival, job, told: 0 });
        self.fill();
        Ok(())
    }

    /// A job ends, or does not want to wait any longer. False if it is not here.
    pub fn leave(&mut self, job: J) -> bool {
        if self.running.remove(&job) {
            self.started.retain(|other| *other != job);
            self.fill();
            return true;
        }
        self.take(job).is_some()
    }

    /// Moves a job that waits to another lane; among those there it is by its arrival. False if it does not wait.
    pub fn set_lane(&mut self, job: J, lane: Priority) -> bool {
        let taken = self.take(job);
        taken.map(|waiting| self.insert(Waiting { lane, ..waiting })).is_some()
    }

    /// Changes the limits, from now on. Who runs or waits already stays.
    pub fn set_limits(&mut self, run: usize, queue: usize) {
        (self.run, self.queue) = (run, queue);
        self.fill();
    }

    /// The next thing to tell. A start comes before positions.
    pub fn poll_event(&mut self) -> Option<AdmissionEvent<J>> {
        if let Some(job) = self.started.pop_front() {
            return Some(AdmissionEvent::Started(job));
        }
        while let Some(waiting) = self.waiting.get_mut(self.told) {
            self.told += 1;
            if waiting.told != self.told {
                waiting.told = self.told;
                return Some(AdmissionEvent::Position(waiting.job, self.told));
            }
        }
        None
    }

    /// The position of a job that waits; 1 is next.
    pub fn position(&self, job: J) -> Option<usize> {
        self.index(job).map(|i| i + 1)
    }

    /// How many run and how many wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    fn index(&self, job: J) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.job == job)
    }

    fn insert(&mut self, new: Waiting<J>) {
        let i = self.waiting.partition_point(|other| (other.lane, other.arrival) < (new.lane, new.arrival));
        self.waiting.insert(i, new);
        self.told = self.told.min(i);
    }

    fn take(&mut self, job: J) -> Option<Waiting<J>> {
        let i = self.index(job)?;
        self.told = self.told.min(i);
        Some(self.waiting.remove(i))
    }

    fn fill(&mut self) {
        let room = self.run.saturating_sub(self.running.len()).min(self.waiting.len());
        for waiting in self.waiting.drain(..room) {
            self.running.insert(waiting.job);
            self.started.push_back(waiting.job);
            self.told = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::AdmissionEvent::{Position, Started};
    use super::*;

    fn lane(number: u8) -> Priority {
        Priority::new(number).unwrap()
    }

    fn events(admission: &mut Admission<u32>) -> Vec<AdmissionEvent<u32>> {
        std::iter::from_fn(|| admission.poll_event()).collect()
    }

    #[test]
    fn by_lane_then_by_arrival() {
        let mut admission = Admission::new(1, 10);
        for (job, number) in [(1, 7), (2, 4), (3, 4), (4, 0), (5, 7)] {
            admission.arrive(job, lane(number)).unwrap();
        }
        let told = events(&mut admission);
        assert_eq!(told, [Started(1), Position(4, 1), Position(2, 2), Position(3, 3), Position(5, 4)]);
        assert_eq!(events(&mut admission), []);
        assert!(admission.leave(1));
        assert_eq!(events(&mut admission), [Started(4), Position(2, 1), Position(3, 2), Position(5, 3)]);
        // Who goes from the middle moves only those behind.
        assert!(admission.leave(3));
        assert_eq!(events(&mut admission), [Position(5, 2)]);
        assert!(admission.set_lane(5, Priority::URGENT));
        assert_eq!(events(&mut admission), [Position(5, 1), Position(2, 2)]);
        assert!(!admission.leave(3) && !admission.set_lane(4, Priority::NORMAL));
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut admission = Admission::new(1, 1);
        admission.arrive(1, Priority::NORMAL).unwrap();
        admission.arrive(2, Priority::NORMAL).unwrap();
        assert_eq!(admission.arrive(3, Priority::URGENT), Err(AdmissionError::Full));
        assert_eq!(admission.arrive(2, Priority::URGENT), Err(AdmissionError::Known));
        assert_eq!(admission.arrive(1, Priority::URGENT), Err(AdmissionError::Known));
        let mut none = Admission::new(1, 0);
        none.arrive(1, Priority::NORMAL).unwrap();
        assert_eq!(none.arrive(2, Priority::NORMAL), Err(AdmissionError::Full));
    }

    #[test]
    fn new_limits_act_at_once_and_stop_nobody() {
        let mut admission = Admission::new(0, 10);
        (1..=5).for_each(|job| admission.arrive(job, Priority::NORMAL).unwrap());
        assert_eq!(events(&mut admission).len(), 5);
        admission.set_limits(3, 0);
        assert_eq!(
            events(&mut admission),
            [Started(1), Started(2), Started(3), Position(4, 1), Position(5, 2)]
        );
        admission.set_limits(1, 0);
        assert_eq!(admission.counts(), (3, 2));
        assert!(admission.leave(1) && admission.leave(2));
        assert_eq!(events(&mut admission), []);
        assert!(admission.leave(3));
        assert_eq!(events(&mut admission), [Started(4), Position(5, 1)]);
    }

    #[test]
    fn a_job_that_left_before_it_was_told_is_not_told() {
        let mut admission = Admission::new(1, 10);
        (1..=3).for_each(|job| admission.arrive(job, Priority::NORMAL).unwrap());
        assert!(admission.leave(1) && admission.leave(2));
        assert_eq!(events(&mut admission), [Started(3)]);
    }

    proptest! {
        /// What was told is what is, whenever one listens.
        #[test]
        fn listeners_know_what_is(
            run in 0_usize..4,
            queue in 0_usize..6,
            steps in prop::collection::vec((0_u8..4, 0_u32..12, 0_u8..8, any::<bool>()), 0..200),
        ) {
            let mut admission = Admission::new(run, queue);
            let mut known = std::collections::BTreeMap::new();
            for (what, job, number, listen) in steps {
                match what {
                    0 | 1 => _ = admission.arrive(job, lane(number)),
                    2 => if admission.leave(job) { known.remove(&job); },
                    _ => _ = admission.set_lane(job, lane(number)),
                }
                let (running, waiting) = admission.counts();
                prop_assert!(running <= run && waiting <= queue);
                prop_assert!(running == run || waiting == 0);
                if !listen {
                    continue;
                }
                for event in events(&mut admission) {
                    match event {
                        Started(job) => prop_assert!(known.insert(job, 0) != Some(0), "started twice"),
                        Position(job, n) => prop_assert!(known.insert(job, n) != Some(n), "told twice"),
                    }
                }
                prop_assert_eq!(known.len(), running + waiting);
                for (job, place) in &known {
                    prop_assert_eq!(admission.position(*job).unwrap_or(0), *place);
                }
            }
        }
    }
}
