//! Two links over a pipe in memory, on a clock that stands while nobody waits for it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metra_core::code::Code;
use metra_core::rate::{Policy, RatePolicy};
use metra_transport::{ControlRecv, Link, LinkError, LinkKind, Rt};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use metra_core::wire::stream::{self as frame, StreamFrame};

const PIPE: usize = 64 * 1024;

fn link(stream: DuplexStream) -> Arc<dyn Link> {
    let opened = Opened {
        kind: LinkKind::Tls,
        peer: "192.0.2.1:4443".parse().unwrap(),
        certificates: None,
        rtt: None,
        key: None,
    };
    StreamLink::start(&Rt::tokio(), Box::new(stream), opened, LinkTuning::default())
}

fn linked() -> (Arc<dyn Link>, Arc<dyn Link>) {
    let (a, b) = tokio::io::duplex(PIPE);
    (link(a), link(b))
}

/// A link, and the bytes of the other side.
fn raw() -> (Arc<dyn Link>, DuplexStream) {
    let (a, b) = tokio::io::duplex(PIPE);
    (link(a), b)
}

async fn expect(recv: &mut Box<dyn ControlRecv>, bytes: &[u8]) {
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        got.extend_from_slice(&recv.recv().await.unwrap().expect("not finished"));
    }
    assert_eq!(got, bytes);
}

async fn read_chunk(link: &Arc<dyn Link>) -> Result<Vec<u8>, LinkError> {
    let mut chunk = link.accept_chunk().await?;
    let mut whole = BytesMut::new();
    while chunk.read(&mut whole, usize::MAX).await? > 0 {}
    Ok(whole.to_vec())
}

