//! Tests of the layouts: round trips, and both sides of every limit.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::manifest::{any_entry, any_record};
use crate::receipt::RECEIPT_MAX;

fn job() -> impl Strategy<Value = JobId> {
    number().prop_map(JobId)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..100, 0..=varint::MAX]
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn text() -> impl Strategy<Value = String> {
    ".{0,20}"
}

fn code() -> impl Strategy<Value = Code> {
    prop::sample::select(Code::all())
}

fn chunk() -> impl Strategy<Value = ChunkIndex> {
    (0..CHUNKS_MAX).prop_map(ChunkIndex)
}

fn ascending() -> impl Strategy<Value = Vec<IndexRange>> {
    prop::collection::vec((0u32..2000, 1u32..2000), 0..20).prop_map(|gaps| {
        let mut end = 0;
        let ranges = gaps.into_iter().map(|(gap, count)| {
            let first = end + gap;
            end = first + count;
            IndexRange { first: ChunkIndex(first), count }
        });
        ranges.collect()
    })
}

fn wanted() -> impl Strategy<Value = Vec<IndexRange>> {
    let range = (0..CHUNKS_MAX).prop_flat_map(|first| (Just(first), 1..=CHUNKS_MAX - first));
    prop::collection::vec(
        range.prop_map(|(first, count)| IndexRange { first: ChunkIndex(first), count }),
        0..20,
    )
}

fn opening() -> impl Strategy<Value = Frame> {
    let auth = prop_oneof![
        Just(Auth::None),
        text().prop_map(Auth::Bearer),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Auth::Ticket),
    ];
    let welcome = (
        (number(), any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..40), number(), text()),
        (any::<[u8; 32]>(), number(), number(), number()),
    );
    prop_oneof![
        (number(), auth, text()).prop_map(|(version, auth, agent)| Frame::Hello(Hello {
            version,
            auth,
            agent
        })),
        welcome.prop_map(
            |((version, session, ticket, ticket_lifetime, user), (receipt_key, jobs, entries, chunks))| {
                let session = SessionId(session);
                let limits = PeerLimits { jobs, entries, chunks };
                Frame::Welcome(Welcome {
                    version,
                    session,
                    ticket,
                    ticket_lifetime,
                    user,
                    receipt_key,
                    limits,
                })
            }
        ),
        (code(), text()).prop_map(|(code, reason)| Frame::Close { code, reason }),
        rate().prop_map(Frame::Rate),
        rate().prop_map(Frame::Granted),
        proptest::option::of(1..=RatePolicy::RATE_MAX).prop_map(Frame::Pace),
    ]
}

fn rate() -> impl Strategy<Value = RatePolicy> {
    let rate = prop_oneof![Just(0), number()];
    (prop::sample::select(&Policy::ALL[..]), rate).prop_filter_map("a target is needed", |(policy, rate)| {
        RatePolicy::new(policy, (rate > 0).then_some(rate))
    })
}

fn priority() -> impl Strategy<Value = Priority> {
    (0_u8..8).prop_filter_map("0 to 7", Priority::new)
}

fn jobs() -> impl Strategy<Value = Frame> {
    let push = (
        (job(), digest(), any::<u64>(), text()),
        (prop::sample::select(&PLACEMENTS[..]), prop::sample::select(&OVERWRITES[..]), priority()),
    );
    let pull = (
        (job(), digest(), prop::sample::select(&SYMLINKS[..]), any::<[bool; 2]>()),
        (prop::collection::vec(text(), 1..5), prop::collection::vec((any::<bool>(), text()), 0..5)),
        priority(),
    );
    prop_oneof![
        push.prop_map(|((job, key, incarnation, dest), (placement, overwrite, priority))| {
            let (key, incarnation) = (JobKey(key), Incarnation(incarnation));
            Frame::Push(Push { job, key, incarnation, dest, placement, overwrite, priority })
        }),
        pull.prop_map(|((job, key, symlinks, [mode, times]), (paths, filters), priority)| {
            let keep = Keep { mode, times };
            Frame::Pull(Pull { job, key: JobKey(key), paths, filters, symlinks, keep, priority })
        }),
        (job(), any::<u64>()).prop_map(|(job, run)| Frame::Opened { job, incarnation: Incarnation(run) }),
        (job(), 1..=varint::MAX).prop_map(|(job, position)| Frame::Queued { job, position }),
        (job(), number()).prop_map(|(job, from_record)| Frame::Ready { job, from_record }),
        (job(), number(), prop::collection::vec(any_record(), 1..8))
            .prop_map(|(job, first, records)| Frame::Records { job, first, records }),
        (job(), number(), digest()).prop_map(|(job, records, root)| Frame::ManifestEnd(ManifestEnd {
            job,
            records,
            root
        })),
        (job(), wanted()).prop_map(|(job, ranges)| Frame::Want { job, ranges }),
        (job(), ascending()).prop_map(|(job, ranges)| Frame::Have { job, ranges }),
        (job(), ascending()).prop_map(|(job, ranges)| Frame::Durable { job, ranges }),
        (job(), chunk()).prop_map(|(job, chunk)| Frame::Damaged { job, chunk }),
        (job(), chunk()).prop_map(|(job, chunk)| Frame::Gone { job, chunk }),
    ]
}

