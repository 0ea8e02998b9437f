//! Client and server, over HTTP/1.1 and HTTP/2.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{Pair, fill, pair};
use crate::http::Limits;
use crate::ws::{WsError, WsStream};

const PIPE: usize = 100_000;

/// Pieces of random sizes, with a flush now and then.
async fn send(
    mut to: WriteHalf<WsStream>,
    mut bytes: &[u8],
    mut random: fastrand::Rng,
) -> WriteHalf<WsStream> {
    while !bytes.is_empty() {
        let max = [10, 2000, 70_000, 300_000][random.usize(..4)];
        let (piece, rest) = bytes.split_at(random.usize(1..=max).min(bytes.len()));
        to.write_all(piece).await.unwrap();
        bytes = rest;
        if random.u8(..4) == 0 {
            to.flush().await.unwrap();
        }
    }
    to.flush().await.unwrap();
    to
}

async fn receive(
    mut from: ReadHalf<WsStream>,
    len: usize,
    mut random: fastrand::Rng,
) -> (ReadHalf<WsStream>, Vec<u8>) {
    let mut all = Vec::new();
    while all.len() < len {
        let max = [10, 2000, 70_000, 300_000][random.usize(..4)];
        let mut buf = vec![0; random.usize(1..=max)];
        let n = from.read(&mut buf).await.unwrap();
        assert!(n > 0);
        all.extend_from_slice(&buf[..n]);
    }
    (from, all)
}

async fn both_ways(h2: bool) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let Pair { client, server, .. } = pair(h2, PIPE, Limits::default()).await;
    let mut bytes = |len| {
        let mut bytes = vec![0; len];
        random.fill(&mut bytes);
        bytes
    };
    let (up, down) = (bytes(9_000_000), bytes(8_000_000));
    let (client_read, client_write) = tokio::io::split(client);
    let (server_read, server_write) = tokio::io::split(server);
    let (mut client_write, mut server_write, client_read, server_read) = tokio::join!(
        send(client_write, &up, fastrand::Rng::with_seed(seed + 1)),
        send(server_write, &down, fastrand::Rng::with_seed(seed + 2)),
        receive(client_read, down.len(), fastrand::Rng::with_seed(seed + 3)),
        receive(server_read, up.len(), fastrand::Rng::with_seed(seed + 4)),
    );
    assert!(client_read.1 == down && server_read.1 == up);

    let (mut client_read, mut server_read) = (client_read.0, server_read.0);
    client_write.shutdown().await.unwrap();
    assert_eq!(server_read.read(&mut [0; 9]).await.unwrap(), 0);
    assert_eq!(server_write.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    server_write.shutdown().await.unwrap();
    assert_eq!(client_read.read(&mut [0; 9]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_bytes_both_ways_and_the_end_over_http1() {
    both_ways(false).await;
}

#[tokio::test(start_paused = true)]
async fn many_bytes_both_ways_and_the_end_over_http2() {
    both_ways(true).await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_holds_up_the_writer_and_holds_little() {
    let limits = Limits { window: 300_000, ..Limits::default() };
    for (h2, up_max, down_max) in [(false, 600_000, 600_000), (true, 1_200_000, 35_000_000)] {
        let Pair { mut client, mut server, .. } = pair(h2, PIPE, limits).await;
        let (up, down) = (fill(&mut client).await, fill(&mut server).await);
        assert!(up < up_max, "{h2}: {up}");
        assert!(down < down_max, "{h2}: {down}");

        let (mut all, mut buf) = (0, vec![0; 65_536]);
        tokio::join!(
            async {
                client.write_all(&[7; 1000]).await.unwrap();
                client.shutdown().await.unwrap();
            },
            async {
                loop {
                    match server.read(&mut buf).await.unwrap() {
                        0 => break,
                        n => all += n,
                    }
                }
            }
        );
        assert_eq!(all, up + 1000);
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_of_http2_carries_a_gigabit_at_100_ms() {
    let Pair { mut client, server, .. } = pair(true, PIPE, Limits::default()).await;
    // Nobody reads, so this is what may be on the way: 12.5 MB are needed, also when a half has not been
    // given back.
    let taken = fill(&mut client).await;
    assert!((25_000_000..36_000_000).contains(&taken), "{taken}");
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn an_end_without_close_frame_is_an_error() {
    for h2 in [false, true] {
        for at_server in [false, true] {
            let Pair { client, server, .. } = pair(h2, PIPE, Limits::default()).await;
            let (mut stays, mut goes) = if at_server { (client, server) } else { (server, client) };
            goes.write_all(b"some").await.unwrap();
            goes.flush().await.unwrap();
            drop(goes);
            let mut got = Vec::new();
            let error = stays.read_to_end(&mut got).await.unwrap_err();
            assert_eq!(
                (error.kind(), &got[..]),
                (ErrorKind::UnexpectedEof, &b"some"[..]),
                "{h2} {at_server}"
            );
            assert_eq!(WsError::from(error), WsError::Truncated);
            // And again.
            assert_eq!(stays.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_shut_down_arrives_though_the_stream_is_dropped_at_once() {
    for h2 in [false, true] {
        for at_server in [false, true] {
            let Pair { client, server, .. } = pair(h2, PIPE, Limits::default()).await;
            let (mut stays, mut goes) = if at_server { (client, server) } else { (server, client) };
            let sender = tokio::spawn(async move {
                goes.write_all(&[7; 1_000_000]).await.unwrap();
                goes.shutdown().await.unwrap();
            });
            let mut got = Vec::new();
            stays.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), 1_000_000);
            sender.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_server_is_done_with_the_connection_when_the_client_is() {
    for h2 in [false, true] {
        let Pair { mut client, mut server, served } = pair(h2, PIPE, Limits::default()).await;
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        server.shutdown().await.unwrap();
        drop((client, server));
        served.await.unwrap().unwrap();
    }
}
