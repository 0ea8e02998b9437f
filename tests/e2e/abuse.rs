//! Peers that break the protocol: a code, bounded memory, and nobody else is harmed.
//!
//! Next to every abuse an honest transfer runs, over a slow path so that it lasts, and must not notice.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use metra_core::code::Code;
use metra_core::id::{ChunkIndex, Digest, EntryIndex, JobId};
use metra_core::manifest::{EntryKind, Record};
use metra_core::wire::{Auth, ChunkHeader, Frame, Hello, ManifestEnd, varint};
use metra_transport::LinkError;

use crate::harness::data::{self, KIB, MIB};
use crate::harness::raw::{Manifest, Raw, push};
use crate::harness::{Bed, Gateway, PATIENCE};

tests![
    garbage_on_the_control_stream,
    garbage_instead_of_hello,
    garbage_on_the_port,
    a_frame_of_absurd_length,
    frames_that_are_not_a_clients,
    an_unknown_version,
    wrong_credentials,
    what_is_said_behind_hello,
    silence,
    unknown_frames_are_passed_over,
    a_manifest_of_too_many_chunks,
    a_manifest_of_too_many_entries,
    a_manifest_larger_than_the_memory_for_it,
    a_manifest_that_claims_a_billion_chunks,
    a_manifest_out_of_order,
    a_manifest_with_a_gap,
    a_wrong_root,
    chunks_nobody_asked_for,
    a_chunk_that_goes_on_and_on,
    streams_that_never_begin,
    a_damaged_chunk_is_asked_for_again,
    a_chunk_that_is_always_damaged,
    too_many_jobs,
    too_many_requests,
];

const JOB: JobId = JobId(1);
/// What the gateway may hold at most, whatever anybody does.
const MEMORY: u64 = 300 * MIB;

/// Runs `abuse` while an honest client sends, and looks after both.
pub(crate) fn beside(bed: &Bed, config: &str, abuse: impl FnOnce(&mut Gateway)) {
    let mut gateway = bed.gateway_with(config);
    let relay = bed.relay(&gateway, 16 * MIB);
    let file = data::noise_file(&bed.path("honest"), 31, 16 * MIB);
    let honest = bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("honest")).start();
    relay.wait_up(MIB);
    abuse(&mut gateway);
    assert!(gateway.is_running(), "{}", gateway.log());
    let peak = gateway.peak_memory();
    assert!(peak < MEMORY, "the gateway held {} MiB", peak / MIB);
    relay.set_rate(0);
    let done = honest.finish().expect(0);
    assert_eq!(done.number("resumes"), 0, "the honest client noticed\n{done}");
    assert!(data::same_bytes(&file, &gateway.at("honest")));
}

/// A link that can still be used: the gateway answers.
pub(crate) fn is_alive(raw: &mut Raw) {
    raw.say(&Frame::List { request: 4711, path: String::new(), depth: 0 });
    loop {
        match raw.next() {
            Ok(Frame::Result { request: 4711, code, .. }) => return assert_eq!(code, Code::Ok),
            Ok(_) => {}
            Err(code) => panic!("the link was closed with {code}"),
        }
    }
}

fn ready(raw: &mut Raw, dest: &str) {
    match raw.open(JOB, dest, dest) {
        Frame::Ready { from_record: 0, .. } => {}
        frame => panic!("Ready was expected, not {frame:?}"),
    }
}

/// Reads on until the job fails or the link is closed; the code.
fn failure(raw: &mut Raw) -> (Code, String) {
    loop {
        match raw.next() {
            Ok(Frame::Fail { code, reason, .. }) => return (code, reason),
            Ok(Frame::Finished(finished)) => panic!("it went well: {finished:?}"),
            Ok(_) => {}
            Err(code) => return (code, "the link was closed".into()),
        }
    }
}

