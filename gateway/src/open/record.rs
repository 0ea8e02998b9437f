//! A layer that writes what came of each opening into the audit trail.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::{Layer, Service};

use super::{Arrival, Joined, Refused};
use crate::audit::Audit;

/// See the module's documentation.
#[derive(Clone)]
pub(super) struct RecordLayer {
    audit: Audit,
}

impl RecordLayer {
    pub(super) fn new(audit: Audit) -> Self {
        Self { audit }
    }
}

impl<S> Layer<S> for RecordLayer {
    type Service = Recorded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Recorded { inner, audit: self.audit.clone() }
    }
}

/// See [`RecordLayer`].
#[derive(Clone)]
pub(super) struct Recorded<S> {
    inner: S,
    audit: Audit,
}

impl<S> Service<Arrival> for Recorded<S>
where
    S: Service<Arrival, Response = Joined, Error = Refused>,
    S::Future: Send + 'static,
{
    type Response = Joined;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<Joined, Refused>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        let (kind, peer, audit) = (arrival.kind, arrival.peer, self.audit.clone());
        let opening = self.inner.call(arrival);
        Box::pin(async move {
            let result = opening.await;
            audit.opened(kind, peer, &result);
            result
        })
    }
}
