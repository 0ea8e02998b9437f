//! Whether the gateway shuts down, for all who have to know; and who has to be waited for.

use metra_fallback::http::{Activity, Busy};
use metra_transport::Rt;
use std::time::Duration;
use tokio::sync::watch;

/// One flag; clones are the same. Off at first.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    on: watch::Sender<bool>,
    running: Activity,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self { on: watch::Sender::new(false), running: Activity::new() }
    }

    /// It begins.
    pub(crate) fn begin(&self) {
        self.on.send_replace(true);
    }

    pub(crate) fn is_on(&self) -> bool {
        *self.on.borrow()
    }

    /// Resolves when it begins.
    pub(crate) async fn begun(&self) {
        // The sender is `self`: this cannot fail.
        let _ = self.on.subscribe().wait_for(|on| *on).await;
    }

    /// Somebody who ends by themselves in a shutdown, and is waited for as long as this lives.
    pub(crate) fn hold(&self) -> Busy {
        self.running.begin()
    }

    /// Resolves when all of them have ended.
    pub(crate) async fn ended(&self, rt: &Rt) {
        self.running.idle(rt, Duration::ZERO).await;
    }
}