fn garbage_on_the_control_stream(bed: &Bed) {
    beside(bed, "", |gateway| {
        for seed in 1..6 {
            let mut raw = Raw::welcomed(gateway);
            // A frame that is known, with a payload that is none.
            raw.say_bytes(&[0x13, 0x40, 0x80]).unwrap();
            let _ = raw.say_bytes(&data::noise(seed, 128));
            assert_eq!(raw.ending(), Code::Protocol);
        }
        for seed in 1..6 {
            // Anything at all. It may happen to be frames of unknown types, so only for so long.
            let mut raw = Raw::welcomed(gateway);
            let _ = raw.say_bytes(&data::noise(seed, MIB));
            let code = raw.ending();
            assert!([Code::Protocol, Code::Limit].contains(&code), "{code}");
        }
    });
}

fn garbage_instead_of_hello(bed: &Bed) {
    beside(bed, "[limits]\nhandshake_seconds = 1\n", |gateway| {
        let mut raw = Raw::connect(gateway);
        // As frames: one of an unknown type, which is passed over, and does not end.
        raw.say_bytes(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
        assert_eq!(raw.ending(), Code::Timeout);
        let mut raw = Raw::connect(gateway);
        raw.say(&Frame::List { request: 1, path: String::new(), depth: 1 });
        assert_eq!(raw.ending(), Code::Protocol);
        let mut raw = Raw::connect(gateway);
        raw.say_bytes(&[0x01, 0x02, 0xff, 0xff]).unwrap();
        assert_eq!(raw.ending(), Code::Protocol);
    });
}

fn garbage_on_the_port(bed: &Bed) {
    beside(bed, "", |gateway| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for seed in 1..2000 {
            let datagram = data::noise(seed, 1 + seed % 1400);
            socket.send_to(&datagram, gateway.address()).unwrap();
        }
        // Long headers of QUIC version 1, with nothing sensible after.
        for seed in 1..500 {
            let mut datagram = vec![0xc3, 0, 0, 0, 1, 8];
            datagram.extend(data::noise(seed, 1300));
            socket.send_to(&datagram, gateway.address()).unwrap();
        }
        is_alive(&mut Raw::welcomed(gateway));
    });
}

fn a_frame_of_absurd_length(bed: &Bed) {
    beside(bed, "", |gateway| {
        for (kind, len) in [(0x13, 262_145), (0x13, 1 << 40), (0x1b, varint::MAX), (0x2a, 262_145)] {
            let mut raw = Raw::welcomed(gateway);
            let mut bytes = Vec::new();
            varint::put(kind, &mut bytes);
            varint::put(len, &mut bytes);
            raw.say_bytes(&bytes).unwrap();
            assert_eq!(raw.ending(), Code::Limit, "type {kind:#x}, length {len}");
        }
        // A frame that is announced and never comes to its end costs no more than it may.
        let before = gateway.memory();
        let mut slow: Vec<Raw> = (0..8)
            .map(|_| {
                let mut raw = Raw::welcomed(gateway);
                raw.say_bytes(&[0x13, 0x80, 0x04, 0, 0]).unwrap();
                raw.say_bytes(&vec![0; 262_143]).unwrap();
                raw
            })
            .collect();
        is_alive(&mut Raw::welcomed(gateway));
        let after = gateway.memory();
        assert!(after < before + 64 * MIB, "{} KiB became {} KiB", before / KIB, after / KIB);
        assert!(slow.iter_mut().all(|raw| raw.next_within(Duration::from_millis(20)).is_none()));
    });
}

