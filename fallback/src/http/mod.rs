//! HTTP/1.1 and HTTP/2: one connection of a server, with the limits that the open Internet needs; and a client's stream out of
//! one request.
//!
//! ```text
//!   serve_http    hyper, by what TLS agreed on; ends idle connections
//!     guard         refuses what hyper takes and could be taken in two ways (request smuggling)
//!     busy          what keeps a connection from being idle
//!   open          asks for a stream: upgrade, or extended CONNECT
//!     h2            that stream of HTTP/2
//! ```
//!
//! What hyper itself refuses, and what of RFC 9112 and 9113 that covers, the tests pin down.
//!
//! Non-goals: listeners, TLS, routes; how long a service may take, and a body that arrives or leaves slowly:
//! that is for the service, which knows what it moves.

mod busy;
mod client;
mod guard;
mod h2;
#[cfg(test)]
mod tests;

pub use busy::{Activity, Busy};
pub use client::{OpenError, has_token, open, single};

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use metra_transport::Rt;
use tokio::time::{Instant, sleep_until};

use crate::stream::BoxStream;
use guard::{Guard, Refused};

/// What one HTTP connection may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// HTTP/1.1: from the start of the connection, or the end of the answer before, until the head of a
    /// request is there. So it also ends connections that wait for a next request. Default 30 s.
    pub header_read: Duration,
    /// HTTP/2: how long a connection lives without a request, an answer that is being sent, or a tunnel
    /// ([`Busy`]). Default 60 s.
    pub idle: Duration,
    /// Head of a request; at least 8 KiB. Larger ones are answered with 431. Default 16 KiB.
    pub head: u32,
    /// HTTP/1.1: header fields of a request. More are answered with 431. Default 64.
    pub fields: usize,
    /// HTTP/2: requests at a time. Default 64.
    pub streams: u32,
    /// HTTP/2: what a peer may send ahead, per stream and altogether, and so what is held if the service does
    /// not read it. Less caps uploads: a path carries about half of it per round trip. Default 32 MiB.
    pub window: u32,
    /// HTTP/2: pings at this interval, and ends the connection if there is no answer for as long. Default 30
    /// s.
    pub ping: Duration,
    /// How long requests that run may take when the connection is to end, whether idle or drained. Default 10
    /// s.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            head: 16 << 10,
            fields: 64,
            streams: 64,
            window: h2::WINDOW,
            ping: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// Why a connection ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// A request did not arrive in time, or the peer did not answer. Fault: the peer or the path; after a
    /// request, nobody's.
    #[error("the peer was too slow")]
    TimedOut,
    /// What the peer sent is not HTTP, or breaks a rule of it. Fault: the peer.
    #[error("not HTTP: {0}")]
    Protocol(String),
    /// The connection ended within a request or its answer. Fault: the peer or the path.
    #[error("the connection ended: {0}")]
    Lost(String),
    /// The service failed. Fault: this side.
    #[error("the service failed: {0}")]
    Service(String),
}

/// Serves `service` on one connection until that ends: HTTP/2 with extended CONNECT (RFC 8441) if `is_h2`,
/// which is what TLS agreed on, else HTTP/1.1 with upgrades.
///
/// Requests that could be taken in two ways are answered here and do not reach the service. Every request
/// carries a [`Busy`] among its extensions, which a tunnel over HTTP/2 must keep; [`crate::ws::accept`] does. When
/// an upgrade of HTTP/1.1 begins, the connection is the upgrade's and this returns.
///
/// When `drain` resolves, nothing new is taken, and after [`Limits::grace`] what runs is cut, tunnels over
/// HTTP/2 too.
///
/// # Errors
/// Why the connection ended, if not in the ordinary way. The peer has been told as far as HTTP can say it.
pub async fn serve_http<S, B>(
    stream: BoxStream,
    is_h2: bool,
    service: S,
    limits: &Limits,
    drain: impl Future<Output = ()>,
) -> Result<(), HttpError>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (activity, refused) = (Activity::new(), Refused::default());
    let service = Guard::new(service, activity.clone(), refused.clone());
    match carry(TokioIo::new(stream), is_h2, service, activity, limits, drain).await {
        Ok(()) if refused.any() => {
            Err(HttpError::Protocol("a request that can be taken in two ways".to_owned()))
        }
        ended => ended,
    }
}

async fn carry<S, B>(
    io: TokioIo<BoxStream>,
    is_h2: bool,
    service: S,
    activity: Activity,
    limits: &Limits,
    drain: impl Future<Output = ()>,
) -> Result<(), HttpError>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut drain = pin!(drain);
    if !is_h2 {
        let mut connection = pin!(http1(limits).serve_connection(io, service).with_upgrades());
        return tokio::select! {
            ended = connection.as_mut() => ended.map_err(of_hyper),
            () = &mut drain => {
                connection.as_mut().graceful_shutdown();
                within(limits.grace, connection).await
            }
        };
    }
    let rt = Rt::tokio();
    let mut connection = pin!(http2(limits).serve_connection(io, service));
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(of_hyper),
        () = activity.idle(&rt, limits.idle) => {}
        () = &mut drain => {}
    }
    connection.as_mut().graceful_shutdown();
    match within(limits.grace, connection).await {
        // A peer that has been told to go need not wait for the last of it.
        Err(HttpError::Lost(_)) => Ok(()),
        ended => ended,
    }
}

fn http1(limits: &Limits) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    let head = usize::try_from(limits.head).unwrap_or(usize::MAX).max(HEAD_MIN);
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_headers(limits.fields)
        .max_header_size(head)
        // Holds the head and no more of a body than fits beside it.
        .max_buf_size(head.saturating_add(BODY_AHEAD));
    builder
}

fn http2(limits: &Limits) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.head)
        .initial_stream_window_size(limits.window)
        .initial_connection_window_size(limits.window)
        .max_frame_size(h2::FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.ping);
    builder
}

async fn within(
    grace: Duration,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<(), HttpError> {
    tokio::select! {
        ended = connection => ended.map_err(of_hyper),
        () = sleep_until(Instant::now() + grace) => Err(HttpError::TimedOut),
    }
}

fn of_hyper(error: hyper::Error) -> HttpError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    if error.is_timeout() {
        HttpError::TimedOut
    } else if error.is_user() {
        HttpError::Service(message)
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() || is_io(&error) {
        HttpError::Lost(message)
    } else {
        HttpError::Protocol(message)
    }
}

fn is_io(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<std::io::Error>() || cause.downcast_ref::<::h2::Error>().is_some_and(::h2::Error::is_io)
        {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Smallest head that hyper can be told. Bytes.
const HEAD_MIN: usize = 8 << 10;

/// What HTTP/1.1 reads of a body before the service wants it. Bytes.
const BODY_AHEAD: usize = 64 << 10;

/// HTTP/2: what waits to be sent, per stream. Bytes.
const SEND_BUFFER: usize = 256 << 10;
