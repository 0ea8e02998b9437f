//! Virtual time: a single-threaded executor whose clock moves only when nothing can run.
//!
//! What is ready runs in the order in which it became ready; then the clock jumps to the next event. Nothing happens
//! while a task runs, however long it really takes: hosts are infinitely fast. Timers of tasks and of quinn are rounded up
//! to a millisecond, as tokio's are, the one that paces as the scenario says; arrivals of packets are exact to the nanosecond.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

/// The granularity of timers.
const TICK: Duration = Duration::from_millis(1);

/// A clock, and everything that waits for it.
#[derive(Clone)]
pub(crate) struct Clock(Arc<Inner>);

struct Inner {
    /// What "0" is called where times are `Instant`s.
    base: Instant,
    /// ns.
    now: AtomicU64,
    ready: Arc<Ready>,
    events: Mutex<Events>,
    /// Whoever wakes a task must never be the last to hold it: it would be dropped within the call.
    tasks: Mutex<Vec<Arc<Task>>>,
}

#[derive(Default)]
struct Events {
    heap: BinaryHeap<Reverse<Event>>,
    next: u64,
}

struct Event {
    at: u64,
    /// Events of one time happen in the order in which they were made.
    number: u64,
    what: What,
}

enum What {
    Timer(Arc<Slot>),
    Call(Box<dyn FnOnce() + Send>),
}

type Ready = Mutex<VecDeque<Arc<Task>>>;

struct Task {
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    queued: AtomicBool,
    done: AtomicBool,
    ready: Arc<Ready>,
}

/// Why a run ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stuck {
    /// Nothing can run, and nothing is going to happen.
    #[error("everything waits for something that never happens")]
    Forever,
    /// The limit of virtual time was reached.
    #[error("not done after {0:?} of virtual time")]
    Limit(Duration),
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            base: Instant::now(),
            now: AtomicU64::new(0),
            ready: Arc::default(),
            events: Mutex::default(),
            tasks: Mutex::default(),
        }))
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    /// The time, as something that only compares with itself.
    pub(crate) fn now(&self) -> Instant {
        self.0.base + self.elapsed()
    }

    fn nanos(&self) -> u64 {
        self.0.now.load(Ordering::Relaxed)
    }

    /// Calls `f` at `at` after the start, or now if that is past.
    pub(crate) fn call_at(&self, at: Duration, f: impl FnOnce() + Send + 'static) {
        self.push(at.as_nanos() as u64, What::Call(Box::new(f)));
    }

    fn push(&self, at: u64, what: What) {
        let mut events = self.events();
        let number = events.next;
        events.next += 1;
        events.heap.push(Reverse(Event { at: at.max(self.nanos()), number, what }));
    }

    /// Runs a task.
    pub(crate) fn spawn(&self, future: BoxFuture<'static, ()>) {
        let task = Arc::new(Task {
            future: Mutex::new(Some(future)),
            queued: AtomicBool::new(true),
            done: AtomicBool::new(false),
            ready: self.0.ready.clone(),
        });
        let mut tasks = lock(&self.0.tasks);
        let mut past = Vec::new();
        if tasks.len() == tasks.capacity() {
            past = tasks.extract_if(.., |task| task.done.load(Ordering::Relaxed)).collect();
        }
        tasks.push(task.clone());
        drop(tasks);
        drop(past);
        lock(&self.0.ready).push_back(task);
    }

    /// A timer that fires at `deadline`, rounded up to a millisecond.
    pub(crate) fn timer(&self, deadline: Instant) -> Timer {
        self.timer_of(deadline, TICK)
    }

    /// A timer that fires at `deadline`, rounded up to whole ticks.
    pub(crate) fn timer_of(&self, deadline: Instant, tick: Duration) -> Timer {
        let slot = Slot { state: Mutex::new(SlotState { deadline: 0, queued: None, waker: None }) };
        let tick = (tick.as_nanos() as u64).max(1);
        let timer = Timer { clock: self.clone(), slot: Arc::new(slot), tick };
        timer.set_deadline(deadline);
        timer
    }

    /// Runs everything until `future` is done.
    ///
    /// # Errors
    /// It never will be, or not before `limit`.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Stuck> {
        let result = Arc::new(Mutex::new(None));
        let place = result.clone();
        self.spawn(Box::pin(async move {
            let output = future.await;
            *lock(&place) = Some(output);
        }));
        loop {
            while let Some(task) = self.next_ready() {
                task.poll();
                if let Some(output) = lock(&result).take() {
                    return Ok(output);
                }
            }
            let Some(Reverse(event)) = self.events().heap.pop() else { return Err(Stuck::Forever) };
            if event.at > limit.as_nanos() as u64 {
                return Err(Stuck::Limit(limit));
            }
            self.0.now.store(event.at, Ordering::Relaxed);
            match event.what {
                What::Timer(slot) => self.fire(&slot, event.at),
                What::Call(call) => call(),
            }
        }
    }

    fn next_ready(&self) -> Option<Arc<Task>> {
        lock(&self.0.ready).pop_front()
    }

    fn fire(&self, slot: &Arc<Slot>, at: u64) {
        let waker = {
            let mut state = lock(&slot.state);
            if state.queued != Some(at) {
                return;
            }
            state.queued = None;
            if state.deadline > at {
                // It was put off after it was queued.
                state.queued = Some(state.deadline);
                let deadline = state.deadline;
                drop(state);
                self.push(deadline, What::Timer(slot.clone()));
                return;
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops every task and event. They hold handles to the clock, which would keep each other alive.
    pub(crate) fn clear(&self) {
        loop {
            let tasks = std::mem::take(&mut *lock(&self.0.tasks));
            let events = std::mem::take(&mut self.events().heap);
            let ready = std::mem::take(&mut *lock(&self.0.ready));
            if tasks.is_empty() && events.is_empty() {
                return;
            }
            for task in &tasks {
                let future = lock(&task.future).take();
                drop(future);
            }
            drop((events, ready));
        }
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        lock(&self.0.events)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.elapsed())
    }
}

impl Task {
    fn poll(self: Arc<Self>) {
        self.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.clone());
        let mut place = lock(&self.future);
        let Some(mut future) = place.take() else { return };
        drop(place);
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *lock(&self.future) = Some(future);
        } else {
            self.done.store(true, Ordering::Relaxed);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&self.ready).push_back(self.clone());
        }
    }
}

