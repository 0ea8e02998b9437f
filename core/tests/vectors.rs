//! Holds encoder and decoder to the test vectors under `tests/vectors/`, which other implementations can use as well.
//!
//! Every case is built here by name and compared with the file of its group, in both directions. After a deliberate
//! change of the format, `METRA_WRITE_VECTORS=1 cargo test -p metra-core --test vectors` writes the files anew; the
//! difference is then for the reviewer to read.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the files under test are read here, not by the core")]

use std::path::PathBuf;

use metra_core::code::Code;
use metra_core::id::{ChunkIndex, Digest, EntryIndex, Incarnation, JobId, JobKey, SessionId};
use metra_core::manifest::{Entry, EntryKind, Ledger, LedgerLimits, Record, Timestamp};
use metra_core::priority::Priority;
use metra_core::ranges::IndexRange;
use metra_core::rate::{Policy, RatePolicy};
use metra_core::receipt::{Direction, SignedReceipt, Statement, signed_bytes};
use metra_core::wire::stream::StreamFrame;
use metra_core::wire::{
    Auth, ChunkHeader, EntryStatus, Finished, Frame, FrameDecoder, Hello, Keep, ManifestEnd, Overwrite,
    PeerLimits, Placement, Pull, Push, Symlinks, Welcome, stream, varint,
};

#[path = "../../tests/vectors/hold.rs"]
mod hold;
use hold::{Vector, bytes_of, hex, hold};

fn case(name: &str, bytes: &[u8], meaning: &str) -> Vector {
    vec![("name", name.into()), ("hex", hex(bytes)), ("meaning", meaning.into())]
}

#[test]
fn varints() {
    // The first four are those of RFC 9000, section A.1, and so is "longer-37".
    let shortest: [u64; 10] =
        [151_288_809_941_952_652, 494_878_333, 15_293, 37, 0, 63, 64, 16_383, 16_384, varint::MAX];
    let mut cases = Vec::new();
    for number in shortest {
        let mut out = Vec::new();
        varint::put(number, &mut out);
        cases.push(case(&format!("shortest-{number}"), &out, &number.to_string()));
    }
    cases.push(case("longer-37", &[0x40, 0x25], "37"));
    cases.push(case("longest-0", &[0xc0, 0, 0, 0, 0, 0, 0, 0], "0"));
    let about =
        "Varints of RFC 9000, section 16. \"longer\": decoded in frames, refused in records and receipts.";
    for vector in hold("varint", about, &cases) {
        let bytes = bytes_of(&vector);
        let number: u64 = vector["meaning"].as_str().unwrap().parse().unwrap();
        assert_eq!(varint::take(&mut bytes.as_slice()), Some(number));
        let shortest = vector["name"].as_str().unwrap().starts_with("shortest");
        assert_eq!(varint::take_shortest(&mut bytes.as_slice()), shortest.then_some(number));
    }
}

#[test]
fn stream_frames() {
    let all = [
        ("end", "the chunk is complete", StreamFrame::End),
        ("reset", "the chunk is given up, cancelled", StreamFrame::Reset(Code::Cancelled)),
        ("stop", "chunk 300 is not wanted, cancelled", StreamFrame::Stop(300, Code::Cancelled)),
        ("ping", "ping 7", StreamFrame::Ping(7)),
        ("pong", "pong 7, 1000000 bytes read", StreamFrame::Pong(7, 1_000_000)),
        ("finish", "the control stream has ended", StreamFrame::Finish),
        ("close", "closed, draining: bye", StreamFrame::Close(Code::Draining, "bye".into())),
        ("identity", "the SHA-256 of a key, 32 bytes of 0xa5", StreamFrame::Identity([0xa5; 32])),
    ];
    let encode = |frame: &StreamFrame| {
        let mut out = Vec::new();
        frame.encode(&mut out);
        out
    };
    let cases: Vec<_> =
        all.iter().map(|(name, meaning, frame)| case(name, &encode(frame), meaning)).collect();
    let about = "The frames of a link on a byte stream, but for control (0x30) and body (0x31), which are plain bytes.";
    for (vector, (_, _, frame)) in hold("stream_frames", about, &cases).iter().zip(&all) {
        let bytes = bytes_of(vector);
        let mut input = bytes.as_slice();
        let (kind, len) = stream::head(&mut input).unwrap().unwrap();
        assert!(stream::is_small(kind) && len == input.len());
        assert_eq!(StreamFrame::decode(kind, input).as_ref(), Ok(frame));
    }
}

