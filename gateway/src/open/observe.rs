//! Layers that watch: a span and a closing line for each opening, and a counter.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use metra_transport::Rt;
use tower::{Layer, Service};
use tracing::Instrument;

use super::{Arrival, Joined, Refused};

/// Opens a span for each connection, says how it went, and closes what was refused.
#[derive(Clone, Debug)]
pub(super) struct TraceLayer {
    rt: Rt,
}

/// How long a refusal waits for the handshake, so that its reason can be read: before that, QUIC hides it
/// (RFC 9000 section 10.2.3).
const REFUSAL_WAITS: Duration = Duration::from_secs(2);

impl TraceLayer {
    pub(super) fn new(rt: Rt) -> Self {
        Self { rt }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Trace { inner, rt: self.rt.clone() }
    }
}

/// See [`TraceLayer`].
#[derive(Clone, Debug)]
pub(super) struct Trace<S> {
    inner: S,
    rt: Rt,
}

impl<S> Service<Arrival> for Trace<S>
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
        let span = tracing::info_span!("open", link = %arrival.link.id(), kind = %arrival.kind, peer = %arrival.peer);
        let link = arrival.link.clone();
        let rt = self.rt.clone();
        let opening = self.inner.call(arrival);
        let traced = async move {
            let result = opening.await;
            match &result {
                Ok(joined) => {
                    let Joined { session, account, resumed, .. } = joined;
                    tracing::info!(%session, user = account.name, resumed, "joined");
                }
                Err(refused) => {
                    tracing::info!(code = %refused.code, reason = refused.reason, "refused");
                    let _ = rt.timeout(REFUSAL_WAITS, link.handshake_confirmed()).await;
                    link.close(refused.code, &refused.reason);
                }
            }
            result
        };
        Box::pin(traced.instrument(span))
    }
}

/// Counts openings by outcome and measures how long they take.
#[derive(Clone, Copy, Debug)]
pub(super) struct MetricsLayer;

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Metrics { inner }
    }
}

/// See [`MetricsLayer`].
#[derive(Clone, Debug)]
pub(super) struct Metrics<S> {
    inner: S,
}

impl<S> Service<Arrival> for Metrics<S>
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
        let kind = arrival.kind.name();
        let started = Instant::now();
        let opening = self.inner.call(arrival);
        Box::pin(async move {
            let result = opening.await;
            let outcome = result.as_ref().map_or_else(|r| r.code.name(), |_| "ok");
            metrics::counter!("metra_openings_total", "kind" => kind, "outcome" => outcome).increment(1);
            metrics::histogram!("metra_opening_seconds", "kind" => kind).record(started.elapsed());
            result
        })
    }
}