fn frames_that_are_not_a_clients(bed: &Bed) {
    beside(bed, "", |gateway| {
        let hello = Hello { version: 1, auth: Auth::None, agent: String::new() };
        let frames = [
            Frame::Hello(hello),
            Frame::Result { request: 1, code: Code::Ok, reason: String::new(), count: 0 },
            Frame::Listing { request: 1, entries: Vec::new() },
        ];
        for frame in frames {
            let mut raw = Raw::welcomed(gateway);
            raw.say(&frame);
            assert_eq!(raw.ending(), Code::Protocol, "{frame:?}");
        }
        // Of a job: it is the job that fails, or the link that is closed.
        let frames = [
            Frame::Receipt { job: JOB, bytes: vec![1, 2, 3] },
            Frame::Want { job: JOB, ranges: vec![] },
            Frame::Damaged { job: JOB, chunk: ChunkIndex(0) },
            Frame::Opened { job: JOB, incarnation: metra_core::id::Incarnation(3) },
        ];
        for (i, frame) in frames.into_iter().enumerate() {
            let mut raw = Raw::welcomed(gateway);
            ready(&mut raw, &format!("not-a-sources-{i}"));
            raw.say(&frame);
            assert_eq!(failure(&mut raw).0, Code::Protocol, "{frame:?}");
        }
        // Of a job that there is not: passed over.
        let mut raw = Raw::welcomed(gateway);
        raw.say(&Frame::Want { job: JobId(99), ranges: vec![] });
        is_alive(&mut raw);
    });
}

fn an_unknown_version(bed: &Bed) {
    beside(bed, "", |gateway| {
        let mut raw = Raw::connect(gateway);
        raw.say(&Frame::Hello(Hello { version: 0, auth: Auth::None, agent: String::new() }));
        assert_eq!(raw.ending(), Code::Version);
        // A later version: the gateway answers with the one that it speaks.
        let mut raw = Raw::connect(gateway);
        raw.say(&Frame::Hello(Hello { version: 2000, auth: Auth::None, agent: String::new() }));
        match raw.next() {
            Ok(Frame::Welcome(welcome)) => assert_eq!(welcome.version, 1),
            other => panic!("{other:?}"),
        }
    });
}

fn wrong_credentials(bed: &Bed) {
    let config = format!(
        "anonymous = \"loopback\"\n[users.alice]\ntoken_hash = \"blake3:{}\"\n",
        Digest::of(b"the-right-token-of-alice")
    );
    beside(bed, &config, |gateway| {
        for auth in [
            Auth::Bearer("the-wrong-token-of-alice".into()),
            Auth::Bearer(String::new()),
            Auth::Bearer("x".repeat(4096)),
            Auth::Ticket(vec![0; 64]),
            Auth::Ticket(Vec::new()),
        ] {
            assert_eq!(Raw::connect(gateway).hello(auth.clone()), Err(Code::Unauthenticated), "{auth:?}");
        }
        assert_eq!(Raw::connect(gateway).hello(Auth::Bearer("x".repeat(4097))), Err(Code::Limit));
        let welcome = Raw::connect(gateway).hello(Auth::Bearer("the-right-token-of-alice".into())).unwrap();
        assert_eq!(welcome.user, "alice");
        // A ticket that was changed is no ticket.
        let mut ticket = welcome.ticket.clone();
        *ticket.last_mut().unwrap() ^= 1;
        assert_eq!(Raw::connect(gateway).hello(Auth::Ticket(ticket)), Err(Code::Unauthenticated));
        let again = Raw::connect(gateway).hello(Auth::Ticket(welcome.ticket)).unwrap();
        assert_eq!(again.user, "alice");
    });
}

