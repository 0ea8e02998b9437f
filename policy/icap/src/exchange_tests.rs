#![allow(clippy::unwrap_used)]
//! The exchange with answers by hand, as services give them.

use super::*;
use proptest::prelude::*;

const CONTINUE: &[u8] = b"ICAP/1.0 100 Continue\r\n\r\n";
const CLEAN: &[u8] = b"ICAP/1.0 204 Unmodified\r\nISTag: \"x\"\r\n\r\n";

fn exchange(size: u64, preview: Option<usize>) -> Exchange {
    let subject = Subject { path: "a b/\r\nX: y".into(), size };
    Exchange::new(&"icap://h:1/s".parse().unwrap(), &subject, preview)
}

/// What it sends until it waits.
fn sent(exchange: &mut Exchange) -> String {
    let mut text = Vec::new();
    loop {
        text.extend_from_slice(exchange.transmit());
        exchange.transmitted(exchange.transmit().len());
        match exchange.wants() {
            0 => return String::from_utf8(text).unwrap(),
            len => exchange.content(&vec![b'z'; len]),
        }
    }
}

/// A 200 with these headers, and an encapsulated head and body.
fn answer(headers: &str, part: &str, http: &str, body: &str) -> Vec<u8> {
    let kind = if body.is_empty() { "null" } else { &part[..3] };
    let len = http.len();
    format!("ICAP/1.0 200 OK\r\n{headers}Encapsulated: {part}=0, {kind}-body={len}\r\n\r\n{http}{body}")
        .into_bytes()
}

const PAGE: &str = "HTTP/1.0 403 Forbidden\r\nServer: x\r\n\r\n";
const BODY: &str = "5\r\nhello\r\n0\r\n\r\n";

fn told(exchange: &mut Exchange, data: &[u8]) -> String {
    exchange.received(data);
    exchange.outcome().map_or("-".to_owned(), |outcome| format!("{outcome:?}"))
}

#[test]
fn rfc3507_4_5_a_small_file_is_all_preview() {
    let mut exchange = exchange(5, Some(1024));
    let text = sent(&mut exchange);
    let (icap, rest) = text.split_once("\r\n\r\n").unwrap();
    let (http, body) = rest.split_once("\r\n\r\n").unwrap();
    let lines: Vec<_> = icap.split("\r\n").collect();
    assert_eq!(lines[..2], ["REQMOD icap://h:1/s ICAP/1.0", "Host: h:1"]);
    assert_eq!(lines[3..5], ["Allow: 204", "Preview: 1024"]);
    assert_eq!(lines[5], format!("Encapsulated: req-hdr=0, req-body={}", http.len() + 4));
    assert_eq!(http.lines().next(), Some("PUT http://metra/a%20b/%0D%0AX%3A%20y HTTP/1.1"));
    assert!(http.ends_with("Content-Length: 5"));
    assert_eq!(body, "5\r\nzzzzz\r\n0; ieof\r\n\r\n");
    assert_eq!(told(&mut exchange, CLEAN), "Clean");
    assert!(exchange.is_reusable());
}

#[test]
fn rfc3507_4_5_a_large_file_goes_on_after_100() {
    let mut exchange = exchange(70_000, Some(4));
    assert!(sent(&mut exchange).ends_with("\r\n\r\n4\r\nzzzz\r\n0\r\n\r\n"));
    assert_eq!(told(&mut exchange, &CONTINUE[..10]), "-");
    assert_eq!(exchange.wants(), 0);
    assert_eq!(told(&mut exchange, &CONTINUE[10..]), "-");
    let rest = sent(&mut exchange);
    assert!(rest.starts_with("10000\r\nz") && rest.ends_with("z\r\n0\r\n\r\n"));
    assert_eq!(rest.matches('z').count(), 70_000 - 4);
    assert_eq!(told(&mut exchange, CLEAN), "Clean");
    assert!(exchange.is_reusable());
}

