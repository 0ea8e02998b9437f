//! A layer that bounds how many connections are being opened at a time.
//!
//! tower's own limit would let one address that opens slowly keep everybody else out.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use metra_core::code::Code;
use tower::{Layer, Service};

use super::{Arrival, Refused};
use crate::places::{NoPlace, Places};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct PlaceLayer {
    places: Arc<Places>,
}

impl PlaceLayer {
    /// So many at a time in all, and so many of one address.
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self { places: Places::new(all, each) }
    }
}

impl<S> Layer<S> for PlaceLayer {
    type Service = Placed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Placed { inner, places: self.places.clone() }
    }
}

/// See [`PlaceLayer`].
#[derive(Clone, Debug)]
pub(super) struct Placed<S> {
    inner: S,
    places: Arc<Places>,
}

impl<S> Service<Arrival> for Placed<S>
where
    S: Service<Arrival, Error = Refused>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<S::Response, Refused>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        let place = match self.places.take(arrival.peer.ip()) {
            Ok(place) => place,
            Err(NoPlace::Address) => return busy("too many connections are being opened from this address"),
            Err(NoPlace::Full) => return busy("too many connections are being opened; try again"),
        };
        let opening = self.inner.call(arrival);
        Box::pin(async move {
            tokio::select! {
                // What has been done already counts.
                biased;
                opened = opening => opened,
                () = place.displaced() => {
                    Err(Refused::new(Code::Busy, "another address has opened fewer connections; try again"))
                }
            }
        })
    }
}

fn busy<T: Send + 'static>(reason: &'static str) -> BoxFuture<'static, Result<T, Refused>> {
    Box::pin(std::future::ready(Err(Refused::new(Code::Busy, reason))))
}