/// It counts once the welcome is given, and not at all where that is not.
fn what_is_said_behind_hello(bed: &Bed) {
    let config = format!(
        "anonymous = \"loopback\"\n[users.alice]\ntoken_hash = \"blake3:{}\"\n",
        Digest::of(b"the-right-token-of-alice")
    );
    beside(bed, &config, |gateway| {
        let manifest = Manifest::default().file("file", b"content");
        let records = Frame::Records { job: JOB, first: 0, records: manifest.records.clone() };
        let remove = Frame::Remove { request: 1, path: "precious".into(), recursive: true };
        std::fs::write(gateway.at("precious"), b"kept").unwrap();
        let rest = [push(JOB, "afterwards", "afterwards"), records, remove];
        let mut refused = Raw::connect(gateway);
        refused.hello_and(Auth::Bearer("the-wrong-token-of-alice".into()), &rest);
        assert_eq!(refused.ending(), Code::Unauthenticated);
        // Whatever it would have begun, it would have begun by now.
        let mut other = Raw::welcomed(gateway);
        is_alive(&mut other);
        assert!(gateway.at("precious").exists());
        assert!(!gateway.log().contains("afterwards"), "{}", gateway.log());

        let mut raw = Raw::connect(gateway);
        raw.hello_and(Auth::Bearer("the-right-token-of-alice".into()), &rest[..2]);
        assert!(matches!(raw.next(), Ok(Frame::Welcome(welcome)) if welcome.user == "alice"));
        assert!(matches!(raw.next(), Ok(Frame::Ready { job: JOB, from_record: 0 })));
        wait_for_want(&mut raw);
        assert!(gateway.log().contains("afterwards"), "{}", gateway.log());
    });
}

fn silence(bed: &Bed) {
    beside(bed, "[limits]\nhandshake_seconds = 1\n", |gateway| {
        let start = Instant::now();
        let mut nothing = Raw::connect(gateway);
        let mut half = Raw::connect(gateway);
        half.say_bytes(&[0x01]).unwrap();
        for raw in [&mut half, &mut nothing] {
            // A stream that nothing was sent on does not exist for the gateway; the link is closed all the same.
            assert_eq!(raw.ending(), Code::Timeout);
        }
        assert!(start.elapsed() > Duration::from_millis(900));
    });
}

fn unknown_frames_are_passed_over(bed: &Bed) {
    beside(bed, "", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        for n in 0..200 {
            let mut bytes = Vec::new();
            varint::put(0x1f * n + 0x21, &mut bytes);
            let len = if n == 7 { 262_144 } else { n };
            varint::put(len, &mut bytes);
            bytes.extend(data::noise(n + 1, len));
            raw.say_bytes(&bytes).unwrap();
        }
        is_alive(&mut raw);
        // A stream of an unknown type is stopped, and the link goes on.
        let mut header = Vec::new();
        varint::put(0x21, &mut header);
        varint::put(1000, &mut header);
        let stopped = raw.stream(header, &data::noise(5, 8 * MIB));
        assert_eq!(stopped, Err(LinkError::StreamStopped(Code::Protocol)));
        is_alive(&mut raw);
    });
}

fn chunk_record(n: u32) -> Record {
    Record::Chunk { len: 256 * 1024, hash: Digest::of(&n.to_le_bytes()) }
}

fn large_file(path: &str, size: u64) -> Record {
    Manifest::default().entry(path, EntryKind::File { size }).records.remove(0)
}

fn a_manifest_of_too_many_chunks(bed: &Bed) {
    beside(bed, "[limits]\nchunks = 5000\n", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        ready(&mut raw, "x");
        raw.records(JOB, 0, &[large_file("large", 1 << 50)]);
        let chunks: Vec<Record> = (0..5001).map(chunk_record).collect();
        raw.records(JOB, 1, &chunks);
        assert_eq!(failure(&mut raw).0, Code::Limit);
        is_alive(&mut Raw::welcomed(gateway));
    });
}

fn a_manifest_of_too_many_entries(bed: &Bed) {
    beside(bed, "[limits]\nentries = 2000\n", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        ready(&mut raw, "x");
        let mut manifest = Manifest::default();
        for i in 0..2001 {
            manifest = manifest.entry(&format!("{i}"), EntryKind::Directory);
        }
        raw.records(JOB, 0, &manifest.records);
        assert_eq!(failure(&mut raw).0, Code::Limit);
        assert!(!gateway.at("x/0").exists());
    });
}

