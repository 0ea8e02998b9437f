//! Connections over TCP that do not become links: each ends in bounded time, takes bounded memory, is counted, and harms nobody.
//!
//! Not here: what is HTTP (`refused_http.rs`), and how many there may be (`idle.rs`).

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use metra_core::code::Code;
use metra_core::id::Digest;
use metra_core::wire::stream::{self, StreamFrame};
use metra_core::wire::{Auth, Frame, FrameDecoder, Hello, varint};

use crate::harness::data::{self, MIB};
use crate::harness::tcp::{self, Tls, TlsStream};
use crate::harness::{Bed, Gateway, Metrics, wait_until};

tests![
    what_is_not_tls,
    another_protocol_name,
    handshakes_that_do_not_come_to_an_end,
    links_that_say_nothing,
    garbage_within_a_link,
    too_much_before_the_welcome,
    a_peer_that_never_reads,
];

/// What the gateways of these tests give to a handshake.
pub(crate) const LIMIT: Duration = Duration::from_secs(1);
pub(crate) const CONFIG: &str = "[limits]\nhandshake_seconds = 1\n";
/// What a busy machine may add.
pub(crate) const SLACK: Duration = Duration::from_secs(5);
/// What the gateway may hold at most, whatever anybody does.
const MEMORY: u64 = 200 * MIB;

/// Runs `abuse` while an honest client sends over QUIC and another over TLS, and looks after all.
pub(crate) fn beside(bed: &Bed, abuse: impl FnOnce(&mut Gateway, Metrics)) {
    let metrics = Metrics::new();
    let mut gateway = bed.gateway_with(&(metrics.config() + CONFIG));
    let file = data::noise_file(&bed.path("honest"), 37, 6 * MIB);
    let send = |via: &str| {
        let run = bed.client(&gateway, ["send", "--rate", "40mbit", "--via", via]).arg(&file);
        run.arg(gateway.url(via)).start()
    };
    let honest = ["quic", "tls"].map(|via| (via, send(via)));
    metrics.wait_for(2.0, "metra_sessions", &[]);
    abuse(&mut gateway, metrics);
    for (via, sender) in honest {
        let done = sender.finish().expect(0);
        assert_eq!(done.number("resumes"), 0, "the honest client noticed\n{done}");
        assert!(data::same_bytes(&file, &gateway.at(via)));
    }
    assert!(gateway.is_running(), "{}", gateway.log());
    let peak = gateway.peak_memory();
    assert!(peak < MEMORY, "the gateway held {} MiB", peak / MIB);
}

/// Fails unless it took about as long as `limit`.
pub(crate) fn in_time(what: &str, took: Duration, limit: Duration) {
    assert!(took < limit + SLACK, "{what} lasted {took:?}, not {limit:?}");
}

const HANDSHAKES: &str = "metra_handshakes_failed_total";

fn what_is_not_tls(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        let noise: Vec<Vec<u8>> = (1..9).map(|seed| data::noise(seed, 3000)).collect();
        let others: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            // A fatal alert.
            &[0x15, 3, 3, 0, 2, 2, 40],
            // A record of absurd length, one of no known type, and the hello of SSL 2.
            &[0x16, 3, 1, 0xff, 0xff],
            &[0x99, 3, 1, 0, 5, 1, 0, 0, 1, 0],
            &[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10],
        ];
        let others: Vec<&[u8]> = noise.iter().map(Vec::as_slice).chain(others).collect();
        for bytes in &others {
            let mut stream = tcp::tcp(gateway);
            // It may be ended before all is written.
            let _ = stream.write_all(bytes);
            in_time(&format!("{:?}", &bytes[..5]), tcp::ending(&mut stream).1, LIMIT);
        }
        // Noise may look like the front of a record.
        metrics.wait_for(others.len() as f64, HANDSHAKES, &["kind=\"tls\""]);
        assert!(metrics.sum(HANDSHAKES, &["reason=\"refused\""]) >= 6.0);
        // One that has nothing to say.
        let mut stream = tcp::tcp(gateway);
        stream.shutdown(Shutdown::Write).unwrap();
        in_time("nothing at all", tcp::ending(&mut stream).1, Duration::ZERO);
    });
}

