//! Tunnels over all versions of HTTP, from end to end.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::http3::Client;
use crate::proto::capsule;
use crate::server::Tunnel;
use crate::testing::{PATIENCE, Proxy, Way, recv, soon, target};

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// Sends when there is room.
async fn send(carrier: &Carrier, payload: &[u8]) {
    soon(poll_fn(|cx| carrier.poll_room(cx))).await;
    carrier.try_send(payload).unwrap();
}

/// Gives the proxy's packets time to grow.
async fn until_wide(near: &Carrier, far: &Carrier) {
    let began = std::time::Instant::now();
    while !near.is_by_datagram() || !far.is_by_datagram() {
        assert!(began.elapsed() < PATIENCE, "{near:?} {far:?}");
        near.try_send(b"up").unwrap();
        recv(far).await.unwrap();
        far.try_send(b"down").unwrap();
        recv(near).await.unwrap();
        Rt::tokio().sleep(Duration::from_millis(2)).await;
    }
}

fn largest(carrier: &Carrier) -> usize {
    match carrier.by_datagram() {
        Some(datagrams) => datagrams.out.sender.max_payload().unwrap(),
        None => crate::proto::UDP_PAYLOAD_MAX,
    }
}

#[tokio::test]
async fn payloads_of_all_lengths_go_both_ways() {
    let mut proxy = Proxy::start().await;
    for way in Way::ALL {
        let (near, far) = proxy.tunnel(way).await;
        if way == Way::Http3 {
            until_wide(&near.carrier, &far.carrier).await;
        }
        for (from, to) in [(&*near.carrier, &far.carrier), (&far.carrier, &*near.carrier)] {
            for length in [0, 1, 1200, largest(from), 2] {
                let payload = vec![length as u8; length];
                send(from, &payload).await;
                assert!(recv(to).await.unwrap() == payload, "{way:?}: {length} bytes");
            }
            let longer = vec![0; largest(from).max(65_000) + 600];
            assert_eq!(from.try_send(&longer), Err(SendError::TooLarge), "{way:?}");
            assert_eq!(from.lost(), (0, 1));
        }
        assert_eq!(near.carrier.is_by_datagram(), way == Way::Http3, "{way:?}");
    }
}

