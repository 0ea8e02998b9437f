//! Each transition of a source.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::id::EntryIndex;
use crate::manifest::{Entry, EntryKind};

/// A source that has read one large file of `chunks` chunks, each 300,000 bytes long.
fn source(chunks: u32) -> Source {
    let mut source = Source::new(LedgerLimits::default());
    let kind = EntryKind::File { size: 300_000 * u64::from(chunks) };
    source.push(&Record::Entry(Entry { path: "file".into(), kind, mode: None, mtime: None })).unwrap();
    for index in 0..chunks {
        let hash = Digest::of(&index.to_be_bytes());
        source.push(&Record::Chunk { len: 300_000, hash }).unwrap();
    }
    source
}

/// As [`source`], with a sink that holds nothing.
fn attached(chunks: u32) -> Source {
    let mut source = source(chunks);
    source.ready(0).unwrap();
    source
}

fn range(first: u32, count: u32) -> IndexRange {
    IndexRange { first: ChunkIndex(first), count }
}

/// What is sent on `link` until there is no more.
fn drain(source: &mut Source, link: LinkNumber) -> Vec<u32> {
    std::iter::from_fn(|| source.next_chunk(link)).map(|sending| sending.chunk.0).collect()
}

#[test]
fn records_are_sent_once_from_where_the_sink_is_and_then_the_end() {
    let mut source = source(3);
    assert_eq!(source.poll_records(1000), None, "nobody is attached");
    source.ready(0).unwrap();
    let (first, records) = source.poll_records(1).unwrap();
    assert_eq!((first, records.len()), (0, 1), "at least one, however small the room");
    let (first, records) = source.poll_records(1 << 20).unwrap();
    assert_eq!((first, records.len()), (1, 3));
    assert_eq!(source.poll_records(1 << 20), None);
    assert_eq!(source.poll_end(), None, "it has not read to the end");
    let root = source.finish().unwrap();
    assert_eq!(source.poll_end(), Some((4, root)));
    assert_eq!(source.poll_end(), None);

    source.detach();
    source.ready(2).unwrap();
    assert_eq!(source.poll_end(), None, "records come first");
    assert_eq!(source.poll_records(1 << 20).map(|(first, records)| (first, records.len())), Some((2, 2)));
    assert_eq!(source.poll_end(), Some((4, root)), "on every attachment");
    source.detach();
    assert_eq!((source.poll_records(1), source.poll_end()), (None, None));
    assert_eq!(source.ready(5), Err(SourceError::UnknownRecords { claimed: 5, sent: 4 }));
}

#[test]
fn the_first_records_need_not_wait_for_the_sink() {
    let mut source = source(3);
    source.begin();
    assert_eq!(source.poll_records(1 << 20).map(|(first, records)| (first, records.len())), Some((0, 4)));
    source.finish().unwrap();
    assert_eq!((source.poll_records(1 << 20), source.poll_end()), (None, None), "the end waits");
    // What the sink says counts: it may have taken some of them by then, or none.
    source.ready(1).unwrap();
    assert_eq!(source.poll_records(1 << 20).map(|(first, records)| (first, records.len())), Some((1, 3)));
    assert!(source.poll_end().is_some());
    // On another link it is asked first.
    source.detach();
    assert_eq!(source.poll_records(1 << 20), None);
}

#[test]
fn no_more_goes_out_early_than_a_sink_holds() {
    let mut source = source(2000);
    source.begin();
    let early: Vec<_> =
        std::iter::from_fn(|| source.poll_records(1000)).flat_map(|(_, records)| records).collect();
    let bytes: usize = early.iter().map(Record::encoded_len).sum();
    assert!(bytes <= limits::EARLY_MAX && bytes > limits::EARLY_MAX - 1000, "{bytes}");
    source.ready(0).unwrap();
    assert_eq!(source.poll_records(1000).map(|(first, _)| first), Some(0));
}

#[test]
fn chunks_are_sent_in_the_order_asked_for_and_only_then() {
    let mut source = source(6);
    assert_eq!(source.next_chunk(1), None);
    source.want(&[range(4, 2), range(0, 2)]).unwrap();
    source.want(&[range(5, 1)]).unwrap();
    assert_eq!(drain(&mut source, 1), [4, 5, 0, 1], "what is queued is not queued twice");
    assert!(!source.has_queued());
    source.want(&[range(5, 1)]).unwrap();
    assert_eq!(drain(&mut source, 1), [5], "what is under way is sent again when the sink has given it up");
}

