//! Each transition of a sink.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use super::*;
use crate::id::EntryIndex;
use crate::manifest::{Entry, EntryKind};

const LEN: u64 = 300_000;
const MIB: u64 = 1 << 20;

/// A large file; `contents` says of each chunk what it holds: the same number, the same bytes.
fn file(path: &str, contents: &[u32]) -> Vec<Record> {
    let kind = EntryKind::File { size: LEN * contents.len() as u64 };
    let entry = Record::Entry(Entry { path: path.into(), kind, mode: None, mtime: None });
    let chunk = |content: &u32| {
        let hash = Digest::of(&content.to_be_bytes());
        Record::Chunk { len: LEN as u32, hash }
    };
    std::iter::once(entry).chain(contents.iter().map(chunk)).collect()
}

fn sink(abilities: Abilities, window: u64, contents: &[u32]) -> Sink {
    let credit = CreditLimits { floor: window, ceiling: window };
    let mut sink = Sink::new(SinkOptions { ledger: LedgerLimits::default(), credit, abilities });
    assert_eq!(sink.on_records(0, &file("file", contents)), Ok(0));
    sink
}

/// A sink that was told of `chunks` chunks, all different, and has none of them.
fn missing(chunks: u32, window: u64) -> Sink {
    let contents: Vec<u32> = (0..chunks).collect();
    let mut sink = sink(Abilities::default(), window, &contents);
    resolve_all(&mut sink, Resolution::Missing);
    sink
}

fn resolve_all(sink: &mut Sink, resolution: Resolution) {
    for index in 0..sink.ledger().chunks() {
        sink.resolve(ChunkIndex(index), resolution);
    }
}

fn wants(sink: &mut Sink) -> Vec<u32> {
    sink.poll_want().into_iter().flat_map(IndexRange::indexes).collect()
}

fn indexes(ranges: Vec<IndexRange>) -> Vec<u32> {
    ranges.into_iter().flat_map(IndexRange::indexes).collect()
}

fn land(sink: &mut Sink, chunk: u32) {
    assert_eq!(sink.accept(ChunkIndex(chunk), LEN as u32), Arrival::Accept);
    sink.written(Instant::now(), ChunkIndex(chunk), true);
}

fn sync(sink: &mut Sink) -> Vec<u32> {
    let ranges = sink.begin_sync();
    sink.synced(&ranges);
    indexes(ranges)
}

fn end(sink: &mut Sink) {
    let root = sink.ledger().finish().unwrap();
    let records = sink.records();
    sink.on_end(records, root).unwrap();
}

#[test]
fn a_chunk_is_asked_for_lands_is_synced_and_completes_the_job() {
    let mut sink = missing(2, MIB);
    assert_eq!(sink.accept(ChunkIndex(0), LEN as u32), Arrival::Unwanted, "not asked for yet");
    assert_eq!(wants(&mut sink), [0, 1]);
    assert_eq!(wants(&mut sink), [] as [u32; 0], "once");
    assert_eq!(sink.credit().outstanding(), 2 * LEN);
    land(&mut sink, 1);
    assert_eq!(sink.accept(ChunkIndex(1), LEN as u32), Arrival::Duplicate);
    assert_eq!(indexes(sink.poll_have()), [1]);
    assert_eq!(sink.unsynced_bytes(), LEN);
    let ranges = sink.begin_sync();
    assert_eq!(sink.unsynced_bytes(), 0);
    assert_eq!(sink.poll_durable(), [], "not before the disk has said so");
    assert_eq!(sink.accept(ChunkIndex(1), LEN as u32), Arrival::Duplicate);
    sink.synced(&ranges);
    assert_eq!(indexes(sink.poll_durable()), [1]);
    end(&mut sink);
    assert!(!sink.is_verified() && !sink.is_complete());
    land(&mut sink, 0);
    assert!(sink.is_verified() && !sink.is_complete());
    assert_eq!(sync(&mut sink), [0]);
    assert!(sink.is_complete());
    let progress = SinkProgress { announced: 2 * LEN, verified: 2 * LEN, durable: 2 * LEN };
    assert_eq!(sink.progress(), progress);
    let stats = SinkStats { received: 2, received_bytes: 2 * LEN, duplicates: 2, ..SinkStats::default() };
    assert_eq!(sink.stats(), stats);
    assert_eq!(sink.credit().outstanding(), 0);
}

