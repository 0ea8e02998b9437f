//! Refuses requests that hyper takes and that another server could take for something else.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::Service;

use super::busy::{Activity, Busy};

/// Around the service of a connection.
pub(super) struct Guard<S> {
    inner: S,
    activity: Activity,
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, activity: Activity) -> Self {
        Self { inner, activity }
    }
}

impl<S, B> Service<Request<Incoming>> for Guard<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<Held<B>>;
    type Error = S::Error;
    type Future = Either<Answer<S::Future>, std::future::Ready<Result<Self::Response, S::Error>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let busy = self.activity.begin();
        if let Some(status) = refusal(&request) {
            let mut response = Response::new(Held { body: None, _busy: busy });
            *response.status_mut() = status;
            if request.version() < Version::HTTP_2 {
                // Where the next request begins is not sure (RFC 9112 section 6.3).
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return Either::Right(std::future::ready(Ok(response)));
        }
        request.extensions_mut().insert(busy.clone());
        Either::Left(Answer { inner: Box::pin(self.inner.call(request)), busy })
    }
}

/// The status for a request that is not to reach the service.
fn refusal<B>(request: &Request<B>) -> Option<StatusCode> {
    let headers = request.headers();
    if request.version() >= Version::HTTP_2 {
        // RFC 9113 section 8.3.1: one authority, wherever it is written.
        return match (request.uri().authority(), host(headers)) {
            (Some(authority), Ok(Some(host))) if !same(authority, &host) => Some(StatusCode::BAD_REQUEST),
            (None, Ok(None)) | (_, Err(())) => Some(StatusCode::BAD_REQUEST),
            _ => None,
        };
    }
    // A tunnel to anywhere: none is served over HTTP/1.1.
    if request.method() == Method::CONNECT {
        return Some(StatusCode::NOT_IMPLEMENTED);
    }
    // RFC 9112 section 6.1: a coding that is not understood. hyper takes any list that ends in `chunked`.
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => return Some(StatusCode::NOT_IMPLEMENTED),
    }
    // RFC 9112 section 3.2: one Host, and a good one. HTTP/1.0 knew none.
    match (host(headers), request.uri().authority()) {
        (Err(()), _) => Some(StatusCode::BAD_REQUEST),
        (Ok(None), _) if request.version() == Version::HTTP_11 => Some(StatusCode::BAD_REQUEST),
        // Section 3.2.2: the target wins over Host. Two hosts in one request have no good reason.
        (Ok(Some(host)), Some(authority)) if !same(authority, &host) => Some(StatusCode::BAD_REQUEST),
        _ => None,
    }
}

fn host(headers: &HeaderMap) -> Result<Option<Authority>, ()> {
    let mut values = headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => match Authority::try_from(host.as_bytes()) {
            Ok(host) if !host.as_str().contains('@') => Ok(Some(host)),
            _ => Err(()),
        },
        _ => Err(()),
    }
}

fn same(a: &Authority, b: &Authority) -> bool {
    a.host().eq_ignore_ascii_case(b.host()) && a.port_u16().unwrap_or(443) == b.port_u16().unwrap_or(443)
}

/// The service's answer, on its way.
pub(super) struct Answer<F> {
    inner: Pin<Box<F>>,
    busy: Busy,
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Held<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.inner.as_mut().poll(cx).map_ok(|response| {
            response.map(|body| Held { body: Some(Box::pin(body)), _busy: this.busy.clone() })
        })
    }
}

/// The body of an answer, or none.
pub(super) struct Held<B> {
    body: Option<Pin<Box<B>>>,
    _busy: Busy,
}

impl<B: Body> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match &mut self.get_mut().body {
            Some(body) => body.as_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), |body| body.size_hint())
    }
}