/// Resolves at its deadline; can be set anew.
pub(crate) struct Timer {
    clock: Clock,
    slot: Arc<Slot>,
    /// ns.
    tick: u64,
}

struct Slot {
    state: Mutex<SlotState>,
}

struct SlotState {
    /// In whole ticks. ns.
    deadline: u64,
    /// When the event comes that looks at the deadline: not after it.
    queued: Option<u64>,
    waker: Option<Waker>,
}

impl Timer {
    pub(crate) fn set_deadline(&self, deadline: Instant) {
        let deadline = deadline.saturating_duration_since(self.clock.0.base).as_nanos() as u64;
        let deadline = deadline.div_ceil(self.tick) * self.tick;
        let mut state = lock(&self.slot.state);
        state.deadline = deadline;
        if state.queued.is_none_or(|queued| queued > deadline) {
            state.queued = Some(deadline.max(self.clock.nanos()));
            drop(state);
            self.clock.push(deadline, What::Timer(self.slot.clone()));
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.slot.state);
        if state.deadline <= self.clock.nanos() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        if state.queued.is_none() {
            // It has fired for an earlier deadline.
            let deadline = state.deadline;
            state.queued = Some(deadline);
            drop(state);
            self.clock.push(deadline, What::Timer(self.slot.clone()));
        }
        Poll::Pending
    }
}

impl quinn::AsyncTimer for Timer {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        self.set_deadline(deadline);
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self, cx)
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Everything runs on one thread, and a panic ends the run: there is nothing to be protected from.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONG: Duration = Duration::from_secs(1_000_000);

    #[test]
    fn time_jumps_to_what_happens_next() {
        let clock = Clock::new();
        let (log, inner) = (Arc::new(Mutex::new(Vec::new())), clock.clone());
        for (name, ms) in [("b", 20), ("a", 10), ("c", 3_600_000)] {
            let (log, clock) = (log.clone(), clock.clone());
            let timer = clock.timer(clock.now() + Duration::from_millis(ms));
            clock.clone().spawn(Box::pin(async move {
                timer.await;
                lock(&log).push((name, clock.elapsed().as_millis()));
            }));
        }
        let late = clock.timer(clock.now() + Duration::from_secs(7200));
        let end = clock.run(LONG, async move {
            late.await;
            inner.elapsed()
        });
        assert_eq!(end.unwrap(), Duration::from_secs(7200));
        assert_eq!(*lock(&log), [("a", 10), ("b", 20), ("c", 3_600_000)]);
    }

    #[test]
    fn timers_tick_and_calls_do_not() {
        let clock = Clock::new();
        let inner = clock.clone();
        let timer = clock.timer(clock.now() + Duration::from_micros(1_100));
        clock.call_at(Duration::from_nanos(1_100_001), || {});
        let at = clock.run(LONG, async move {
            timer.await;
            inner.elapsed()
        });
        assert_eq!(at.unwrap(), Duration::from_millis(2));
        let (inner, fine) = (clock.clone(), Duration::from_micros(50));
        let timer = clock.timer_of(clock.now() + Duration::from_micros(1_110), fine);
        let at = clock.run(LONG, async move {
            timer.await;
            inner.elapsed()
        });
        assert_eq!(at.unwrap(), Duration::from_micros(3_150));
    }

    #[test]
    fn a_timer_can_be_set_deadline_and_brought_forward() {
        for (first, then) in [(10, 50), (50, 10), (10, 0)] {
            let clock = Clock::new();
            let inner = clock.clone();
            let timer = clock.timer(clock.now() + Duration::from_millis(first));
            timer.set_deadline(clock.now() + Duration::from_millis(then));
            let at = clock.run(LONG, async move {
                timer.await;
                inner.elapsed()
            });
            assert_eq!(at.unwrap(), Duration::from_millis(then));
        }
    }

    #[test]
    fn what_never_ends_is_noticed() {
        let clock = Clock::new();
        assert!(matches!(clock.run(LONG, std::future::pending::<()>()), Err(Stuck::Forever)));
        let (inner, limit) = (clock.clone(), Duration::from_secs(1));
        let ended = clock.run(limit, async move {
            loop {
                inner.timer(inner.now() + Duration::from_millis(10)).await;
            }
        });
        assert!(matches!(ended, Err::<(), _>(Stuck::Limit(_))));
        clock.clear();
        assert_eq!(Arc::strong_count(&clock.0), 1, "nothing keeps the clock alive");
    }
}