#[tokio::test]
async fn a_tunnel_that_is_ended_in_order_has_finished() {
    let mut proxy = Proxy::start().await;
    for way in Way::ALL {
        let (near, far) = proxy.tunnel(way).await;
        near.carrier.try_send(b"last").unwrap();
        // A datagram may be overtaken by the end of the stream, and is received before it is noticed all the same.
        assert_eq!(recv(&far.carrier).await.unwrap(), "last");
        near.carrier.finish();
        assert_eq!(recv(&far.carrier).await, Err(Ended::Finished), "{way:?}");
        assert_eq!(recv(&far.carrier).await, Err(Ended::Finished), "it comes again");
        let error = soon(poll_fn(|cx| Packets::poll_recv(&far.carrier, cx))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        far.carrier.finish();
        assert_eq!(recv(&near.carrier).await, Err(Ended::Finished), "{way:?}");
    }
}

#[tokio::test]
async fn a_tunnel_that_is_dropped_is_lost() {
    let mut proxy = Proxy::start().await;
    let (near, far) = proxy.tunnel(Way::Http3).await;
    drop(far);
    assert!(matches!(recv(&near.carrier).await, Err(Ended::Lost(_))));
    // Over a stream the end is all that there is; within TLS it is cut.
    for way in [Way::Http2, Way::Http1] {
        let (near, far) = proxy.tunnel(way).await;
        drop(far);
        assert!(recv(&near.carrier).await.is_err(), "{way:?}");
    }
}

/// The proxy closes its socket at once, and knows that nothing is missing.
#[tokio::test]
async fn a_client_that_drops_its_tunnel_ends_it_in_order() {
    let mut proxy = Proxy::start().await;
    for way in Way::ALL {
        let (near, far) = proxy.tunnel(way).await;
        near.carrier.try_send(b"last").unwrap();
        assert_eq!(recv(&far.carrier).await.unwrap(), "last");
        // Something may still send through it, such as QUIC that is about to end.
        let carrier = near.carrier.clone();
        drop(near);
        assert_eq!(recv(&far.carrier).await, Err(Ended::Finished), "{way:?}");
        drop((carrier, far));
    }
}

#[tokio::test]
async fn a_client_that_closes_its_tunnel_has_told_the_proxy() {
    let mut proxy = Proxy::start().await;
    for way in Way::ALL {
        let (near, mut far) = proxy.tunnel(way).await;
        let closing = tokio::spawn(async move { near.close(&Rt::tokio()).await });
        assert_eq!(recv(&far.carrier).await, Err(Ended::Finished), "{way:?}");
        far.carrier.finish();
        // It was the only tunnel of its connection, which ends as well.
        soon(closing).await.unwrap();
        drop(far.busy.take());
    }
}

/// The stream of a request over HTTP/3, and the tunnel that the proxy has granted.
async fn raw(proxy: &mut Proxy) -> (Client, Tunnelled, Tunnel) {
    let rt = Rt::tokio();
    let any = ([127, 0, 0, 1], 0).into();
    let endpoint =
        metra_transport::quic::QuicClient::http3(rt.clone(), any, proxy.tls.clone(), Default::default())
            .unwrap();
    let connection = endpoint.connect_http3(proxy.address, "localhost").await.unwrap();
    let client = Client::start(&rt, connection.into_inner(), &Default::default()).await.unwrap();
    let uri = proxy.hop().template.expand(&target("target.example", 443));
    let request = http::Request::connect(uri)
        .extension(hyper::ext::Protocol::from_static("connect-udp"))
        .body(())
        .unwrap();
    let (_, tunnelled) = soon(client.connect(request)).await.unwrap();
    let (_, tunnel) = proxy.granted().await;
    (client, tunnelled.unwrap(), tunnel)
}

async fn capsule_of(stream: &mut BoxStream) -> Bytes {
    let mut decoder = capsule::CapsuleDecoder::new();
    loop {
        let mut piece = bytes::BytesMut::new();
        assert!(soon(stream.read_buf(&mut piece)).await.unwrap() > 0);
        decoder.push(piece.freeze());
        if let Some(payload) = decoder.next().unwrap() {
            return payload;
        }
    }
}

/// Clients of HTTP/3 exist that send capsules, though they could send datagrams.
#[tokio::test]
async fn capsules_over_http3_are_answered_by_capsules_and_datagrams_by_datagrams() {
    let mut proxy = Proxy::start().await;
    let (_client, near, far) = raw(&mut proxy).await;
    let (mut stream, mut datagrams) = (near.stream, near.datagrams.unwrap());
    for _ in 0..2 {
        let mut capsule = Vec::new();
        assert!(capsule::put(b"up", &mut capsule));
        stream.write_all(&capsule).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(recv(&far.carrier).await.unwrap(), "up");
        assert!(!far.carrier.is_by_datagram());
        far.carrier.try_send(b"down").unwrap();
        assert_eq!(capsule_of(&mut stream).await, "down");

        // By now the proxy's packets are wide enough, or will be.
        let began = std::time::Instant::now();
        while !far.carrier.is_by_datagram() {
            assert!(began.elapsed() < PATIENCE);
            datagrams.sender.try_send(b"up again").unwrap();
            assert_eq!(recv(&far.carrier).await.unwrap(), "up again");
            Rt::tokio().sleep(Duration::from_millis(2)).await;
        }
        far.carrier.try_send(b"down again").unwrap();
        assert_eq!(soon(poll_fn(|cx| datagrams.receiver.poll_recv(cx))).await.unwrap(), "down again");
    }
}

#[tokio::test]
async fn without_datagrams_capsules_carry_everything_over_http3() {
    let mut proxy = Proxy::start().await;
    let (_client, near, far) = raw(&mut proxy).await;
    let tunnelled = Tunnelled { datagrams: None, ..near };
    let near = Carrier::http3(&Rt::tokio(), tunnelled, PEER, Side::Client);
    assert!(!near.is_by_datagram());
    for length in [0, 1, 1200, 65_527] {
        let payload = vec![length as u8; length];
        send(&near, &payload).await;
        assert!(recv(&far.carrier).await.unwrap() == payload);
        send(&far.carrier, &payload).await;
        assert!(recv(&near).await.unwrap() == payload);
    }
}

#[tokio::test]
async fn rfc9297_3_3_malformed_capsules_end_a_tunnel() {
    let mut proxy = Proxy::start().await;
    // DATAGRAM without a context id; with a payload that is too long (RFC 9298 section 5); cut off.
    let malformed: [&[u8]; 3] = [&[0, 0], &[0, 0x80, 1, 0, 1, 0], &[0, 5, 0, 1]];
    for bytes in malformed {
        let (_client, near, far) = raw(&mut proxy).await;
        let mut stream = near.stream;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(matches!(recv(&far.carrier).await, Err(Ended::Malformed(_))), "{bytes:?}");
        for is_h2 in [false, true] {
            let pipe = proxy.pipe(is_h2);
            let uri = proxy.hop().template.expand(&target("target.example", 443)).parse().unwrap();
            let opened =
                soon(metra_fallback::http::open(pipe, is_h2, "connect-udp", uri, http::HeaderMap::new()))
                    .await;
            let (_, mut stream) = opened.unwrap();
            let (_, far) = proxy.granted().await;
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let ended = recv(&far.carrier).await;
            assert!(matches!(ended, Err(Ended::Malformed(_))), "{bytes:?}, h2: {is_h2}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn what_has_no_room_is_lost_and_bounded_and_nobody_waits() {
    let (near, far) = duplex(1024);
    let carrier = Carrier::stream(&Rt::tokio(), Box::new(near), PEER);
    let (mut taken, payload) = (0, [7; 1200]);
    for _ in 0..10 {
        while carrier.try_send(&payload).is_ok() {
            taken += payload.len();
        }
        tokio::task::yield_now().await;
    }
    assert!((350_000..800_000).contains(&taken), "{taken} bytes are held");
    assert!(carrier.lost().0 >= 10);
    assert!(!Packets::has_room(&carrier));
    let waiting = Rt::tokio().timeout(Duration::from_millis(20), poll_fn(|cx| carrier.poll_room(cx))).await;
    assert!(waiting.is_err(), "the peer does not read");
    // QUIC goes on as if it was sent: as over any path.
    Packets::send(&carrier, &payload).unwrap();
    let far = Carrier::stream(&Rt::tokio(), Box::new(far), PEER);
    for _ in 0..taken / payload.len() {
        assert!(recv(&far).await.unwrap() == payload[..]);
    }
    soon(poll_fn(|cx| carrier.poll_room(cx))).await;
    assert!(Packets::has_room(&carrier));
    drop(far);
    while carrier.try_send(&payload) != Err(SendError::Closed) {
        tokio::task::yield_now().await;
    }
    soon(poll_fn(|cx| carrier.poll_room(cx))).await;
    assert!(Packets::send(&carrier, &payload).is_err());
}

/// A write that is under way does not keep anybody from the room behind it.
#[tokio::test]
async fn there_is_room_as_soon_as_a_write_has_begun() {
    let (near, _far) = duplex(1024);
    let carrier = Carrier::stream(&Rt::tokio(), Box::new(near), PEER);
    while carrier.try_send(&[7; 1200]).is_ok() {}
    // Nobody reads: the write never ends.
    soon(poll_fn(|cx| carrier.poll_room(cx))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost() {
    const COUNT: u32 = 20_000;
    let mut proxy = Proxy::start().await;
    for way in [Way::Http2, Way::Http1] {
        let (near, far) = proxy.tunnel(way).await;
        let sender = tokio::spawn(async move {
            for n in 0..COUNT {
                let mut payload = [0; 1200];
                payload[..4].copy_from_slice(&n.to_be_bytes());
                send(&near.carrier, &payload).await;
            }
            assert_eq!(near.carrier.lost(), (0, 0));
            near.carrier.finish();
            near
        });
        for n in 0..COUNT {
            assert_eq!(recv(&far.carrier).await.unwrap()[..4], n.to_be_bytes(), "{way:?}");
        }
        assert_eq!(recv(&far.carrier).await, Err(Ended::Finished));
        sender.await.unwrap();
    }
}

/// A batch that QUIC has no room for goes out when there is room, though whoever sent it does not ask again.
#[tokio::test]
async fn what_is_left_of_a_batch_is_not_forgotten() {
    let mut proxy = Proxy::start().await;
    let (near, far) = proxy.tunnel(Way::Http3).await;
    assert!(Packets::has_room(&*near.carrier));
    // Nothing leaves while this task does not give way.
    for n in 0..(metra_transport::quic::DATAGRAM_BUFFER / 1000 + 60) as u32 {
        let mut payload = [0; 1000];
        payload[..4].copy_from_slice(&n.to_be_bytes());
        Packets::send(&*near.carrier, &payload).unwrap();
    }
    let left = || lock(&near.carrier.datagrams.as_ref().unwrap().out.left).len();
    assert!(left() > 0, "this is more than QUIC takes");
    assert_eq!(near.carrier.try_send(b"overtakes"), Err(SendError::Full));
    let reader = tokio::spawn(async move { while recv(&far.carrier).await.is_ok() {} });
    let began = std::time::Instant::now();
    while left() > 0 {
        assert!(began.elapsed() < PATIENCE);
        Rt::tokio().sleep(Duration::from_millis(1)).await;
    }
    reader.abort();
}
