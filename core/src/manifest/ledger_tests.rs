//! Tests of the ledger: the grammar record by record, and random valid manifests.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::limits::PACK_BELOW;
use crate::manifest::Timestamp;

fn entry(path: &str, kind: EntryKind) -> Record {
    Record::Entry(Entry { path: path.into(), kind, mode: None, mtime: None })
}

fn file(size: u64) -> Record {
    entry("file", EntryKind::File { size })
}

fn chunk(len: u64) -> Record {
    Record::Chunk { len: len as u32, hash: Digest::of(&len.to_le_bytes()) }
}

fn directory() -> Record {
    entry("dir", EntryKind::Directory)
}

fn stream() -> Record {
    entry("stream", EntryKind::Stream)
}

fn end(size: u64) -> Record {
    Record::StreamEnd { size }
}

fn withdraw(entry: u32) -> Record {
    Record::Withdraw(EntryIndex(entry))
}

fn ledger(records: &[Record]) -> Ledger {
    let mut ledger = Ledger::new(LedgerLimits::default());
    for record in records {
        ledger.push(record).unwrap_or_else(|e| panic!("{record:?}: {e}"));
    }
    ledger
}

const BIG: u64 = PACK_BELOW;
const MAX: u64 = CHUNK_MAX as u64;

#[test]
fn grammar_accepts() {
    let cases: &[&[Record]] = &[
        &[],
        &[directory(), entry("l", EntryKind::Symlink { target: "t".into() }), file(0)],
        &[file(BIG), chunk(BIG)],
        &[file(BIG), chunk(1), chunk(BIG - 1)],
        &[file(BIG - 1), chunk(BIG - 1)],
        &[file(1), directory(), file(0), file(2), chunk(3), file(BIG), chunk(BIG)],
        &[stream(), end(0)],
        &[stream(), chunk(1), chunk(MAX), end(MAX + 1)],
        &[stream(), chunk(1), withdraw(0), stream(), chunk(1), end(1)],
        &[file(BIG), withdraw(0), directory()],
        &[file(BIG), chunk(1), withdraw(0), file(BIG), chunk(BIG), withdraw(1)],
        &[file(1), chunk(1), withdraw(0)],
        &[directory(), file(1), withdraw(0), chunk(1)],
        &[file(1), directory(), withdraw(1), chunk(1)],
        &[file(1), chunk(1), file(BIG), withdraw(0), chunk(BIG)],
        &[directory(), file(1), chunk(1), file(2), withdraw(1), chunk(2)],
    ];
    for records in cases {
        let ledger = ledger(records);
        assert!(ledger.is_complete_so_far(), "{records:?}");
        assert!(ledger.finish().is_ok());
    }
}

#[test]
fn grammar_refuses_the_last_record() {
    let full_pack: Vec<_> = (0..16).map(|_| file(BIG - 1)).chain([file(16), file(1)]).collect();
    let cases: &[&[Record]] = &[
        &[chunk(1)],
        &[directory(), chunk(1)],
        &[file(0), chunk(1)],
        &[file(BIG), chunk(BIG), chunk(1)],
        &[file(BIG), chunk(BIG - 1), chunk(2)],
        &[file(BIG), directory()],
        &[file(BIG), file(BIG)],
        &[file(BIG), end(0)],
        &[file(1), chunk(2)],
        &[file(2), chunk(1)],
        &[file(1), file(BIG)],
        &[file(1), stream()],
        &full_pack,
        &[end(0)],
        &[stream(), end(0), end(0)],
        &[stream(), chunk(1), end(0)],
        &[stream(), chunk(1), end(2)],
        &[stream(), file(1)],
        &[withdraw(0)],
        &[directory(), withdraw(1)],
        &[directory(), withdraw(0), withdraw(0)],
        &[file(1), withdraw(0)],
        &[file(1), chunk(1), file(2), withdraw(1)],
        &[stream(), withdraw(0), chunk(1)],
        &[file(varint::MAX), withdraw(0), file(varint::MAX), withdraw(1), stream(), end(varint::MAX)],
        &[chunk(0)],
        &[entry(&"x".repeat(20_000), EntryKind::Directory)],
    ];
    for records in cases {
        let (last, before) = records.split_last().unwrap();
        let mut ledger = ledger(before);
        let whole = |l: &Ledger| {
            (l.finish(), l.state, l.records(), l.bytes(), l.chunk_bytes(), l.withdrawn(), l.memory())
        };
        let was = whole(&ledger);
        assert!(matches!(ledger.push(last), Err(LedgerError::Grammar(_))), "{records:?}");
        assert_eq!(whole(&ledger), was);
    }
}