fn endings() -> impl Strategy<Value = Frame> {
    let status = (job(), prop::option::of(any::<u32>()), text(), code(), text());
    let counts = (number(), number(), number(), number());
    prop_oneof![
        status.prop_map(|(job, entry, path, code, reason)| {
            Frame::EntryStatus(EntryStatus { job, entry: entry.map(EntryIndex), path, code, reason })
        }),
        (job(), digest(), counts).prop_map(|(job, root, (entries, bytes, failed, reused))| {
            Frame::Finished(Finished { job, root, entries, bytes, failed, reused })
        }),
        (job(), prop::collection::vec(any::<u8>(), 0..99))
            .prop_map(|(job, bytes)| Frame::Receipt { job, bytes }),
        (job(), code(), text()).prop_map(|(job, code, reason)| Frame::Fail { job, code, reason }),
        (number(), text(), any::<u32>()).prop_map(|(request, path, depth)| Frame::List {
            request,
            path,
            depth
        }),
        (number(), prop::collection::vec(any_entry(), 0..8))
            .prop_map(|(request, entries)| Frame::Listing { request, entries }),
        (number(), text(), any::<bool>()).prop_map(|(request, path, recursive)| Frame::Remove {
            request,
            path,
            recursive
        }),
        (number(), code(), text(), number()).prop_map(|(request, code, reason, count)| Frame::Result {
            request,
            code,
            reason,
            count
        }),
    ]
}

pub(crate) fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![opening(), jobs(), endings()]
}

fn split(frame: &Frame) -> (u64, Vec<u8>) {
    let mut payload = Vec::new();
    let kind = frame.encode_payload(&mut payload);
    (kind, payload)
}

fn decode(frame: &Frame) -> Result<Option<Frame>, WireError> {
    let (kind, payload) = split(frame);
    Frame::decode(kind, &payload)
}

fn range(first: u32, count: u32) -> IndexRange {
    IndexRange { first: ChunkIndex(first), count }
}

const JOB: JobId = JobId(7);

#[test]
fn lengths_on_both_sides() {
    let hello = |auth| Frame::Hello(Hello { version: 1, auth, agent: String::new() });
    let list = |path| Frame::List { request: 1, path, depth: 0 };
    let pull = |paths, filters| {
        let keep = Keep { mode: true, times: true };
        let key = JobKey(Digest::default());
        Frame::Pull(Pull {
            job: JOB,
            key,
            paths: vec![String::new(); paths],
            filters: vec![(true, String::new()); filters],
            symlinks: Symlinks::Keep,
            keep,
            priority: Priority::NORMAL,
        })
    };
    let want = |n: usize| Frame::Want { job: JOB, ranges: vec![range(1, 1); n] };
    let have = |n: u32| Frame::Have { job: JOB, ranges: (0..n).map(|i| range(2 * i, 1)).collect() };
    for (fits, exceeds, what) in [
        (
            hello(Auth::Bearer("x".repeat(SECRET_MAX))),
            hello(Auth::Bearer("x".repeat(SECRET_MAX + 1))),
            "a token",
        ),
        (hello(Auth::Ticket(vec![0; SECRET_MAX])), hello(Auth::Ticket(vec![0; SECRET_MAX + 1])), "a ticket"),
        (list("x".repeat(RECORD_PATH_MAX)), list("x".repeat(RECORD_PATH_MAX + 1)), "a path"),
        (pull(LIST_MAX, 0), pull(LIST_MAX + 1, 0), "the list of paths"),
        (pull(1, LIST_MAX), pull(1, LIST_MAX + 1), "the list of filters"),
        (want(RANGES_MAX), want(RANGES_MAX + 1), "the list of ranges"),
        (have(RANGES_MAX as u32), have(RANGES_MAX as u32 + 1), "the list of ranges"),
        (
            Frame::Receipt { job: JOB, bytes: vec![0; RECEIPT_MAX] },
            Frame::Receipt { job: JOB, bytes: vec![0; RECEIPT_MAX + 1] },
            "a receipt",
        ),
    ] {
        assert_eq!(decode(&fits), Ok(Some(fits.clone())), "{what}");
        assert_eq!(decode(&exceeds), Err(WireError::TooLong(what)));
        assert_eq!(WireError::TooLong(what).code(), Code::Limit);
    }
    let long = vec![0; FRAME_MAX + 1];
    assert!(matches!(Frame::decode(0x21, &long), Err(WireError::FrameTooLong { .. })));
    assert_eq!(Frame::decode(0x21, &long[1..]), Ok(None));
}

