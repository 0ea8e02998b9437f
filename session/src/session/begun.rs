//! A link between its hello and its welcome.

use std::time::Duration;

use metra_core::code::Code;
use metra_core::wire::FrameDecoder;
use metra_transport::{AbortOnDrop, ControlRecv};

use super::Session;
use crate::link::LinkHandle;

/// A link that jobs are opened over, although the other side has not agreed to it yet. If this is dropped before, the link
/// is closed, and for its jobs it is as if it had never been.
#[must_use]
pub struct Begun {
    pub(super) session: Session,
    pub(super) link: LinkHandle,
    /// `None`: it was agreed on.
    pub(super) writer: Option<AbortOnDrop<()>>,
}

impl Begun {
    /// The other side agrees: the link is pumped from now on, until it is lost.
    pub fn agreed(mut self, recv: Box<dyn ControlRecv>, decoder: FrameDecoder) -> LinkHandle {
        let (session, handle, writer) = (self.session.clone(), self.link.clone(), self.writer.take());
        let rt = &self.session.0.rt;
        let chunks = rt.spawn(session.clone().accept_chunks(handle.clone())).abort_on_drop();
        let silence = rt.spawn(session.clone().watch_silence(handle.clone())).abort_on_drop();
        let pumped = handle.clone();
        rt.spawn(async move {
            let end = session.read_control(&pumped, recv, decoder).await;
            drop((chunks, silence));
            session.detach(&pumped, end);
            let rt = session.0.rt.clone();
            drop((session, pumped));
            // It ends by itself when the last handle is gone; whoever still has one shall not keep it.
            if let Some(writer) = writer {
                let _ = rt.timeout(Duration::from_secs(1), writer).await;
            }
        });
        handle
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.writer.is_none() {
            return;
        }
        self.link.link().close(Code::Ok, "not agreed on");
        let id = self.link.id();
        self.session.forget(&self.link, false, |job| job.attached_in_vain(id));
    }
}
