//! Senders: wanted chunks onto links.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metra_core::code::Code;
use metra_core::id::{ChunkIndex, Digest};
use metra_core::manifest::{ChunkInfo, Segment};
use metra_core::source::Sending;
use metra_core::wire::ChunkHeader;
use metra_store::source::{LocalFile, Part};
use metra_transport::{LinkError, LinkId};

use super::pace::Left;
use super::{SourceJob, State, refused};
use crate::job::EntryReport;
use crate::link::LinkHandle;

/// How soon a link looks again that has left a chunk to others.
const LEFT: Duration = Duration::from_millis(50);

impl SourceJob {
    /// A sender task of one link.
    pub(super) async fn send_chunks(self: Arc<Self>, link: LinkHandle) {
        loop {
            let send = self.send.notified();
            let (looks, next) = {
                let (mut state, now) = (self.lock(), self.rt.now());
                if !state.links.contains(&link.id()) || state.failed.is_some() || state.ended {
                    return state.sender_ends(link.id());
                }
                if !state.takes_next(now, &link) {
                    (true, None)
                } else if state.may_have_stragglers(link.id()) {
                    (true, state.straggler(now, &link))
                } else {
                    (false, state.next_chunk(now, link.id()))
                }
            };
            let Some(sending) = next else {
                if looks {
                    // Who has it, or was left it, may be slower than it was.
                    let _ = self.rt.timeout(LEFT, send).await;
                } else {
                    self.is_behind(&link);
                    send.await;
                }
                continue;
            };
            let data = match self.data_of(sending.chunk, &sending.info).await {
                Ok(data) => data,
                Err((code, reason)) => {
                    self.give_up(&sending, code, &reason);
                    continue;
                }
            };
            if !self.allowed(&link, &sending).await {
                return self.lock().sender_ends(link.id());
            }
            if !self.send_chunk(&link, &sending, data).await {
                self.lock().sender_ends(link.id());
                self.send.notify_waiters();
                return;
            }
        }
    }

    /// Waits until the job may send a chunk. `false`: it is over.
    async fn allowed(&self, link: &LinkHandle, sending: &Sending) -> bool {
        let Some(allowance) = &self.config.allowance else { return true };
        let len = sending.info.len;
        self.lock().held_up += u64::from(len);
        let granted = async {
            // One at a time, so that no more is granted than is of use.
            let _turn = self.turn.lock().await;
            loop {
                let arrived = self.send.notified();
                if !self.is_behind(link) {
                    break;
                }
                let _ = self.rt.timeout(LEFT, arrived).await;
            }
            allowance.take(len).await;
        };
        let granted = tokio::select! {
            biased;
            () = granted => true,
            () = self.halt.said() => false,
        };
        self.lock().held_up -= u64::from(len);
        // If no other sender is left to ask for more, it has as much under way as its links take.
        self.is_behind(link);
        granted
    }

    /// Whether more could be sent, but not soon: as much is under way already as may be, or as the links or the sink take. Says so.
    fn is_behind(&self, link: &LinkHandle) -> bool {
        let Some(allowance) = &self.config.allowance else { return false };
        let reach = allowance.reach(link.link().rtt());
        let behind = self.lock().behind(reach);
        allowance.set_behind(behind);
        behind.is_some()
    }

    /// Sends one chunk. `false`: the link is of no more use to this task.
    async fn send_chunk(&self, link: &LinkHandle, sending: &Sending, data: Bytes) -> bool {
        let header = ChunkHeader { job: self.id, chunk: sending.chunk, len: sending.info.len }.encode();
        self.lock().first_byte.get_or_insert(self.rt.now());
        let sent = tokio::select! {
            biased;
            sent = link.link().send_chunk(header.into(), vec![data], 0) => sent,
            () = self.halt.said() => return false,
        };
        let mut state = self.lock();
        match sent {
            Ok(()) => {
                state.source.sent(sending);
                // The transport holds it until it has arrived; if its link is lost, it is read again.
                if !self.config.retain {
                    state.ring.remove(sending.chunk.0);
                }
                state.last_byte = Some(self.rt.now());
                true
            }
            // Not wanted: the sink has it from elsewhere, and says so, or will ask again.
            Err(LinkError::StreamStopped(Code::Cancelled)) => {
                state.source.not_wanted(sending);
                state.pace.give_up_on(link.id(), sending.chunk.0);
                true
            }
            Err(error) if error.is_stream() => {
                state.pace.give_up_on(link.id(), sending.chunk.0);
                let refusal = state.source.refused(sending).map_err(refused);
                drop(state);
                if let Err(error) = refusal {
                    self.fail(error);
                }
                true
            }
            Err(error) => {
                state.source.send_failed(sending);
                state.pace.give_up_on(link.id(), sending.chunk.0);
                drop(state);
                if let Some(allowance) = &self.config.allowance {
                    allowance.put_back(u64::from(sending.info.len));
                }
                // It is lost as a rule; a link that cannot send is of no use either.
                link.link().close(Code::Internal, &error.to_string());
                false
            }
        }
    }

