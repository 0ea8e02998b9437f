//! Links of MTP through tunnels, from end to end in this process.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use metra_transport::quic::{QuicClient, Tuning};
use metra_transport::{Link, LinkKind, Packets, Rt};

use crate::client::{self, Opened};
use crate::server::Tunnel;
use crate::testing::{PATIENCE, Proxy, Way, soon, target};

const CHUNK: usize = 1 << 20;
const CHUNKS: u8 = 20;

/// A link within a tunnel: its ends, and what they need.
async fn link(proxy: &Proxy, near: &Opened, far: Tunnel) -> (Arc<dyn Link>, Arc<dyn Link>) {
    let rt = Rt::tokio();
    let far = Arc::new(far.carrier);
    let server = proxy.quic.beside(far).unwrap();
    let client =
        QuicClient::over(rt.clone(), near.carrier.clone(), proxy.tls.clone(), Tuning::default()).unwrap();
    let (near, far) = soon(async {
        tokio::join!(client.connect(near.carrier.peer(), "localhost"), async {
            server.accept().await.unwrap().accept().await.unwrap().into_link().unwrap()
        })
    })
    .await;
    let near = near.unwrap();
    soon(far.handshake_confirmed()).await.unwrap();
    assert_eq!((near.kind(), far.kind()), (LinkKind::Masque, LinkKind::Masque));
    (near, far)
}

/// Says hello and sends 20 MB.
async fn use_it(near: Arc<dyn Link>, far: Arc<dyn Link>, what: &str) {
    let (mut up, mut down) = (near.control().await.unwrap(), None);
    up.0.send(Bytes::from_static(b"hello")).await.unwrap();
    let down = down.insert(soon(far.control()).await.unwrap());
    assert_eq!(soon(down.1.recv()).await.unwrap().unwrap(), "hello", "{what}");
    let sender = near.clone();
    let sending = tokio::spawn(async move {
        for n in 0..CHUNKS {
            let body = vec![Bytes::from(vec![n; CHUNK])];
            sender.send_chunk(Bytes::from(vec![n]), body, 0).await.unwrap();
        }
    });
    let mut seen = [false; CHUNKS as usize];
    // A busy machine that loses many of the long packets makes QUIC go back to short ones, for a minute.
    let mut has_grown = false;
    for _ in 0..CHUNKS {
        has_grown |= near.stats().mtu > 1200;
        let mut chunk = soon(far.accept_chunk()).await.unwrap();
        let mut bytes = BytesMut::new();
        while soon(chunk.read(&mut bytes, 1 << 20)).await.unwrap() > 0 {}
        assert_eq!(bytes.len(), CHUNK + 1, "{what}");
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{what}");
        seen[usize::from(bytes[0])] = true;
    }
    sending.await.unwrap();
    assert_eq!(seen, [true; CHUNKS as usize], "{what}");
    // On a busy machine 20 MB may be there before the first packet that tries for more is.
    let began = Instant::now();
    while !has_grown && near.stats().mtu <= 1200 {
        assert!(began.elapsed() < PATIENCE, "{what}: {:?}", near.stats());
        near.send_chunk(Bytes::from_static(b"more"), Vec::new(), 0).await.unwrap();
        let mut chunk = soon(far.accept_chunk()).await.unwrap();
        while soon(chunk.read(&mut BytesMut::new(), 1 << 20)).await.unwrap() > 0 {}
        Rt::tokio().sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_runs_through_tunnels_of_all_kinds() {
    let mut proxy = Proxy::start().await;
    for way in Way::ALL {
        let (near, far) = proxy.tunnel(way).await;
        let (client, server) = link(&proxy, &near, far).await;
        use_it(client, server, &format!("{way:?}")).await;
        assert_eq!(near.carrier.is_by_datagram(), way == Way::Http3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_runs_through_two_proxies() {
    let rt = Rt::tokio();
    let first = Proxy::start().await.relaying();
    let mut second = Proxy::start().await;
    let leads_to_second = target("127.0.0.1", second.address.port());
    let tuning = Tuning::default();
    let outer =
        soon(client::over_http3(&rt, &first.hop(), first.address, &leads_to_second, &tuning)).await.unwrap();
    let there = target("target.example", 443);
    let near = soon(client::over_tunnel(&rt, &second.hop(), outer, &there, &tuning)).await.unwrap();
    let (_, far) = second.granted().await;
    let (client, server) = link(&second, &near, far).await;
    use_it(client, server, "two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_lost_at_once_when_its_tunnel_ends() {
    let mut proxy = Proxy::start().await;
    for way in Way::ALL {
        for far_first in [false, true] {
            let (near, far) = proxy.tunnel(way).await;
            let far = Arc::new(far.carrier);
            let server = proxy.quic.beside(far.clone()).unwrap();
            let rt = Rt::tokio();
            let client =
                QuicClient::over(rt.clone(), near.carrier.clone(), proxy.tls.clone(), Tuning::default())
                    .unwrap();
            let (link, other) = soon(async {
                tokio::join!(client.connect(near.carrier.peer(), "localhost"), async {
                    server.accept().await.unwrap().accept().await.unwrap().into_link().unwrap()
                })
            })
            .await;
            let link = link.unwrap();
            let began = rt.now();
            let ended = if far_first { &far } else { &near.carrier };
            ended.finish();
            // The end that finishes hears of it when the other one has finished, too.
            let (lost, last) = if far_first { (&link, &other) } else { (&other, &link) };
            assert!(soon(lost.accept_chunk()).await.is_err(), "{way:?}");
            if far_first {
                near.carrier.finish();
            } else {
                assert!(soon(server.accept()).await.is_none(), "{way:?}");
                far.finish();
            }
            assert!(soon(last.accept_chunk()).await.is_err(), "{way:?}");
            assert!(began.elapsed() < SOON, "{way:?}: {:?}", began.elapsed());
        }
    }
}

/// Far less than after silence.
const SOON: Duration = Duration::from_secs(2);
