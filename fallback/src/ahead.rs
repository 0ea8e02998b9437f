//! Reading ahead: fewer calls of the system where much arrives, no memory where little does. And to the end: what a peer said
//! last is read although it does not listen any more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that is read in large pieces as soon as a small one was full. tokio's `BufReader` would hold its buffer for every
/// connection, whatever comes over it.
pub(crate) struct Ahead<S> {
    stream: S,
    /// There once it was needed.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Size of the buffer; 0: none is made.
    size: usize,
    /// Why nothing can be written any more, while what the peer said before that is still to be read.
    reset: Option<io::Error>,
    /// All that it said has been read.
    over: bool,
}

impl<S> Ahead<S> {
    /// Reads nothing ahead.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: Box::default(), start: 0, end: 0, size: 0, reset: None, over: false }
    }

    /// Has read `first` already.
    pub(crate) fn holding(first: &[u8], stream: S) -> Self {
        Self { buffer: first.into(), end: first.len(), ..Self::new(stream) }
    }

    /// May hold so many bytes from here on.
    pub(crate) fn allow(&mut self, size: usize) {
        self.size = size;
    }

    /// What became of writing `len` bytes. A peer that has closed its end resets the connection when more comes (RFC 9293
    /// section 3.10.7.1), and what it said before is still there to be read: a TLS alert that says why. So what is written
    /// goes nowhere until that has been read, and then reading fails of it.
    fn written(&mut self, len: usize, wrote: io::Result<usize>) -> io::Result<usize> {
        match wrote {
            Err(error) if !self.over && is_reset(&error) => {
                self.reset = Some(error);
                Ok(len)
            }
            wrote => wrote,
        }
    }
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, into));
        if read.is_err() || (into.remaining() > 0 && into.filled().len() == before) {
            self.over = true;
            return Poll::Ready(self.reset.take().map_or(read, Err));
        }
        Poll::Ready(Ok(()))
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end {
            if this.buffer.len() <= into.remaining() {
                ready!(this.poll_fill(cx, into))?;
                if into.remaining() == 0 && this.buffer.len() < this.size {
                    // There is more, it seems.
                    this.buffer = vec![0; this.size].into_boxed_slice();
                }
                return Poll::Ready(Ok(()));
            }
            // Put back at once: it is there also where nothing has come yet.
            let mut buffer = std::mem::take(&mut this.buffer);
            let mut filling = ReadBuf::new(&mut buffer);
            let filled = this.poll_fill(cx, &mut filling);
            let end = filling.filled().len();
            this.buffer = buffer;
            ready!(filled)?;
            (this.start, this.end) = (0, end);
        }
        let n = (this.end - this.start).min(into.remaining());
        into.put_slice(&this.buffer[this.start..this.start + n]);
        this.start += n;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, data));
        Poll::Ready(self.written(data.len(), wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, data));
        Poll::Ready(self.written(data.iter().map(|piece| piece.len()).sum(), wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_a_reset_is_read_though_something_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut far = listener.accept().await.unwrap().0;
        let mut near = Ahead::new(near);
        near.write_all(b"not read").await.unwrap();
        far.readable().await.unwrap();
        far.write_all(b"why").await.unwrap();
        drop(far);
        // Until the reset is there.
        while near.stream.take_error().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        near.write_all(b"more").await.unwrap();
        near.write_all(b"and more").await.unwrap();
        let mut said = Vec::new();
        let error = near.read_to_end(&mut said).await.unwrap_err();
        assert_eq!((said.as_slice(), error.kind()), (&b"why"[..], io::ErrorKind::BrokenPipe));
        assert!(near.write_all(b"no more").await.is_err());
    }

    #[tokio::test]
    async fn a_buffer_is_there_when_it_is_needed() {
        let (near, mut far) = duplex(1 << 16);
        let mut ahead = Ahead::new(near);
        far.write_all(b"0123456789").await.unwrap();
        let mut two = [0; 2];
        ahead.read_exact(&mut two).await.unwrap();
        assert_eq!((ahead.buffer.len(), &two), (0, b"01"), "it was not allowed");
        ahead.allow(4);
        let mut eight = [0; 8];
        assert_eq!(ahead.read(&mut [0; 1]).await.unwrap(), 1);
        assert_eq!(ahead.buffer.len(), 4);
        // What was read ahead comes first; more than the buffer goes past it.
        ahead.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"34");
        assert_eq!(ahead.read(&mut eight).await.unwrap(), 2);
        assert_eq!(&eight[..2], b"56");
        assert_eq!(ahead.read(&mut eight).await.unwrap(), 3);
        assert_eq!(&eight[..3], b"789");
    }

    #[tokio::test]
    async fn all_arrives_whatever_the_sizes() {
        let (near, mut far) = duplex(1000);
        let mut ahead = Ahead::new(near);
        ahead.allow(512);
        let sent: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        let writing = sent.clone();
        tokio::spawn(async move { far.write_all(&writing).await });
        let mut got = Vec::new();
        for size in [1, 7, 100, 600, 512, 3].into_iter().cycle() {
            let mut piece = vec![0; size];
            let n = ahead.read(&mut piece).await.unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&piece[..n]);
        }
        assert!(got == sent);
    }
}