#[test]
fn what_the_disk_says_decides_what_is_asked_for() {
    let mut sink = sink(Abilities::default(), MIB, &[0, 1, 2, 3, 4]);
    let says =
        [Resolution::Kept, Resolution::Durable, Resolution::Written, Resolution::Void, Resolution::Missing];
    for (index, resolution) in says.into_iter().enumerate() {
        sink.resolve(ChunkIndex(index as u32), resolution);
        sink.resolve(ChunkIndex(index as u32), Resolution::Missing);
    }
    sink.resolve(ChunkIndex(99), Resolution::Missing);
    assert_eq!(wants(&mut sink), [4], "the first word counts, and only of chunks that there are");
    assert_eq!(indexes(sink.poll_have()), [2]);
    assert_eq!(indexes(sink.poll_durable()), [0, 1, 3]);
    assert_eq!(sync(&mut sink), [2]);
    land(&mut sink, 4);
    assert_eq!(sync(&mut sink), [4]);
    end(&mut sink);
    assert!(sink.is_complete());
    assert_eq!((sink.stats().reused, sink.stats().received), (3, 1), "void ones are not reused");
}

#[test]
fn the_window_bounds_what_is_asked_for_ahead() {
    let mut sink = missing(10, 2 * LEN + LEN / 2);
    assert_eq!(wants(&mut sink), [0, 1]);
    land(&mut sink, 0);
    assert_eq!(wants(&mut sink), [2]);
    assert_eq!(sink.credit().outstanding(), 2 * LEN);
    // A window smaller than a chunk: one at a time.
    let mut sink = missing(3, 10);
    assert_eq!(wants(&mut sink), [0]);
    assert_eq!(wants(&mut sink), [] as [u32; 0]);
    land(&mut sink, 0);
    assert_eq!(wants(&mut sink), [1]);
}

#[test]
fn what_comes_early_counts_as_asked_for_where_order_matters() {
    let abilities = Abilities { reads_back: false, in_sequence: true };
    let contents: Vec<u32> = (0..10).collect();
    let mut sink = sink(abilities, 3 * LEN, &contents);
    resolve_all(&mut sink, Resolution::Missing);
    assert_eq!(wants(&mut sink), [0, 1, 2]);
    land(&mut sink, 1);
    land(&mut sink, 2);
    assert_eq!(wants(&mut sink), [] as [u32; 0], "two wait for the first");
    land(&mut sink, 0);
    assert_eq!(wants(&mut sink), [3, 4, 5]);
}

#[test]
fn what_early_chunks_wait_for_is_asked_for_whatever_the_window() {
    let abilities = Abilities { reads_back: false, in_sequence: true };
    let contents: Vec<u32> = (0..10).collect();
    let mut sink = sink(abilities, 5 * LEN, &contents);
    resolve_all(&mut sink, Resolution::Missing);
    assert_eq!(wants(&mut sink), [0, 1, 2, 3, 4]);
    for chunk in [2, 3, 4] {
        land(&mut sink, chunk);
    }
    for chunk in [0, 1] {
        assert_eq!(sink.accept(ChunkIndex(chunk), LEN as u32), Arrival::Accept);
        sink.lost(ChunkIndex(chunk));
    }
    // Less memory than before: what waits already fills it.
    sink.credit().set_limits(CreditLimits { floor: LEN, ceiling: LEN });
    assert_eq!(wants(&mut sink), [0], "the one that all wait for, and no more");
    land(&mut sink, 0);
    assert_eq!(wants(&mut sink), [1]);
    land(&mut sink, 1);
    assert_eq!(wants(&mut sink), [5]);
}

#[test]
fn lost_chunks_are_asked_for_before_later_ones() {
    let mut sink = missing(6, 3 * LEN);
    assert_eq!(wants(&mut sink), [0, 1, 2]);
    assert_eq!(sink.accept(ChunkIndex(1), LEN as u32), Arrival::Accept);
    sink.lost(ChunkIndex(1));
    sink.lost(ChunkIndex(5));
    sink.lost(ChunkIndex(99));
    assert_eq!(sink.credit().outstanding(), 2 * LEN, "what was never asked for gives nothing back");
    assert_eq!(wants(&mut sink), [1]);
}

