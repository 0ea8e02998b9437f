//! The control stream, and what becomes of it when early data is rejected.
//!
//! ```text
//!  control() before the handshake is confirmed          after
//!      first send --> early stream, copy kept           straight to the stream
//!      later sends wait for the handshake
//!           accepted: the early stream goes on
//!           rejected: a keeper task opens a new stream, sends the copy, and hands
//!                     the new halves to the sender and the receiver
//! ```
//!
//! The keeper is a task so that a caller that drops a future half-way cannot leave a stray stream behind: the
//! server takes the first bidirectional stream for the control stream.

use bytes::Bytes;
use quinn::{Connection, ReadError, RecvStream, SendStream, WriteError};
use tokio::sync::oneshot;

use super::error;
use super::link::Handshake;
use crate::link::{BoxFuture, ControlRecv, ControlSend, LinkError};
use crate::rt::Rt;
use metra_core::code::Code;

/// Most bytes that one [`ControlRecv::recv`] gives.
const PIECE_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct QuicControlSend {
    stream: SendStream,
    early: Option<EarlySend>,
    finished: bool,
}

#[derive(Debug)]
pub(super) struct QuicControlRecv {
    stream: RecvStream,
    /// Where the new half comes from if early data is rejected.
    replacement: Option<oneshot::Receiver<RecvStream>>,
}

/// What the sender needs until the handshake is confirmed.
#[derive(Debug)]
struct EarlySend {
    /// Takes the copy of the first message; `None` once it is sent.
    first: Option<oneshot::Sender<Bytes>>,
    handshake: Handshake,
    replacement: oneshot::Receiver<SendStream>,
}

/// Opens the control stream of a client.
pub(super) async fn open(
    rt: &Rt,
    connection: &Connection,
    handshake: Handshake,
) -> Result<(QuicControlSend, QuicControlRecv), LinkError> {
    let is_early = !handshake.is_confirmed();
    let (send, recv) = connection.open_bi().await.map_err(error::lost)?;
    if !is_early {
        return Ok((QuicControlSend::new(send), QuicControlRecv::new(recv)));
    }
    let (first_tx, first_rx) = oneshot::channel();
    let (send_tx, send_rx) = oneshot::channel();
    let (recv_tx, recv_rx) = oneshot::channel();
    rt.spawn(keep(connection.clone(), handshake.clone(), first_rx, send_tx, recv_tx));
    let early = EarlySend { first: Some(first_tx), handshake, replacement: send_rx };
    Ok((
        QuicControlSend { stream: goes_first(send), early: Some(early), finished: false },
        QuicControlRecv { stream: recv, replacement: Some(recv_rx) },
    ))
}

/// What is said about chunks must not wait behind them: a window of chunks takes long to send, and the sink cannot ask for
/// what it has not been told of.
fn goes_first(stream: SendStream) -> SendStream {
    // Fails only on a stream that is closed.
    let _ = stream.set_priority(i32::MAX);
    stream
}

/// The keeper: sends the first message again, on a new stream, if early data is rejected. On every error it
/// drops the channels, and the halves report the error of their own stream.
async fn keep(
    connection: Connection,
    mut handshake: Handshake,
    first: oneshot::Receiver<Bytes>,
    send_tx: oneshot::Sender<SendStream>,
    recv_tx: oneshot::Sender<RecvStream>,
) {
    let Ok(first) = first.await else { return };
    if !handshake.early_data_rejected().await {
        return;
    }
    let Ok((send, recv)) = connection.open_bi().await else { return };
    let mut send = goes_first(send);
    if send.write_chunk(first).await.is_ok() {
        // A half whose other end is gone is dropped here, as its predecessor was.
        let _ = send_tx.send(send);
        let _ = recv_tx.send(recv);
    }
}

impl QuicControlSend {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream: goes_first(stream), early: None, finished: false }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        if let Some(early) = &mut self.early {
            if let Some(first) = early.first.take() {
                // From here on the keeper sees to it that the message arrives, if the early stream comes to
                // nothing.
                let _ = first.send(bytes.clone());
                return match self.stream.write_chunk(bytes).await {
                    Ok(()) | Err(WriteError::ZeroRttRejected) => Ok(()),
                    Err(other) => Err(error::write(other)),
                };
            }
            self.settle().await?;
        }
        self.stream.write_chunk(bytes).await.map_err(error::write)
    }

    /// Waits for the handshake; changes to the new stream if early data was rejected.
    async fn settle(&mut self) -> Result<(), LinkError> {
        if let Some(early) = &mut self.early {
            early.handshake.confirmed().await?;
            if early.handshake.early_data_rejected().await {
                if let Some(first) = early.first.take() {
                    // Nothing has been sent: the keeper opens the new stream with nothing on it.
                    let _ = first.send(Bytes::new());
                }
                if let Ok(stream) = (&mut early.replacement).await {
                    self.stream = stream;
                }
            }
            self.early = None;
        }
        Ok(())
    }
}

impl ControlSend for QuicControlSend {
    fn send(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(self.write(bytes))
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(async {
            self.settle().await?;
            if !self.finished {
                self.stream.finish().map_err(|closed| error::write(closed.into()))?;
                self.finished = true;
            }
            match self.stream.stopped().await.map_err(error::stopped)? {
                None => Ok(()),
                Some(number) => Err(error::write(WriteError::Stopped(number))),
            }
        })
    }
}

impl Drop for QuicControlSend {
    fn drop(&mut self) {
        if !self.finished {
            // quinn would finish the stream: a cut-off stream must not look complete.
            let _ = self.stream.reset(error::number(Code::Cancelled));
        }
    }
}

impl QuicControlRecv {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, replacement: None }
    }
}

impl ControlRecv for QuicControlRecv {
    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, LinkError>> {
        Box::pin(async {
            loop {
                match self.stream.read_chunk(PIECE_MAX, true).await {
                    Ok(chunk) => return Ok(chunk.map(|chunk| chunk.bytes)),
                    Err(ReadError::ZeroRttRejected) => {}
                    Err(other) => return Err(error::read(other)),
                }
                // The receiver stays in its place while it is awaited: a dropped future loses nothing.
                let replaced = match &mut self.replacement {
                    Some(replacement) => replacement.await.ok(),
                    None => None,
                };
                self.replacement = None;
                match replaced {
                    Some(stream) => self.stream = stream,
                    None => return Err(error::read(ReadError::ZeroRttRejected)),
                }
            }
        })
    }
}
