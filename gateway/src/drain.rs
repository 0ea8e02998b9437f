//! Whether the gateway shuts down, for all who have to know.

use tokio::sync::watch;

/// One flag; clones are the same. Off at first.
#[derive(Clone, Debug)]
pub(crate) struct Drain(watch::Sender<bool>);

impl Drain {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// It begins.
    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when it begins.
    pub(crate) async fn begun(&self) {
        // The sender is `self`: this cannot fail.
        let _ = self.0.subscribe().wait_for(|on| *on).await;
    }
}