fn digest(fill: u8) -> Digest {
    Digest([fill; 32])
}

fn range(first: u32, count: u32) -> IndexRange {
    IndexRange { first: ChunkIndex(first), count }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry { path: path.into(), kind, mode: None, mtime: None }
}

fn file() -> Entry {
    let mtime = Some(Timestamp { secs: 1_700_000_000, nanos: 123_456_789 });
    Entry { mode: Some(0o644), mtime, ..entry("dir/ünï.bin", EntryKind::File { size: 5_000_000 }) }
}

fn records() -> Vec<(&'static str, &'static str, Record)> {
    let old = Some(Timestamp { secs: -1, nanos: 0 });
    let link = EntryKind::Symlink { target: "../x".into() };
    vec![
        (
            "file",
            "file dir/ünï.bin, 5000000 bytes, mode 0644, mtime 1700000000.123456789",
            Record::Entry(file()),
        ),
        (
            "file-bare",
            "file a, 0 bytes, no mode, no mtime",
            Record::Entry(entry("a", EntryKind::File { size: 0 })),
        ),
        ("stream", "stream stdin", Record::Entry(entry("stdin", EntryKind::Stream))),
        (
            "directory",
            "directory d, mode 07777",
            Record::Entry(Entry { mode: Some(0o7777), ..entry("d", EntryKind::Directory) }),
        ),
        (
            "symlink",
            "symlink a/l -> ../x, mtime -1.0",
            Record::Entry(Entry { mtime: old, ..entry("a/l", link) }),
        ),
        (
            "chunk",
            "chunk of 1048576 bytes, hash 0xab 32 times",
            Record::Chunk { len: 1 << 20, hash: digest(0xab) },
        ),
        (
            "chunk-longest",
            "chunk of 4194304 bytes, hash 0 32 times",
            Record::Chunk { len: 4 << 20, hash: digest(0) },
        ),
        ("stream-end", "stream end, 1048576 bytes", Record::StreamEnd { size: 1 << 20 }),
        ("withdraw", "withdraw entry 70000", Record::Withdraw(EntryIndex(70_000))),
    ]
}

#[test]
fn manifest_records() {
    let records = records();
    let cases: Vec<_> =
        records.iter().map(|(name, meaning, record)| case(name, &encoded(record), meaning)).collect();
    let about = "Records of a manifest. The encoding is canonical: there is no other.";
    for (vector, (.., record)) in hold("records", about, &cases).iter().zip(records) {
        let bytes = bytes_of(vector);
        let mut input = bytes.as_slice();
        assert_eq!(Record::decode(&mut input), Ok(record));
        assert!(input.is_empty());
    }
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode(&mut out);
    out
}

#[test]
fn manifest_roots() {
    let small = |size| Record::Entry(entry("s", EntryKind::File { size }));
    let chunk = |len: u32| Record::Chunk { len, hash: Digest::of(&vec![0; len as usize]) };
    let directory = || Record::Entry(entry("d", EntryKind::Directory));
    let stream = || Record::Entry(entry("-", EntryKind::Stream));
    let manifests = [
        ("empty", vec![]),
        ("one-record", vec![directory()]),
        ("two-records", vec![directory(), directory()]),
        ("pack", vec![small(3), directory(), small(4), chunk(7)]),
        (
            "large-withdrawn-and-stream",
            vec![
                Record::Entry(file()),
                chunk(1 << 20),
                Record::Withdraw(EntryIndex(0)),
                stream(),
                chunk(9),
                Record::StreamEnd { size: 9 },
                directory(),
            ],
        ),
    ];
    let mut cases = Vec::new();
    for (name, records) in manifests {
        let mut ledger = Ledger::new(LedgerLimits::default());
        for record in &records {
            ledger.push(record).unwrap();
        }
        let mut case = case(name, &records.iter().flat_map(encoded).collect::<Vec<_>>(), "see records.toml");
        case.pop();
        case.push(("records", ledger.records().to_string()));
        case.push(("entries", ledger.entries().to_string()));
        case.push(("chunks", ledger.chunks().to_string()));
        case.push(("bytes", ledger.bytes().to_string()));
        case.push(("root", ledger.finish().unwrap().to_string()));
        cases.push(case);
    }
    let about = "Roots of manifests: the records one after the other, the counts, the root over them.\nChunks are of zeros.";
    for vector in hold("roots", about, &cases) {
        let bytes = bytes_of(&vector);
        let (mut input, mut ledger) = (bytes.as_slice(), Ledger::new(LedgerLimits::default()));
        while !input.is_empty() {
            ledger.push(&Record::decode(&mut input).unwrap()).unwrap();
        }
        assert_eq!(ledger.finish().unwrap().to_string(), vector["root"].as_str().unwrap());
    }
}