fn another_protocol_name(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        for name in ["foo", "mtp/2", "h3", "http/1.0"] {
            let mut stream = match Tls::new(gateway, name).over(tcp::tcp(gateway)) {
                Ok(stream) => stream,
                // RFC 7301 section 3.2.
                Err(e) => {
                    assert!(e.to_string().contains("NoApplicationProtocol"), "{name}: {e}");
                    continue;
                }
            };
            // A client of TLS 1.3 may hear of it only when it reads.
            let error = stream.read(&mut [0]).unwrap_err();
            assert!(error.to_string().contains("NoApplicationProtocol"), "{name}: {error}");
        }
        metrics.wait_for(4.0, HANDSHAKES, &["kind=\"tls\"", "reason=\"protocol\""]);
        let mut link = tcp::tls(gateway, "mtp/1");
        assert_eq!(welcomed(&mut link), Ok(()));
    });
}

fn handshakes_that_do_not_come_to_an_end(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        let hello = Tls::new(gateway, "mtp/1").hello();
        let began = Instant::now();
        let nothing = tcp::tcp(gateway);
        let mut half = tcp::tcp(gateway);
        half.write_all(&hello[..hello.len() / 2]).unwrap();
        // Answered, and then silent: it reads nothing either.
        let mut unfinished = tcp::tcp(gateway);
        unfinished.write_all(&hello).unwrap();
        let mut slow = tcp::tcp(gateway);
        let took = tcp::drip(&mut slow, &hello, Duration::from_millis(20));
        in_time("a handshake byte by byte", took, LIMIT);
        for mut stream in [nothing, half, unfinished, slow] {
            tcp::ending(&mut stream);
        }
        in_time("a handshake", began.elapsed(), LIMIT);
        assert!(began.elapsed() > LIMIT / 2);
        metrics.wait_for(4.0, HANDSHAKES, &["kind=\"tls\"", "reason=\"timeout\""]);
    });
}

/// Says hello; the code with which the gateway closed the link instead of a welcome.
fn welcomed(link: &mut TlsStream) -> Result<(), Option<Code>> {
    let hello = Hello { version: 1, auth: Auth::None, agent: "end to end test".into() };
    link.write_all(&tcp::framed(&Frame::Hello(hello))).unwrap();
    let mut got = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = link.read(&mut piece).unwrap_or(0);
        got.extend_from_slice(&piece[..n]);
        let (mut rest, mut control) = (&got[..], FrameDecoder::new());
        while let Ok(Some((kind, len))) = stream::head(&mut rest) {
            let Some((payload, after)) = rest.split_at_checked(len) else { break };
            if kind == stream::CONTROL {
                control.push(payload);
            }
            rest = after;
        }
        // What means nothing goes before it.
        if matches!(control.next(), Ok(Some(Frame::Welcome(_)))) {
            return Ok(());
        }
        if n == 0 {
            return Err(tcp::closing(&got));
        }
    }
}

const OPENINGS: &str = "metra_openings_total";

fn links_that_say_nothing(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        let began = Instant::now();
        let hello = Hello { version: 1, auth: Auth::None, agent: "x".repeat(200) };
        let hello = tcp::framed(&Frame::Hello(hello));
        let nothing = tcp::tls(gateway, "mtp/1");
        let mut half = tcp::tls(gateway, "mtp/1");
        half.write_all(&hello[..hello.len() / 2]).unwrap();
        // Alive, as links go, and yet no link.
        let mut pings = tcp::tls(gateway, "mtp/1");
        let pinging = thread::spawn(move || {
            let mut bytes = Vec::new();
            StreamFrame::Ping(1).encode(&mut bytes);
            tcp::drip(&mut pings, &bytes.repeat(1000), Duration::from_millis(20));
            pings
        });
        let mut slow = tcp::tls(gateway, "mtp/1");
        tcp::drip(&mut slow, &hello, Duration::from_millis(50));
        let pings = pinging.join().unwrap();
        for mut link in [nothing, half] {
            assert_eq!(tcp::closing(&tcp::ending(&mut link).0), Some(Code::Timeout));
        }
        // The others cannot know: they went on writing when they were closed.
        for mut link in [slow, pings] {
            tcp::ending(&mut link);
        }
        in_time("opening a link", began.elapsed(), 3 * LIMIT);
        metrics.wait_for(4.0, OPENINGS, &["kind=\"tls\"", "outcome=\"timeout\""]);
        // One that leaves has not opened anything either.
        drop(tcp::tls(gateway, "mtp/1"));
        metrics.wait_for(1.0, OPENINGS, &["kind=\"tls\"", "outcome=\"cancelled\""]);
    });
}

