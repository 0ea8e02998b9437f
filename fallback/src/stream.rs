//! Byte streams, whatever makes them.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ahead::Ahead;

/// A byte stream in both directions: TCP, TLS, a tunnel through a proxy, WebSocket.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Any [`Stream`].
pub type BoxStream = Box<dyn Stream>;

/// `stream`, with `first` read before anything else.
pub(crate) fn prefixed(first: Bytes, stream: impl Stream) -> BoxStream {
    if first.is_empty() { Box::new(stream) } else { Box::new(Ahead::holding(&first, stream)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn first_comes_first() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = prefixed(Bytes::from_static(b"hello "), near);
        far.write_all(b"world").await.unwrap();
        let mut piece = [0; 4];
        stream.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"hell");
        stream.write_all(b"back").await.unwrap();
        far.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"back");
        drop(far);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "o world");
    }
}
