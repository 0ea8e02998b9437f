//! A layer that asks the policies whether this user may come in, by this way and from there.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll};

use metra_policy::engine::{Action, Resource};
use tower::{Layer, Service};

use super::{Known, Refused};
use crate::authority::Asker;
use crate::sessions::Sessions;

/// See the module's documentation.
#[derive(Clone)]
pub(super) struct AuthorizeLayer {
    sessions: Arc<Sessions>,
}

impl AuthorizeLayer {
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions }
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authorize { inner, sessions: self.sessions.clone() }
    }
}

/// See [`AuthorizeLayer`].
#[derive(Clone)]
pub(super) struct Authorize<S> {
    inner: S,
    sessions: Arc<Sessions>,
}

impl<S> Service<Known> for Authorize<S>
where
    S: Service<Known, Error = Refused>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Refused;
    type Future = futures_util::future::Either<std::future::Ready<Result<S::Response, Refused>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut known: Known) -> Self::Future {
        // Before the hello the client has said which certificate it was shown.
        let asker = Asker::over(&known.account, known.greeted.arrival.link.as_ref());
        let request = asker.asks(Action::OpenSession, Resource::Gateway);
        match self.sessions.authority().permit(&request) {
            Ok(by) => known.by = by.map_or(known.by, Cow::Owned),
            Err(refused) => return futures_util::future::Either::Left(std::future::ready(Err(refused))),
        }
        known.permitted = Some(request);
        futures_util::future::Either::Right(self.inner.call(known))
    }
}
