//! Jobs that the peer has asked for and that wait to be opened.

use metra_core::code::Code;
use metra_core::id::JobId;
use tokio::sync::watch;

use crate::job::JobError;
use crate::session::Session;

/// Why a job that waits is not to be opened any more; `None`: nobody has said so.
pub(crate) type GivenUp = watch::Sender<Option<JobError>>;

/// A job that waits. The session has it until this is dropped.
pub struct Waiting {
    session: Session,
    job: JobId,
    given_up: watch::Receiver<Option<JobError>>,
}

impl Waiting {
    pub(crate) fn new(session: Session, job: JobId, given_up: watch::Receiver<Option<JobError>>) -> Self {
        Self { session, job, given_up }
    }

    /// Resolves when it need not be opened any more: the peer does not want it, or the session ends.
    pub async fn given_up(&mut self) -> JobError {
        let said = self.given_up.wait_for(Option::is_some).await;
        let error = said.ok().and_then(|error| error.clone());
        error.unwrap_or_else(|| JobError::new(Code::Draining, "the session is closed"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.session.waits_no_more(self.job);
    }
}
