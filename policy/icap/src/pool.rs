//! Connections to a service: no more at a time than it takes, kept open for a while.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a connection is kept that nobody uses. Services close theirs after minutes.
const IDLE: Duration = Duration::from_secs(30);

pub(crate) struct Pool {
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    idle: Vec<(TcpStream, Instant)>,
    in_use: usize,
    /// At least 1.
    limit: usize,
}

/// The right to one connection; given back when dropped.
pub(crate) struct Place<'a> {
    pool: &'a Pool,
}

impl Pool {
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { idle: Vec::new(), in_use: 0, limit: limit.max(1) };
        Self { state: Mutex::new(state), freed: Notify::new() }
    }

    /// How many connections there may be from now on; what is in use stays.
    pub(crate) fn limit(&self, limit: usize) {
        let mut state = self.lock();
        state.limit = limit.max(1);
        let (idle, limit) = (state.idle.len(), state.limit);
        state.idle.drain(..idle.saturating_sub(limit));
        drop(state);
        self.freed.notify_waiters();
    }

    /// Waits for a place.
    pub(crate) async fn enter(&self) -> Place<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // It is in the queue before the look, so that what is freed in between is not missed.
            freed.as_mut().enable();
            {
                let mut state = self.lock();
                if state.in_use < state.limit {
                    state.in_use += 1;
                    return Place { pool: self };
                }
            }
            freed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

impl Place<'_> {
    /// A connection that was kept, the newest first. What a service says without being asked would be taken for the next
    /// answer: such a connection, and one that was closed, is not used.
    pub(crate) fn kept(&self) -> Option<TcpStream> {
        loop {
            let (stream, since) = self.pool.lock().idle.pop()?;
            let silent = stream.try_read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
            if since.elapsed() < IDLE && silent {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for the next question.
    pub(crate) fn keep(&self, stream: TcpStream) {
        let mut state = self.pool.lock();
        if state.idle.len() < state.limit {
            state.idle.push((stream, Instant::now()));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.lock().in_use -= 1;
        self.pool.freed.notify_waiters();
    }
}
