//! One connection that carries a stream and datagrams, both as fast as they go: neither keeps the other out.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use super::*;
use crate::carrier::{Carrier, Side};

/// For so long shares are measured, after as long in which they settle.
const TIME: Duration = Duration::from_millis(1500);
/// UDP payloads, and how many the modest tunnel sends a second.
const PAYLOAD: usize = 1200;
const MODEST: u64 = 200;

/// Of the path: bytes a second, the time that a packet is on its way, and for how long packets wait before one is lost.
const RATE: f64 = 12.5e6;
const WAY: Duration = Duration::from_millis(5);
const QUEUE: Duration = Duration::from_millis(20);

/// A path to `server`, the same both ways.
fn path(server: SocketAddr) -> SocketAddr {
    let [near, far] = [(); 2].map(|()| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Arc::new(UdpSocket::from_std(socket).unwrap())
    });
    let client = Arc::new(std::sync::OnceLock::new());
    let address = near.local_addr().unwrap();
    let learned = client.clone();
    one_way(near.clone(), far.clone(), move |from| {
        learned.get_or_init(|| from);
        server
    });
    one_way(far, near, move |_| *client.get().unwrap());
    address
}

fn one_way(
    from: Arc<UdpSocket>,
    to: Arc<UdpSocket>,
    address: impl Fn(SocketAddr) -> SocketAddr + Send + 'static,
) {
    let (on_the_way, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>, SocketAddr)>();
    Rt::tokio().spawn(async move {
        let (mut free, mut room) = (Instant::now(), vec![0; 65_536]);
        while let Ok((length, peer)) = from.recv_from(&mut room).await {
            let now = Instant::now();
            if free > now + QUEUE {
                continue;
            }
            free = free.max(now) + Duration::from_secs_f64(length as f64 / RATE);
            let _ = on_the_way.send((free + WAY, room[..length].to_vec(), address(peer)));
        }
    });
    Rt::tokio().spawn(async move {
        while let Some((at, packet, address)) = arriving.recv().await {
            Rt::tokio().sleep_until(at).await;
            let _ = to.send_to(&packet, address).await;
        }
    });
}

/// Over that path, with packets as on Ethernet.
async fn site() -> Site {
    let tuning = Tuning { mtu_upper_bound_loopback: 1452, ..Tuning::default() };
    Site::at(wired(&tuning, path).await, Limits::default())
}

/// What has arrived. Bytes.
#[derive(Default)]
struct Got {
    stream: AtomicU64,
    greedy: AtomicU64,
    modest: AtomicU64,
    is_over: AtomicBool,
}

