//! What peers may not do, and the sharp edges of h3.

use super::raw::*;
use super::*;

/// `:status: 400` in QPACK's static table (RFC 9204 appendix A): index 67.
const STATUS_400: &[u8] = &[0xff, 4];

/// "431" (RFC 7541 appendix B).
const HUFFMAN_431: &[u8] = &[0x69, 0x90, 0xff];

const DATAGRAMS: &[(u64, u64)] = &[(0x33, 1)];

#[tokio::test]
async fn a_raw_request_is_served() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let answer = raw.ask(&headers(&GET)).await.unwrap();
    assert!(answer.ends_with(&frame(0, b"hello")), "{answer:?}");
}

#[tokio::test]
async fn rfc9114_4_1_2_malformed_requests_are_reset_and_not_served() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let with = |extra: &[(&'static str, &'static str)]| headers(&[&GET, extra].concat());
    for head in [
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("te", "gzip")]),
        with(&[("X", "uppercase")]),
        with(&[("content-length", "1"), ("content-length", "2")]),
        // h3 sees this one, and says so in the same way.
        with(&[("host", "elsewhere")]),
        with(&[(":protocol", "connect-udp")]),
        headers(&GET[..3]),
        headers(&CONNECT[..3]),
        headers(&[&CONNECT[..], &[("content-length", "0")]].concat()),
    ] {
        assert_eq!(raw.reset(&head).await, 0x10e, "{}", String::from_utf8_lossy(&head));
    }
    assert_eq!(site.served(), 0);
    raw.ask(&headers(&GET)).await.expect("the connection goes on");
}

#[tokio::test]
async fn rfc9220_3_an_unknown_protocol_is_answered_with_501() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let head = headers(&[&CONNECT[..1], &[(":protocol", "websocket")], &CONNECT[2..]].concat());
    let answer = raw.ask(&head).await.unwrap();
    // HEADERS, and nothing after them: `:status: 501`, `content-length: 0`.
    assert_eq!(answer, frame(1, b"\0\0\x5f\x09\x03501\xc4"));
    assert_eq!(site.served(), 0);
    // What only looks like it in an error is malformed, as before.
    for (name, value) in [("x", "invalid header value: \":protocol\" \u{1}"), ("X\":protocol\" ", "x")] {
        let head = headers(&[&GET[..], &[(name, value)]].concat());
        assert_eq!(raw.reset(&head).await, 0x10e, "{name}: {value}");
    }
    raw.ask(&headers(&GET)).await.expect("the connection goes on");
}

#[tokio::test]
async fn two_hosts_are_answered_with_400() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let head = [&GET[..], &[("host", "localhost"), ("host", "localhost")]].concat();
    let answer = raw.ask(&headers(&head)).await.unwrap();
    assert!(answer.windows(2).any(|two| two == STATUS_400), "{answer:x?}");
    assert_eq!(site.served(), 0);
}

#[tokio::test]
async fn bodies_that_are_not_as_long_as_they_say_fail() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    for (body, served) in [("abc", "3"), ("ab", "not as long"), ("abcd", "not as long")] {
        let mut head = post("/size");
        head.push(("content-length", "3"));
        let request = [headers(&head), frame(0, body.as_bytes())].concat();
        let answer = raw.ask(&request).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains(served), "{body} {answer:?}");
    }
}

/// h3 takes a FIN within a DATA frame for the end of the body, and panics when trailers are asked for.
#[tokio::test]
async fn rfc9114_7_1_a_body_that_ends_within_a_frame_closes_the_connection() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let whole = [headers(&post("/size")), frame(0, b"whole?")].concat();
    let _ = raw.ask(&whole[..whole.len() - 1]).await;
    assert_eq!(raw.closed().await, 0x106);
}