#[test]
fn texts_for_people_are_cut_at_a_character() {
    let reason = "é".repeat(TEXT_MAX);
    let Some(Frame::Close { reason: cut, .. }) = decode(&Frame::Close { code: Code::Ok, reason }).unwrap()
    else {
        panic!("another frame");
    };
    assert_eq!(cut, "é".repeat(TEXT_MAX / 2));
    let reason = format!("x{}", "é".repeat(TEXT_MAX));
    let Some(Frame::Fail { reason: cut, .. }) =
        decode(&Frame::Fail { job: JOB, code: Code::Ok, reason }).unwrap()
    else {
        panic!("another frame");
    };
    assert_eq!(cut.len(), TEXT_MAX - 1);
    let (path, reason) = ("é".repeat(RECORD_PATH_MAX), String::new());
    let status = EntryStatus { job: JOB, entry: None, path, code: Code::BadName, reason };
    let Some(Frame::EntryStatus(cut)) = decode(&Frame::EntryStatus(status)).unwrap() else {
        panic!("another frame");
    };
    assert_eq!(cut.path, "é".repeat(RECORD_PATH_MAX / 2));
    // A peer that does not cut is refused.
    let mut payload = vec![0];
    put_bytes(&[b'x'; TEXT_MAX + 1], &mut payload);
    assert_eq!(Frame::decode(kind::CLOSE, &payload), Err(WireError::TooLong("a reason")));
}

#[test]
fn ranges_at_the_edges() {
    let last = |count| Frame::Want { job: JOB, ranges: vec![range(CHUNKS_MAX - 1, count)] };
    assert!(decode(&last(1)).is_ok());
    for bad in [last(2), last(0)] {
        assert_eq!(decode(&bad), Err(WireError::Value("a range of chunks")));
    }
    // Gaps and counts that add up past any number.
    let mut payload = vec![7];
    for _ in 0..2 {
        varint::put(varint::MAX, &mut payload);
    }
    assert_eq!(Frame::decode(kind::HAVE, &payload), Err(WireError::Value("a range of chunks")));
    assert_eq!(Frame::decode(kind::WANT, &payload), Err(WireError::Value("a range of chunks")));
    for chunk in [CHUNKS_MAX, u32::MAX] {
        let gone = Frame::Gone { job: JOB, chunk: ChunkIndex(chunk) };
        assert_eq!(decode(&gone), Err(WireError::Value("the index of a chunk")));
    }
}

#[test]
fn want_keeps_its_order_and_have_is_put_in_order() {
    let ranges = vec![range(9, 2), range(3, 1), range(5, 2)];
    let want = Frame::Want { job: JOB, ranges: ranges.clone() };
    assert_eq!(decode(&want), Ok(Some(want)));
    let sorted = vec![range(3, 1), range(5, 2), range(9, 2)];
    let have = Frame::Have { job: JOB, ranges };
    assert_eq!(decode(&have), Ok(Some(Frame::Have { job: JOB, ranges: sorted })));
}

#[test]
fn values_that_are_not_defined() {
    for (kind, payload, error) in [
        (kind::HELLO, vec![1, 3, 0], WireError::Value("the kind of credentials")),
        (kind::REMOVE, vec![1, 0, 2], WireError::Value("a flag")),
        (kind::RATE, vec![4, 1], WireError::Value("the rate policy")),
        (kind::GRANTED, vec![1, 0], WireError::Value("the rate")),
        (kind::QUEUED, vec![1, 0], WireError::Value("the position in a queue")),
        (kind::PUSH, [&[1][..], &[0; 32], &[0; 8], &[0, 0, 0, 8]].concat(), WireError::Value("the priority")),
        (kind::RECORDS, vec![1, 0], WireError::Value("the list of records")),
        (kind::RECORDS, vec![1, 0, 9], WireError::Record(RecordError::Tag(9))),
        (kind::LISTING, vec![1, 5], WireError::Record(RecordError::Malformed)),
        (kind::CLOSE, vec![0, 2, 0xc3, 0x28], WireError::Utf8),
        (kind::CLOSE, vec![0, 0, 0], WireError::Trailing),
        (kind::CLOSE, vec![0, 1], WireError::Truncated),
    ] {
        assert_eq!(Frame::decode(kind, &payload), Err(error));
        assert_eq!(error.code(), Code::Protocol);
    }
    let unknown_code = Frame::decode(kind::CLOSE, &[0x3f, 0]).unwrap();
    assert_eq!(unknown_code, Some(Frame::Close { code: Code::Internal, reason: String::new() }));
}