fn a_manifest_larger_than_the_memory_for_it(bed: &Bed) {
    beside(bed, "[limits]\nmanifest_memory_mib = 16\n", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        ready(&mut raw, "x");
        let mut first = 0;
        let mut failed = None;
        // Entries with long names: 400 MB if nobody stopped it.
        'all: for folder in 0..1000 {
            let entry = |i| format!("{}/{folder}-{i}", "long".repeat(60));
            let mut manifest = Manifest::default();
            for i in 0..1500 {
                manifest = manifest.entry(&entry(i), EntryKind::File { size: 0 });
            }
            raw.records(JOB, first, &manifest.records);
            first += 1500;
            while let Some(frame) = raw.next_within(Duration::from_millis(1)) {
                match frame {
                    Ok(Frame::Fail { code, .. }) => {
                        failed = Some(code);
                        break 'all;
                    }
                    Ok(_) => {}
                    Err(code) => {
                        failed = Some(code);
                        break 'all;
                    }
                }
            }
        }
        let code = failed.expect("it is stopped");
        assert!([Code::Limit, Code::Busy].contains(&code), "{code}");
        is_alive(&mut Raw::welcomed(gateway));
    });
}

fn a_manifest_that_claims_a_billion_chunks(bed: &Bed) {
    beside(bed, "", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        ready(&mut raw, "x");
        // As large as a number can be: nothing may be made for it in advance, neither memory nor disk.
        raw.records(JOB, 0, &[large_file("large", varint::MAX)]);
        raw.records(JOB, 1, &(0..100).map(chunk_record).collect::<Vec<_>>());
        raw.say(&Frame::ManifestEnd(ManifestEnd {
            job: JOB,
            records: 1_000_000_000,
            root: Digest::default(),
        }));
        let (code, _) = failure(&mut raw);
        assert!([Code::Protocol, Code::Integrity, Code::Limit].contains(&code), "{code}");
        // An index that no chunk has.
        let mut raw = Raw::welcomed(gateway);
        ready(&mut raw, "y");
        let _ = raw.chunk(JOB, 3_999_999, &data::noise(1, 1000));
        is_alive(&mut raw);
        let mut bytes = Vec::new();
        Frame::Gone { job: JOB, chunk: ChunkIndex(1_000_000_000) }.encode(&mut bytes);
        raw.say_bytes(&bytes).unwrap();
        assert_eq!(raw.ending(), Code::Protocol);
    });
}

fn a_manifest_out_of_order(bed: &Bed) {
    beside(bed, "", |gateway| {
        let withdraw = Record::Withdraw(EntryIndex(5));
        let wrong = [
            // A chunk of nothing.
            vec![chunk_record(0)],
            // An entry before the large file is complete.
            vec![large_file("large", 1 << 30), chunk_record(0), large_file("other", 1 << 30)],
            // More bytes than the file has.
            vec![large_file("large", 300 * 1024), chunk_record(0), chunk_record(1)],
            // A pack of another length than its files.
            vec![large_file("small", 1000), chunk_record(0)],
            // The withdrawal of what is not there.
            vec![large_file("large", 1 << 30), withdraw],
            // The end of a stream that there is not.
            vec![Record::StreamEnd { size: 0 }],
        ];
        for (i, records) in wrong.into_iter().enumerate() {
            let mut raw = Raw::welcomed(gateway);
            ready(&mut raw, &format!("order-{i}"));
            raw.records(JOB, 0, &records);
            assert_eq!(failure(&mut raw).0, Code::Protocol, "{records:?}");
        }
        // An end before the end.
        let mut raw = Raw::welcomed(gateway);
        ready(&mut raw, "early");
        raw.records(JOB, 0, &[large_file("large", 1 << 30), chunk_record(0)]);
        raw.say(&Frame::ManifestEnd(ManifestEnd { job: JOB, records: 2, root: Digest::default() }));
        assert_eq!(failure(&mut raw).0, Code::Protocol);
    });
}