#[tokio::test]
async fn heads_over_the_limit_are_answered_with_431_and_far_longer_ones_are_reset() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let with = |length| headers(&[&GET[..], &[("x", &*"y".repeat(length))]].concat());
    let answer = raw.ask(&with(16_000)).await.unwrap();
    assert!(answer.ends_with(&frame(0, b"hello")));
    let answer = raw.ask(&with(17_000)).await.unwrap();
    assert!(answer.ends_with(HUFFMAN_431), "{answer:x?}");
    assert_eq!(site.served(), 1);
    // Not as much as it announces is sent, or taken.
    let head = frame(1, &vec![0; 100_000]);
    let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
    send.write_all(&head[..10_000]).await.unwrap();
    assert_eq!(soon(send.stopped()).await.unwrap().unwrap().into_inner(), 0x107);
    raw.ask(&headers(&GET)).await.expect("the connection goes on");
}

#[tokio::test]
async fn unknown_frames_are_ignored_and_not_collected() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let grease = frame(0x21, b"anything");
    let request = [&grease[..], &headers(&post("/size")), &grease, &frame(0, b"abc"), &grease].concat();
    let answer = raw.ask(&request).await.unwrap();
    assert!(answer.ends_with(&frame(0, b"3")), "{answer:?}");
    let long = [headers(&post("/size")), frame(0x21, &vec![0; 1 << 20])].concat();
    let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
    let _ = send.write_all(&long).await;
    assert_eq!(soon(send.stopped()).await.unwrap().unwrap().into_inner(), 0x107);
}

#[tokio::test]
async fn rfc9297_2_1_1_settings_other_than_0_and_1_close_the_connection() {
    for id in [0x33, 0x08] {
        let site = Site::start(Limits::default()).await;
        let raw = Raw::start(&site.wire.client, &[(id, 2)]).await;
        assert_eq!(raw.closed().await, 0x109);
    }
}

#[tokio::test]
async fn rfc9297_2_1_malformed_datagrams_close_the_connection() {
    for malformed in [&b""[..], &[0x40], &[0xff; 8], &[0xd0, 0, 0, 0, 0, 0, 0, 0]] {
        let site = Site::start(Limits::default()).await;
        let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
        raw.connection.send_datagram(malformed.into()).unwrap();
        assert_eq!(raw.closed().await, 0x33, "{malformed:?}");
    }
}

#[tokio::test]
async fn rfc9297_2_1_a_datagram_beyond_the_limit_of_streams_closes_the_connection() {
    let site = Site::start(Limits { streams: 8, ..Limits::default() }).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    // Twice the limit: what may be open, and what may have been opened and is not seen yet.
    raw.connection.send_datagram(Bytes::from_static(&[16, 0, 1])).unwrap();
    raw.ask(&headers(&GET)).await.expect("the connection goes on");
    raw.connection.send_datagram(Bytes::from_static(&[18, 0, 1])).unwrap();
    assert_eq!(raw.closed().await, 0x108);
}

#[tokio::test]
async fn rfc9298_5_datagrams_before_their_request_are_kept_and_few_of_them() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    for i in 0..100 {
        raw.connection.send_datagram(Bytes::copy_from_slice(&[0, 0, i])).unwrap();
    }
    // They are on their way before it, and taken in another task.
    Rt::tokio().sleep(Duration::from_millis(50)).await;
    let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
    send.write_all(&headers(&CONNECT)).await.unwrap();
    let mut datagrams = site.tunnel().await.datagrams.unwrap();
    for i in 68..100 {
        assert_eq!(recv(&mut datagrams).await.unwrap()[..], [i]);
    }
}

#[tokio::test]
async fn rfc9297_2_a_datagram_of_a_request_that_gives_it_no_meaning_aborts_that() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    for is_early in [true, false] {
        let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
        let datagram = Bytes::copy_from_slice(&[(u64::from(send.id()) / 4) as u8, 0, 1]);
        if is_early {
            raw.connection.send_datagram(datagram.clone()).unwrap();
            Rt::tokio().sleep(Duration::from_millis(50)).await;
        }
        let before = site.served();
        send.write_all(&headers(&post("/never"))).await.unwrap();
        while site.served() == before {
            Rt::tokio().sleep(Duration::from_millis(5)).await;
        }
        if !is_early {
            raw.connection.send_datagram(datagram).unwrap();
        }
        let error = soon(recv.read_to_end(100)).await.unwrap_err();
        let quinn::ReadToEndError::Read(quinn::ReadError::Reset(code)) = error else { panic!("{error}") };
        assert_eq!(code.into_inner(), 0x33);
    }
    raw.ask(&headers(&GET)).await.expect("the connection goes on");
}

