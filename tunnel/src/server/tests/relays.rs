//! Between a tunnel and a UDP socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metra_transport::{Rt, Task};
use tokio::io::duplex;
use tokio::net::UdpSocket;

use super::super::{Bounds, Rates, RelayEnd, Throttle, Traffic, dial};
use crate::carrier::{Carrier, Ended};
use crate::testing::{BOUNDS, echo, permit, recv, soon};

/// The client's side of a tunnel that is relayed to `target`.
fn relayed(target: SocketAddr, bounds: Bounds) -> (Carrier, Task<(RelayEnd, Traffic)>) {
    within(target, bounds, Arc::new(Throttle::new(Rates::default(), Rt::tokio().now())))
}

/// The same, within a throttle.
fn within(
    target: SocketAddr,
    bounds: Bounds,
    throttle: Arc<Throttle>,
) -> (Carrier, Task<(RelayEnd, Traffic)>) {
    let rt = Rt::tokio();
    let (near, far) = duplex(1 << 20);
    let (near, far) =
        (Carrier::stream(&rt, Box::new(near), target), Carrier::stream(&rt, Box::new(far), target));
    let dialled = dial(&permit(target)).unwrap();
    let end = rt.spawn(async move { dialled.relay(&Rt::tokio(), &far, bounds, &throttle).await });
    (near, end)
}

#[tokio::test]
async fn datagrams_of_all_lengths_come_back() {
    let (near, end) = relayed(echo().await, BOUNDS);
    let mut bytes = 0;
    for length in [0usize, 1, 1200, 1200, 1472, 60_000, 0, 3] {
        let payload = vec![length as u8; length];
        near.try_send(&payload).unwrap();
        assert!(recv(&near).await.unwrap() == payload, "{length}");
        bytes += length as u64;
    }
    // RFC 9298 section 3.1: what is too long for the path is lost, and nothing else. UDP over IPv4 carries 65,507 bytes.
    near.try_send(&vec![0; 65_520]).unwrap();
    near.try_send(b"after it").unwrap();
    assert_eq!(recv(&near).await.unwrap(), "after it");
    near.finish();
    let (end, traffic) = soon(end).await.unwrap();
    assert_eq!(end, RelayEnd::Client(Ended::Finished));
    assert_eq!((traffic.up, traffic.down, traffic.lost), (10, 9, 0));
    assert_eq!(traffic.down_bytes, bytes + 8);
}

#[tokio::test]
async fn batches_keep_their_datagrams_and_their_order() {
    let (near, _end) = relayed(echo().await, BOUNDS);
    for round in 0..20u8 {
        let lengths = (0..20u16).map(|n| 1 + usize::from(n.wrapping_mul(977) % 1300)).chain([1200; 20]);
        let payloads: Vec<Vec<u8>> = lengths.map(|length| vec![round; length]).collect();
        payloads.iter().for_each(|payload| near.try_send(payload).unwrap());
        for payload in &payloads {
            assert!(recv(&near).await.unwrap() == *payload);
        }
    }
}

#[tokio::test]
async fn rfc9298_3_1_a_target_that_is_not_there_ends_the_relay() {
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (near, end) = relayed(free, BOUNDS);
    near.try_send(b"anybody?").unwrap();
    let (end, _) = soon(end).await.unwrap();
    assert!(matches!(end, RelayEnd::Target(_)), "{end}");
    assert!(recv(&near).await.is_err(), "and with it the stream");
}

#[tokio::test]
async fn rfc9298_3_1_datagrams_from_others_do_not_arrive() {
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (near, _end) = relayed(target.local_addr().unwrap(), BOUNDS);
    near.try_send(b"hello").unwrap();
    let mut room = [0; 16];
    let (_, from) = soon(target.recv_from(&mut room)).await.unwrap();
    other.send_to(b"from another", from).await.unwrap();
    target.send_to(b"from the target", from).await.unwrap();
    assert_eq!(recv(&near).await.unwrap(), "from the target");
}

#[tokio::test]
async fn rfc9298_3_1_the_socket_lives_as_long_as_the_stream() {
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (near, end) = relayed(target.local_addr().unwrap(), BOUNDS);
    near.try_send(b"hello").unwrap();
    let mut room = [0; 16];
    let (_, from) = soon(target.recv_from(&mut room)).await.unwrap();
    assert!(UdpSocket::bind(("127.0.0.1", from.port())).await.is_err(), "it is in use");
    drop(near);
    soon(end).await.unwrap().0.to_string();
    UdpSocket::bind(("127.0.0.1", from.port())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rfc9298_3_1_idle_for_two_minutes_and_too_old_end_it() {
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = target.local_addr().unwrap();
    let began = tokio::time::Instant::now();
    let (near, end) = relayed(address, BOUNDS);
    tokio::time::sleep(Duration::from_secs(100)).await;
    near.try_send(b"still here").unwrap();
    let (end, traffic) = end.await.unwrap();
    assert_eq!((end, traffic.up), (RelayEnd::Idle, 1));
    let passed = began.elapsed().as_secs();
    assert!((220..222).contains(&passed), "{passed} s");

    let began = tokio::time::Instant::now();
    let bounds = Bounds { lifetime: Duration::from_secs(300), ..BOUNDS };
    let (near, end) = relayed(address, bounds);
    let busy = tokio::spawn(async move {
        loop {
            let _ = near.try_send(b"again");
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    });
    assert_eq!(end.await.unwrap().0, RelayEnd::Old);
    let passed = began.elapsed().as_secs();
    assert!((300..302).contains(&passed), "{passed} s");
    busy.abort();
}

#[tokio::test]
async fn no_more_than_the_rate_goes_through() {
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bounds = Bounds { rate: 100_000, ..BOUNDS };
    let (near, end) = relayed(target.local_addr().unwrap(), bounds);
    for _ in 0..200 {
        near.try_send(&[7; 1000]).unwrap();
    }
    near.finish();
    let (_, traffic) = soon(end).await.unwrap();
    assert_eq!(traffic.up + traffic.lost, 200);
    assert!((65..90).contains(&traffic.up), "{} of 200 at once", traffic.up);
}

#[tokio::test]
async fn tunnels_of_one_peer_share_a_throttle() {
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = target.local_addr().unwrap();
    let shared = Arc::new(Throttle::new(Rates { bytes: 0, datagrams: 500 }, Rt::tokio().now()));
    let tunnels = [(); 4].map(|()| within(address, BOUNDS, shared.clone()));
    for (near, _) in &tunnels {
        (0..100).for_each(|_| near.try_send(b"a datagram").unwrap());
        near.finish();
    }
    let mut carried = Traffic::default();
    for (_, end) in tunnels {
        let (_, traffic) = soon(end).await.unwrap();
        (carried.up, carried.lost) = (carried.up + traffic.up, carried.lost + traffic.lost);
    }
    assert_eq!(carried.up + carried.lost, 400);
    // A tenth of a second's worth, and what it took on a busy machine.
    assert!((50..200).contains(&carried.up), "{carried:?}");
}
