//! A layer that ends an opening that takes too long. `tower::timeout` would tie it to one executor's clock.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use metra_core::code::Code;
use metra_transport::Rt;
use tower::{Layer, Service};

use super::{Arrival, Refused};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct DeadlineLayer {
    rt: Rt,
    limit: Duration,
}

impl DeadlineLayer {
    pub(super) fn new(rt: Rt, limit: Duration) -> Self {
        Self { rt, limit }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline { inner, rt: self.rt.clone(), limit: self.limit }
    }
}

/// See [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub(super) struct Deadline<S> {
    inner: S,
    rt: Rt,
    limit: Duration,
}

impl<S> Service<Arrival> for Deadline<S>
where
    S: Service<Arrival, Error = Refused>,
    S::Future: Send + 'static,
    S::Response: Send,
{
    type Response = S::Response;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<S::Response, Refused>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        let opening = self.inner.call(arrival);
        let (rt, limit) = (self.rt.clone(), self.limit);
        Box::pin(async move {
            let late = |_| Refused::new(Code::Timeout, format!("not opened within {} s", limit.as_secs()));
            rt.timeout(limit, opening).await.map_err(late)?
        })
    }
}