    /// The bytes of a chunk, from memory or from the disk again.
    async fn data_of(self: &Arc<Self>, chunk: ChunkIndex, info: &ChunkInfo) -> Result<Bytes, (Code, String)> {
        let (kept, parts) = {
            let state = self.lock();
            let kept = state.ring.get(chunk.0);
            if !state.suspect.contains(&chunk.0)
                && let Some(data) = kept
            {
                return Ok(data);
            }
            (kept, state.parts(chunk))
        };
        let job = self.clone();
        let hash = info.hash;
        let load = move || {
            // The sink received it damaged; where that happened is to be found out before it is sent again.
            if let Some(data) = kept
                && Digest::of(&data) == hash
            {
                return Ok(data);
            }
            let parts: Vec<Part<'_>> = parts
                .iter()
                .map(|(local, path, offset, len)| Part { local: *local, path, offset: *offset, len: *len })
                .collect();
            let data = job.loader.load(&parts).map_err(|e| (e.code(), e.to_string()))?;
            if job.lock().suspect.contains(&chunk.0) && Digest::of(&data) != hash {
                return Err((Code::Changed, "the file changed after it was read".to_owned()));
            }
            Ok(data)
        };
        self.rt.blocking(load).await
    }

    /// A chunk cannot be had any more: the sink is told, and the entries in it have failed unless they are withdrawn.
    fn give_up(&self, sending: &Sending, code: Code, reason: &str) {
        let chunk = sending.chunk;
        tracing::warn!(job = self.id.0, chunk = chunk.0, reason, "a chunk cannot be loaded again");
        let mut state = self.lock();
        state.source.gone(sending);
        state.pace.give_up(chunk.0);
        state.gone.insert(chunk.0);
        let entries: Vec<Segment> = state.source.ledger().segments(chunk).collect();
        for Segment { entry, .. } in entries {
            if state.source.ledger().is_withdrawn(entry) {
                continue;
            }
            state.given_up.entry(entry).or_insert_with(|| (code, reason.to_owned()));
        }
        drop(state);
        self.out.notify_waiters();
    }
}

impl State {
    /// Whether the link shall take the next chunk, if there is one.
    fn takes_next(&self, now: Instant, link: &LinkHandle) -> bool {
        if self.links.len() < 2 {
            return true;
        }
        let Some((next, queued)) = self.source.queued_bytes() else { return true };
        let progress = self.source.progress();
        // What the sink has not asked for yet it will ask for, as a rule.
        let bytes = queued + progress.announced - progress.resolved;
        let left = Left { bytes, is_all: self.source.root().is_some() };
        self.pace.takes(now, link.id(), link.link().rtt(), next, left)
    }

    /// What was allowed and has not arrived, if nobody asks for more though there is more. Bytes.
    fn behind(&self, reach: u64) -> Option<u64> {
        let under_way = self.pace.under_way().saturating_sub(self.held_up);
        let progress = self.source.progress();
        let more = self.held_up > 0 || self.source.has_queued() || progress.resolved < progress.announced;
        let asks = self.held_up > 0 && under_way < reach;
        (more && !asks).then_some(under_way)
    }

    fn next_chunk(&mut self, now: Instant, link: LinkId) -> Option<Sending> {
        let sending = self.source.next_chunk(link.0)?;
        self.pace.take(now, link, sending.chunk.0, sending.info.len.into());
        Some(sending)
    }

    /// Whether all is under way, and some of it on other links.
    fn may_have_stragglers(&self, link: LinkId) -> bool {
        let progress = self.source.progress();
        let is_all = self.source.root().is_some() && progress.resolved == progress.announced;
        is_all && !self.source.has_queued() && self.pace.is_elsewhere(link)
    }

    /// A chunk that is sent once more, as another link takes too long with it.
    fn straggler(&mut self, now: Instant, link: &LinkHandle) -> Option<Sending> {
        let chunk = self.pace.straggler(now, link.id(), link.link().rtt())?;
        let sending = self.source.send_again(ChunkIndex(chunk), link.id().0)?;
        tracing::debug!(chunk, link = %link.id(), "sent again: another link takes too long");
        self.pace.take(now, link.id(), chunk, sending.info.len.into());
        Some(sending)
    }

    /// A sender of a link ends. Counted under the lock under which it has decided to: a link that comes back has as many
    /// as one that is new.
    fn sender_ends(&mut self, link: LinkId) {
        if let Some(senders) = self.senders.get_mut(&link) {
            *senders -= 1;
            if *senders == 0 {
                self.senders.remove(&link);
            }
        }
    }

    /// Reports the entries with chunks that could not be had, but for those that were withdrawn after all.
    pub(super) fn report_given_up(&mut self) {
        for (index, (code, reason)) in std::mem::take(&mut self.given_up) {
            let ledger = self.source.ledger();
            if ledger.is_withdrawn(index) {
                continue;
            }
            let path = ledger.entry(index).map_or_else(String::new, |e| e.path);
            self.reports.push(EntryReport { entry: Some(index), path, code, reason });
        }
    }

    fn parts(&self, chunk: ChunkIndex) -> Vec<(LocalFile, String, u64, u32)> {
        let ledger = self.source.ledger();
        let part = |s: Segment| {
            let entry = ledger.entry(s.entry)?;
            let local = self.locals.get(s.entry.0 as usize)?;
            Some((*local, entry.path, s.offset, s.len))
        };
        ledger.segments(chunk).filter_map(part).collect()
    }
}
