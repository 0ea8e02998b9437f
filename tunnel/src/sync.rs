//! Locks, and tasks that wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What is in it is right after every step: a panic elsewhere does not make it less so.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tasks that wait for room.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<Vec<Waker>>);

impl Waiting {
    /// Ready if `has_room`; else the task is woken by [`Waiting::wake`].
    pub(crate) fn poll(&self, cx: &mut Context<'_>, has_room: impl Fn() -> bool) -> Poll<()> {
        if has_room() {
            return Poll::Ready(());
        }
        let mut waiting = lock(&self.0);
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        drop(waiting);
        // Between the question and the note somebody may have made room.
        if has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(crate) fn wake(&self) {
        let waiting = std::mem::take(&mut *lock(&self.0));
        waiting.into_iter().for_each(Waker::wake);
    }
}