#[test]
fn a_sum_past_the_largest_number_is_refused() {
    let mut ledger = ledger(&[directory()]);
    ledger.bytes = varint::MAX - 5;
    assert!(matches!(ledger.push(&file(6)), Err(LedgerError::Grammar(_))));
    assert!(ledger.push(&file(5)).is_ok());
}

#[test]
fn does_not_end_while_something_is_open() {
    for records in [&[file(1)][..], &[file(BIG)], &[stream()], &[file(BIG), chunk(1)]] {
        assert!(ledger(records).finish().is_err(), "{records:?}");
    }
}

#[test]
fn limits_on_both_sides() {
    let limits = LedgerLimits { entries: 2, chunks: 1, bytes: 1 << 20 };
    let mut ledger = Ledger::new(limits);
    for record in [directory(), file(1), chunk(1)] {
        ledger.push(&record).unwrap();
    }
    assert_eq!(ledger.push(&directory()), Err(LedgerError::TooManyEntries));
    let mut ledger = Ledger::new(limits);
    ledger.push(&file(BIG)).unwrap();
    ledger.push(&chunk(1)).unwrap();
    assert_eq!(ledger.push(&chunk(BIG - 1)), Err(LedgerError::TooManyChunks));

    let mut ledger = Ledger::new(LedgerLimits { bytes: 1 << 20, ..LedgerLimits::default() });
    let refused =
        (0..100_000).find_map(|_| ledger.push(&entry(&"x".repeat(100), EntryKind::Directory)).err());
    assert_eq!(refused, Some(LedgerError::TooMuchMemory));
    // One block and one step of a table may be missing at most.
    assert!((512 << 10..=1 << 20).contains(&ledger.memory()), "{}", ledger.memory());
}

#[test]
fn places_of_bytes() {
    let records = [
        directory(),    // entry 0
        file(BIG + 10), // entry 1
        chunk(BIG),     // chunk 0
        chunk(10),      // chunk 1
        file(5),        // entry 2
        directory(),    // entry 3
        file(0),        // entry 4
        file(7),        // entry 5
        chunk(12),      // chunk 2
        withdraw(2),
        stream(), // entry 6
        chunk(3), // chunk 3
        end(3),
        file(4),  // entry 7
        chunk(4), // chunk 4
    ];
    let ledger = ledger(&records);
    let segments =
        |i| ledger.segments(ChunkIndex(i)).map(|s| (s.entry.0, s.offset, s.len, s.at)).collect::<Vec<_>>();
    assert_eq!(segments(0), [(1, 0, BIG as u32, 0)]);
    assert_eq!(segments(1), [(1, BIG, 10, 0)]);
    assert_eq!(segments(2), [(2, 0, 5, 0), (5, 0, 7, 5)]);
    assert_eq!(segments(3), [(6, 0, 3, 0)]);
    assert_eq!(segments(4), [(7, 0, 4, 0)]);
    assert_eq!(segments(5), []);
    let spans: Vec<_> = (0..9).map(|i| ledger.chunks_of(EntryIndex(i))).collect();
    assert_eq!(spans, [0..0, 0..2, 2..3, 2..2, 2..2, 2..3, 3..4, 4..5, 0..0]);
    let packed: Vec<_> = (0..5).map(|i| ledger.chunk(ChunkIndex(i)).unwrap().packed).collect();
    assert_eq!(packed, [false, false, true, false, true]);
    assert_eq!(ledger.chunk(ChunkIndex(1)).unwrap().offset, BIG);
    assert_eq!(ledger.chunk(ChunkIndex(5)), None);
    let sizes: Vec<_> = (0..9).map(|i| ledger.size_of(EntryIndex(i))).collect();
    assert_eq!(sizes, [Some(0), Some(BIG + 10), Some(5), Some(0), Some(0), Some(7), Some(3), Some(4), None]);
    assert_eq!(ledger.bytes(), BIG + 10 + 7 + 3 + 4);
    assert_eq!(ledger.chunk_bytes(), BIG + 10 + 12 + 3 + 4);
    assert_eq!((ledger.entries(), ledger.chunks(), ledger.withdrawn()), (8, 5, 1));
    assert!(ledger.is_withdrawn(EntryIndex(2)) && !ledger.is_withdrawn(EntryIndex(5)));
}

