//! The service's answer, sent to its end or reset.

use std::future::poll_fn;
use std::pin::pin;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::oneshot;

use super::datagrams::Unrouted;
use super::error::{DATAGRAM_ERROR, Http3Error, INTERNAL_ERROR};
use super::halves::{Sender, Sending, data_head};
use super::request;
use super::tunnel::{Opening, Tunnelled};

type Stream = h3::server::RequestStream<Sending, Bytes>;

/// What an answer is sent on.
pub(super) struct Exchange {
    pub(super) stream: Stream,
    pub(super) sender: Sender,
    pub(super) method: Method,
    /// Of CONNECT.
    pub(super) tunnel: Option<(Opening, oneshot::Sender<Tunnelled>)>,
    /// Of requests that give datagrams no meaning.
    pub(super) unrouted: Option<Unrouted>,
}

impl Exchange {
    /// Sends what `service` answers. If the client gives up, `service` is dropped.
    ///
    /// The stream is finished if all was sent, and reset if not: a body that is not whole must not look whole.
    pub(super) async fn carry<B, E>(mut self, service: impl Future<Output = Result<Response<B>, E>>)
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let sender = self.sender.clone();
        // What a drop of this future says, too.
        sender.set_code(INTERNAL_ERROR);
        let stopped = pin!(sender.stopped());
        let unrouted = self.unrouted.take();
        let datagram = async {
            match &unrouted {
                Some(unrouted) => unrouted.came().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.answer(service) => {}
            // The client wants no answer any more, or has gone.
            _ = stopped => {}
            // RFC 9297 section 2: "the request stream MUST be aborted".
            () = datagram => sender.reset(DATAGRAM_ERROR),
        }
    }

    async fn answer<B, E>(self, service: impl Future<Output = Result<Response<B>, E>>)
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match service.await {
            Ok(response) => {
                if let Err(error) = self.send(response).await {
                    tracing::debug!(%error, "an answer was not sent to its end");
                }
            }
            Err(error) => tracing::debug!(error = %error.into(), "the service failed"),
        }
    }

    async fn send<B>(mut self, response: Response<B>) -> Result<(), Http3Error>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut head, body) = response.into_parts();
        // Nothing here makes interim answers, and one without a final one is none.
        if head.status.is_informational() {
            return Err(Http3Error::Invalid("an answer of 1xx"));
        }
        request::strip(&mut head.headers);
        if let Some((opening, granted)) = self.tunnel.take()
            && head.status.is_success()
        {
            // RFC 9110 section 9.3.6, RFC 9297 section 3.2.
            head.headers.remove(CONTENT_LENGTH);
            self.stream.send_response(Response::from_parts(head, ())).await?;
            drop(self.stream);
            // Nobody may want it: then it is reset.
            let _ = granted.send(opening.grant(self.sender).await);
            return Ok(());
        }
        let expected = length(&self.method, head.status, &mut head.headers, body.size_hint().exact());
        let has_body = self.method != Method::HEAD && !is_empty(head.status);
        self.stream.send_response(Response::from_parts(head, ())).await?;
        if has_body {
            self.send_body(body, expected).await?;
        }
        self.sender.finish();
        Ok(())
    }

    async fn send_body<B>(&mut self, body: B, expected: Option<u64>) -> Result<(), Http3Error>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut body, mut sent) = (pin!(body), 0);
        loop {
            let frame = match body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(Http3Error::Lost(error.into().to_string())),
                None => break,
            };
            match frame.into_data() {
                Ok(mut data) => {
                    let data = data.copy_to_bytes(data.remaining());
                    if data.is_empty() {
                        continue;
                    }
                    sent += data.len() as u64;
                    let mut pieces = [data_head(data.len()), data];
                    poll_fn(|cx| self.sender.poll_write(cx, &mut pieces)).await?;
                }
                Err(frame) => {
                    if let Ok(mut trailers) = frame.into_trailers() {
                        request::strip(&mut trailers);
                        self.stream.send_trailers(trailers).await?;
                        break;
                    }
                }
            }
        }
        if expected.is_some_and(|expected| expected != sent) {
            return Err(Http3Error::Invalid("a body that is not as long as its Content-Length says"));
        }
        Ok(())
    }
}

/// Says the length of the body if it is known, as hyper does. What the body must come to.
fn length(method: &Method, status: StatusCode, headers: &mut HeaderMap, exact: Option<u64>) -> Option<u64> {
    if let Some(exact) = exact
        && !headers.contains_key(CONTENT_LENGTH)
        && !is_empty(status)
        && (method != Method::HEAD || exact > 0)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(exact));
    }
    request::content_length(headers).ok().flatten()
}

/// RFC 9110 section 6.4.1: answers without a body.
fn is_empty(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