#[tokio::test]
async fn rfc9114_4_4_fields_in_a_tunnel_close_the_connection() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
    send.write_all(&headers(&CONNECT)).await.unwrap();
    let mut tunnel = site.tunnel().await;
    send.write_all(&[frame(0, b"data"), headers(&[("x", "y")])].concat()).await.unwrap();
    let mut all = Vec::new();
    soon(tokio::io::AsyncReadExt::read_to_end(&mut tunnel.stream, &mut all)).await.unwrap_err();
    assert_eq!(raw.closed().await, 0x105);
}

#[tokio::test]
async fn rfc9297_3_3_a_tunnel_that_was_malformed_is_reset_as_that() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    for (is_malformed, code, stop) in [(true, 0x10e, 0x10e), (false, 0x10f, 0x100)] {
        let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
        send.write_all(&headers(&CONNECT)).await.unwrap();
        let tunnel = site.tunnel().await;
        if is_malformed {
            tunnel.verdict.malformed();
        }
        drop(tunnel);
        let error = soon(recv.read_to_end(100)).await.unwrap_err();
        let quinn::ReadToEndError::Read(quinn::ReadError::Reset(reset)) = error else { panic!("{error}") };
        assert_eq!(reset.into_inner(), code);
        assert_eq!(soon(send.stopped()).await.unwrap().unwrap().into_inner(), stop);
    }
}

#[tokio::test]
async fn rfc9297_2_1_datagrams_of_no_tunnel_and_of_other_contexts_are_dropped() {
    let site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    raw.connection.send_datagram(Bytes::from_static(&[7, 0, 1])).unwrap();
    let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
    send.write_all(&headers(&CONNECT)).await.unwrap();
    let mut tunnel = site.tunnel().await;
    // No context, another context, and a payload.
    for datagram in [&[0][..], &[0, 2, 9], &[0, 0, 9]] {
        raw.connection.send_datagram(datagram.into()).unwrap();
    }
    assert_eq!(recv(tunnel.datagrams.as_mut().unwrap()).await.unwrap()[..], [9]);
}

#[tokio::test]
async fn rfc9297_2_1_1_without_the_peers_setting_there_are_no_datagrams() {
    for settings in [&[][..], &[(0x33, 0)]] {
        let site = Site::start(Limits::default()).await;
        let raw = Raw::start(&site.wire.client, settings).await;
        let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
        send.write_all(&headers(&CONNECT)).await.unwrap();
        assert!(site.tunnel().await.datagrams.is_none());
    }
}

#[tokio::test]
async fn rfc9220_3_a_server_without_extended_connect_is_not_asked() {
    let wire = wire().await;
    let _raw = Raw::start(&wire.server, &[(0x33, 1)]).await;
    let client = Client::start(&Rt::tokio(), wire.client.clone(), &Limits::default()).await.unwrap();
    let error = soon(client.connect(connect_udp("/udp"))).await.unwrap_err();
    assert_eq!(error, Http3Error::Unsupported("extended CONNECT"));
    assert!(error.is_unprocessed());
}

/// h3 #308: h3 reads a piece at every poll, and gives out a frame.
#[tokio::test]
async fn a_slow_reader_of_small_frames_is_waited_for() {
    let limits = Limits { window: 256 << 10, ..Limits::default() };
    let site = Site::start(limits).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
    send.write_all(&headers(&CONNECT)).await.unwrap();
    let mut tunnel = site.tunnel().await;
    // Of frames of one byte, three are on the wire.
    let small = frame(0, b"x").repeat(10_000);
    let sent = Arc::new(AtomicU32::new(0));
    let count = sent.clone();
    let _sending = Rt::tokio().spawn(async move {
        while send.write_all(&small).await.is_ok() {
            count.fetch_add(small.len() as u32, Ordering::Relaxed);
        }
    });
    let mut byte = [0];
    for _ in 0..400 {
        soon(tokio::io::AsyncReadExt::read_exact(&mut tunnel.stream, &mut byte)).await.unwrap();
        Rt::tokio().sleep(Duration::from_millis(1)).await;
    }
    // 1200 bytes were read; the rest is what may be sent ahead, a stream's window, which the transport sets.
    let sent = sent.load(Ordering::Relaxed);
    let window = Tuning::default().stream_receive_window as u32;
    assert!(sent <= window, "{sent}");
}

