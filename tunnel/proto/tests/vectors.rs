//! Holds encoder and decoder to the test vectors under `tests/vectors/`, which other implementations can use as well.
//!
//! After a deliberate change, `METRA_WRITE_VECTORS=1 cargo test -p metra-tunnel-proto --test vectors` writes the files
//! anew; the difference is then for the reviewer to read.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the files under test are read here, not by the crate")]

use bytes::Bytes;
use metra_tunnel_proto::capsule::CapsuleDecoder;
use metra_tunnel_proto::{Target, Template, capsule};

#[path = "../../../tests/vectors/hold.rs"]
mod hold;
use hold::{Vector, bytes_of, hex, hold};

/// The payloads of a stream that arrives in pieces of `size` bytes, in hexadecimal, and how it ends.
fn read(stream: &[u8], size: usize) -> (String, String) {
    let (mut decoder, mut payloads) = (CapsuleDecoder::new(), Vec::new());
    for piece in stream.chunks(size) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Ok(Some(payload)) = decoder.next() {
            payloads.push(format!("[{}]", hex(&payload)));
        }
    }
    (payloads.join(" "), decoder.finish().map_or_else(|e| e.to_string(), |()| "complete".into()))
}

fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let put = |payload: &[u8]| {
        let mut out = Vec::new();
        assert!(capsule::put(payload, &mut out));
        out
    };
    let unknown = |kind: &[u8], len: u8| [kind, &[len], &vec![0xee; len.into()]].concat();
    vec![
        ("payload", put(b"hello")),
        ("payload-empty", put(b"")),
        ("payload-longest-with-a-short-length", put(&[0x61; 62])),
        ("payload-shortest-with-a-longer-length", put(&[0x61; 63])),
        ("payloads", [put(b"one"), put(b""), put(b"two")].concat()),
        ("longer-varints", vec![0x40, 0x00, 0xc0, 0, 0, 0, 0, 0, 0, 6, 0x80, 0, 0, 0, b'h', b'i']),
        ("unknown-type", [unknown(&[0x01], 20), put(b"after")].concat()),
        ("grease", [unknown(&[0x17], 0), unknown(&[0x40, 0x40], 3), put(b"after")].concat()),
        ("other-context", [vec![0x00, 0x03, 0x02, 0xaa, 0xbb], put(b"after")].concat()),
        ("other-context-empty", [vec![0x00, 0x01, 0x01], put(b"after")].concat()),
        ("nothing", vec![]),
        ("bad-no-context", [put(b"before"), vec![0x00, 0x00], put(b"after")].concat()),
        ("bad-context-longer-than-its-capsule", vec![0x00, 0x01, 0x40, 0x00]),
        ("bad-payload-too-long", vec![0x00, 0x80, 0x00, 0xff, 0xf9, 0x00]),
        ("bad-end-after-the-type", [put(b"before"), vec![0x00]].concat()),
        ("bad-end-inside-the-length", vec![0x00, 0x40]),
        ("bad-end-inside-a-payload", vec![0x00, 0x06, 0x00, b'h', b'e']),
        ("bad-end-inside-an-unknown-capsule", vec![0x17, 0x02, 0x00]),
    ]
}

#[test]
fn capsules() {
    let cases: Vec<Vector> = streams()
        .into_iter()
        .map(|(name, stream)| {
            let (payloads, end) = read(&stream, stream.len().max(1));
            vec![("name", name.into()), ("hex", hex(&stream)), ("payloads", payloads), ("end", end)]
        })
        .collect();
    let about = "Streams of capsules (RFC 9297, section 3.2) of a UDP tunnel (RFC 9298, section 5), the UDP payloads in them, each\n\
                 in brackets, and what the stream ends with.";
    for vector in hold("capsules", about, &cases) {
        let stream = bytes_of(&vector);
        let expected = ["payloads", "end"].map(|key| vector[key].as_str().unwrap().to_owned());
        for size in 1..=stream.len() {
            assert_eq!(<[String; 2]>::from(read(&stream, size)), expected, "in pieces of {size}");
        }
        assert_eq!(expected[1] == "complete", !vector["name"].as_str().unwrap().starts_with("bad-"));
    }
}

