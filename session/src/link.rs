//! A link that is part of a session: frames out through a bounded queue, frames and chunks in.

use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use metra_core::code::Code;
use metra_core::wire::{Frame, FrameDecoder, WireError, grease};
use metra_transport::{ControlRecv, ControlSend, Link, LinkError, LinkId};
use tokio::sync::{Notify, mpsc};

/// Encoded frames that wait to be written to one link. A sender waits when it is full.
const OUT_QUEUE: usize = 64;

/// A link of a session, cheap to clone.
#[derive(Clone)]
pub struct LinkHandle {
    link: Arc<dyn Link>,
    out: mpsc::Sender<Bytes>,
    /// What the peer was told last of how fast it may send.
    told: Arc<Mutex<Option<u64>>>,
}

impl fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkHandle({} {})", self.link.kind(), self.link.id())
    }
}

impl LinkHandle {
    /// A handle, and the queue that the link's writer empties. It begins with a frame of no meaning, another one on
    /// each link of a session, so that peers stay used to them; this is the `number`th.
    pub(crate) fn new(link: Arc<dyn Link>, number: u64) -> (Self, mpsc::Receiver<Bytes>) {
        let (out, queue) = mpsc::channel(OUT_QUEUE);
        let mut first = Vec::new();
        grease(number, &mut first);
        let _ = out.try_send(first.into());
        (Self { link, out, told: Arc::default() }, queue)
    }

    /// The link itself.
    pub fn link(&self) -> &Arc<dyn Link> {
        &self.link
    }

    /// Its name in this process.
    pub fn id(&self) -> LinkId {
        self.link.id()
    }

    /// Has the peer send no faster than this on the link for the moment, as [`Link::set_pace`], if it keeps to it; it hears of
    /// changes by more than a sixteenth.
    pub fn pace_peer(&self, pace: Option<u64>) {
        let mut told = self.told.lock().expect("no panic while held");
        let is_near = match (*told, pace) {
            (Some(told), Some(pace)) => told.abs_diff(pace) <= told / 16,
            (told, pace) => told == pace,
        };
        if is_near {
            return;
        }
        // Where there is no room it is said the next time.
        if self.try_send(&Frame::Pace(pace)) {
            *told = pace;
        }
    }

    /// Sends a frame; waits for room in the queue. `false`: the link is gone.
    pub async fn send(&self, frame: &Frame) -> bool {
        self.out.send(encoded(frame)).await.is_ok()
    }

    /// The same if there is room at once.
    fn try_send(&self, frame: &Frame) -> bool {
        self.out.try_send(encoded(frame)).is_ok()
    }

    /// Sends a frame before any other; only on a link that nobody has sent anything on.
    pub(crate) fn send_first(&self, frame: &Frame) {
        // There is room for many.
        self.try_send(frame);
    }

    /// Sends a frame for as long as `attached` holds, which is looked at again whenever `changed` says so. `false`: the
    /// link is gone, or the job has left it.
    pub(crate) async fn send_while(
        &self,
        frame: &Frame,
        changed: &Notify,
        attached: impl Fn() -> bool,
    ) -> bool {
        let send = self.send(frame);
        tokio::pin!(send);
        loop {
            let change = changed.notified();
            if !attached() {
                return false;
            }
            tokio::select! {
                biased;
                sent = &mut send => return sent,
                () = change => {}
            }
        }
    }
}

fn encoded(frame: &Frame) -> Bytes {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes.into()
}

/// Writes queued frames to the control stream until either ends. Frames that wait together go out together.
pub(crate) async fn write_frames(
    mut control: Box<dyn ControlSend>,
    mut queue: mpsc::Receiver<Bytes>,
) -> Result<(), LinkError> {
    while let Some(first) = queue.recv().await {
        let Ok(second) = queue.try_recv() else {
            control.send(first).await?;
            continue;
        };
        let mut joined = BytesMut::from(&first[..]);
        joined.extend_from_slice(&second);
        while joined.len() < 64 * 1024
            && let Ok(more) = queue.try_recv()
        {
            joined.extend_from_slice(&more);
        }
        control.send(joined.freeze()).await?;
    }
    control.finish().await
}

/// The next frame of a control stream. `None`: the peer has finished it.
///
/// # Errors
/// The link's, or what is wrong with the bytes (fault: the peer).
pub async fn read_frame(
    control: &mut Box<dyn ControlRecv>,
    decoder: &mut FrameDecoder,
) -> Result<Option<Frame>, ReadError> {
    loop {
        if let Some(frame) = decoder.next()? {
            return Ok(Some(frame));
        }
        match control.recv().await? {
            Some(bytes) => decoder.push(&bytes),
            None => return Ok(None),
        }
    }
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The link is lost.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer sent what is not a frame.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl ReadError {
    /// The code to close the link with.
    pub fn code(&self) -> Code {
        match self {
            ReadError::Link(_) => Code::Ok,
            ReadError::Wire(e) => e.code(),
        }
    }
}