#[test]
fn a_service_that_wants_no_preview_gets_everything() {
    let mut whole = exchange(3, None);
    let text = sent(&mut whole);
    assert!(text.ends_with("\r\n\r\n3\r\nzzz\r\n0\r\n\r\n") && !text.contains("Preview"));
    let mut nothing = exchange(3, Some(0));
    let text = sent(&mut nothing);
    assert!(
        text.contains("Preview: 0\r\n") && text.ends_with("\r\n\r\n\r\n0\r\n\r\n")
            || text.ends_with("\r\n\r\n0\r\n\r\n")
    );
    assert_eq!(told(&mut nothing, CONTINUE), "-");
    assert_eq!(sent(&mut nothing), "3\r\nzzz\r\n0\r\n\r\n");
    let mut empty = exchange(0, Some(10));
    assert!(sent(&mut empty).contains("null-body="));
    assert_eq!(told(&mut empty, CLEAN), "Clean");
    assert!(empty.is_reusable());
}

#[test]
fn what_is_found_is_named() {
    let blocked = |headers: &str, part: &str, http: &str| {
        let mut exchange = exchange(3, None);
        sent(&mut exchange);
        let told = told(&mut exchange, &answer(headers, part, http, BODY));
        assert!(exchange.is_reusable());
        told
    };
    let c_icap = "X-Infection-Found: Type=0; Resolution=2; Threat=Test.Pattern;\r\nX-Violations-Found: 1\r\n\t-\r\n\tTest\r\n";
    let told = blocked(c_icap, "res-hdr", PAGE);
    assert_eq!(
        told,
        r#"Blocked { what: "Test.Pattern", why: "the service answers 403 Forbidden in its place" }"#
    );
    assert!(blocked("X-Virus-ID: Worm\r\n", "res-hdr", PAGE).contains(r#"what: "Worm""#));
    assert!(blocked("X-Violations-Found: 1\r\n\tf\r\n", "res-hdr", PAGE).contains(r#"what: "1 f""#));
    assert!(blocked("", "res-hdr", PAGE).contains(r#"what: "403 Forbidden""#));
    // A page that says 200 is a page all the same.
    assert!(blocked("", "res-hdr", "HTTP/1.1 200 OK\r\n\r\n").contains(r#"what: "200 OK""#));
    let put = "PUT / HTTP/1.1\r\n\r\n";
    assert!(blocked("", "req-hdr", put).starts_with("Modified"));
    assert!(blocked(c_icap, "req-hdr", put).contains("cleaned"));
    let mut reports = exchange(3, None);
    sent(&mut reports);
    let text = b"ICAP/1.0 204 OK\r\nX-Virus-ID: Worm\r\n\r\n";
    assert!(self::told(&mut reports, text).starts_with(r#"Blocked { what: "Worm""#));
}

#[test]
fn an_early_answer_ends_it() {
    for text in [answer("", "res-hdr", PAGE, BODY), CLEAN.to_vec()] {
        let mut exchange = exchange(1 << 40, Some(4));
        sent(&mut exchange);
        exchange.received(CONTINUE);
        exchange.content(b"some");
        assert_ne!(told(&mut exchange, &text), "-");
        assert!(!exchange.is_reusable());
    }
    // Behind the preview, too: there the rest is not wanted, and the connection could go on, but for what is simple.
    let mut exchange = exchange(1 << 40, Some(4));
    sent(&mut exchange);
    assert_eq!(told(&mut exchange, CLEAN), "Clean");
}

#[test]
fn rfc3507_4_4_1_encapsulated_lists_that_are_broken() {
    let lists = [
        "",
        "null-body=0",
        "res-hdr=0",
        "res-body=0",
        "res-hdr=0, res-body",
        "res-hdr=0, res-body=-1",
        "res-hdr=0, res-body=x",
        "res-hdr=0, req-body=9",
        "res-hdr=0, res-body=99999999999999999999",
        "req-hdr=0, res-hdr=5, res-body=9",
        "res-hdr=0, res-body=9, a=1, b=2, c=3",
    ];
    for list in lists {
        let mut exchange = exchange(3, None);
        sent(&mut exchange);
        let told = told(&mut exchange, format!("ICAP/1.0 200 OK\r\nEncapsulated: {list}\r\n\r\n").as_bytes());
        assert!(told.contains("Protocol"), "{list}: {told}");
    }
}

#[test]
fn what_fails() {
    let cases: [(&[u8], &str); 14] = [
        (b"ICAP/1.0 404 Service not found\r\n\r\n", "status: 404"),
        (b"ICAP/1.0 500 Oops\r\nConnection: close\r\n\r\n", "status: 500"),
        (b"ICAP/1.0 206 Partial\r\n\r\n", "not asked for"),
        (b"ICAP/1.0 302 Found\r\n\r\n", "not asked for"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status line"),
        (CONTINUE, "interim"),
        (b"ICAP/1.0 101 Switching\r\n\r\n", "interim"),
        (b"ICAP/1.0 200 OK\r\n\r\n", "Encapsulated"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: null-body=0\r\n\r\n", "Encapsulated"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: req-hdr=0, res-hdr=5, res-body=9\r\n\r\n", "Encapsulated"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=1, res-body=9\r\n\r\n", "Encapsulated"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=0\r\n\r\n", "encapsulated head"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=32769\r\n\r\n", "encapsulated head"),
        (b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, null-body=4\r\n\r\nabcd", "status line"),
    ];
    for (text, reason) in cases {
        let mut exchange = exchange(3, None);
        sent(&mut exchange);
        let told = told(&mut exchange, text);
        assert!(
            told.starts_with("Failed") && told.contains(reason),
            "{}: {told}",
            String::from_utf8_lossy(text)
        );
        assert!(!exchange.is_reusable());
    }
    let mut twice = exchange(9, Some(4));
    sent(&mut twice);
    assert!(told(&mut twice, &[CONTINUE, CONTINUE].concat()).contains("interim"));
    let mut cut = exchange(3, None);
    sent(&mut cut);
    cut.received(b"ICAP/1.0 2");
    cut.closed();
    assert!(matches!(cut.outcome(), Some(Outcome::Failed(IcapError::Closed))));
    // A page that breaks off was a page.
    let mut page = exchange(3, None);
    sent(&mut page);
    assert_eq!(told(&mut page, &answer("", "res-hdr", PAGE, "5\r\nhe")), "-");
    page.closed();
    assert!(matches!(page.outcome(), Some(Outcome::Blocked { .. })));
}

#[test]
fn what_comes_behind_the_answer_is_not_for_the_next_question() {
    let mut exchange = exchange(3, None);
    sent(&mut exchange);
    assert_eq!(told(&mut exchange, &[CLEAN, CLEAN].concat()), "Clean");
    assert!(!exchange.is_reusable());
}

#[test]
fn a_long_page_is_not_waited_for() {
    let mut exchange = exchange(3, None);
    sent(&mut exchange);
    assert_eq!(told(&mut exchange, &answer("", "res-hdr", PAGE, "fffffffff\r\n")), "-");
    let mut fed = 0;
    while exchange.outcome().is_none() {
        exchange.received(&[b'x'; 8192]);
        fed += 8192;
        assert!(fed <= SKIP + 16384);
    }
    assert!(!exchange.is_reusable());
}

/// As `SKIP_MAX`.
const SKIP: usize = 256 * 1024;

proptest! {
    #[test]
    fn no_answer_depends_on_how_it_arrives(cut in 0_usize..300, page in any::<bool>()) {
        let text = if page { answer("X-Virus-ID: W\r\n", "res-hdr", PAGE, BODY) } else { CLEAN.to_vec() };
        let cut = cut.min(text.len());
        let (mut whole, mut parts) = (exchange(3, None), exchange(3, None));
        sent(&mut whole);
        sent(&mut parts);
        parts.received(&text[..cut]);
        prop_assert_eq!(told(&mut whole, &text), told(&mut parts, &text[cut..]));
        prop_assert_eq!(whole.is_reusable(), parts.is_reusable());
    }
}