#[test]
fn open_entries_have_the_chunks_so_far() {
    let mut ledger = ledger(&[stream(), chunk(3)]);
    assert_eq!(ledger.chunks_of(EntryIndex(0)), 0..1);
    assert_eq!(ledger.size_of(EntryIndex(0)), None);
    ledger.push(&withdraw(0)).unwrap();
    assert_eq!((ledger.size_of(EntryIndex(0)), ledger.bytes()), (None, 0));
    ledger.push(&file(9)).unwrap();
    assert_eq!(ledger.chunks_of(EntryIndex(1)), 1..1);
    assert_eq!(ledger.chunks_of(EntryIndex(0)), 0..1);
}

#[test]
fn a_million_entries_stay_small() {
    let mut ledger = Ledger::new(LedgerLimits::default());
    for i in 0..1_000_000u32 {
        let path = format!("some/project/with/a/long/name/and/folders/{:06}/file_{i:06}", i / 1000);
        assert!(path.len() >= 60);
        let mtime = Some(Timestamp { secs: 1_700_000_000, nanos: i });
        let kind = EntryKind::File { size: 1000 };
        ledger.push(&Record::Entry(Entry { path, kind, mode: Some(0o644), mtime })).unwrap();
        if i % 1000 == 999 {
            ledger.push(&chunk(1_000_000)).unwrap();
        }
    }
    assert!(ledger.memory() < 110_000_000, "{}", ledger.memory());
}

/// One step of a random manifest; the generator makes each valid where it stands.
#[derive(Clone, Debug)]
enum Step {
    Nothing(u8),
    Small(u32),
    Pack,
    Large(u64, Vec<u32>),
    Stream(Vec<u32>),
    Withdraw(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cuts = || prop::collection::vec(1u32..=CHUNK_MAX as u32, 0..4);
    let step = prop_oneof![
        1 => (0u8..3).prop_map(Step::Nothing),
        3 => (1..PACK_BELOW as u32).prop_map(Step::Small),
        1 => Just(Step::Pack),
        1 => (PACK_BELOW..3 * MAX, cuts()).prop_map(|(size, cuts)| Step::Large(size, cuts)),
        1 => cuts().prop_map(Step::Stream),
        1 => any::<u32>().prop_map(Step::Withdraw),
    ];
    prop::collection::vec(step, 0..120)
}

/// Chunk, offset in the entry, length, offset in the chunk.
type Span = (u32, u64, u32, u32);

/// What a straightforward reading of the manifest gives: for each entry its size, whether it is withdrawn, its spans.
#[derive(Default)]
struct Model {
    records: Vec<Record>,
    entries: Vec<(Option<u64>, bool, Vec<Span>)>,
    open_pack: Vec<u32>,
    chunks: u32,
}

impl Model {
    fn entry(&mut self, kind: EntryKind) -> u32 {
        let size = match kind {
            EntryKind::File { size } => Some(size),
            EntryKind::Stream => None,
            _ => Some(0),
        };
        self.records.push(entry(&format!("e{}", self.entries.len()), kind));
        self.entries.push((size, false, Vec::new()));
        self.entries.len() as u32 - 1
    }

    fn chunk(&mut self, len: u32) -> u32 {
        self.records.push(Record::Chunk { len, hash: Digest::of(&self.chunks.to_le_bytes()) });
        self.chunks += 1;
        self.chunks - 1
    }

    fn pack(&mut self) {
        let members = std::mem::take(&mut self.open_pack);
        let size = |m: &Model, e: u32| m.entries[e as usize].0.unwrap() as u32;
        let total: u32 = members.iter().map(|e| size(self, *e)).sum();
        if total > 0 {
            let chunk = self.chunk(total);
            let mut at = 0;
            for e in members {
                let len = size(self, e);
                self.entries[e as usize].2.push((chunk, 0, len, at));
                at += len;
            }
        }
    }

    fn large(&mut self, kind: EntryKind, cuts: &[u32]) -> (u32, u64) {
        self.pack();
        let size = if let EntryKind::File { size } = kind { size } else { u64::MAX };
        let e = self.entry(kind);
        let mut offset = 0;
        for cut in cuts {
            let len = u64::from(*cut).min(size - offset) as u32;
            if len > 0 {
                let chunk = self.chunk(len);
                self.entries[e as usize].2.push((chunk, offset, len, 0));
                offset += u64::from(len);
            }
        }
        (e, offset)
    }