const JOB: JobId = JobId(7);

fn rate(policy: Policy, rate: Option<u64>) -> RatePolicy {
    RatePolicy::new(policy, rate).unwrap()
}

fn frames() -> Vec<(&'static str, &'static str, Frame)> {
    let hello = |auth| Frame::Hello(Hello { version: 1, auth, agent: "metra/0.1.0".into() });
    let status = |entry, code| {
        let reason = "why".into();
        Frame::EntryStatus(EntryStatus { job: JOB, entry, path: "d/f".into(), code, reason })
    };
    let mut frames = vec![
        ("hello", "version 1, no credentials, agent metra/0.1.0", hello(Auth::None)),
        (
            "hello-bearer",
            "version 1, bearer token secret, agent metra/0.1.0",
            hello(Auth::Bearer("secret".into())),
        ),
        ("hello-ticket", "version 1, ticket 010203, agent metra/0.1.0", hello(Auth::Ticket(vec![1, 2, 3]))),
        (
            "welcome",
            "version 1, session 0x11 16 times, ticket aabb for 86400 s, user alice, receipt key 0x22 32 times, \
             limits: 16 jobs, 4000000 entries, 4000000 chunks",
            Frame::Welcome(Welcome {
                version: 1,
                session: SessionId([0x11; 16]),
                ticket: vec![0xaa, 0xbb],
                ticket_lifetime: 86_400,
                user: "alice".into(),
                receipt_key: [0x22; 32],
                limits: PeerLimits { jobs: 16, entries: 4_000_000, chunks: 4_000_000 },
            }),
        ),
        ("close", "code draining, reason bye", Frame::Close { code: Code::Draining, reason: "bye".into() }),
        ("rate", "fixed, 900000000 bit/s", Frame::Rate(rate(Policy::Fixed, Some(900_000_000)))),
        ("rate-no-ceiling", "low, no ceiling", Frame::Rate(rate(Policy::Low, None))),
        ("granted", "fair, at most 900000000 bit/s", {
            Frame::Granted(rate(Policy::Fair, Some(900_000_000)))
        }),
        ("granted-high", "high, no ceiling", Frame::Granted(rate(Policy::High, None))),
        ("pace", "at most 20000000 bit/s for the moment", Frame::Pace(Some(20_000_000))),
        ("pace-none", "as fast as was granted", Frame::Pace(None)),
    ];
    for (name, meaning, placement, overwrite, priority) in [
        ("push", "into in/, overwrite what differs", Placement::Into, Overwrite::Different, 4),
        ("push-auto", "as cp does, never overwrite, urgent", Placement::Auto, Overwrite::Never, 0),
        ("push-as", "as in, always overwrite, in the background", Placement::As, Overwrite::Always, 7),
    ] {
        let priority = Priority::new(priority).unwrap();
        let (key, incarnation) = (JobKey(digest(0x33)), Incarnation(0x0102_0304_0506_0708));
        let push = Push { job: JOB, key, incarnation, dest: "in".into(), placement, overwrite, priority };
        frames.push((name, meaning, Frame::Push(push)));
    }
    let pull = |symlinks, keep, filters| {
        let priority = Priority::NORMAL;
        let paths = vec!["a/*.bin".into(), "b/".into()];
        Frame::Pull(Pull { job: JOB, key: JobKey(digest(0x33)), paths, filters, symlinks, keep, priority })
    };
    frames.extend([
        (
            "pull",
            "job 7, key 0x33 32 times, keep links, keep mode and times, paths a/*.bin and b/, exclude *.tmp, include **",
            pull(
                Symlinks::Keep,
                Keep { mode: true, times: true },
                vec![(false, "*.tmp".into()), (true, "**".into())],
            ),
        ),
        ("pull-follow", "the same, follow links, keep mode, no filters", {
            pull(Symlinks::Follow, Keep { mode: true, times: false }, vec![])
        }),
        ("pull-skip", "the same, skip links, keep times, no filters", {
            pull(Symlinks::Skip, Keep { mode: false, times: true }, vec![])
        }),
        ("opened", "job 7, incarnation 0x0807060504030201", {
            Frame::Opened { job: JOB, incarnation: Incarnation(0x0807_0605_0403_0201) }
        }),
        ("queued", "job 7, two before it", Frame::Queued { job: JOB, position: 3 }),
        ("ready", "job 7, from record 1000", Frame::Ready { job: JOB, from_record: 1000 }),
        (
            "records",
            "job 7, records 5 to 13: those of records.toml in their order",
            Frame::Records { job: JOB, first: 5, records: records().into_iter().map(|(.., r)| r).collect() },
        ),
        (
            "manifest-end",
            "job 7, 9 records, root 0x44 32 times",
            Frame::ManifestEnd(ManifestEnd { job: JOB, records: 9, root: digest(0x44) }),
        ),
        ("want", "job 7, chunks 100 to 109, 3, 200 to 203", {
            Frame::Want { job: JOB, ranges: vec![range(100, 10), range(3, 1), range(200, 4)] }
        }),
        ("want-last", "job 7, chunk 3999999", Frame::Want { job: JOB, ranges: vec![range(3_999_999, 1)] }),
        ("have", "job 7, chunks 0 to 2, 5, 100 to 163", {
            Frame::Have { job: JOB, ranges: vec![range(0, 3), range(5, 1), range(100, 64)] }
        }),
        ("durable", "job 7, chunks 10 to 19, 20 to 20", {
            Frame::Durable { job: JOB, ranges: vec![range(10, 10), range(20, 1)] }
        }),
        ("durable-none", "job 7, no chunks", Frame::Durable { job: JOB, ranges: vec![] }),
        ("damaged", "job 7, chunk 300", Frame::Damaged { job: JOB, chunk: ChunkIndex(300) }),
        ("gone", "job 7, chunk 301", Frame::Gone { job: JOB, chunk: ChunkIndex(301) }),
        ("entry-status", "job 7, entry 0, path d/f, ok, why", status(Some(EntryIndex(0)), Code::Ok)),
        ("entry-status-none", "job 7, no entry, path d/f, read failed, why", status(None, Code::ReadFailed)),
        (
            "finished",
            "job 7, root 0x44 32 times, 3 entries, 5000007 bytes, 1 failed, 2 chunks reused",
            Frame::Finished(Finished {
                job: JOB,
                root: digest(0x44),
                entries: 3,
                bytes: 5_000_007,
                failed: 1,
                reused: 2,
            }),
        ),
        ("receipt", "job 7, 010203", Frame::Receipt { job: JOB, bytes: vec![1, 2, 3] }),
        ("fail", "job 7, no space, disk full", {
            Frame::Fail { job: JOB, code: Code::NoSpace, reason: "disk full".into() }
        }),
        ("list", "request 1, the root, 1 level", Frame::List { request: 1, path: String::new(), depth: 1 }),
        ("listing", "request 1, directory \"\" and the file of records.toml", {
            Frame::Listing { request: 1, entries: vec![entry("", EntryKind::Directory), file()] }
        }),
        ("remove", "request 2, path old, with all in it", {
            Frame::Remove { request: 2, path: "old".into(), recursive: true }
        }),
        ("result", "request 2, not found, gone, 0 entries", {
            Frame::Result { request: 2, code: Code::NotFound, reason: "gone".into(), count: 0 }
        }),
    ]);
    frames
}