/// h3-quinn #330, #351: `stop_sending` and `id` panic while a read is pending.
#[tokio::test]
async fn a_body_is_dropped_while_it_is_read() {
    let site = Site::start(Limits::default()).await;
    let client = site.client().await;
    let (_, near) = soon(client.connect(connect_udp("/udp"))).await.unwrap();
    let mut far = site.tunnel().await;
    let mut byte = [0];
    let reading = tokio::io::AsyncReadExt::read(&mut far.stream, &mut byte);
    assert!(Rt::tokio().timeout(Duration::from_millis(50), reading).await.is_err());
    drop(far);
    drop(near);
    soon(client.request(get("/"))).await.expect("the connection goes on");
}

#[tokio::test]
async fn a_drain_lets_what_runs_end_and_never_says_that_it_was_not_processed() {
    let mut site = Site::start(Limits::default()).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    let slow = async { raw.ask(&headers(&post("/slow"))).await };
    let drain = async {
        while site.served() == 0 {
            Rt::tokio().sleep(Duration::from_millis(5)).await;
        }
        site.drain.take().unwrap().send(()).unwrap();
        // The server's control stream is its first.
        let mut control = raw.connection.accept_uni().await.unwrap();
        let mut bytes = Vec::new();
        let goaway = frame(7, &[4]);
        while !bytes.ends_with(&goaway) {
            let chunk = soon(control.read_chunk(1000, true)).await.unwrap().unwrap();
            bytes.extend_from_slice(&chunk.bytes);
        }
        // RFC 9114 section 5.2: requests with this id and above are not processed. Stream 0 runs, 4 is rejected.
        assert_eq!(raw.reset(&headers(&GET)).await, 0x10b);
    };
    let (slow, ()) = soon(async { tokio::join!(slow, drain) }).await;
    assert!(slow.unwrap().ends_with(&frame(0, b"at last")));
    assert_eq!(raw.closed().await, 0x100);
    assert_eq!(soon(site.ended).await.unwrap(), Ok(()));
    assert_eq!(site.served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_drain_cuts_what_runs_too_long() {
    let site = Site::start(Limits { grace: Duration::from_millis(100), ..Limits::default() }).await;
    let client = site.client().await;
    let (_, _near) = soon(client.connect(connect_udp("/udp"))).await.unwrap();
    let _far = site.tunnel().await;
    site.drain.unwrap().send(()).unwrap();
    assert_eq!(soon(site.ended).await.unwrap(), Err(Http3Error::TimedOut));
    let error = soon(client.request(get("/"))).await.unwrap_err();
    assert!(matches!(error, Http3Error::Draining | Http3Error::Lost(_)), "{error}");
}

#[tokio::test]
async fn a_client_that_says_goaway_is_not_told_that_its_last_request_was_not_processed() {
    let site = Site::start(Limits::default()).await;
    // SETTINGS, then GOAWAY with push id 0.
    let control = [frame(4, &[0x33, 1]), frame(7, &[0])].concat();
    let raw = Raw::with_control(&site.wire.client, &control).await;
    let answer = raw.ask(&headers(&GET)).await;
    // It may have ended before the request came; if not, it was answered.
    assert!(answer.is_err() || answer.unwrap().ends_with(&frame(0, b"hello")));
    assert_eq!(raw.closed().await, 0x100);
    assert_eq!(soon(site.ended).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn an_idle_connection_ends_in_order() {
    let site = Site::start(Limits { idle: Duration::from_millis(50), ..Limits::default() }).await;
    let raw = Raw::start(&site.wire.client, DATAGRAMS).await;
    assert_eq!(raw.closed().await, 0x100);
    assert_eq!(soon(site.ended).await.unwrap(), Ok(()));
}
