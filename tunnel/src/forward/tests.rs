//! Programs at one end, an echo at the other, and a proxy between.

#![allow(clippy::unwrap_used)]

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::*;
use crate::testing::{Proxy, echo, soon, target};

/// A port that leads to `to`, and what happens there.
fn forward(
    proxy: &Proxy,
    over: Over,
    to: Target,
    bounds: Bounds,
) -> (Arc<Forward>, mpsc::UnboundedReceiver<Event>) {
    let rt = Rt::tokio();
    let (tx, events) = mpsc::unbounded_channel();
    let opener = Opener::new(&rt, proxy.hop(), over, Default::default());
    let listen = ([127, 0, 0, 1], 0).into();
    let forward = Forward::bind(&rt, listen, opener, to, bounds, move |event| drop(tx.send(event))).unwrap();
    let forward = Arc::new(forward);
    let running = forward.clone();
    tokio::spawn(async move { running.run().await });
    (forward, events)
}

async fn program(port: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(port).await.unwrap();
    socket
}

async fn there_and_back(program: &UdpSocket, payload: &[u8]) {
    program.send(payload).await.unwrap();
    let mut room = vec![0; 65_536];
    let length = soon(program.recv(&mut room)).await.unwrap();
    assert!(room[..length] == *payload);
}

#[tokio::test]
async fn every_program_has_a_tunnel_of_its_own() {
    let proxy = Proxy::start().await.relaying();
    let echo = echo().await;
    for over in [Over::Http3, Over::Tcp, Over::Auto] {
        let there = target("127.0.0.1", echo.port());
        let (forward, _events) = forward(&proxy, over, there, Bounds::default());
        soon(forward.check()).await.unwrap();
        let port = forward.local_addr().unwrap();
        let programs = [program(port).await, program(port).await, program(port).await];
        for round in 0..5u8 {
            for (n, program) in programs.iter().enumerate() {
                for length in [1, 0, 1200, 7] {
                    there_and_back(program, &vec![round * 10 + n as u8; length]).await;
                }
            }
        }
        assert_eq!(forward.flows(), 3, "{over:?}");
        soon(forward.finish()).await;
        assert_eq!(forward.flows(), 0);
    }
}

#[tokio::test]
async fn there_are_no_more_tunnels_than_allowed_and_idle_ones_end() {
    let proxy = Proxy::start().await.relaying();
    let there = target("127.0.0.1", echo().await.port());
    let bounds = Bounds { flows: 1, idle: Duration::from_millis(300) };
    let (forward, mut events) = forward(&proxy, Over::Http3, there, bounds);
    let port = forward.local_addr().unwrap();
    let (first, second) = (program(port).await, program(port).await);
    there_and_back(&first, b"first").await;
    assert!(matches!(soon(events.recv()).await, Some(Event::Opened(_))));
    second.send(b"lost").await.unwrap();
    assert!(matches!(soon(events.recv()).await, Some(Event::Full)));
    let began = Instant::now();
    while forward.flows() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10));
        Rt::tokio().sleep(Duration::from_millis(10)).await;
    }
    there_and_back(&second, b"second").await;
}

#[tokio::test]
async fn a_refusal_is_said_and_nothing_is_tried_for_a_while() {
    let proxy = Proxy::start().await;
    for over in [Over::Http3, Over::Tcp, Over::Auto] {
        let (forward, mut events) = forward(&proxy, over, target("refused.example", 443), Bounds::default());
        let error = soon(forward.check()).await.unwrap_err();
        assert_eq!(error.status(), Some(502), "{over:?}: {error}");
        assert!(error.to_string().contains("destination_ip_prohibited"), "{error}");
        let program = program(forward.local_addr().unwrap()).await;
        program.send(b"lost").await.unwrap();
        let Some(Event::Failed(_, pause)) = soon(events.recv()).await else { panic!("{over:?}") };
        assert_eq!(pause, PAUSE.0);
        program.send(b"lost, too").await.unwrap();
        Rt::tokio().sleep(Duration::from_millis(100)).await;
        assert!(events.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_lost_connection_is_opened_again() {
    let mut proxy = Proxy::start().await;
    let (forward, mut events) =
        forward(&proxy, Over::Http3, target("target.example", 443), Bounds::default());
    let program = program(forward.local_addr().unwrap()).await;
    for payload in [b"one", b"two"] {
        program.send(payload).await.unwrap();
        assert!(matches!(soon(events.recv()).await, Some(Event::Opened(_))));
        let (_, far) = proxy.granted().await;
        assert_eq!(crate::testing::recv(&far.carrier).await.unwrap(), payload[..]);
        // Longer than a failure.
        Rt::tokio().sleep(SHORT + Duration::from_millis(100)).await;
        proxy.cut();
        assert!(matches!(soon(events.recv()).await, Some(Event::Ended(..))));
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_an_error() {
    let proxy = Proxy::start().await;
    let mut hop = proxy.hop();
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    hop.template = crate::proto::Template::default_of("localhost", free).unwrap();
    for over in [Over::Http3, Over::Tcp, Over::Auto] {
        let opener = Opener::new(&Rt::tokio(), hop.clone(), over, Default::default());
        let error = soon(opener.open(&target("target.example", 443))).await.unwrap_err();
        assert!(error.is_retryable() && error.status().is_none(), "{over:?}: {error}");
    }
}
