//! CONNECT-UDP.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A tunnel, as the client and the server see it.
pub(super) async fn tunnelled(site: &Site, client: &Client) -> (Tunnelled, Tunnelled) {
    let (response, near) = soon(client.connect(connect_udp("/udp"))).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("content-length"), "RFC 9297 section 3.2");
    (near.unwrap(), site.tunnel().await)
}

#[tokio::test]
async fn datagrams_and_bytes_run_both_ways() {
    let site = Site::start(Limits::default()).await;
    let client = site.client().await;
    let (mut near, mut far) = tunnelled(&site, &client).await;
    let (mut near_datagrams, mut far_datagrams) = (near.datagrams.unwrap(), far.datagrams.unwrap());
    assert!(near_datagrams.sender.max_payload().unwrap() >= 1200);
    near_datagrams.sender.try_send(b"ping").unwrap();
    assert_eq!(recv(&mut far_datagrams).await.unwrap(), "ping");
    far_datagrams.sender.try_send(b"").unwrap();
    assert_eq!(recv(&mut near_datagrams).await.unwrap(), "", "RFC 9298 section 5: empty is valid");
    let largest = vec![9; near_datagrams.sender.max_payload().unwrap()];
    near_datagrams.sender.try_send(&largest).unwrap();
    assert_eq!(recv(&mut far_datagrams).await.unwrap(), largest);
    let longer = vec![9; 65_000];
    assert_eq!(near_datagrams.sender.try_send(&longer), Err(SendError::TooLarge));

    let capsules: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
    let (sent, received) = tokio::join!(
        async {
            near.stream.write_all(&capsules).await?;
            near.stream.shutdown().await
        },
        async {
            let mut all = Vec::new();
            far.stream.read_to_end(&mut all).await.map(|_| all)
        }
    );
    sent.unwrap();
    assert!(received.unwrap() == capsules);
    far.stream.write_all(b"back").await.unwrap();
    far.stream.flush().await.unwrap();
    let mut back = [0; 4];
    soon(near.stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"back");

    // Dropped without shutdown.
    drop(far.stream);
    let error = soon(near.stream.read_exact(&mut back)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(recv(&mut far_datagrams).await, None);
    assert_eq!(far_datagrams.sender.try_send(b""), Err(SendError::Closed));
}

#[tokio::test]
async fn tunnels_of_a_connection_do_not_mix() {
    let site = Site::start(Limits::default()).await;
    let client = site.client().await;
    let mut tunnels = Vec::new();
    for _ in 0..10 {
        tunnels.push(tunnelled(&site, &client).await);
    }
    for i in 0..100u8 {
        let near = tunnels[usize::from(i % 10)].0.datagrams.as_ref().unwrap();
        near.sender.try_send(&[i]).unwrap();
    }
    for (i, (_, far)) in tunnels.iter_mut().enumerate() {
        for n in 0..10 {
            let payload = recv(far.datagrams.as_mut().unwrap()).await.unwrap();
            assert_eq!(payload[..], [(n * 10 + i) as u8]);
        }
    }
}

#[tokio::test]
async fn a_request_that_is_not_granted_is_no_tunnel() {
    let site = Site::start(Limits::default()).await;
    let client = site.client().await;
    let (response, tunnel) = soon(client.connect(connect_udp("/no"))).await.unwrap();
    assert_eq!(response.status(), 403);
    assert!(tunnel.is_none());
    let unknown = hyper::ext::Protocol::from_static("websocket");
    let request = Request::connect("https://localhost/").extension(unknown).body(()).unwrap();
    assert!(matches!(client.connect(request).await.unwrap_err(), Http3Error::Invalid(_)));
}

#[tokio::test]
async fn a_tunnel_outlives_its_client_and_keeps_the_connection() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let site = Site::start(limits).await;
    let client = site.client().await;
    let (near, mut far) = tunnelled(&site, &client).await;
    drop(client);
    Rt::tokio().sleep(Duration::from_millis(300)).await;
    near.datagrams.as_ref().unwrap().sender.try_send(b"still here").unwrap();
    assert_eq!(recv(far.datagrams.as_mut().unwrap()).await.unwrap(), "still here");
    drop((near, far));
    assert_eq!(soon(site.ended).await.unwrap(), Ok(()));
}

/// quinn evicts the oldest.
#[tokio::test]
async fn a_full_buffer_refuses_the_newest_and_says_when_there_is_room() {
    let site = Site::start(Limits { datagrams: 64 << 20, ..Limits::default() }).await;
    let client = site.client().await;
    let (near, mut far) = tunnelled(&site, &client).await;
    let near = near.datagrams.unwrap();
    // Nothing leaves while this task does not give way.
    let mut taken = 0u32;
    let full = loop {
        let mut payload = vec![0; 1000];
        payload[..4].copy_from_slice(&taken.to_be_bytes());
        match near.sender.try_send(&payload) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, SendError::Full);
    assert!(taken >= 900, "{taken}");
    soon(poll_fn(|cx| near.sender.poll_ready(cx))).await.unwrap();
    near.sender.try_send(b"last").unwrap();
    let datagrams = far.datagrams.as_mut().unwrap();
    let first = recv(datagrams).await.unwrap();
    assert_eq!(first[..4], 0u32.to_be_bytes(), "the oldest is still there");
}

#[tokio::test]
async fn a_slow_consumer_of_datagrams_holds_so_much_and_the_newest_are_dropped() {
    let site = Site::start(Limits { datagrams: 10_000, ..Limits::default() }).await;
    let client = site.client().await;
    let (near, mut far) = tunnelled(&site, &client).await;
    let near = near.datagrams.unwrap();
    for i in 0..100u8 {
        near.sender.try_send(&[i; 1000]).unwrap();
    }
    let far = far.datagrams.as_mut().unwrap();
    while far.receiver.dropped() < 91 {
        Rt::tokio().sleep(Duration::from_millis(5)).await;
    }
    for i in 0..9 {
        assert_eq!(recv(far).await.unwrap()[0], i);
    }
    near.sender.try_send(b"now").unwrap();
    assert_eq!(recv(far).await.unwrap(), "now");
}