#[test]
fn what_the_sink_holds_is_not_sent_and_is_counted_once() {
    let mut source = source(4);
    source.want(&[range(0, 4)]).unwrap();
    source.have(&[range(1, 1)]).unwrap();
    source.durable(&[range(1, 2)]).unwrap();
    source.durable(&[range(1, 2)]).unwrap();
    assert_eq!(drain(&mut source, 1), [0, 3]);
    let expected =
        SourceProgress { announced: 1_200_000, resolved: 1_200_000, held: 600_000, durable: 600_000 };
    assert_eq!(source.progress(), expected);
    assert!(source.is_held(ChunkIndex(2)) && !source.is_held(ChunkIndex(0)));
    source.have(&[range(0, 4)]).unwrap();
    assert_eq!((source.progress().held, source.progress().durable), (1_200_000, 600_000));
    assert_eq!(source.link_lost(1), 0, "nothing is in flight any more");
}

#[test]
fn a_lost_link_gives_back_what_was_on_it_in_order_and_first() {
    let mut source = attached(6);
    source.want(&[range(0, 6)]).unwrap();
    for link in [1, 2, 1] {
        source.next_chunk(link).unwrap();
    }
    assert_eq!(source.link_lost(1), 2);
    assert_eq!(drain(&mut source, 3), [0, 2, 3, 4, 5]);
    assert_eq!(source.link_lost(7), 0);
}

#[test]
fn what_becomes_of_an_earlier_sending_says_nothing_of_a_later_one() {
    for end in [Source::send_failed, Source::not_wanted, Source::gone] {
        let mut source = attached(1);
        source.want(&[range(0, 1)]).unwrap();
        let first = source.next_chunk(1).unwrap();
        source.want(&[range(0, 1)]).unwrap();
        source.next_chunk(2).unwrap();
        end(&mut source, &first);
        assert!(!source.has_queued());
        assert_eq!(source.link_lost(2), 1, "the second is still known to be in flight");
        assert_eq!(drain(&mut source, 3), [0]);
    }
    // On the same link as well.
    let mut source = source(1);
    source.want(&[range(0, 1)]).unwrap();
    let first = source.next_chunk(1).unwrap();
    source.want(&[range(0, 1)]).unwrap();
    source.next_chunk(1).unwrap();
    assert_eq!(source.refused(&first), Ok(()));
    assert_eq!(source.link_lost(1), 1);
}

#[test]
fn a_sending_that_fails_is_tried_again_and_one_that_is_not_wanted_is_not() {
    let mut source = source(3);
    source.want(&[range(0, 3)]).unwrap();
    let sending = source.next_chunk(1).unwrap();
    assert_eq!((sending.info.len, sending.info.offset), (300_000, 0));
    source.send_failed(&sending);
    let sending = source.next_chunk(1).unwrap();
    assert_eq!(sending.chunk.0, 0, "first of all");
    source.not_wanted(&sending);
    let sending = source.next_chunk(1).unwrap();
    source.gone(&sending);
    assert_eq!(drain(&mut source, 1), [2]);
}

#[test]
fn repeats_are_counted() {
    let mut source = source(2);
    for _ in 0..2 {
        source.want(&[range(0, 1)]).unwrap();
        let sending = source.next_chunk(1).unwrap();
        source.sent(&sending);
    }
    let stats = SourceStats { chunks_sent: 2, chunks_resent: 1, bytes_sent: 600_000, bytes_resent: 300_000 };
    assert_eq!(source.stats(), stats);
}

#[test]
fn a_damaged_chunk_goes_first_until_it_was_damaged_too_often() {
    let mut source = source(3);
    source.want(&[range(0, 3)]).unwrap();
    for _ in 1..limits::CHUNK_ATTEMPTS {
        assert_eq!(source.next_chunk(1).unwrap().chunk.0, 0);
        source.damaged(ChunkIndex(0)).unwrap();
        source.want(&[range(0, 1)]).unwrap();
    }
    assert_eq!(source.damaged(ChunkIndex(0)), Err(SourceError::Damaged(0)));
    assert_eq!(SourceError::Damaged(0).code(), Code::Integrity);
}