#[test]
fn control_frames() {
    let frames = frames();
    let mut cases = Vec::new();
    for (name, meaning, frame) in &frames {
        let mut out = Vec::new();
        frame.encode(&mut out);
        cases.push(case(name, &out, meaning));
    }
    // What is not known is passed over, whatever is in it.
    cases.push(case("grease-first", &[0x21, 0x03, 1, 2, 3], "passed over"));
    cases.push(case("grease-second", &[0x40, 0x40, 0x00], "passed over"));
    let about = "Frames of a control stream: type, length, payload.";
    let mut kinds = std::collections::BTreeSet::new();
    for (i, vector) in hold("frames", about, &cases).iter().enumerate() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&bytes_of(vector));
        let decoded = decoder.next().unwrap();
        assert_eq!(decoded.as_ref(), frames.get(i).map(|(.., frame)| frame));
        assert!(decoder.is_between_frames());
        kinds.extend(decoded.as_ref().map(|frame| format!("{:?}", std::mem::discriminant(frame))));
    }
    assert_eq!(kinds.len(), 26, "every frame has a vector");
}

#[test]
fn chunk_headers() {
    let header = |job, chunk, len| ChunkHeader { job: JobId(job), chunk: ChunkIndex(chunk), len };
    let headers = [
        ("shortest", "job 0, chunk 0, 1 byte", header(0, 0, 1)),
        ("usual", "job 7, chunk 300, 1048576 bytes", header(7, 300, 1 << 20)),
        ("longest", "job 2^62 - 1, chunk 3999999, 4194304 bytes", header(varint::MAX, 3_999_999, 4 << 20)),
    ];
    let cases: Vec<_> = headers.iter().map(|(name, meaning, h)| case(name, &h.encode(), meaning)).collect();
    let about = "What a unidirectional stream starts with; the chunk's bytes follow.";
    for (vector, (.., header)) in hold("chunk_headers", about, &cases).iter().zip(headers) {
        let bytes = bytes_of(vector);
        assert_eq!(ChunkHeader::decode(&bytes), Ok(Some((header, bytes.len()))));
    }
}