#[test]
fn no_type_is_taken_twice_or_from_grease() {
    let mut seen = std::collections::BTreeMap::new();
    for kind in 0u64..0x100 {
        // Every known type needs a payload, so an empty one tells known from unknown.
        let known = kind == kind::CHUNK || Frame::decode(kind, &[]).is_err();
        seen.insert(kind, known);
        assert!(!(known && kind >= 0x21 && (kind - 0x21) % 0x1f == 0), "{kind:#x} is grease");
    }
    assert_eq!(seen.values().filter(|known| **known).count(), 27);
}

#[test]
fn a_greeting_of_full_size_fills_a_packet_before_it_says_anything() {
    let hello = Frame::Hello(Hello { version: 1, auth: Auth::None, agent: "a".into() });
    let (plain, full) = (greeting(&hello, false), greeting(&hello, true));
    assert!(plain.len() < 10 && full.ends_with(&plain));
    let mut decoder = crate::wire::FrameDecoder::new();
    decoder.push(&full[..1500]);
    assert_eq!(decoder.next(), Ok(None));
    decoder.push(&full[1500..]);
    assert_eq!(decoder.next(), Ok(Some(hello)));
}

#[test]
fn chunk_header_limits() {
    let header = |len| ChunkHeader { job: JobId(varint::MAX), chunk: ChunkIndex(CHUNKS_MAX - 1), len };
    for len in [1, CHUNK_MAX as u32] {
        let bytes = header(len).encode();
        assert!(bytes.len() <= ChunkHeader::MAX);
        assert_eq!(ChunkHeader::decode(&bytes), Ok(Some((header(len), bytes.len()))));
    }
    let decode = |len| ChunkHeader::decode(&header(len).encode());
    assert_eq!(decode(0), Err(WireError::Value("the length of a chunk")));
    assert_eq!(decode(CHUNK_MAX as u32 + 1), Err(WireError::TooLong("a chunk")));
    assert_eq!(decode(u32::MAX), Err(WireError::TooLong("a chunk")));
    assert_eq!(ChunkHeader::decode(&[0x21]), Err(WireError::StreamType(0x21)));
    assert_eq!(ChunkHeader::decode(&[0x20, 1, 1, 1]), Err(WireError::Truncated));
    // The longest forms of all four numbers still fit.
    let mut longest = Vec::new();
    for number in [0x20u64, 16 + 5, 1, 2] {
        longest.extend((number | 3 << 62).to_be_bytes());
    }
    let expected = ChunkHeader { job: JobId(1), chunk: ChunkIndex(2), len: 5 };
    assert_eq!(ChunkHeader::decode(&longest), Ok(Some((expected, ChunkHeader::MAX))));
}

proptest! {
    #[test]
    fn frames_round_trip(frame in any_frame()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let mut input = bytes.as_slice();
        let kind = varint::take(&mut input).unwrap();
        let len = varint::take(&mut input).unwrap();
        prop_assert_eq!(len as usize, input.len());
        prop_assert_eq!(Frame::decode(kind, input), Ok(Some(frame.clone())));

        let mut longer = input.to_vec();
        longer.push(0);
        let goes_on = Frame::decode(kind, &longer);
        // Lists that run to the end of the payload take the byte as the start of an item.
        let open = matches!(kind, kind::RECORDS | kind::LISTING | kind::WANT | kind::HAVE | kind::DURABLE);
        if open {
            prop_assert!(goes_on.is_err());
        } else {
            prop_assert_eq!(goes_on, Err(WireError::Trailing));
        }
    }

    #[test]
    fn arbitrary_payloads_never_panic(
        kind in 0u64..0x40,
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(Some(frame)) = Frame::decode(kind, &payload) {
            // What was understood can be said again, in the shortest form.
            prop_assert_eq!(decode(&frame), Ok(Some(frame)));
        }
    }

    #[test]
    fn chunk_headers(job in job(), chunk in chunk(), len in 1..=CHUNK_MAX as u32, body in any::<[u8; 3]>()) {
        let header = ChunkHeader { job, chunk, len };
        let mut bytes = header.encode();
        for cut in 0..bytes.len() {
            prop_assert_eq!(ChunkHeader::decode(&bytes[..cut]), Ok(None));
        }
        let size = bytes.len();
        bytes.extend(body);
        prop_assert_eq!(ChunkHeader::decode(&bytes), Ok(Some((header, size))));
    }

    #[test]
    fn chunk_header_of_arbitrary_bytes(mut bytes in prop::collection::vec(any::<u8>(), 32..40)) {
        bytes[0] = 0x20;
        prop_assert_ne!(ChunkHeader::decode(&bytes), Ok(None));
    }
}