#[test]
fn a_chunk_of_the_wrong_length_is_not_accepted() {
    let mut sink = missing(1, MIB);
    assert_eq!(sink.accept(ChunkIndex(0), 1), Arrival::Unwanted);
    wants(&mut sink);
    assert_eq!(sink.accept(ChunkIndex(0), LEN as u32 + 1), Arrival::WrongLength);
    assert_eq!(sink.accept(ChunkIndex(7), LEN as u32), Arrival::Unwanted);
    land(&mut sink, 0);
}

#[test]
fn a_damaged_chunk_stays_wanted_until_it_was_damaged_too_often() {
    let mut sink = missing(2, MIB);
    wants(&mut sink);
    for _ in 1..limits::CHUNK_ATTEMPTS {
        assert_eq!(sink.accept(ChunkIndex(0), LEN as u32), Arrival::Accept);
        sink.damaged(ChunkIndex(0)).unwrap();
        sink.damaged(ChunkIndex(0)).unwrap();
        assert_eq!(sink.credit().outstanding(), 2 * LEN);
        assert_eq!(wants(&mut sink), [] as [u32; 0], "the source sends it when it hears of it");
    }
    assert_eq!(sink.accept(ChunkIndex(0), LEN as u32), Arrival::Accept);
    assert_eq!(sink.damaged(ChunkIndex(0)), Err(SinkError::Damaged(0)));
    assert_eq!(sink.stats().damaged, u64::from(limits::CHUNK_ATTEMPTS));
}

#[test]
fn a_new_attachment_asks_again_for_what_has_not_begun_to_arrive() {
    let mut sink = missing(4, 4 * LEN);
    assert_eq!(wants(&mut sink), [0, 1, 2, 3]);
    land(&mut sink, 0);
    assert_eq!(sink.accept(ChunkIndex(2), LEN as u32), Arrival::Accept);
    sink.reattached();
    assert_eq!(sink.credit().outstanding(), LEN, "one is arriving on another link");
    assert_eq!(sink.accept(ChunkIndex(1), LEN as u32), Arrival::Unwanted);
    assert_eq!(wants(&mut sink), [1, 3]);
    assert_eq!(sink.accept(ChunkIndex(1), LEN as u32), Arrival::Accept);
}

#[test]
fn everything_is_reported_to_a_source_that_attaches_again() {
    let mut sink = missing(6, 6 * LEN);
    wants(&mut sink);
    land(&mut sink, 4);
    sync(&mut sink);
    land(&mut sink, 2);
    land(&mut sink, 1);
    assert_eq!(indexes(sink.poll_have()), [4, 2, 1]);
    sink.poll_durable();
    sink.begin_sync();
    land(&mut sink, 0);
    sink.report_all();
    assert_eq!(indexes(sink.poll_have()), [0, 1, 2], "those being synced as well");
    assert_eq!(indexes(sink.poll_durable()), [4]);
}

#[test]
fn reports_fit_their_frames() {
    let count = 2 * limits::RANGES_MAX as u32 + 10;
    let mut records = Vec::new();
    let size = u64::from(count) * LEN;
    let entry = Entry { path: "f".into(), kind: EntryKind::File { size }, mode: None, mtime: None };
    records.push(Record::Entry(entry));
    records.extend((0..count).map(|i| Record::Chunk { len: LEN as u32, hash: Digest::of(&i.to_be_bytes()) }));
    let mut sink = Sink::new(SinkOptions::default());
    sink.on_records(0, &records).unwrap();
    for index in (0..count).step_by(2) {
        sink.resolve(ChunkIndex(index), Resolution::Written);
        sink.resolve(ChunkIndex(index + 1), Resolution::Missing);
    }
    assert_eq!(sink.poll_have().len(), limits::RANGES_MAX);
    assert_eq!(sink.poll_have().len(), 5);
    sink.credit().set_limits(CreditLimits { floor: u64::MAX, ceiling: u64::MAX });
    assert_eq!(sink.poll_want().len(), limits::RANGES_MAX);
}