fn garbage_within_a_link(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        let mut long = Vec::new();
        varint::put(stream::CONTROL, &mut long);
        varint::put(1 << 40, &mut long);
        let mut body = Vec::new();
        stream::put_head(stream::BODY, 100, &mut body);
        let list = Frame::List { request: 1, path: String::new(), depth: 0 };
        let said: [(&str, Vec<u8>); 6] = [
            ("a length", long),
            ("a chunk of nobody", body),
            ("a pong without its layout", vec![0x36, 1, 0xff]),
            ("a close with more than its reason", vec![0x38, 4, 1, 1, b'x', b'y']),
            ("a frame that is no hello", tcp::framed(&list)),
            ("noise on the control stream", tcp::control(&[0x01, 0x02, 0xff, 0xff])),
        ];
        for (what, bytes) in &said {
            let mut link = tcp::tls(gateway, "mtp/1");
            link.write_all(bytes).unwrap();
            let (got, took) = tcp::ending(&mut link);
            assert_eq!(tcp::closing(&got), Some(Code::Protocol), "{what}");
            in_time(what, took, Duration::ZERO);
        }
        for seed in 1..6 {
            let mut link = tcp::tls(gateway, "mtp/1");
            let _ = link.write_all(&data::noise(seed, 100_000));
            in_time("noise", tcp::ending(&mut link).1, LIMIT);
        }
        wait_until("all to be counted", || {
            let all = metrics.sum(OPENINGS, &["kind=\"tls\""]);
            all - metrics.sum(OPENINGS, &["kind=\"tls\"", "outcome=\"ok\""]) >= 11.0
        });
    });
}

fn too_much_before_the_welcome(bed: &Bed) {
    beside(bed, |gateway, _| {
        let before = gateway.memory();
        // Frames of a type that nobody knows are passed over, within a link frame and as one; but not for ever.
        let mut unknown = vec![0x21, 0x80, 1, 0, 0];
        unknown.extend(vec![0; 1 << 16]);
        for bytes in [unknown.clone(), tcp::control(&unknown)] {
            let mut link = tcp::tls(gateway, "mtp/1");
            let mut sent = 0;
            while sent < 16 * MIB && link.write_all(&bytes).is_ok() {
                sent += bytes.len() as u64;
            }
            assert_eq!(tcp::closing(&tcp::ending(&mut link).0).unwrap_or(Code::Limit), Code::Limit);
        }
        // Credentials as long as they may be have room.
        let mut link = tcp::tls(gateway, "mtp/1");
        let auth = Auth::Bearer("x".repeat(4096));
        link.write_all(&tcp::framed(&Frame::Hello(Hello { version: 1, auth, agent: String::new() })))
            .unwrap();
        assert_eq!(tcp::closing(&tcp::ending(&mut link).0), Some(Code::Unauthenticated));
        let more = gateway.memory().saturating_sub(before);
        assert!(more < 48 * MIB, "it cost {} MiB", more / MIB);
    });
}

fn a_peer_that_never_reads(bed: &Bed) {
    beside(bed, |gateway, _| {
        for i in 0..200 {
            bed.write(&format!("root/many/{i}-{}", "long".repeat(50)), Digest::of(&[i]).to_string());
        }
        let before = gateway.memory();
        let links: Vec<TlsStream> = (0..4)
            .map(|_| {
                let mut link = tcp::tls(gateway, "mtp/1");
                assert_eq!(welcomed(&mut link), Ok(()));
                link.get_ref().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
                let mut bytes = Vec::new();
                StreamFrame::Ping(7).encode(&mut bytes);
                for request in 0..8 {
                    let list = Frame::List { request, path: "many".into(), depth: 1 };
                    bytes.extend(tcp::framed(&list));
                }
                // Some hundred megabytes of answers, if it gave them.
                for _ in 0..2000 {
                    if link.write_all(&bytes).is_err() {
                        break;
                    }
                }
                link
            })
            .collect();
        let more = gateway.memory().saturating_sub(before);
        assert!(more < 64 * MIB, "{} links cost {} MiB", links.len(), more / MIB);
        // Others are answered meanwhile.
        let done = bed.client(gateway, ["ls", "--via", "tls"]).arg(gateway.url("many")).expect(0);
        in_time("a listing", done.elapsed, Duration::ZERO);
    });
}
