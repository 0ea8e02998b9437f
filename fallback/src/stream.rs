//! Byte streams, whatever makes them.

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions: TCP, TLS, a tunnel through a proxy, WebSocket.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Any [`Stream`].
pub type BoxStream = Box<dyn Stream>;
