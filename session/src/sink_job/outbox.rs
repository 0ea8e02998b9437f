//! The outbox: what is said to the source, over the control link of the moment.
//!
//! What is lost with a link is said again on the next, because [`SinkJob::set_control`] makes it unsaid.

use std::sync::Arc;
use std::time::Duration;

use metra_core::code::Code;
use metra_core::limits::CHUNK_MAX;
use metra_core::ranges::IndexRange;
use metra_core::wire::{EntryStatus, Frame};

use super::{SinkJob, State};
use crate::job::{EntryReport, TELL, clip};
use crate::link::LinkHandle;

/// What is asked to be allowed at once, if there is use for it and nobody has to wait for it. Bytes.
const ASK_AHEAD: u64 = 2 * CHUNK_MAX as u64;

impl SinkJob {
    /// Waits until what there is to say has been handed to a link, or there is no link; not for long, as a source that
    /// does not listen must not keep the job.
    pub async fn wait_until_told(&self) {
        let _ = self.rt.timeout(TELL, self.told_all()).await;
    }

    async fn told_all(&self) {
        loop {
            let over = self.over.notified();
            {
                let state = self.lock();
                let receipt = state.receipt_out.is_none() || state.receipt_sent;
                let told =
                    if state.failed.is_some() { state.fail_sent } else { state.finished_sent && receipt };
                let by_peer = state.failed.as_ref().is_some_and(|e| e.by_peer);
                if told || by_peer || state.ended || state.control.is_none() {
                    return;
                }
            }
            over.await;
        }
    }

    /// The outbox task.
    pub(super) async fn write_control(self: Arc<Self>) {
        loop {
            let out = self.out.notified();
            let granted = self.config.allowance.as_ref().map(|allowance| allowance.changed());
            if self.lock().ended {
                return;
            }
            let Some((link, attachment, frame)) = self.next_frame() else {
                match granted {
                    None => out.await,
                    Some(granted) => tokio::select! { () = out => {}, () = granted => {} },
                }
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
            Frame::Finished(_) if current => state.finished_sent = true,
            Frame::Receipt { .. } if current => state.receipt_sent = true,
            Frame::EntryStatus(EntryStatus { entry, path, code, reason, .. }) => {
                let report = EntryReport { entry, path, code, reason };
                if !current {
                    state.statuses.push_front(report);
                } else if code != Code::Ok && !state.told.is_full() {
                    state.told.push_back(report);
                }
                self.work.notify_waiters();
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

    /// What is wanted and allowed; asks to be allowed what comes after that: where a rate is divided the next chunk, so that
    /// grants come evenly.
    fn poll_want(&self, state: &mut State, rtt: Duration) -> Vec<IndexRange> {
        let Some(allowance) = &self.config.allowance else { return state.sink.poll_want() };
        let outstanding = state.sink.credit().outstanding();
        let reaches = outstanding < allowance.reach(rtt);
        let wants = state.sink.poll_want_within(if reaches { allowance.unused() } else { 0 });
        allowance.set_behind((!reaches || wants.is_full).then_some(outstanding));
        allowance.spend(wants.bytes);
        if wants.held_up > 0 {
            let ahead = if allowance.is_paced() { 0 } else { state.sink.credit().available().min(ASK_AHEAD) };
            allowance.ask_up_to(wants.held_up.max(ahead));
        }
        wants.ranges
    }

    fn choose(&self, state: &mut State) -> Option<Frame> {
        let job = self.id;
        if state.greet {
            state.greet = false;
            return state.open.clone();
        }
        if let Some(error) = &state.failed {
            if error.by_peer || state.fail_sent {
                return None;
            }
            return Some(Frame::Fail { job, code: error.code, reason: clip(&error.reason) });
        }
        if state.ready {
            state.ready = false;
            state.attached = true;
            return Some(Frame::Ready { job, from_record: state.sink.records() });
        }
        if !state.attached {
            return None;
        }
        if let Some(chunk) = state.damaged.pop_front() {
            return Some(Frame::Damaged { job, chunk });
        }
        // Before what is wanted: a chunk that was thought to be held may be asked for after all, and the source goes by
        // what it hears last.
        let have = state.sink.poll_have();
        if !have.is_empty() {
            return Some(Frame::Have { job, ranges: have });
        }
        let rtt = state.links.iter().map(|l| l.link().rtt()).min().unwrap_or_default();
        state.sink.credit().set_rtt(rtt);
        let want = self.poll_want(state, rtt);
        if !want.is_empty() {
            return Some(Frame::Want { job, ranges: want });
        }
        let durable = state.sink.poll_durable();
        if !durable.is_empty() {
            return Some(Frame::Durable { job, ranges: durable });
        }
        // A pull's statuses are the client's own affair; they are sent all the same, for the gateway's audit.
        if let Some(EntryReport { entry, path, code, reason }) = state.statuses.pop_front() {
            return Some(Frame::EntryStatus(EntryStatus { job, entry, path, code, reason: clip(&reason) }));
        }
        if let Some(finished) = state.finished.filter(|_| !state.finished_sent) {
            return Some(Frame::Finished(finished));
        }
        let receipt = state.receipt_out.clone().filter(|_| state.finished_sent && !state.receipt_sent);
        receipt.map(|bytes| Frame::Receipt { job, bytes })
    }
}

impl State {
    /// Whether the job is still controlled over the link that it had at this attachment.
    fn is_attached(&self, attachment: u32) -> bool {
        !self.ended && self.control.is_some() && self.attachments == attachment
    }
}
