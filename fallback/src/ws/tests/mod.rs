//! Both ends against each other, and each against raw bytes.
#![allow(clippy::unwrap_used)]

mod answers;
mod any;
mod frames;
mod interop;
mod pairs;

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{WsStream, accept, connect};
use crate::http::{HttpError, Limits, serve_http};

/// Client and server of one WebSocket.
pub(crate) struct Pair {
    pub(crate) client: WsStream,
    pub(crate) server: WsStream,
    /// Of the connection at the server.
    pub(crate) served: JoinHandle<Result<(), HttpError>>,
}

/// Over a pipe that holds `pipe` bytes.
pub(crate) async fn pair(h2: bool, pipe: usize, limits: Limits) -> Pair {
    let (a, b) = duplex(pipe);
    let (mut servers, served) = serve(b, h2, limits, pending());
    let client = connect(Box::new(a), h2, "gateway.example", "/mtp?x=1").await.unwrap();
    Pair { client, server: servers.recv().await.unwrap(), served }
}

/// Grants every WebSocket that is asked for over `stream`.
pub(crate) fn serve(
    stream: DuplexStream,
    h2: bool,
    limits: Limits,
    drain: impl Future<Output = ()> + Send + 'static,
) -> (mpsc::Receiver<WsStream>, JoinHandle<Result<(), HttpError>>) {
    let (granted, servers) = mpsc::channel(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let granted = granted.clone();
        async move {
            if request.uri().path_and_query().is_none_or(|path| path != "/mtp?x=1") {
                let nothing = Response::builder().status(404).body(Either::Left(Empty::new()));
                return Ok::<_, Infallible>(nothing.unwrap());
            }
            Ok(match accept(request) {
                Ok((response, opened)) => {
                    tokio::spawn(async move {
                        if let Ok(opened) = opened.await {
                            let _ = granted.send(opened).await;
                        }
                    });
                    response.map(Either::Left)
                }
                Err(rejection) => rejection.into_response::<Full<Bytes>>().map(Either::Right),
            })
        }
    });
    let served = tokio::spawn(async move { serve_http(Box::new(stream), h2, service, &limits, drain).await });
    (servers, served)
}

/// Writes until nobody takes anything for a second. Gives the number of bytes taken.
async fn fill(stream: &mut (impl AsyncWrite + Unpin)) -> usize {
    let piece = vec![7; 100_000];
    let mut taken = 0;
    while let Ok(n) = tokio::time::timeout(Duration::from_secs(1), stream.write(&piece)).await {
        taken += n.unwrap();
    }
    taken
}