    fn withdraw(&mut self, e: u32) {
        self.records.push(withdraw(e));
        self.entries[e as usize].1 = true;
    }

    fn of(steps: Vec<Step>) -> Self {
        let mut m = Model::default();
        for step in steps {
            match step {
                Step::Nothing(0) => drop(m.entry(EntryKind::Directory)),
                Step::Nothing(1) => drop(m.entry(EntryKind::File { size: 0 })),
                Step::Nothing(_) => drop(m.entry(EntryKind::Symlink { target: "t".into() })),
                Step::Small(size) => {
                    let total: u64 = m.open_pack.iter().map(|e| m.entries[*e as usize].0.unwrap()).sum();
                    if total + u64::from(size) > MAX {
                        m.pack();
                    }
                    let e = m.entry(EntryKind::File { size: size.into() });
                    m.open_pack.push(e);
                }
                Step::Pack => m.pack(),
                Step::Large(size, cuts) => {
                    let (e, done) = m.large(EntryKind::File { size }, &cuts);
                    if done < size {
                        m.withdraw(e);
                    }
                }
                Step::Stream(cuts) => {
                    let (e, done) = m.large(EntryKind::Stream, &cuts);
                    m.records.push(end(done));
                    m.entries[e as usize].0 = Some(done);
                }
                Step::Withdraw(pick) if !m.entries.is_empty() => {
                    let e = pick % m.entries.len() as u32;
                    if !m.entries[e as usize].1 && !m.open_pack.contains(&e) {
                        m.withdraw(e);
                    }
                }
                Step::Withdraw(_) => {}
            }
        }
        m.pack();
        m
    }
}

proptest! {
    #[test]
    fn any_valid_manifest(steps in steps(), from in any::<prop::sample::Index>()) {
        let model = Model::of(steps);
        let ledger = ledger(&model.records);
        prop_assert_eq!(ledger.records(), model.records.len() as u64);
        prop_assert_eq!(ledger.entries() as usize, model.entries.len());
        prop_assert_eq!(ledger.chunks(), model.chunks);

        let mut live = 0;
        let mut by_chunk = vec![Vec::new(); model.chunks as usize];
        for (i, (size, withdrawn, spans)) in model.entries.iter().enumerate() {
            let index = EntryIndex(i as u32);
            prop_assert_eq!(ledger.entry(index).unwrap().path, format!("e{i}"));
            prop_assert_eq!(ledger.size_of(index), *size);
            prop_assert_eq!(ledger.is_withdrawn(index), *withdrawn);
            live += if *withdrawn { 0 } else { size.unwrap() };
            let chunks: Vec<_> = spans.iter().map(|(c, ..)| *c).collect();
            prop_assert_eq!(ledger.chunks_of(index).collect::<Vec<_>>(), chunks);
            for (chunk, offset, len, at) in spans {
                by_chunk[*chunk as usize].push(Segment { entry: index, offset: *offset, len: *len, at: *at });
            }
        }
        prop_assert_eq!(ledger.bytes(), live);
        for (i, segments) in by_chunk.into_iter().enumerate() {
            prop_assert_eq!(ledger.segments(ChunkIndex(i as u32)).collect::<Vec<_>>(), segments);
        }

        let from = from.index(model.records.len() + 1);
        prop_assert_eq!(ledger.replay(from as u64).collect::<Vec<_>>(), &model.records[from..]);
        let again = self::ledger(&ledger.replay(0).collect::<Vec<_>>());
        prop_assert_eq!(again.finish(), ledger.finish());
        prop_assert!(ledger.finish().is_ok());
    }

    #[test]
    fn replay_from_anywhere(count in 0u64..400, from in 0u64..500) {
        let records: Vec<_> = (0..count).map(|i| entry(&format!("{i}{}", "x".repeat(3000)), EntryKind::Directory)).collect();
        let ledger = ledger(&records);
        let expected = records.get(from as usize..).unwrap_or(&[]);
        prop_assert_eq!(ledger.replay(from).collect::<Vec<_>>(), expected);
        prop_assert_eq!(ledger.replay(u64::MAX).count(), 0);
    }
}
