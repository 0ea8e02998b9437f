//! One stream of an HTTP/2 connection as bytes both ways (extended CONNECT, RFC 8441), at the client.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::h2::client::{Builder, Connection, SendRequest};
use ::h2::ext::Protocol;
use ::h2::{Reason, RecvStream, SendStream};
use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request, Response, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::client::{OpenError, lost};
use crate::stream::BoxStream;

/// Opens the stream at `uri`.
pub(super) async fn open(
    stream: BoxStream,
    protocol: &'static str,
    uri: Uri,
    fields: HeaderMap,
) -> Result<(Response<()>, BoxStream), OpenError> {
    let (mut sender, mut connection) = Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        // None before the server's SETTINGS: that is how `settings` sees them.
        .initial_max_send_streams(0)
        .handshake(stream)
        .await
        .map_err(of_h2)?;
    settings(&sender, &mut connection).await?;
    // RFC 8441 section 3: not before the server has said so.
    if !sender.is_extended_connect_protocol_enabled() {
        return Err(OpenError::NoExtendedConnect);
    }

    let (leave, left) = oneshot::channel();
    let driver = tokio::spawn(drive(connection, left));
    let guard = AbortOnDrop(Some(driver));
    // RFC 8441 sections 4 and 5: neither key nor Connection and Upgrade.
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(uri)
        .extension(Protocol::from_static(protocol))
        .body(())
        .map_err(|e| OpenError::Request(e.to_string()))?;
    *request.headers_mut() = fields;
    poll_fn(|cx| sender.poll_ready(cx)).await.map_err(of_h2)?;
    let (response, send) = sender.send_request(request, false).map_err(of_h2)?;
    let (head, receive) = response.await.map_err(of_h2)?.into_parts();
    if !head.status.is_success() {
        return Err(OpenError::refused(head.status, head.headers));
    }
    guard.release();
    let stream = H2Stream { halves: Some((send, receive)), unread: Bytes::new(), leave: Some(leave) };
    Ok((Response::from_parts(head, ()), Box::new(stream)))
}

/// Drives the connection until the server's SETTINGS, its first frame, are there.
async fn settings(
    sender: &SendRequest<Bytes>,
    connection: &mut Connection<BoxStream, Bytes>,
) -> Result<(), OpenError> {
    poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(OpenError::Unanswered)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(of_h2(error))),
        Poll::Pending
            if sender.is_extended_connect_protocol_enabled() || sender.current_max_send_streams() != 0 =>
        {
            Poll::Ready(Ok(()))
        }
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Drives the connection until it ends; when the stream is left, until both sides have ended it, for
/// [`LINGER`] at most.
async fn drive(connection: Connection<BoxStream, Bytes>, left: oneshot::Receiver<Halves>) {
    let mut connection = pin!(connection);
    let (mut send, mut receive) = tokio::select! {
        // How it ended, the stream tells.
        _ = &mut connection => return,
        halves = left => match halves {
            Ok(halves) => halves,
            Err(_) => return,
        },
    };
    // Whether that was all, a close frame says. Dropped at once, the stream would be reset and what was sent
    // be lost.
    let _ = send.send_data(Bytes::new(), true);
    let end = async {
        while let Some(Ok(data)) = receive.data().await {
            let _ = receive.flow_control().release_capacity(data.len());
        }
        drop((send, receive));
        // Ends when nothing refers to it.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = connection => {}
        () = end => {}
        () = tokio::time::sleep(LINGER) => {}
    }
}

type Halves = (SendStream<Bytes>, RecvStream);

struct AbortOnDrop(Option<tokio::task::JoinHandle<()>>);

impl AbortOnDrop {
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The DATA of one stream, in both directions.
struct H2Stream {
    /// There until the end.
    halves: Option<Halves>,
    /// Received, counted against the window until it is read.
    unread: Bytes,
    /// To the driver.
    leave: Option<oneshot::Sender<Halves>>,
}

impl H2Stream {
    fn halves(&mut self) -> io::Result<&mut Halves> {
        self.halves.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for H2Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(this.halves()?.1.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..n]);
        this.unread.advance(n);
        // Only read bytes make room: that is the back-pressure.
        Poll::Ready(this.halves()?.1.flow_control().release_capacity(n).map_err(to_io))
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let (send, _) = self.get_mut().halves()?;
        send.reserve_capacity(buf.len());
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let n = send.capacity().min(buf.len());
        send.send_data(Bytes::copy_from_slice(&buf[..n]), false).map_err(to_io)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The driver sends as soon as the connection takes something.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (send, _) = self.get_mut().halves()?;
        Poll::Ready(send.send_data(Bytes::new(), true).map_err(to_io))
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        if let (Some(leave), Some(halves)) = (self.leave.take(), self.halves.take()) {
            // If the driver is gone, so is the connection.
            let _ = leave.send(halves);
        }
    }
}

fn to_io(error: ::h2::Error) -> io::Error {
    match error.reason() {
        _ if error.is_io() => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Some(Reason::NO_ERROR | Reason::CANCEL) => io::ErrorKind::ConnectionReset.into(),
        _ => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

/// While there is no stream yet.
fn of_h2(error: ::h2::Error) -> OpenError {
    if error.is_io() {
        return error.into_io().map_or(OpenError::Unanswered, |io| lost(&io));
    }
    match error.reason() {
        // Reset or GOAWAY by the server, or by something in between that knows no extended CONNECT.
        Some(_) if error.is_remote() => OpenError::Unanswered,
        _ => OpenError::NotHttp(error.to_string()),
    }
}

/// Of the stream and of the connection. A receiver gives room back in halves of it, so at the worst 16 MiB
/// are open: 1 Gbit/s over 100 ms has 12.5 MB on the way. Bytes.
pub(crate) const WINDOW: u32 = 32 << 20;

/// Longest frame that is taken: one message, with its header. Bytes.
pub(crate) const FRAME: u32 = (64 << 10) + 16;

/// Longest head of an answer. Bytes.
const HEADERS: u32 = 64 << 10;

/// What waits for the connection to take it. Bytes.
const SEND_BUFFER: usize = 256 << 10;

/// How long the end of a stream may take to be sent.
const LINGER: Duration = Duration::from_secs(5);
