//! Any bytes at all, at every place where a peer's bytes arrive: an end, never a panic.

use std::future::pending;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::serve;
use crate::http::Limits;
use crate::ws::connect;
use crate::ws::frame::Role;
use crate::ws::stream::WsStream;

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

/// What is likelier to get far than random bytes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(vec![
            &b"HTTP/1.1 101 X\r\n"[..],
            b"GET /mtp?x=1 HTTP/1.1\r\nHost: a\r\n",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0\0\0\x04\0\0\0\0\0",
            b"\0\0\x06\x04\0\0\0\0\0\0\x08\0\0\0\x01",
            b"\0\0\x01\x01\x05\0\0\0\x01\x88",
            b"\x82\x85\0\0\0\0",
            b"\x89\x00",
            b"\x88\x02\x03\xe8",
        ])
        .prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn of_a_server(bytes in bytes(), h2: bool) {
        run(async {
            let (a, mut b) = duplex(10_000);
            b.write_all(&bytes).await.unwrap();
            tokio::spawn(async move {
                let _ = b.read(&mut [0; 1000]).await;
            });
            // No key, no subprotocol: no WebSocket.
            assert!(connect(Box::new(a), h2, "a", "/").await.is_err());
        });
    }

    #[test]
    fn of_a_client(bytes in bytes(), h2: bool) {
        run(async {
            let (mut a, b) = duplex(100_000);
            let (_, served) = serve(b, h2, Limits::default(), pending());
            a.write_all(&bytes).await.unwrap();
            a.shutdown().await.unwrap();
            let mut answers = Vec::new();
            let _ = a.read_to_end(&mut answers).await;
            drop(a);
            let _ = served.await.unwrap();
        });
    }

    #[test]
    fn of_an_open_websocket(bytes in bytes(), client: bool) {
        run(async {
            let (a, mut b) = duplex(10_000);
            let role = if client { Role::Client } else { Role::Server };
            let mut ws = WsStream::new(Box::new(a), role, None);
            b.write_all(&bytes).await.unwrap();
            b.shutdown().await.unwrap();
            let _ = ws.read_to_end(&mut Vec::new()).await;
            let _ = ws.write_all(b"x").await;
            let _ = ws.shutdown().await;
        });
    }
}
