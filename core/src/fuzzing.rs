//! What the fuzz targets run, and what the test of their corpus runs on stable Rust.
//!
//! Each function takes arbitrary bytes and panics if a promise of the crate does not hold. No part of the crate's
//! interface.

use std::path::Component;

use crate::id::{ChunkIndex, EntryIndex};
use crate::manifest::{Ledger, LedgerLimits, Record};
use crate::receipt::{SignedReceipt, Statement};
use crate::wire::stream::StreamFrame;
use crate::wire::{ChunkHeader, Frame, FrameDecoder, stream};
use crate::{limits, path};

/// A fuzz target: its name, which is also the name of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("frame_decoder", frame_decoder),
    ("chunk_header", chunk_header),
    ("stream_frame", stream_frame),
    ("records_ledger", records_ledger),
    ("receipt", receipt),
    ("path", self::path),
];

/// A control stream. The first byte says how long the pieces are that it arrives in.
pub fn frame_decoder(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else { return };
    let whole = frames(stream, stream.len().max(1));
    assert_eq!(whole, frames(stream, usize::from(size) + 1), "frames do not depend on how bytes arrive");
    for frame in whole.0 {
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(frames(&again, again.len()), (vec![frame], true), "what was read can be written");
    }
}

/// The frames of a stream, and whether all of it was understood.
fn frames(stream: &[u8], size: usize) -> (Vec<Frame>, bool) {
    let (mut decoder, mut frames) = (FrameDecoder::new(), Vec::new());
    for piece in stream.chunks(size) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, decoder.is_between_frames())
}

/// The front of a byte stream that carries a link.
pub fn stream_frame(data: &[u8]) {
    let mut input = data;
    let Ok(Some((kind, len))) = stream::head(&mut input) else { return };
    assert!(data.len() - input.len() <= stream::HEAD_MAX && len <= stream::PAYLOAD_MAX);
    let Some(payload) = input.get(..len).filter(|_| stream::is_small(kind)) else { return };
    if let Ok(frame) = StreamFrame::decode(kind, payload) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        let mut input = again.as_slice();
        let (kind, len) = stream::head(&mut input).expect("not too long").expect("whole");
        assert_eq!(
            (StreamFrame::decode(kind, input), len),
            (Ok(frame), input.len()),
            "what was read can be written"
        );
    }
}

/// The front of a unidirectional stream.
pub fn chunk_header(data: &[u8]) {
    match ChunkHeader::decode(data) {
        Ok(None) => assert!(data.len() < ChunkHeader::MAX),
        Ok(Some((header, used))) => {
            assert!(used <= ChunkHeader::MAX && (1..=limits::CHUNK_MAX).contains(&(header.len as usize)));
            let again = header.encode();
            assert!(again.len() <= used);
            assert_eq!(ChunkHeader::decode(&again), Ok(Some((header, again.len()))));
            assert_eq!(ChunkHeader::decode(&data[..used - 1]), Ok(None));
        }
        Err(_) => {}
    }
}

/// Records, one after the other, into a ledger.
pub fn records_ledger(data: &[u8]) {
    let mut input = data;
    let mut accepted = Vec::new();
    let small = LedgerLimits { entries: 200, chunks: 200, bytes: 1 << 20 };
    let mut ledger = Ledger::new(small);
    while let Ok(record) = Record::decode(&mut input) {
        let before = (ledger.records(), ledger.bytes(), ledger.finish());
        if ledger.push(&record).is_ok() {
            accepted.push(record);
        } else {
            assert_eq!(
                before,
                (ledger.records(), ledger.bytes(), ledger.finish()),
                "a refusal changes nothing"
            );
        }
        assert!(ledger.memory() <= small.bytes);
    }

    let mut canonical = Vec::new();
    accepted.iter().for_each(|record| record.encode(&mut canonical));
    if accepted.len() as u64 == ledger.records() && canonical.len() == data.len() - input.len() {
        assert_eq!(canonical, data[..canonical.len()], "a record has one encoding");
    }
    assert_eq!(ledger.replay(0).collect::<Vec<_>>(), accepted);
    let mut again = Ledger::new(small);
    for record in &accepted {
        assert!(again.push(record).is_ok(), "what was accepted once is accepted again");
    }
    assert_eq!(again.finish(), ledger.finish());

    let mut in_chunks = 0;
    for index in (0..ledger.chunks()).map(ChunkIndex) {
        let mut at = 0;
        for segment in ledger.segments(index) {
            assert_eq!(segment.at, at);
            assert!(ledger.chunks_of(segment.entry).contains(&index.0));
            at += segment.len;
        }
        assert_eq!(ledger.chunk(index).map(|c| c.len), Some(at), "segments fill the chunk");
        in_chunks += u64::from(at);
    }
    assert_eq!(in_chunks, ledger.chunk_bytes());
    let entries = (0..ledger.entries()).map(EntryIndex);
    let live: u64 =
        entries.filter(|e| !ledger.is_withdrawn(*e)).map(|e| ledger.size_of(e).unwrap_or(0)).sum();
    assert_eq!(live, ledger.bytes());
}

/// A receipt, as bytes and as text, or a statement.
pub fn receipt(data: &[u8]) {
    if let Ok(statement) = Statement::decode(data) {
        assert_eq!(statement.encode(), data, "a statement has one encoding");
    }
    if let Ok(receipt) = SignedReceipt::decode(data) {
        assert_eq!(receipt.encode(), data, "a receipt has one encoding");
        assert_eq!(SignedReceipt::from_text(&receipt.to_text()), Ok(receipt));
    }
    if let Ok(receipt) = SignedReceipt::from_text(&String::from_utf8_lossy(data)) {
        assert_eq!(SignedReceipt::from_text(&receipt.to_text()), Ok(receipt));
    }
}

/// A path and, after a line end, the target of a link at it.
pub fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (name, target) = text.split_once('\n').unwrap_or((&text, ""));
    let normal = path::normal_form(name);
    assert_eq!(path::normal_form(&normal), normal);
    let escapes = path::link_escapes(name, target);
    if path::check(name).is_ok() {
        let joined = path::join("root/dir", name);
        let depth = std::path::Path::new(&joined).components().inspect(|component| {
            assert!(matches!(component, Component::Normal(_)), "{name:?} is not a plain path");
        });
        assert!(depth.count() > 2, "{name:?} is not below its root");
        // The same question asked in another way: fold the whole path, and see whether it falls through the root.
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut stack = Vec::new();
        let whole = path::join(folder, target);
        let below = whole.split('/').all(|component| match component {
            "" | "." => true,
            ".." => stack.pop().is_some(),
            component => {
                stack.push(component);
                true
            }
        });
        assert!(below || escapes, "{name:?} -> {target:?} leaves the root");
    }
}
