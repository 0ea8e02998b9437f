//! One end against raw frames.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::fill;
use crate::ws::WsError;
use crate::ws::frame::Role;
use crate::ws::stream::WsStream;

fn client(pipe: usize) -> (WsStream, DuplexStream) {
    let (a, b) = duplex(pipe);
    (WsStream::new(Box::new(a), Role::Client, None), b)
}

fn server(pipe: usize) -> (WsStream, DuplexStream) {
    let (a, b) = duplex(pipe);
    (WsStream::new(Box::new(a), Role::Server, None), b)
}

/// What `ws` makes of `bytes` with nothing after them: its payload, its error, and the close code that it
/// answers.
async fn read(bytes: &[u8]) -> (Vec<u8>, Result<(), WsError>, Option<u16>) {
    let (mut ws, mut raw) = client(100_000);
    raw.write_all(bytes).await.unwrap();
    let mut got = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(1), ws.read_to_end(&mut got)).await.unwrap();
    drop(ws);
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await.unwrap();
    let code = match answer[..] {
        [0x88, _, k0, k1, _, _, c0, c1, ..] => Some(u16::from_be_bytes([c0 ^ k0, c1 ^ k1])),
        [] => None,
        _ => panic!("{answer:?}"),
    };
    (got, ended.map(drop).map_err(WsError::from), code)
}

#[tokio::test(start_paused = true)]
async fn text_long_messages_and_broken_rules_end_it_with_their_codes() {
    let long = [&b"\x82\x7f\0\0\0\0\0\x10\0\x01"[..], b"begun"].concat();
    assert_eq!(read(&long).await, (vec![], Err(WsError::TooLong { limit: 1 << 20 }), Some(1009)));
    assert_eq!(read(b"\x82\x02ab\x81\x02hi").await, (b"ab".to_vec(), Err(WsError::Text), Some(1003)));
    let (got, error, code) = read(b"\x82\x02ab\x83\x00").await;
    assert_eq!((&got[..], code), (&b"ab"[..], Some(1002)));
    assert!(matches!(error, Err(WsError::Protocol(_))), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_of_the_greatest_length_passes_as_it_arrives() {
    let (mut ws, mut raw) = client(10_000);
    raw.write_all(b"\x82\x7f\0\0\0\0\0\x10\0\0begun").await.unwrap();
    let mut got = [0; 5];
    ws.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"begun");
}

#[tokio::test(start_paused = true)]
async fn close_frames_are_answered_and_only_those_of_success_are_an_end() {
    assert_eq!(read(b"\x82\x02ab\x88\x00trailing").await, (b"ab".to_vec(), Ok(()), Some(1000)));
    assert_eq!(read(b"\x88\x02\x03\xe8").await, (vec![], Ok(()), Some(1000)));
    let away = WsError::Closed { code: 1001, reason: "bye".into() };
    assert_eq!(read(b"\x88\x05\x03\xe9bye").await, (vec![], Err(away), Some(1001)));
}

#[tokio::test(start_paused = true)]
async fn an_end_within_a_frame_or_between_two_is_an_error() {
    for bytes in [&b""[..], b"\x82", b"\x82\x05ab", b"\x02\x02ab", b"\x82\x02ab"] {
        let (mut ws, mut raw) = client(100);
        raw.write_all(bytes).await.unwrap();
        drop(raw);
        let error = ws.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_while_somebody_reads_and_many_cost_no_memory() {
    let (mut ws, mut raw) = server(100);
    tokio::spawn(async move { ws.read(&mut [0]).await });
    raw.write_all(b"\x89\x84\x01\x01\x01\x01qhof").await.unwrap();
    let mut pong = [0; 6];
    raw.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\x8a\x04ping");

    // Nobody reads the answers, and yet all pings are taken.
    for _ in 0..10_000 {
        raw.write_all(b"\x89\x84\x01\x01\x01\x01qhof").await.unwrap();
    }
    let mut answers = vec![0; 600];
    raw.read_exact(&mut answers[..6 * 17]).await.unwrap();
    assert!(answers.starts_with(b"\x8a\x04ping"));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_waits_is_woken_though_the_reader_answers_a_ping_meanwhile() {
    let (mut ws, mut raw) = server(1000);
    let before = fill(&mut ws).await;
    let (mut read, mut write) = tokio::io::split(ws);
    let writer = tokio::spawn(async move {
        write.write_all(&[7; 200_000]).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let reader = tokio::spawn(async move {
        assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    raw.write_all(b"\x89\x80\x01\x01\x01\x01").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut all = Vec::new();
    let mut buf = [0; 777];
    while !all.ends_with(&[0x88, 0x02, 0x03, 0xe8]) {
        let n = raw.read(&mut buf).await.unwrap();
        all.extend_from_slice(&buf[..n]);
    }
    writer.await.unwrap();
    assert!(all.windows(2).any(|two| two == [0x8a, 0x00]), "no pong");
    assert!(all.len() > before + 200_000);
    raw.write_all(b"\x88\x80\x01\x01\x01\x01").await.unwrap();
    reader.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn small_writes_are_collected_and_several_buffers_are_one_message() {
    let (mut ws, mut raw) = server(10_000);
    ws.write_all(b"a").await.unwrap();
    let bufs = [std::io::IoSlice::new(b"head"), std::io::IoSlice::new(b""), std::io::IoSlice::new(b"body")];
    assert_eq!(ws.write_vectored(&bufs).await.unwrap(), 8);
    let mut buf = [0; 100];
    assert!(tokio::time::timeout(Duration::from_secs(1), raw.read(&mut buf)).await.is_err());
    ws.flush().await.unwrap();
    let n = raw.read(&mut buf).await.unwrap();
    assert_eq!(&buf[..n], b"\x82\x01a\x82\x08headbody");
}

#[tokio::test(start_paused = true)]
async fn every_frame_of_a_client_has_another_key() {
    let (mut ws, mut raw) = client(100_000);
    for _ in 0..500 {
        ws.write_all(b"x").await.unwrap();
    }
    ws.flush().await.unwrap();
    let mut wire = vec![0; 500 * 7];
    raw.read_exact(&mut wire).await.unwrap();
    let keys: std::collections::HashSet<_> = wire.chunks(7).map(|frame| frame[2..6].to_vec()).collect();
    assert!(keys.len() > 490);
}
