//! What the fuzz targets run, and what the test of their corpus runs on stable Rust.
//!
//! Each function takes arbitrary bytes and panics if a promise of the crate does not hold. No part of the crate's
//! interface.

use bytes::Bytes;

use crate::capsule::{self, CapsuleDecoder, CapsuleError, Skipped};
use crate::proxy_status::{self, FIELD_MAX, MEMBERS_MAX, PROXY};
use crate::{ErrorType, Prefix, ProxyStatus, Target, Template, UDP_PAYLOAD_MAX, capsule_protocol, datagram};

/// A fuzz target: its name, which is also the name of its corpus, and its function.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [FuzzTarget; 4] = [
    ("capsules", capsules),
    ("http_datagram", http_datagram),
    ("uri_template", uri_template),
    ("proxy_status", self::proxy_status),
];

/// The stream of a request. The first byte says how long the pieces are that it arrives in.
pub fn capsules(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else { return };
    let stream = Bytes::copy_from_slice(stream);
    let whole = payloads(&stream, stream.len().max(1));
    assert_eq!(whole, payloads(&stream, usize::from(size) + 1), "payloads do not depend on how bytes arrive");

    let mut again = Vec::new();
    for payload in &whole.0 {
        assert!(payload.len() <= UDP_PAYLOAD_MAX && payload.len() <= stream.len());
        assert!(capsule::put(payload, &mut again), "what was read can be written");
    }
    let len = again.len();
    assert_eq!(payloads(&again.into(), len.max(1)), (whole.0, Skipped::default(), Ok(())));
}

/// What a stream says that arrives in pieces of `size` bytes.
fn payloads(stream: &Bytes, size: usize) -> (Vec<Bytes>, Skipped, Result<(), CapsuleError>) {
    let (mut decoder, mut payloads, mut at) = (CapsuleDecoder::new(), Vec::new(), 0);
    while at < stream.len() {
        let end = stream.len().min(at + size);
        decoder.push(stream.slice(at..end));
        at = end;
        while let Ok(Some(payload)) = decoder.next() {
            payloads.push(payload);
        }
    }
    (payloads, decoder.skipped(), decoder.finish())
}

/// The content of a QUIC DATAGRAM frame.
pub fn http_datagram(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    let Ok((stream, payload)) = datagram::split(frame) else { return };
    assert!(payload.len() < data.len());
    let prefix = datagram::prefix(stream).expect("the id of a stream of a request");
    assert!(prefix.len() <= Prefix::MAX);
    if let Ok(Some(udp)) = datagram::udp_payload(payload) {
        assert!(data.ends_with(&udp) && prefix.len() + udp.len() <= data.len(), "no prefix is shorter");
        let again = [&prefix, &udp[..]].concat();
        let (same, payload) = datagram::split(again.into()).expect("what was read can be written");
        assert_eq!((same, datagram::udp_payload(payload)), (stream, Ok(Some(udp))));
    }
}

/// A template and, after a line end, the path of a request.
pub fn uri_template(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (template, path) = text.split_once('\n').unwrap_or((&text, &text));
    let v6 = Target::new("2001:db8::1", 443).expect("a target");
    if let Some(Ok(target)) = Target::match_default(path) {
        assert_eq!(Target::new(target.host(), target.port()).as_ref(), Ok(&target));
        let default = Template::default_of("proxy.example", 443).expect("a template");
        assert_eq!(Target::match_default(&default.path_and_query(&target)), Some(Ok(target)));
    }
    let Ok(template) = Template::parse(template) else { return };
    assert_eq!(Template::parse(&template.to_string()).as_ref(), Ok(&template));
    assert!(template.port() > 0 && !template.host().is_empty());
    assert!(!template.authority().contains(['/', '?', '#', '@', '{']));
    let path = template.path_and_query(&v6);
    assert!(path.starts_with('/') && !path.contains('#') && path.bytes().all(|b| b.is_ascii_graphic()));
    assert!(path.contains("2001%3Adb8%3A%3A1") && path.contains("443"), "both variables are in it");
    assert_eq!(template.expand(&v6), format!("https://{}{path}", template.authority()));
}

/// The value of a `Proxy-Status` or a `Capsule-Protocol` field.
pub fn proxy_status(data: &[u8]) {
    let _ = capsule_protocol::is_on([data]);
    let text = String::from_utf8_lossy(data);
    let before = proxy_status::members(&text);
    assert!(before.len() <= MEMBERS_MAX);
    let own = ProxyStatus::error(ErrorType::DnsError).details(text.clone()).rcode(text.clone());
    let after = own.append_to(&text);
    assert!(after.is_ascii() && after.ends_with(&own.to_string()));
    if after.len() <= FIELD_MAX {
        let mut members = proxy_status::members(&after);
        if members.len() < MEMBERS_MAX {
            let last = members.pop().expect("the member that was appended");
            assert_eq!((last.proxy.as_str(), last.error_type()), (PROXY, Some(ErrorType::DnsError)));
            assert!(members.is_empty() || members == before, "all of them or, if it was no list, none");
        }
    }
}