#[test]
fn twins_are_copied_from_the_first_that_is_here() {
    let mut sink = sink(Abilities::default(), MIB, &[7, 7, 8, 7]);
    resolve_all(&mut sink, Resolution::Missing);
    assert_eq!(wants(&mut sink), [0, 2]);
    assert_eq!(sink.poll_copy(), None);
    land(&mut sink, 0);
    assert_eq!(sink.poll_copy(), Some((ChunkIndex(0), ChunkIndex(1))));
    assert_eq!(sink.credit().outstanding(), 2 * LEN, "a copy takes memory, too");
    sink.written(Instant::now(), ChunkIndex(1), false);
    assert_eq!(sink.poll_copy(), Some((ChunkIndex(0), ChunkIndex(3))));
    sink.copy_failed(ChunkIndex(3));
    assert_eq!(wants(&mut sink), [3], "the file was changed meanwhile");
    assert_eq!(sink.poll_copy(), None);
    assert_eq!((sink.stats().reused, sink.stats().received), (1, 1));
    // One that comes later follows at once.
    sink.on_records(5, &file("other", &[8, 7])).unwrap();
    sink.resolve(ChunkIndex(4), Resolution::Missing);
    sink.resolve(ChunkIndex(5), Resolution::Missing);
    assert_eq!(sink.poll_copy(), Some((ChunkIndex(0), ChunkIndex(5))));
    assert_eq!(sink.poll_copy(), None, "its twin is under way");
    land(&mut sink, 2);
    assert_eq!(sink.poll_copy(), Some((ChunkIndex(2), ChunkIndex(4))));
}

#[test]
fn twins_of_what_was_found_are_copied_and_a_landing_that_cannot_read_asks() {
    let mut reads = sink(Abilities::default(), MIB, &[7, 7]);
    reads.resolve(ChunkIndex(0), Resolution::Kept);
    reads.resolve(ChunkIndex(1), Resolution::Missing);
    assert_eq!(reads.poll_copy(), Some((ChunkIndex(0), ChunkIndex(1))));
    let mut forgets = sink(Abilities { reads_back: false, in_sequence: false }, MIB, &[7, 7]);
    resolve_all(&mut forgets, Resolution::Missing);
    assert_eq!(wants(&mut forgets), [0, 1]);
}

#[test]
fn of_the_twins_of_a_chunk_that_does_not_come_one_is_asked_for() {
    let mut sink = sink(Abilities::default(), 10 * MIB, &[7, 7, 7, 8]);
    resolve_all(&mut sink, Resolution::Missing);
    assert_eq!(wants(&mut sink), [0, 3]);
    assert!(sink.gone(ChunkIndex(0)));
    assert_eq!(sink.gone_chunks(), [0]);
    assert_eq!(sink.credit().outstanding(), LEN);
    assert_eq!(wants(&mut sink), [1]);
    land(&mut sink, 1);
    assert_eq!(sink.poll_copy(), Some((ChunkIndex(1), ChunkIndex(2))));
    // A twin that comes later follows the one that came.
    sink.on_records(5, &file("other", &[7])).unwrap();
    sink.resolve(ChunkIndex(4), Resolution::Missing);
    assert_eq!(sink.poll_copy(), Some((ChunkIndex(1), ChunkIndex(4))));
}

#[test]
fn what_is_gone_is_not_waited_for_unless_it_is_here() {
    let mut sink = missing(4, 3 * LEN);
    assert_eq!(wants(&mut sink), [0, 1, 2]);
    land(&mut sink, 0);
    assert_eq!(sink.accept(ChunkIndex(1), LEN as u32), Arrival::Accept);
    assert!(!sink.gone(ChunkIndex(0)), "here");
    assert!(!sink.gone(ChunkIndex(1)), "on its way");
    assert!(sink.gone(ChunkIndex(2)));
    assert!(sink.gone(ChunkIndex(3)), "not even asked for");
    assert!(!sink.gone(ChunkIndex(3)), "once");
    assert!(!sink.gone(ChunkIndex(4)), "not announced");
    assert_eq!(sink.accept(ChunkIndex(2), LEN as u32), Arrival::Unwanted);
    sink.written(Instant::now(), ChunkIndex(1), true);
    assert_eq!(wants(&mut sink), [] as [u32; 0]);
    sync(&mut sink);
    end(&mut sink);
    assert!(sink.is_complete());
    assert_eq!(sink.gone_chunks(), [2, 3]);
    assert_eq!(sink.progress().durable, 4 * LEN);
    assert_eq!(sink.credit().outstanding(), 0);
}