fn statement() -> Statement {
    Statement {
        gateway: "gw1.example".into(),
        user: "alice".into(),
        key: JobKey(digest(0x33)),
        direction: Direction::Push,
        path: "in/2026".into(),
        root: digest(0x44),
        records: 9,
        entries: 4,
        chunks: 3,
        bytes: 5_000_007,
        failed: 1,
        withdrawn: 1,
        started: 1_700_000_000_000,
        finished: 1_700_000_123_456,
    }
}

#[test]
fn receipts() {
    let pull = Statement { direction: Direction::Pull, user: String::new(), ..statement() };
    let signed = SignedReceipt { statement: statement().encode(), public_key: [5; 32], signature: [6; 64] };
    let about = "Statements, what is signed of the first, and a receipt around it (key 0x05 32 times, signature 0x06 64 times).";
    let cases = [
        case(
            "statement-push",
            &statement().encode(),
            "gateway gw1.example, user alice, key 0x33 32 times, push, path in/2026, root 0x44 32 times, 9 records, \
             4 entries, 3 chunks, 5000007 bytes, 1 failed, 1 withdrawn, started 1700000000000, finished 1700000123456",
        ),
        case("statement-pull", &pull.encode(), "the same, pull, user empty"),
        case("signed-bytes", &signed_bytes(&statement().encode()), "context and the first statement"),
        case("receipt", &signed.encode(), "the first statement, key, signature"),
        case("receipt-text", signed.to_text().as_bytes(), "the same as text"),
    ];
    let vectors = hold("receipts", about, &cases);
    assert_eq!(Statement::decode(&bytes_of(&vectors[0])), Ok(statement()));
    assert_eq!(Statement::decode(&bytes_of(&vectors[1])), Ok(pull));
    assert_eq!(SignedReceipt::decode(&bytes_of(&vectors[3])), Ok(signed.clone()));
    let text = String::from_utf8(bytes_of(&vectors[4])).unwrap();
    assert_eq!(SignedReceipt::from_text(&text), Ok(signed));
}