fn a_manifest_with_a_gap(bed: &Bed) {
    beside(bed, "", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        ready(&mut raw, "x");
        let manifest = Manifest::default().file("a", b"a").file("b", b"b");
        raw.records(JOB, 0, &manifest.records[..1]);
        raw.records(JOB, 2, &manifest.records[2..]);
        assert_eq!(failure(&mut raw).0, Code::Protocol);
    });
}

fn a_wrong_root(bed: &Bed) {
    beside(bed, "", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        ready(&mut raw, "x");
        let manifest = Manifest::default().file("a", b"content");
        raw.records(JOB, 0, &manifest.records);
        let end = ManifestEnd { root: Digest::of(b"another"), ..manifest.end(JOB) };
        raw.say(&Frame::ManifestEnd(end));
        assert_eq!(failure(&mut raw).0, Code::Integrity);
        assert!(!gateway.at("x/a").exists());
    });
}

fn chunks_nobody_asked_for(bed: &Bed) {
    beside(bed, "", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        let body = data::noise(41, 4 * MIB);
        for chunk in 0..100 {
            // Of a job that there is not. Whether it is stopped before all of it has been handed over depends.
            match raw.chunk(JobId(77), chunk, &body) {
                Ok(()) | Err(LinkError::StreamStopped(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // Of a job that has not asked for them.
        ready(&mut raw, "x");
        for chunk in 0..100 {
            let _ = raw.chunk(JOB, chunk, &body);
        }
        is_alive(&mut raw);
        // And with them out of the way the job is done as if nothing had been.
        let manifest = Manifest::default().file("a", b"content");
        let outcome = raw.push(JobId(2), "y", &manifest, manifest.honest());
        assert!(outcome.finished.is_some(), "{outcome:?}");
    });
}

fn a_chunk_that_goes_on_and_on(bed: &Bed) {
    beside(bed, "", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        let content = data::noise(42, 300 * KIB);
        let manifest = Manifest::default().large("large", std::slice::from_ref(&content));
        ready(&mut raw, "x");
        raw.records(JOB, 0, &manifest.records);
        raw.say(&Frame::ManifestEnd(manifest.end(JOB)));
        wait_for_want(&mut raw);
        let before = gateway.memory();
        // The length says 300 KiB, and 64 MiB come.
        let header = ChunkHeader { job: JOB, chunk: ChunkIndex(0), len: content.len() as u32 }.encode();
        let mut body = content.clone();
        body.resize(64 << 20, 0);
        let _ = raw.stream(header, &body);
        // A length of more than a chunk may have.
        let mut header = Vec::new();
        for number in [0x20, 1 << 40, JOB.0, 0] {
            varint::put(number, &mut header);
        }
        let stopped = raw.stream(header, &data::noise(43, 8 * MIB));
        assert!(matches!(stopped, Err(LinkError::StreamStopped(_))), "{stopped:?}");
        let after = gateway.memory();
        assert!(after < before + 48 * MIB, "{} KiB became {} KiB", before / KIB, after / KIB);
        // The chunk itself is still welcome, or has been taken already.
        let _ = raw.chunk(JOB, 0, &content);
        loop {
            match raw.next().expect("the link lives") {
                Frame::Finished(_) => break,
                Frame::Fail { code, reason, .. } => panic!("{code}: {reason}"),
                _ => {}
            }
        }
        assert!(std::fs::read(gateway.at("x/large")).unwrap() == content);
    });
}

pub(crate) fn wait_for_want(raw: &mut Raw) {
    loop {
        match raw.next().expect("the link lives") {
            Frame::Want { ranges, .. } if !ranges.is_empty() => return,
            Frame::Fail { code, reason, .. } => panic!("{code}: {reason}"),
            _ => {}
        }
    }
}

fn streams_that_never_begin(bed: &Bed) {
    beside(bed, "", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        // A header that is cut short, at every place.
        let header = ChunkHeader { job: JobId(300), chunk: ChunkIndex(70_000), len: 100_000 }.encode();
        for cut in 0..header.len() {
            let _ = raw.stream(header[..cut].to_vec(), &[]);
        }
        is_alive(&mut raw);
    });
}

fn a_damaged_chunk_is_asked_for_again(bed: &Bed) {
    beside(bed, "", |gateway| {
        let chunks: Vec<Vec<u8>> = (50..53).map(|seed| data::noise(seed, MIB)).collect();
        let manifest = Manifest::default().large("large", &chunks);
        let mut raw = Raw::welcomed(gateway);
        let mut lies = 0;
        let outcome = raw.push(JOB, "x", &manifest, |chunk| {
            let mut body = chunks[chunk as usize].clone();
            if chunk == 1 && lies < 3 {
                lies += 1;
                body[lies * 1000] ^= 1;
            }
            Some(body)
        });
        assert!(outcome.finished.is_some(), "{outcome:?}");
        assert_eq!(outcome.damaged, [1, 1, 1]);
        assert!(std::fs::read(gateway.at("x/large")).unwrap() == chunks.concat());
    });
}

fn a_chunk_that_is_always_damaged(bed: &Bed) {
    beside(bed, "", |gateway| {
        let chunks: Vec<Vec<u8>> = (50..53).map(|seed| data::noise(seed, MIB)).collect();
        let manifest = Manifest::default().large("folder/large", &chunks);
        let mut raw = Raw::welcomed(gateway);
        let outcome = raw.push(JOB, "x", &manifest, |chunk| {
            let mut body = chunks[chunk as usize].clone();
            body[0] ^= u8::from(chunk == 2);
            Some(body)
        });
        let (code, reason) = outcome.failed.clone().expect("it fails");
        assert_eq!(code, Code::Integrity);
        assert!(reason.contains("folder/large") && reason.contains('2'), "{reason}");
        assert_eq!(outcome.damaged.len(), 4, "{outcome:?}");
        assert!(!gateway.at("x/folder/large").exists());
        is_alive(&mut raw);
    });
}

fn too_many_jobs(bed: &Bed) {
    beside(bed, "[limits]\njobs_per_session = 4\n", |gateway| {
        let mut raw = Raw::welcomed(gateway);
        for number in 1..=4 {
            match raw.open(JobId(number), &format!("job {number}"), "x") {
                Frame::Ready { .. } => {}
                frame => panic!("{frame:?}"),
            }
        }
        match raw.open(JobId(5), "job 5", "x") {
            Frame::Fail { code, .. } => assert!([Code::Limit, Code::Busy].contains(&code), "{code}"),
            frame => panic!("{frame:?}"),
        }
        // The same number for another job is a fault.
        match raw.open(JobId(1), "another", "x") {
            Frame::Fail { .. } => {}
            Frame::Ready { .. } => {}
            frame => panic!("{frame:?}"),
        }
        is_alive(&mut raw);
    });
}

fn too_many_requests(bed: &Bed) {
    beside(bed, "", |gateway| {
        for i in 0..2000 {
            std::fs::write(gateway.at(&format!("{i}")), "x").unwrap();
        }
        let mut raw = Raw::welcomed(gateway);
        // Nobody reads the answers.
        for request in 0..2000 {
            raw.say(&Frame::List { request, path: String::new(), depth: 9 });
        }
        let mut other = Raw::welcomed(gateway);
        is_alive(&mut other);
        let mut answered = 0;
        loop {
            match raw.next_or_end(PATIENCE).expect("an answer in time") {
                Ok(Frame::Result { .. }) => answered += 1,
                Ok(_) => {}
                Err(LinkError::ClosedByPeer { code, .. }) => {
                    assert_eq!(code, Code::Limit);
                    break;
                }
                // The flood of answers can take the last packet with it; later ones are of a link that is not known.
                Err(LinkError::Reset) => break,
                Err(error) => panic!("the link is lost: {error}"),
            }
            if answered == 2000 {
                break;
            }
        }
    });
}