#[test]
fn chunks_of_a_withdrawn_large_entry_are_not_waited_for() {
    let mut sink = missing(3, 2 * LEN);
    assert_eq!(wants(&mut sink), [0, 1]);
    land(&mut sink, 0);
    sink.on_records(4, &[Record::Withdraw(EntryIndex(0))]).unwrap();
    assert_eq!(wants(&mut sink), [] as [u32; 0]);
    assert_eq!(sync(&mut sink), [0]);
    end(&mut sink);
    assert!(sink.is_complete() && sink.gone_chunks().is_empty());
}

#[test]
fn chunks_that_the_disk_has_not_spoken_on_are_reported_as_held_for_the_time_being() {
    let mut sink = sink(Abilities::default(), 10 * MIB, &[0, 1, 2, 3]);
    sink.resolve(ChunkIndex(1), Resolution::Missing);
    sink.planned(3);
    assert_eq!(indexes(sink.poll_have()), [0, 2], "not the last, which the disk has not been asked about");
    sink.report_all();
    assert_eq!(indexes(sink.poll_have()), [0, 2]);
    assert_eq!(wants(&mut sink), [1]);
    sink.resolve(ChunkIndex(0), Resolution::Missing);
    sink.resolve(ChunkIndex(2), Resolution::Kept);
    assert_eq!(wants(&mut sink), [0], "earlier ones are not forgotten");
    sink.planned(100);
    assert_eq!(indexes(sink.poll_have()), [3], "no more than there are");
    assert_eq!(sink.progress().verified, LEN, "only what is decided counts");
}

#[test]
fn a_new_plan_starts_from_nothing() {
    let mut sink = missing(6, 4 * LEN);
    sink.planned(6);
    assert_eq!(wants(&mut sink), [0, 1, 2, 3]);
    land(&mut sink, 0);
    land(&mut sink, 1);
    sync(&mut sink);
    assert_eq!(sink.accept(ChunkIndex(2), LEN as u32), Arrival::Accept);
    sink.gone(ChunkIndex(5));
    land(&mut sink, 3);
    let syncing = sink.begin_sync();
    let epoch = sink.epoch();
    sink.replan();
    assert_ne!(sink.epoch(), epoch);
    assert_eq!(sink.progress(), SinkProgress { announced: 6 * LEN, verified: 0, durable: 0 });
    assert_eq!((sink.poll_have(), sink.poll_durable()), (vec![], vec![]), "nothing old is reported");
    assert_eq!(sink.gone_chunks(), [] as [u32; 0]);
    assert_eq!((sink.credit().outstanding(), sink.unsynced_bytes()), (0, 0));
    // What was under way comes to nothing.
    sink.synced(&syncing);
    sink.written(Instant::now(), ChunkIndex(2), true);
    sink.damaged(ChunkIndex(2)).unwrap();
    sink.copy_failed(ChunkIndex(2));
    assert_eq!(sink.accept(ChunkIndex(2), LEN as u32), Arrival::Unwanted);
    assert_eq!(wants(&mut sink), [] as [u32; 0]);
    resolve_all(&mut sink, Resolution::Missing);
    assert_eq!(wants(&mut sink), [0, 1, 2, 3]);
    for chunk in 0..4 {
        land(&mut sink, chunk);
    }
    assert_eq!(wants(&mut sink), [4, 5]);
    land(&mut sink, 4);
    land(&mut sink, 5);
    sync(&mut sink);
    end(&mut sink);
    assert!(sink.is_complete());
    assert_eq!(sink.progress(), SinkProgress { announced: 6 * LEN, verified: 6 * LEN, durable: 6 * LEN });
}

#[test]
fn a_new_plan_knows_what_was_withdrawn() {
    let mut sink = missing(2, MIB);
    sink.on_records(3, &[Record::Withdraw(EntryIndex(0))]).unwrap();
    sink.replan();
    resolve_all(&mut sink, Resolution::Missing);
    assert_eq!(wants(&mut sink), [] as [u32; 0]);
    end(&mut sink);
    assert!(sink.is_complete());
}