/// Bytes that a decoder must refuse. `stream`: a control stream; `chunk`: a unidirectional stream.
fn bad() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let long_text = [&[0x03, 0x44, 0x04, 0x00, 0x44, 0x01][..], &[b'x'; 1025]].concat();
    vec![
        ("frame-too-long", "stream", vec![0x01, 0x80, 0x04, 0x00, 0x01]),
        ("unknown-frame-too-long", "stream", vec![0x21, 0x80, 0x04, 0x00, 0x01]),
        ("field-cut-off", "stream", vec![0x03, 0x02, 0x00, 0x05]),
        ("trailing-byte", "stream", vec![0x19, 0x03, 0x07, 0x01, 0x00]),
        ("text-too-long", "stream", long_text),
        ("text-not-utf8", "stream", vec![0x03, 0x03, 0x00, 0x01, 0xff]),
        ("credentials-unknown", "stream", vec![0x01, 0x03, 0x01, 0x03, 0x00]),
        ("flag-not-0-or-1", "stream", vec![0x32, 0x04, 0x01, 0x01, b'a', 0x02]),
        ("policy-unknown", "stream", vec![0x04, 0x02, 0x04, 0x00]),
        ("fixed-without-a-rate", "stream", vec![0x05, 0x02, 0x01, 0x00]),
        ("records-none", "stream", vec![0x13, 0x02, 0x07, 0x00]),
        ("record-unknown", "stream", vec![0x13, 0x03, 0x07, 0x00, 0x08]),
        ("record-not-shortest", "stream", vec![0x13, 0x05, 0x07, 0x00, 0x07, 0x40, 0x01]),
        ("record-flags", "stream", vec![0x13, 0x06, 0x07, 0x00, 0x03, 0x04, 0x01, b'a']),
        ("record-target-nul", "stream", vec![0x13, 0x08, 0x07, 0x00, 0x04, 0x00, 0x01, b'a', 0x01, 0x00]),
        ("range-of-none", "stream", vec![0x15, 0x03, 0x07, 0x01, 0x00]),
        ("range-past-the-last-chunk", "stream", vec![0x15, 0x06, 0x07, 0x80, 0x3d, 0x08, 0xff, 0x02]),
        ("chunk-index-too-large", "stream", vec![0x19, 0x05, 0x07, 0x80, 0x3d, 0x09, 0x00]),
        ("chunk-empty", "chunk", vec![0x20, 0x02, 0x07, 0x00]),
        ("chunk-too-long", "chunk", vec![0x20, 0x80, 0x40, 0x00, 0x03, 0x07, 0x00]),
        ("chunk-shorter-than-its-ids", "chunk", vec![0x20, 0x01, 0x07, 0x00]),
        ("chunk-of-another-type", "chunk", vec![0x22, 0x03, 0x07, 0x00, 0x00]),
    ]
}

#[test]
fn what_is_refused() {
    let refusal = |kind: &str, bytes: &[u8]| match kind {
        "chunk" => ChunkHeader::decode(bytes).expect_err("must be refused"),
        _ => {
            let mut decoder = FrameDecoder::new();
            decoder.push(bytes);
            decoder.next().expect_err("must be refused")
        }
    };
    let mut cases = Vec::new();
    for (name, kind, bytes) in bad() {
        let error = refusal(kind, &bytes);
        let mut case = case(name, &bytes, &error.to_string());
        case.insert(1, ("kind", kind.into()));
        case.push(("code", error.code().name().into()));
        cases.push(case);
    }
    let about = "What must be refused, and the code that the link is closed with. stream: a control stream;\n\
                 chunk: a unidirectional stream (one of another type is stopped, and the link goes on).";
    for vector in hold("bad", about, &cases) {
        let error = refusal(vector["kind"].as_str().unwrap(), &bytes_of(&vector));
        assert_eq!(error.code().name(), vector["code"].as_str().unwrap());
    }
}

/// The specification states numbers that are in the code as well; here they are compared.
#[test]
fn specification_agrees_with_the_code() {
    use metra_core::{limits, manifest, receipt};
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let states = |row: String| assert!(text.contains(&row), "docs/protocol.md does not state {row}");
    for code in Code::all() {
        states(format!("| {:#04x} | {} |", code.number(), code.name()));
    }
    for (_, _, frame) in frames() {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let name = format!("{frame:?}");
        let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        states(format!("| {:#04x} | {name} |", bytes[0]));
    }
    for (name, value) in [
        ("FRAME_MAX", limits::FRAME_MAX as u64),
        ("CHUNK_MAX", limits::CHUNK_MAX as u64),
        ("PACK_BELOW", limits::PACK_BELOW),
        ("PATH_MAX", limits::PATH_MAX as u64),
        ("RECORD_PATH_MAX", manifest::RECORD_PATH_MAX as u64),
        ("NAME_MAX", limits::NAME_MAX as u64),
        ("TEXT_MAX", limits::TEXT_MAX as u64),
        ("SECRET_MAX", limits::SECRET_MAX as u64),
        ("RECEIPT_MAX", receipt::RECEIPT_MAX as u64),
        ("RANGES_MAX", limits::RANGES_MAX as u64),
        ("ENTRIES_MAX", limits::ENTRIES_MAX.into()),
        ("CHUNKS_MAX", limits::CHUNKS_MAX.into()),
        ("JOBS_MAX", limits::JOBS_MAX as u64),
        ("CHUNK_ATTEMPTS", limits::CHUNK_ATTEMPTS.into()),
    ] {
        states(format!("| {name} | {value} |"));
    }
}
