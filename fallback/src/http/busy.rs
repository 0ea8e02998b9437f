//! What keeps a connection from being idle.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metra_transport::Rt;
use tokio::sync::watch;

/// Keeps an HTTP/2 connection from being ended as idle for as long as it, or a clone, lives.
///
/// [`serve_http`](super::serve_http) puts one among the extensions of each request and holds one until the
/// answer is sent. A tunnel within the connection goes on after that: it takes this one along.
#[derive(Clone)]
pub struct Busy {
    _one: Arc<One>,
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Busy")
    }
}

/// How many [`Busy`] there are of one connection, clones aside. For servers of any version of HTTP.
#[derive(Clone, Debug)]
pub struct Activity {
    count: watch::Sender<usize>,
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Activity {
    /// None.
    pub fn new() -> Self {
        Self { count: watch::Sender::new(0) }
    }

    /// One more, until it and its clones are dropped.
    pub fn begin(&self) -> Busy {
        self.count.send_modify(|count| *count += 1);
        Busy { _one: Arc::new(One { count: self.count.clone() }) }
    }

    /// Resolves when there has been none for `time`.
    pub async fn idle(&self, rt: &Rt, time: Duration) {
        let mut count = self.count.subscribe();
        loop {
            // The sender is `self`, so neither can fail.
            let _ = count.wait_for(|count| *count == 0).await;
            if rt.timeout(time, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

struct One {
    count: watch::Sender<usize>,
}

impl Drop for One {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}
