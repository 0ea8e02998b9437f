//! The outbox: what is said to the sink, over the control link of the moment.
//!
//! What is lost with a link is said again on the next: the sink says where it stands, and asks again.

use std::sync::Arc;

use metra_core::id::ChunkIndex;
use metra_core::wire::{EntryStatus, Frame, ManifestEnd};

use super::{SourceJob, State};
use crate::job::{EntryReport, clip};
use crate::link::LinkHandle;

/// Encoded size of one frame of records.
const RECORDS_BYTES: usize = 64 * 1024;

impl SourceJob {
    /// The outbox task.
    pub(super) async fn write_control(self: Arc<Self>) {
        loop {
            let out = self.out.notified();
            if self.lock().ended {
                return;
            }
            let Some((link, attachment, frame)) = self.next_frame() else {
                out.await;
                continue;
            };
            let attached = || self.lock().is_attached(attachment);
            let sent = link.send_while(&frame, &self.out, attached).await;
            self.told(frame, attachment, sent);
            if !sent {
                // The job moves to another link, or the session learns of the loss from the link's reader.
                out.await;
            }
        }
    }

    fn told(&self, frame: Frame, attachment: u32, sent: bool) {
        let mut state = self.lock();
        let current = sent && state.attachments == attachment;
        match frame {
            Frame::Fail { .. } if current => state.fail_sent = true,
            Frame::Receipt { .. } if current => state.receipt_sent = true,
            Frame::EntryStatus(EntryStatus { entry, path, code, reason, .. }) => {
                if !current {
                    state.statuses.push_front(EntryReport { entry, path, code, reason });
                }
                self.read.notify_waiters();
            }
            _ => return,
        }
        drop(state);
        self.over.notify_waiters();
    }

    fn next_frame(&self) -> Option<(LinkHandle, u32, Frame)> {
        let mut state = self.lock();
        let link = state.control.clone()?;
        let frame = self.choose(&mut state)?;
        Some((link, state.attachments, frame))
    }

    fn choose(&self, state: &mut State) -> Option<Frame> {
        let job = self.id;
        if let Some(error) = &state.failed {
            if error.by_peer || state.fail_sent {
                return None;
            }
            return Some(Frame::Fail { job, code: error.code, reason: clip(&error.reason) });
        }
        if state.greet {
            state.greet = false;
            return Some(state.open.clone());
        }
        if let Some((first, records)) = state.source.poll_records(RECORDS_BYTES) {
            return Some(Frame::Records { job, first, records });
        }
        if let Some(chunk) = state.gone.pop_first() {
            return Some(Frame::Gone { job, chunk: ChunkIndex(chunk) });
        }
        if let Some(EntryReport { entry, path, code, reason }) = state.statuses.pop_front() {
            return Some(Frame::EntryStatus(EntryStatus { job, entry, path, code, reason: clip(&reason) }));
        }
        if let Some((records, root)) = state.source.poll_end() {
            return Some(Frame::ManifestEnd(ManifestEnd { job, records, root }));
        }
        let bytes = state.receipt_out.clone().filter(|_| !state.receipt_sent)?;
        Some(Frame::Receipt { job, bytes })
    }
}

impl State {
    /// Whether the job is still controlled over the link that it had at this attachment.
    fn is_attached(&self, attachment: u32) -> bool {
        !self.ended && self.control.is_some() && self.attachments == attachment
    }
}