#[test]
fn records_continue_where_the_last_ended() {
    let records = file("file", &[1, 2]);
    let mut sink = Sink::new(SinkOptions::default());
    assert_eq!(sink.on_records(1, &records), Err(SinkError::Gap { expected: 0, got: 1 }));
    assert_eq!(sink.on_records(0, &records[..2]), Ok(0));
    assert_eq!(sink.on_records(0, &records), Ok(2), "two are known");
    assert_eq!(sink.on_records(1, &records[1..]), Ok(2));
    assert_eq!(sink.progress().announced, 2 * LEN);
    assert_eq!(sink.on_records(4, &[]), Err(SinkError::Gap { expected: 3, got: 4 }));
    let error = sink.on_records(3, &records[1..2]).unwrap_err();
    assert_eq!(error.code(), Code::Protocol, "no file waits for this chunk");
}

#[test]
fn the_end_is_compared() {
    let records = file("file", &[1]);
    let mut sink = Sink::new(SinkOptions::default());
    sink.on_records(0, &records[..1]).unwrap();
    let (root, wrong) = (Digest([0; 32]), Digest([1; 32]));
    assert!(matches!(sink.on_end(1, root), Err(SinkError::Ledger(_))), "a file waits for its chunk");
    sink.on_records(1, &records[1..]).unwrap();
    assert!(matches!(sink.on_end(3, root), Err(SinkError::Gap { .. })));
    assert_eq!(sink.on_end(2, wrong).unwrap_err().code(), Code::Integrity);
    assert_eq!(sink.root(), None);
    end(&mut sink);
    assert_eq!(sink.on_records(2, &file("more", &[])), Err(SinkError::AfterEnd));
    let root = sink.root().unwrap();
    assert_eq!(sink.on_end(2, root), Ok(()), "it may be said twice");
    assert!(matches!(sink.on_end(2, wrong), Err(SinkError::Root { .. })), "but not otherwise");
}

#[test]
fn a_manifest_that_was_given_away_is_still_known() {
    let mut sink = missing(2, MIB);
    wants(&mut sink);
    land(&mut sink, 0);
    land(&mut sink, 1);
    sync(&mut sink);
    end(&mut sink);
    let root = sink.root().unwrap();
    assert_eq!(sink.take_ledger().records(), 3);
    assert_eq!(sink.records(), 3);
    assert_eq!(sink.on_records(0, &file("file", &[0, 1])), Ok(3));
    assert_eq!(sink.on_records(1, &file("file", &[0, 1])[1..]), Ok(2));
    assert_eq!(sink.on_records(3, &file("more", &[])), Err(SinkError::AfterEnd));
    assert_eq!(sink.on_end(3, root), Ok(()));
    assert!(sink.on_end(0, root).is_err());
    assert_eq!(sink.accept(ChunkIndex(0), LEN as u32), Arrival::Duplicate);
    sink.reattached();
    sink.report_all();
    assert_eq!(indexes(sink.poll_durable()), [0, 1]);
    assert!(sink.is_complete() && wants(&mut sink).is_empty());
}

#[test]
fn an_empty_manifest_is_complete_at_its_end() {
    let mut sink = Sink::new(SinkOptions::default());
    assert!(!sink.is_complete());
    end(&mut sink);
    assert!(sink.is_complete() && sink.is_verified());
}

#[test]
fn no_more_is_asked_for_than_is_allowed() {
    let mut sink = missing(4, 3 * LEN);
    let none = sink.poll_want_within(LEN - 1);
    assert_eq!(none, Wants { held_up: LEN, ..Wants::default() });
    let two = sink.poll_want_within(2 * LEN + 1);
    assert_eq!((indexes(two.ranges), two.bytes, two.held_up), (vec![0, 1], 2 * LEN, LEN));
    // The third is the last that fits into the window: what holds up the fourth is not the allowance.
    let third = sink.poll_want_within(u64::MAX);
    assert_eq!((indexes(third.ranges), third.bytes, third.held_up), (vec![2], LEN, 0));
    assert_eq!(sink.poll_want_within(0), Wants { is_full: true, ..Wants::default() });
    land(&mut sink, 0);
    assert_eq!(sink.poll_want_within(0).held_up, LEN);
    // Not even where a window that is smaller than a chunk would let it through.
    let mut small = missing(1, 1);
    assert_eq!(small.poll_want_within(0).held_up, LEN);
    assert_eq!(wants(&mut small), [0]);
}
