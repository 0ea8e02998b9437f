//! Reading ahead: as far as the sink keeps up, and what was read stays in memory while it may be wanted soon.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use metra_core::code::Code;
use metra_core::manifest::{EntryKind, Record};
use metra_store::source::{Item, Reader};

use super::SourceJob;
use crate::job::{EntryReport, JobError};

/// Data of chunks that were read and may be wanted soon.
#[derive(Default)]
pub(super) struct Ring {
    data: HashMap<u32, Bytes>,
    order: VecDeque<u32>,
    bytes: usize,
}

impl Ring {
    fn insert(&mut self, chunk: u32, data: Bytes) {
        self.bytes += data.len();
        self.order.push_back(chunk);
        self.data.insert(chunk, data);
    }

    pub(super) fn get(&self, chunk: u32) -> Option<Bytes> {
        self.data.get(&chunk).cloned()
    }

    pub(super) fn remove(&mut self, chunk: u32) {
        if let Some(data) = self.data.remove(&chunk) {
            self.bytes -= data.len();
        }
    }

    /// Drops the oldest until `limit` holds.
    pub(super) fn shrink(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some(oldest) = self.order.pop_front() else { break };
            self.remove(oldest);
        }
        while self.order.front().is_some_and(|chunk| !self.data.contains_key(chunk)) {
            self.order.pop_front();
        }
    }
}

impl SourceJob {
    /// The reader task.
    pub(super) async fn read_ahead(self: Arc<Self>, mut reader: Reader) {
        loop {
            self.wait_for_room().await;
            let budget = self.config.step;
            let (back, step) = self
                .rt
                .blocking(move || {
                    let step = reader.step(budget);
                    (reader, step)
                })
                .await;
            reader = back;
            if let Err(error) = self.take_step(step.items, step.done) {
                self.fail(error);
                return;
            }
            self.out.notify_waiters();
            if step.done {
                self.over.notify_waiters();
                return;
            }
        }
    }

    async fn wait_for_room(&self) {
        loop {
            let read = self.read.notified();
            if self.may_read() {
                return;
            }
            read.await;
        }
    }

    fn may_read(&self) -> bool {
        let state = self.lock();
        let progress = state.source.progress();
        if state.statuses.is_full() {
            false
        } else if self.config.retain {
            state.ring.bytes < self.config.ring
        } else {
            // What is known without reading is announced at once: after an interruption the sink has most of it.
            state.from_cache || progress.announced - progress.resolved < state.lookahead.window()
        }
    }

    fn take_step(&self, items: Vec<Item>, done: bool) -> Result<(), JobError> {
        let mut state = self.lock();
        state.from_cache = items.iter().all(|item| !matches!(item, Item::Chunk { data: Some(_), .. }))
            && items.iter().any(|item| matches!(item, Item::Chunk { .. }));
        let mut files = 0;
        for item in items {
            let (record, data) = match item {
                Item::Entry { entry, local } => {
                    files += u64::from(entry.kind != EntryKind::Directory);
                    state.locals.push(local);
                    (Record::Entry(entry), None)
                }
                Item::Chunk { len, hash, data } => (Record::Chunk { len, hash }, data),
                Item::StreamEnd { size } => (Record::StreamEnd { size }, None),
                Item::Withdraw { entry } => (Record::Withdraw(entry), None),
                Item::Problem(problem) => {
                    let report = EntryReport {
                        entry: None,
                        path: problem.path,
                        code: problem.code,
                        reason: problem.reason,
                    };
                    state.statuses.push_back(report.clone());
                    state.reports.push(report);
                    continue;
                }
            };
            let chunk = state.source.ledger().chunks();
            state.source.push(&record).map_err(|e| JobError::new(Code::Limit, format!("manifest: {e}")))?;
            if let Some(data) = data {
                state.ring.insert(chunk, data);
            }
        }
        state.files += files;
        if let Some(allowance) = &self.config.allowance {
            allowance.files(files)?;
        }
        let memory = state.source.ledger().memory() as u64 + 8 * state.locals.len() as u64;
        if !state.memory.grow(memory) {
            return Err(JobError::new(Code::Busy, "the memory set aside for manifests is used up"));
        }
        if !self.config.retain {
            state.ring.shrink(self.config.ring);
        }
        if done {
            state.reading_done = true;
            state.source.finish().map_err(|e| JobError::new(Code::Internal, format!("manifest: {e}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_forgets_the_oldest_and_counts_right() {
        let mut ring = Ring::default();
        for chunk in 0..10 {
            ring.insert(chunk, Bytes::from(vec![0; 10]));
        }
        ring.remove(0);
        ring.remove(0);
        ring.remove(7);
        assert_eq!(ring.bytes, 80);
        ring.shrink(45);
        assert_eq!(ring.bytes, 40);
        let mut left: Vec<u32> = ring.data.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [5, 6, 8, 9]);
        assert_eq!(ring.order.front(), Some(&5));
        for chunk in left {
            ring.remove(chunk);
        }
        ring.shrink(usize::MAX);
        assert_eq!((ring.bytes, ring.order.len()), (0, 0));
    }
}