#[test]
fn a_refused_chunk_goes_first_until_it_was_refused_too_often() {
    let mut source = source(2);
    source.want(&[range(0, 2)]).unwrap();
    for _ in 1..limits::CHUNK_ATTEMPTS {
        let sending = source.next_chunk(1).unwrap();
        assert_eq!(sending.chunk.0, 0);
        source.refused(&sending).unwrap();
    }
    let sending = source.next_chunk(1).unwrap();
    assert_eq!(source.refused(&sending), Err(SourceError::Damaged(0)));
}

#[test]
fn what_is_held_may_be_asked_for_again() {
    // A sink that was told late by its disk that it does not have it after all.
    let mut source = source(1);
    source.have(&[range(0, 1)]).unwrap();
    source.want(&[range(0, 1)]).unwrap();
    assert_eq!(drain(&mut source, 1), [0]);
    assert_eq!(source.progress().resolved, 300_000, "counted once");
}

#[test]
fn a_new_attachment_forgets_what_was_asked_for() {
    let mut source = source(4);
    source.want(&[range(0, 4)]).unwrap();
    source.next_chunk(1).unwrap();
    source.detach();
    assert!(source.next_chunk(1).is_some(), "what was asked for goes out while no link has the control");
    source.ready(5).unwrap();
    assert_eq!(source.next_chunk(1), None);
    assert_eq!(source.link_lost(1), 0);
    source.want(&[range(2, 1)]).unwrap();
    assert_eq!(drain(&mut source, 1), [2]);
}

#[test]
fn what_went_with_the_control_waits_to_be_asked_for() {
    let mut source = attached(4);
    source.want(&[range(0, 4)]).unwrap();
    for link in [1, 2] {
        source.next_chunk(link).unwrap();
    }
    source.detach();
    assert_eq!(source.link_lost(1), 1);
    assert_eq!(drain(&mut source, 2), [2, 3], "it would be sent twice");
    source.ready(5).unwrap();
    source.want(&[range(0, 1)]).unwrap();
    assert_eq!(drain(&mut source, 3), [0]);
}

#[test]
fn requests_are_checked() {
    let mut source = source(4);
    assert_eq!(source.want(&[range(4, 1)]), Err(SourceError::UnknownChunk(4)));
    assert_eq!(source.want(&[range(3, 2)]).unwrap_err().code(), Code::Protocol);
    assert_eq!(source.have(&[range(0, 5)]), Err(SourceError::UnknownChunk(4)));
    assert_eq!(source.durable(&[range(9, 1)]), Err(SourceError::UnknownChunk(9)));
    assert!(source.have(&[range(u32::MAX, u32::MAX)]).is_err());
    assert!(source.have(&[range(0, 0)]).is_err());
    assert_eq!(source.damaged(ChunkIndex(4)), Err(SourceError::UnknownChunk(4)));
    assert_eq!(source.damaged(ChunkIndex(3)), Err(SourceError::NotAsked(3)));
    source.want(&[range(0, 4)]).unwrap();
    source.want(&[range(0, 1); 4]).unwrap();
    assert_eq!(source.want(&[range(0, 1); 5]), Err(SourceError::Repeats { asked: 5, announced: 4 }));
    assert!(Source::new(LedgerLimits::default()).want(&[range(0, 1)]).is_err());
}

#[test]
fn a_sink_that_asks_and_confirms_in_turn_does_not_fill_the_memory() {
    let mut source = source(100);
    for turn in 0..100_000 {
        source.want(&[range(turn % 100, 1)]).unwrap();
        source.have(&[range(turn % 100, 1)]).unwrap();
    }
    assert!(source.queue.len() <= QUEUE_SLACK + 1, "{} ranges", source.queue.len());
    assert!(!source.has_queued());
    source.want(&[range(7, 1), range(3, 1)]).unwrap();
    let mut sent = drain(&mut source, 1);
    sent.sort_unstable();
    assert_eq!(sent, [3, 7], "each once");
}

#[test]
fn a_withdrawn_entry_keeps_its_chunks_numbers() {
    let mut source = source(2);
    source.push(&Record::Withdraw(EntryIndex(0))).unwrap();
    source.want(&[range(0, 2)]).unwrap();
    assert_eq!(drain(&mut source, 1), [0, 1]);
}