fn body(len: usize) -> Bytes {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn control_runs_both_ways_and_ends() {
    let (client, server) = linked();
    let (mut send, mut recv) = client.control().await.unwrap();
    let (mut answer, mut asked) = server.control().await.unwrap();
    assert!(matches!(client.control().await, Err(LinkError::Protocol(_))));
    let long = body(700_000);
    let sending = async { send.send(long.clone()).await.unwrap() };
    tokio::join!(sending, expect(&mut asked, &long));
    answer.send(Bytes::from_static(b"yes")).await.unwrap();
    expect(&mut recv, b"yes").await;
    let reading = async { assert_eq!(asked.recv().await, Ok(None)) };
    let (finished, ()) = tokio::join!(send.finish(), reading);
    assert_eq!(finished, Ok(()), "the peer has read everything");
    assert!(send.send(Bytes::from_static(b"x")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn chunks_run_both_ways_and_count() {
    let (client, server) = linked();
    for (from, to) in [(&client, &server), (&server, &client)] {
        for len in [1, PIECE_AND_MORE, 4 << 20] {
            let whole = body(len);
            let parts = vec![whole.slice(..len / 3), whole.slice(len / 3..)];
            let (sent, got) =
                tokio::join!(from.send_chunk(Bytes::from_static(b"head"), parts, 0), read_chunk(to));
            assert_eq!(sent, Ok(()));
            assert_eq!(got.unwrap(), [b"head", &whole[..]].concat());
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (ours, theirs) = (client.stats(), server.stats());
    assert!(ours.sent_bytes > 4 << 20 && ours.sent_bytes == theirs.received_bytes, "{ours:?} {theirs:?}");
    assert!(ours.acked_bytes + 100 > ours.sent_bytes, "what has arrived is known: {ours:?}");
}
const PIECE_AND_MORE: usize = 64 * 1024 + 5;

#[tokio::test(start_paused = true)]
async fn a_read_gives_no_more_than_asked_for() {
    let (client, server) = linked();
    client.send_chunk(body(10), vec![body(1000)], 0).await.unwrap();
    let mut chunk = server.accept_chunk().await.unwrap();
    let mut into = BytesMut::new();
    assert_eq!(chunk.read(&mut into, 10).await, Ok(10));
    assert_eq!(into, body(10));
    while chunk.read(&mut into, 7).await.unwrap() > 0 {}
    assert_eq!((into.len(), chunk.read(&mut into, 7).await), (1010, Ok(0)));
}

#[tokio::test(start_paused = true)]
async fn what_is_urgent_goes_first() {
    let (client, server) = linked();
    // Nobody reads: the first one fills the pipe.
    let first = client.send_chunk(body(1), vec![body(1 << 20)], 0);
    tokio::pin!(first);
    assert!(futures_util::poll!(&mut first).is_pending());
    tokio::task::yield_now().await;
    let ordinary = client.send_chunk(Bytes::from_static(b"ordinary"), Vec::new(), 0);
    let urgent = client.send_chunk(Bytes::from_static(b"urgent"), Vec::new(), 1);
    tokio::pin!(ordinary, urgent);
    assert!(futures_util::poll!(&mut ordinary).is_pending() && futures_util::poll!(&mut urgent).is_pending());
    let (mut send, _recv) = client.control().await.unwrap();
    send.send(Bytes::from_static(b"control")).await.unwrap();

    let (_answer, mut control) = server.control().await.unwrap();
    let mut big = server.accept_chunk().await.unwrap();
    let mut into = BytesMut::new();
    // Control arrives while the chunk before it is still under way.
    while into.len() < 512 << 10 {
        big.read(&mut into, 64 << 10).await.unwrap();
    }
    expect(&mut control, b"control").await;
    while big.read(&mut into, 1 << 20).await.unwrap() > 0 {}
    assert_eq!(read_chunk(&server).await.unwrap(), b"urgent");
    assert_eq!(read_chunk(&server).await.unwrap(), b"ordinary");
    let (first, urgent, ordinary) = tokio::join!(first, urgent, ordinary);
    assert_eq!((first, urgent, ordinary), (Ok(()), Ok(()), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_chunk_is_reset_and_the_next_one_arrives() {
    let (client, server) = linked();
    {
        let mut sending = client.send_chunk(body(3), vec![body(8 << 20)], 0);
        let mut chunk = tokio::select! {
            _ = &mut sending => panic!("nobody has read it"),
            chunk = server.accept_chunk() => chunk.unwrap(),
        };
        let mut never_begun = client.send_chunk(Bytes::from_static(b"never"), Vec::new(), 0);
        assert!(futures_util::poll!(&mut never_begun).is_pending());
        let _ = chunk.read(&mut BytesMut::new(), 10).await.unwrap();
        // Both are dropped here; the reader goes on to the end.
        drop((never_begun, sending));
        let mut into = BytesMut::new();
        let end = loop {
            match chunk.read(&mut into, 1 << 20).await {
                Ok(1..) => {}
                end => break end,
            }
        };
        assert_eq!(end, Err(LinkError::StreamReset(Code::Cancelled)));
    }
    let (sent, got) = tokio::join!(client.send_chunk(body(9), vec![], 0), read_chunk(&server));
    assert_eq!((sent, got.unwrap()), (Ok(()), body(9).to_vec()));
}

#[tokio::test(start_paused = true)]
async fn stopping_a_chunk_reaches_the_sender() {
    let (client, server) = linked();
    let refuse = async {
        let mut chunk = server.accept_chunk().await.unwrap();
        chunk.stop(Code::Protocol);
        drop(chunk);
        read_chunk(&server).await.unwrap()
    };
    let send = async {
        let stopped = client.send_chunk(body(1), vec![body(8 << 20)], 0).await;
        assert_eq!(stopped, Err(LinkError::StreamStopped(Code::Protocol)));
        client.send_chunk(body(2), vec![], 0).await.unwrap();
    };
    let (got, ()) = tokio::join!(refuse, send);
    assert_eq!(got, body(2), "the link lives on");
    assert!(server.stats().received_bytes < 1 << 20, "most of it is not sent");
}

#[tokio::test(start_paused = true)]
async fn close_codes_travel() {
    let (client, server) = linked();
    client.close(Code::Busy, "try later");
    client.close(Code::Ok, "ignored");
    assert_eq!(client.closed().await, LinkError::ClosedLocally);
    let why = LinkError::ClosedByPeer { code: Code::Busy, reason: "try later".to_owned() };
    assert_eq!(server.closed().await, why);
    assert_eq!(server.accept_chunk().await.unwrap_err(), why);
    assert_eq!(server.send_chunk(body(1), vec![], 0).await, Err(why));
    assert_eq!(client.send_chunk(body(1), vec![], 0).await, Err(LinkError::ClosedLocally));
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_link() {
    let (client, server) = linked();
    let (send, recv) = client.control().await.unwrap();
    drop(client);
    let waiting = tokio::time::timeout(Duration::from_secs(3), server.closed()).await;
    assert!(waiting.is_err(), "its control stream is still held");
    drop(recv);
    drop(send);
    let closed = tokio::time::timeout(Duration::from_secs(1), server.closed()).await.unwrap();
    assert!(matches!(closed, LinkError::ClosedByPeer { .. }), "{closed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_away_is_noticed() {
    let (client, other) = raw();
    drop(other);
    let error = client.closed().await;
    assert!(error.is_retryable(), "{error:?}");
    assert!(client.control().await.unwrap().0.send(body(5)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_lives_and_a_silent_peer_does_not() {
    let (client, server) = linked();
    tokio::time::sleep(Duration::from_secs(300)).await;
    client.send_chunk(body(1), vec![], 0).await.unwrap();
    assert_eq!(read_chunk(&server).await.unwrap(), body(1));

    let (client, other) = raw();
    let started = tokio::time::Instant::now();
    assert_eq!(client.closed().await, LinkError::TimedOut);
    let took = started.elapsed();
    assert!((Duration::from_secs(30)..Duration::from_secs(32)).contains(&took), "{took:?}");
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn who_lets_go_of_the_control_stream_may_still_say_why() {
    let closed = |code, reason: &str| LinkError::ClosedByPeer { code, reason: reason.to_owned() };
    let (client, server) = linked();
    drop(server.control().await.unwrap());
    tokio::task::yield_now().await;
    server.close(Code::Unauthenticated, "no");
    assert_eq!(client.closed().await, closed(Code::Unauthenticated, "no"));

    let (client, server) = linked();
    drop(server.control().await.unwrap());
    assert_eq!(client.closed().await, closed(Code::Cancelled, "the control stream was given up"));

    let (client, server) = linked();
    drop((server.control().await.unwrap(), server));
    assert_eq!(client.closed().await, closed(Code::Cancelled, "the control stream was given up"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_holds_the_sender_but_not_the_link() {
    let (client, server) = linked();
    let sending = client.send_chunk(body(1), vec![body(64 << 20)], 0);
    tokio::pin!(sending);
    let chunk = tokio::select! {
        _ = &mut sending => panic!("64 MiB fit nowhere"),
        chunk = server.accept_chunk() => chunk.unwrap(),
    };
    let waiting = tokio::time::timeout(Duration::from_secs(20), &mut sending).await;
    assert!(waiting.is_err(), "nobody reads");
    let held = server.stats().received_bytes;
    assert!(held < 3 << 20, "the receiving side holds {held} bytes");
    drop(chunk);
    let stopped = tokio::time::timeout(Duration::from_secs(5), sending).await.unwrap();
    assert_eq!(stopped, Err(LinkError::StreamStopped(Code::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn a_ceiling_is_kept_and_other_policies_are_not_known() {
    let (client, server) = linked();
    for policy in [Policy::Low, Policy::High, Policy::Fixed] {
        assert!(!client.set_rate(RatePolicy::new(policy, Some(1_000_000)).unwrap()));
    }
    assert!(client.set_rate(RatePolicy::new(Policy::Fair, Some(8_000_000)).unwrap()));
    let started = tokio::time::Instant::now();
    let (sent, got) = tokio::join!(client.send_chunk(body(1), vec![body(4_000_000)], 0), read_chunk(&server));
    assert!(sent.is_ok() && got.is_ok());
    let took = started.elapsed().as_secs_f64();
    assert!((3.9..4.1).contains(&took), "4 MB at 8 Mbit/s took {took} s");
}

#[tokio::test(start_paused = true)]
async fn round_trips_are_measured() {
    let (client, mut other) = raw();
    // Answers each ping after 80 ms, by hand.
    let mut bytes = BytesMut::new();
    for number in 0..3 {
        let ping = loop {
            let mut input = &bytes[..];
            match frame::head(&mut input).unwrap() {
                Some((kind, len)) if input.len() >= len => {
                    let head = bytes.len() - input.len();
                    let frame = StreamFrame::decode(kind, &input[..len]).unwrap();
                    let _ = bytes.split_to(head + len);
                    break frame;
                }
                _ => assert!(other.read_buf(&mut bytes).await.unwrap() > 0),
            }
        };
        assert_eq!(ping, StreamFrame::Ping(number));
        tokio::time::sleep(Duration::from_millis(80)).await;
        let mut pong = Vec::new();
        // One that was not asked for does not count.
        StreamFrame::Pong(number + 7, 1 << 40).encode(&mut pong);
        StreamFrame::Pong(number, 1 << 40).encode(&mut pong);
        other.write_all(&pong).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let stats = client.stats();
    assert_eq!((stats.rtt, stats.min_rtt), (Duration::from_millis(80), Duration::from_millis(80)));
    assert!(stats.acked_bytes <= stats.sent_bytes, "a peer cannot have read more than was sent");
}

#[tokio::test(start_paused = true)]
async fn whoever_shows_another_key_is_noticed() {
    let end = |stream, key| {
        let peer = "192.0.2.1:4443".parse().unwrap();
        let opened = Opened { kind: LinkKind::WebSocket, peer, certificates: None, rtt: None, key };
        StreamLink::start(&Rt::tokio(), Box::new(stream), opened, LinkTuning::default())
    };
    for (shown, inspected) in [(7, false), (8, true)] {
        let (a, b) = tokio::io::duplex(PIPE);
        let client = end(a, Some(Key::Shown([shown; 32])));
        assert_eq!(client.is_inspected(), None, "the gateway has said nothing yet");
        let gateway = end(b, Some(Key::Own([7; 32])));
        assert_eq!(client.find_out_whether_inspected().await, Some(inspected));
        assert_eq!(client.is_inspected(), Some(inspected));
        assert_eq!(gateway.find_out_whether_inspected().await, Some(inspected));
        assert_eq!(gateway.is_inspected(), Some(inspected));
    }
    let (client, other) = tokio::io::duplex(PIPE);
    let client = end(client, Some(Key::Shown([1; 32])));
    drop(other);
    assert_eq!(client.find_out_whether_inspected().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_the_format_is_told() {
    let mut too_long = Vec::new();
    frame::put_head(frame::CONTROL, frame::PAYLOAD_MAX + 1, &mut too_long);
    for bytes in [&too_long[..], &[0x33, 0x00], &[0x38, 0x02, 0x00, 0x05], b"GET / HTTP/1.1\r\n\r\n\xff\xff"]
    {
        let (client, mut other) = raw();
        other.write_all(bytes).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(40), client.closed()).await.unwrap();
        // What asks for more than it sends is only noticed by its silence.
        assert!(matches!(closed, LinkError::Protocol(_) | LinkError::TimedOut), "{bytes:x?}: {closed:?}");
        let mut said = Vec::new();
        other.read_to_end(&mut said).await.unwrap();
        if let LinkError::Protocol(reason) = closed {
            let mut close = Vec::new();
            StreamFrame::Close(Code::Protocol, reason).encode(&mut close);
            assert!(said.ends_with(&close), "{said:x?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn small_pieces_hold_little_memory() {
    let (client, mut other) = raw();
    let (_send, mut control) = client.control().await.unwrap();
    let mut one = Vec::new();
    frame::put_head(frame::CONTROL, 1, &mut one);
    one.push(7);
    for _ in 0..20_000 {
        other.write_all(&one).await.unwrap();
        tokio::task::yield_now().await;
    }
    for _ in 0..20_000 {
        assert_eq!(control.recv().await.unwrap().unwrap(), &[7u8][..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_end_in_an_orderly_way(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        kinds in prop::collection::vec((0x30u64..0x3a, prop::collection::vec(any::<u8>(), 0..20)), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (client, mut other) = raw();
            let (_send, mut control) = client.control().await.unwrap();
            for (kind, payload) in kinds {
                let mut frame = Vec::new();
                frame::put_head(kind, payload.len(), &mut frame);
                frame.extend(payload);
                // It may be closed already.
                let _ = other.write_all(&frame).await;
            }
            let _ = other.write_all(&bytes).await;
            drop(other);
            client.closed().await;
            while let Ok(Some(_)) = control.recv().await {}
            while let Ok(mut chunk) = client.accept_chunk().await {
                while let Ok(1..) = chunk.read(&mut BytesMut::new(), 1000).await {}
            }
        });
    }
}