impl Got {
    fn now(&self) -> [u64; 3] {
        [&self.stream, &self.greedy, &self.modest].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// What arrives in [`TIME`].
    async fn measured(&self) -> [u64; 3] {
        Rt::tokio().sleep(TIME).await;
        let (before, began) = (self.now(), Instant::now());
        Rt::tokio().sleep(TIME).await;
        let (after, took) = (self.now(), began.elapsed());
        self.is_over.store(true, Ordering::Relaxed);
        let shares = std::array::from_fn(|n| after[n] - before[n]);
        println!("stream, greedy, modest: {shares:?} bytes in {took:?}");
        shares
    }
}

/// Offers six times what the path carries.
fn greedy(datagrams: Datagrams, got: &Arc<Got>) {
    let got = got.clone();
    Rt::tokio().spawn(async move {
        let datagrams = datagrams;
        while !got.is_over.load(Ordering::Relaxed) {
            for _ in 0..64 {
                let _ = datagrams.sender.offer(&[1; PAYLOAD]);
            }
            Rt::tokio().sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Offers [`MODEST`] a second.
fn modest(datagrams: Datagrams, got: &Arc<Got>) {
    let got = got.clone();
    Rt::tokio().spawn(async move {
        let (datagrams, began, mut sent) = (datagrams, Instant::now(), 0);
        while !got.is_over.load(Ordering::Relaxed) {
            while sent < began.elapsed().as_millis() as u64 * MODEST / 1000 {
                let _ = datagrams.sender.offer(&[2; PAYLOAD]);
                sent += 1;
            }
            Rt::tokio().sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Counts what comes.
fn count(mut datagrams: Datagrams, got: &Arc<Got>) {
    let got = got.clone();
    Rt::tokio().spawn(async move {
        while let Some(payload) = poll_fn(|cx| datagrams.receiver.poll_recv(cx)).await {
            let of = if payload[0] == 1 { &got.greedy } else { &got.modest };
            of.fetch_add(payload.len() as u64, Ordering::Relaxed);
        }
    });
}

/// The body of an upload, as far as QUIC sees: a stream of DATA frames.
async fn upload(site: &Site, client: &Client, got: &Arc<Got>) {
    let (near, far) = super::tunnels::tunnelled(site, client).await;
    let (mut up, mut down) = (near.stream, far.stream);
    let reader = got.clone();
    Rt::tokio().spawn(async move {
        let mut room = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = down.read(&mut room).await {
            reader.stream.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    });
    let writer = got.clone();
    Rt::tokio().spawn(async move {
        let piece = vec![3; 64 << 10];
        while !writer.is_over.load(Ordering::Relaxed) {
            up.write_all(&piece).await.unwrap();
        }
    });
}

/// The stream has no less than a quarter of what both have, the datagrams no less than a fifth, as a busy machine gives the
/// greedy tunnel fewer turns; and who wants little has it.
fn assert_fair([stream, greedy, modest]: [u64; 3]) {
    let datagrams = greedy + modest;
    assert!(stream > (stream + datagrams) / 4, "the stream starves");
    assert!(datagrams > (stream + datagrams) / 5, "the datagrams starve");
    let wanted = MODEST * PAYLOAD as u64 * TIME.as_millis() as u64 / 1000;
    assert!(modest > wanted * 8 / 10, "the modest tunnel has {modest} of {wanted}");
}

async fn two(site: &Site, client: &Client) -> [(Tunnelled, Tunnelled); 2] {
    [super::tunnels::tunnelled(site, client).await, super::tunnels::tunnelled(site, client).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_and_tunnels_share_a_connection() {
    let site = site().await;
    let (client, got) = (site.client().await, Arc::new(Got::default()));
    let mut streams = Vec::new();
    for (n, (near, far)) in two(&site, &client).await.into_iter().enumerate() {
        let from = if n == 0 { greedy } else { modest };
        from(far.datagrams.unwrap(), &got);
        count(near.datagrams.unwrap(), &got);
        streams.push((near.stream, far.stream));
    }
    let mut body = client.request(get("/endless")).await.unwrap().into_body();
    let reader = got.clone();
    Rt::tokio().spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            reader.stream.fetch_add(bytes, Ordering::Relaxed);
        }
    });
    assert_fair(got.measured().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_and_tunnels_share_a_connection() {
    let site = site().await;
    let (client, got) = (site.client().await, Arc::new(Got::default()));
    let mut streams = Vec::new();
    for (n, (near, far)) in two(&site, &client).await.into_iter().enumerate() {
        let from = if n == 0 { greedy } else { modest };
        from(near.datagrams.unwrap(), &got);
        count(far.datagrams.unwrap(), &got);
        streams.push((near.stream, far.stream));
    }
    upload(&site, &client, &got).await;
    assert_fair(got.measured().await);
}

/// A session of MTP in a tunnel to the server itself. It has a congestion controller of its own, and waits for its part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_a_tunnel_and_others_share_a_connection() {
    let site = site().await;
    let (client, got) = (site.client().await, Arc::new(Got::default()));
    let [(near, far), (near_of_mtp, far_of_mtp)] = two(&site, &client).await;
    greedy(near.datagrams.unwrap(), &got);
    count(far.datagrams.unwrap(), &got);
    upload(&site, &client, &got).await;
    let (rt, peer) = (Rt::tokio(), SocketAddr::from(([127, 0, 0, 1], 1)));
    let near_of_mtp = Arc::new(Carrier::http3(&rt, near_of_mtp, peer, Side::Client));
    let far_of_mtp = Arc::new(Carrier::http3(&rt, far_of_mtp, peer, Side::Proxy));
    let server = site.wire.endpoints.0.beside(far_of_mtp).unwrap();
    let mtp = QuicClient::over(rt, near_of_mtp, site.wire.tls.clone(), Tuning::default()).unwrap();
    let (sender, receiver) = soon(async {
        tokio::join!(mtp.connect(peer, "localhost"), async {
            server.accept().await.unwrap().accept().await.unwrap().into_link().unwrap()
        })
    })
    .await;
    let (sender, counted) = (sender.unwrap(), got.clone());
    Rt::tokio().spawn(async move {
        let body = Bytes::from(vec![2; 1 << 20]);
        while sender.send_chunk(Bytes::from_static(b"2"), vec![body.clone()], 0).await.is_ok() {}
    });
    Rt::tokio().spawn(async move {
        while let Ok(mut chunk) = receiver.accept_chunk().await {
            let mut bytes = bytes::BytesMut::new();
            while let Ok(some @ 1..) = chunk.read(&mut bytes, 64 << 10).await {
                counted.modest.fetch_add(some as u64, Ordering::Relaxed);
                bytes.clear();
            }
        }
    });
    let [stream, greedy, session] = got.measured().await;
    let all = stream + greedy + session;
    assert!(stream > all / 4, "the upload starves");
    assert!(
        session > all / 10 && greedy > all / 10,
        "of {all}: {session} of the session, {greedy} of the tunnel"
    );
    drop((near.stream, far.stream));
}
