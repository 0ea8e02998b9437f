//! A layer that reads the first frame.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use metra_core::code::Code;
use metra_core::wire::{Frame, FrameDecoder};
use metra_session::{ReadError, read_frame};
use tower::{Layer, Service};

use super::{Arrival, Greeted, Refused, lost};

/// The version of MTP that this gateway speaks.
pub(crate) const VERSION: u64 = 1;

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub(super) struct GreetLayer;

impl<S> Layer<S> for GreetLayer {
    type Service = Greet<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Greet { inner }
    }
}

/// See [`GreetLayer`].
#[derive(Clone, Debug)]
pub(super) struct Greet<S> {
    inner: S,
}

impl<S> Service<Arrival> for Greet<S>
where
    S: Service<Greeted, Error = Refused> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<S::Response, Refused>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        // The instance that was polled ready is the one to call; the clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let greeted = greet(arrival).await?;
            inner.call(greeted).await
        })
    }
}

async fn greet(arrival: Arrival) -> Result<Greeted, Refused> {
    let (send, mut recv) = arrival.link.control().await.map_err(lost)?;
    let mut decoder = FrameDecoder::new();
    let frame = read_frame(&mut recv, &mut decoder).await.map_err(|error| match error {
        ReadError::Link(error) => lost(error),
        error => Refused::new(error.code(), error.to_string()),
    })?;
    match frame {
        Some(Frame::Hello(hello)) if hello.version >= VERSION => {
            Ok(Greeted { arrival, hello, send, recv, decoder })
        }
        Some(Frame::Hello(hello)) => {
            let reason = format!("version {} is not spoken here; {VERSION} is", hello.version);
            Err(Refused::new(Code::Version, reason))
        }
        Some(_) => Err(Refused::new(Code::Protocol, "the first frame must be Hello")),
        None => Err(Refused::new(Code::Protocol, "the control stream ended before Hello")),
    }
}