/// Templates, and what they are expanded with; IPv6 with a name of the proxy that says so.
fn templates() -> Vec<(&'static str, &'static str, &'static str, u16)> {
    let default = "https://example.org/.well-known/masque/udp/{target_host}/{target_port}/";
    let v6 = "2001:db8::42";
    vec![
        ("default-ipv4", default, "192.0.2.6", 443),
        ("default-ipv6", default, v6, 443),
        ("default-name", default, "target.example", 53),
        ("default-name-not-ascii", default, "bücher.example", 53),
        ("query", "https://proxy.example.org:4443/masque?h={target_host}&p={target_port}", v6, 1),
        ("query-expansion", "https://proxy.example.org:4443/masque{?target_host,target_port}", v6, 65_535),
        ("query-continued", "https://[2001:db8::1]:8443/m?a=b{&target_port,other,target_host}", v6, 443),
        ("list", "https://example.org/{target_host,target_port}", v6, 443),
        ("other-variables", "https://example.org/{other}{target_host}/{target_port}{?a,b}", "a.example", 443),
        ("bad-relative", "/.well-known/masque/udp/{target_host}/{target_port}/", v6, 443),
        ("bad-scheme", "http://example.org/{target_host}/{target_port}/", v6, 443),
        ("bad-authority", "https:///{target_host}/{target_port}/", v6, 443),
        ("bad-user", "https://user@example.org/{target_host}/{target_port}/", v6, 443),
        ("bad-no-path", "https://example.org{?target_host,target_port}", v6, 443),
        ("bad-variable-in-authority", "https://{target_host}/{target_port}/", v6, 443),
        ("bad-fragment", "https://example.org/{target_host}/{target_port}/#a", v6, 443),
        ("bad-no-host", "https://example.org/{target_port}/", v6, 443),
        ("bad-no-port", "https://example.org/{target_host}/", v6, 443),
        ("bad-reserved-expansion", "https://example.org/{+target_host}/{target_port}/", v6, 443),
        ("bad-fragment-expansion", "https://example.org/{target_host}/{#target_port}", v6, 443),
        ("bad-label-expansion", "https://example.org/{target_host}{.target_port}", v6, 443),
        ("bad-path-expansion", "https://example.org{/target_host,target_port}", v6, 443),
        ("bad-path-expansion-later", "https://example.org/udp{/target_host,target_port}", v6, 443),
        ("bad-parameter-expansion", "https://example.org/udp{;target_host,target_port}", v6, 443),
        ("bad-prefix-modifier", "https://example.org/{target_host:8}/{target_port}/", v6, 443),
        ("bad-explode-modifier", "https://example.org/{target_host*}/{target_port}/", v6, 443),
        ("bad-not-ascii", "https://example.org/ü/{target_host}/{target_port}/", v6, 443),
        ("bad-space", "https://example.org/ /{target_host}/{target_port}/", v6, 443),
        ("bad-braces", "https://example.org/{target_host}/{target_port/", v6, 443),
    ]
}

/// The name of an error, without what is in it.
fn reason(error: impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split('(').next().unwrap().to_owned()
}

#[test]
fn uri_templates() {
    let path = |template: &str, host: &str, port: u16| match Template::parse(template) {
        Ok(template) => template.path_and_query(&Target::new(host, port).unwrap()),
        Err(error) => reason(error),
    };
    let cases: Vec<Vector> = templates()
        .into_iter()
        .map(|(name, template, host, port)| {
            vec![
                ("name", name.into()),
                ("template", template.into()),
                ("host", host.into()),
                ("port", port.to_string()),
                (if name.starts_with("bad-") { "refused" } else { "path" }, path(template, host, port)),
            ]
        })
        .collect();
    let about = "URI templates of proxies for UDP (RFC 9298, section 2), and the path and query that they give for a target; or\n\
                 why they are refused (the word is not part of the vector).";
    for vector in hold("templates", about, &cases) {
        let text = |key: &str| vector[key].as_str().unwrap();
        assert_eq!(Template::parse(text("template")).is_ok(), vector.contains_key("path"), "{vector:?}");
        if text("name").starts_with("default-") {
            let target = Target::new(text("host"), text("port").parse().unwrap()).unwrap();
            assert_eq!(Target::match_default(text("path")), Some(Ok(target)));
        }
    }
}

#[test]
fn targets() {
    let paths = [
        ("ipv4", "/.well-known/masque/udp/192.0.2.6/443/"),
        ("ipv6", "/.well-known/masque/udp/2001%3Adb8%3a%3A42/443/"),
        ("name", "/.well-known/masque/udp/t%61rget.example/%35%33/"),
        ("bad-host-empty", "/.well-known/masque/udp//443/"),
        ("bad-port-empty", "/.well-known/masque/udp/a//"),
        ("bad-port-0", "/.well-known/masque/udp/a/0/"),
        ("bad-port-65536", "/.well-known/masque/udp/a/65536/"),
        ("bad-port-signed", "/.well-known/masque/udp/a/+443/"),
        ("bad-colon", "/.well-known/masque/udp/2001:db8::42/443/"),
        ("bad-brackets", "/.well-known/masque/udp/%5B2001%3Adb8%3A%3A42%5D/443/"),
        ("bad-zone", "/.well-known/masque/udp/fe80%3A%3A1%25eth0/443/"),
        ("bad-encoded-twice", "/.well-known/masque/udp/%2561.example/443/"),
        ("bad-encoding", "/.well-known/masque/udp/%6/443/"),
        ("bad-not-utf8", "/.well-known/masque/udp/%ff/443/"),
        ("bad-slash", "/.well-known/masque/udp/a%2Fb/443/"),
        ("bad-nul", "/.well-known/masque/udp/a%00/443/"),
        ("bad-dots", "/.well-known/masque/udp/%2E%2E/443/"),
        ("bad-no-slash-at-the-end", "/.well-known/masque/udp/a/443"),
        ("bad-query", "/.well-known/masque/udp/a/443/?x"),
        ("bad-more", "/.well-known/masque/udp/a/443/x/"),
    ];
    let cases: Vec<Vector> = paths
        .into_iter()
        .map(|(name, path)| {
            let (key, value) = match Target::match_default(path).unwrap() {
                Ok(target) => ("target", target.to_string()),
                Err(error) => ("refused", reason(error)),
            };
            vec![("name", name.into()), ("path", path.into()), (key, value)]
        })
        .collect();
    let about = "Paths of the default template (RFC 9298, sections 2 and 3), and the target that they name; or why they are refused\n\
                 (the word is not part of the vector).";
    for vector in hold("targets", about, &cases) {
        let refused = Target::match_default(vector["path"].as_str().unwrap()).unwrap().is_err();
        assert_eq!(refused, vector["name"].as_str().unwrap().starts_with("bad-"), "{vector:?}");
    }
}
