//! HTTP CONNECT against scripted proxies.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tokio::io::duplex;

use super::*;

fn proxy(text: &str) -> Proxy {
    text.parse().unwrap()
}

fn target() -> Target {
    Target { host: "gw.example".to_owned(), port: 4443 }
}

/// Lets a proxy give `answer` in pieces of `size` bytes, and then close or stay. What it was asked, the outcome, and
/// what is left to read of the stream after it.
async fn exchange(proxy: &Proxy, answer: &[u8], size: usize) -> (String, Result<Bytes, DialError>, Vec<u8>) {
    let (mut near, mut far) = duplex(64 * 1024);
    let proxy_side = async {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(far.read_u8().await.unwrap());
        }
        for piece in answer.chunks(size) {
            if far.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(far);
        String::from_utf8(asked).unwrap()
    };
    let client_side = async {
        let outcome = open(&mut near, proxy, &target()).await;
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (outcome, rest)
    };
    let (asked, (outcome, rest)) = tokio::join!(proxy_side, client_side);
    (asked, outcome, rest)
}

async fn answered(answer: &str) -> Result<Bytes, DialError> {
    exchange(&proxy("http://p:3128"), answer.as_bytes(), usize::MAX).await.1
}

async fn text_of(proxy_url: &str, answer: &str) -> String {
    exchange(&proxy(proxy_url), answer.as_bytes(), usize::MAX).await.1.unwrap_err().to_string()
}

const OK: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

#[tokio::test]
async fn requests() {
    let asked = exchange(&proxy("http://p:3128"), OK.as_bytes(), 64).await.0;
    let agent = env!("CARGO_PKG_VERSION");
    assert_eq!(
        asked,
        format!(
            "CONNECT gw.example:4443 HTTP/1.1\r\nHost: gw.example:4443\r\nUser-Agent: metra/{agent}\r\n\r\n"
        )
    );
    // RFC 7617 section 2.
    let asked = exchange(&proxy("http://Aladdin:open%20sesame@p"), OK.as_bytes(), 64).await.0;
    assert!(asked.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{asked}");
    let bearer = proxy("http://p").with_credentials(Credentials::Bearer("t0ken".to_owned())).unwrap();
    let asked = exchange(&bearer, OK.as_bytes(), 64).await.0;
    assert!(asked.contains("\r\nProxy-Authorization: Bearer t0ken\r\n"), "{asked}");
    let v6 = Target { host: "2001:db8::1".to_owned(), port: 443 };
    let asked = String::from_utf8(request(&proxy("http://p"), &v6)).unwrap();
    assert!(
        asked.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n"),
        "{asked}"
    );
}

#[tokio::test]
async fn any_2xx_is_a_tunnel() {
    // RFC 9110 section 9.3.6: "Any 2xx"; Content-Length and Transfer-Encoding "MUST" be ignored.
    for head in [
        OK,
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200\r\n\r\n",
        "HTTP/1.1 200 OK\nVia: x\n\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 299 x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        for size in [1, 2, 7, usize::MAX] {
            let answer = [head.as_bytes(), b"first\r\n\r\nbytes"].concat();
            let (_, first, rest) = exchange(&proxy("http://p"), &answer, size).await;
            let all = [first.unwrap_or_else(|e| panic!("{head:?}: {e}")).as_ref(), &rest].concat();
            assert_eq!(all, b"first\r\n\r\nbytes", "{head:?} by {size}");
        }
    }
}

#[tokio::test]
async fn refusals() {
    for (answer, message, lasting) in [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            "403 Forbidden; its rules may allow other hosts or ports only, often just 443",
            true,
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\nProxy-Status: squid; error=dns_error\r\n\r\n",
            "502 Bad Gateway (squid; error=dns_error)",
            false,
        ),
        ("HTTP/1.1 503 \r\n\r\n", "503", false),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", "504 Gateway Timeout", false),
        ("HTTP/1.1 429 Too Many\r\n\r\n", "429 Too Many", false),
        (
            "HTTP/1.1 405 Method Not Allowed\r\n\r\n",
            "405 Method Not Allowed; it may be a server that is no proxy",
            true,
        ),
        ("HTTP/1.1 505 x\r\n\r\n", "505 x", true),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n",
            "302 Found; a page to sign in may be in between: open one in a browser",
            true,
        ),
    ] {
        let error = answered(answer).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the proxy http://p:3128 does not connect to gw.example:4443: {message}")
        );
        assert!(matches!(error, DialError::ProxyRefused { .. }), "{answer:?}");
        assert_eq!((error.is_final(), error.is_silence()), (lasting, false), "{answer:?}");
    }
}

#[test]
fn what_a_proxy_says_is_cleaned() {
    assert_eq!(cleaned(b" a\x1b[31mb\t\x00\x7f "), "a[31mb");
    assert_eq!(cleaned("a\u{202e}b\u{9b}c".as_bytes()), "abc");
    assert_eq!(cleaned(b"\xff"), "\u{fffd}");
    assert_eq!(cleaned(&[b'x'; 1000]).len(), SHOWN_MAX);
}

#[tokio::test]
async fn credentials_wanted() {
    let with = |challenge: &str| format!("HTTP/1.1 407 x\r\n{challenge}\r\n");
    let basic = with("Proxy-Authenticate: Negotiate\r\nproxy-authenticate: Basic realm=\"corp\"\r\n");
    assert_eq!(
        text_of("http://p:1", &basic).await,
        "the proxy http://p:1 wants credentials: a user and a password for \"corp\": write \
         http://USER:PASSWORD@HOST:PORT, with % escapes for special characters"
    );
    assert_eq!(
        text_of("http://me:pw@p:1", &basic).await,
        "the proxy http://p:1 wants credentials: it refuses this user and password for \"corp\""
    );
    let helper = with("Proxy-Authenticate: Negotiate, NTLM\r\n");
    for url in ["http://p:1", "http://me:pw@p:1"] {
        assert_eq!(
            text_of(url, &helper).await,
            "the proxy http://p:1 wants credentials: it takes only Negotiate, NTLM, which is not built in: run a \
             local helper such as px or cntlm, and name that as the proxy"
        );
    }
    assert!(text_of("http://p:1", &with("")).await.ends_with("(407 without Proxy-Authenticate)"));
    let bearer = with("Proxy-Authenticate: Bearer\r\n");
    assert!(text_of("http://me:pw@p:1", &bearer).await.ends_with("a token (Bearer)"));

    let error = answered(&basic).await.unwrap_err();
    assert!(error.is_final() && !error.is_silence());
    let DialError::ProxyAuth { schemes, .. } = error else { panic!("{error}") };
    assert_eq!(schemes, ["Negotiate", "Basic"]);
}

#[tokio::test]
async fn a_401_is_about_the_credentials_that_were_shown() {
    let answer = "HTTP/1.0 401 Unauthorized\r\n\r\n";
    let says = "the proxy http://p:1 wants credentials: it refuses these (401)";
    assert_eq!(text_of("http://me:pw@p:1", answer).await, says);
    assert!(text_of("http://p:1", answer).await.ends_with("gw.example:4443: 401 Unauthorized"));
}

#[tokio::test]
async fn refused_tokens() {
    let bearer = proxy("http://p:1").with_credentials(Credentials::Bearer("t".to_owned())).unwrap();
    let answer = b"HTTP/1.1 407 x\r\nProxy-Authenticate: Bearer realm=a, Basic\r\n\r\n";
    let error = exchange(&bearer, answer, 9).await.1.unwrap_err().to_string();
    assert!(error.ends_with("it refuses this token for \"a\""), "{error}");
}

#[tokio::test]
async fn what_is_no_answer() {
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    for (answer, says) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP/1.1"),
        ("\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{32}", "write https://"),
        ("\u{5}\0", "write socks5h://"),
        ("HTTP/2.0 200 OK\r\n\r\n", "not HTTP/1.1"),
        ("HTTP/1.1 2xx OK\r\n\r\n", "invalid response status"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101"),
        ("HTTP/1.1 000 x\r\n\r\n", "status 0"),
        ("HTTP/1.1 999 x\r\n\r\n", "status 999"),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "invalid"),
        (&format!("HTTP/1.1 200 OK\r\n{many}\r\n"), "more than 128 headers"),
    ] {
        for size in [1, usize::MAX] {
            let error = exchange(&proxy("http://p"), answer.as_bytes(), size).await.1.unwrap_err();
            assert!(matches!(error, DialError::ProxyProtocol { .. }), "{answer:?}: {error}");
            assert!(error.to_string().contains(says) && error.is_final(), "{answer:?}: {error}");
        }
    }
}

#[tokio::test]
async fn heads_have_a_longest() {
    let head = |len: usize| {
        let (front, back) = ("HTTP/1.1 200 OK\r\nX: ", "\r\n\r\n");
        [front, &"y".repeat(len - front.len() - back.len()), back].concat()
    };
    assert!(answered(&head(HEAD_MAX)).await.unwrap().is_empty());
    let error = answered(&head(HEAD_MAX + 1)).await.unwrap_err();
    assert!(matches!(error, DialError::ProxyProtocol { .. }) && error.to_string().contains("16384 bytes"));
    // Interim answers count as well.
    let error = answered(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)).await.unwrap_err();
    assert!(error.to_string().contains("16384 bytes"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_closes() {
    for answer in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let error = answered(answer).await.unwrap_err();
        let DialError::ProxyLost { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
        assert!(!error.is_final() && !error.is_silence());
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(data: Vec<u8>) {
        let _ = parse(&data);
    }

    #[test]
    fn nothing_near_an_answer_panics(data in "(HTTP/1\\.[01] [0-9]{0,4} ?[ -~\u{e9}]{0,9}\r?\n([a-z-]{0,8}:? ?[ -~]{0,9}\r?\n){0,3}\r?\n){0,3}.{0,5}") {
        let data = data.as_bytes();
        if let Ok(Some((answer, used))) = parse(data) {
            prop_assert_eq!(parse(&data[..used]), Ok(Some((answer, used))));
            prop_assert_eq!(parse(&data[..used - 1]), Ok(None));
        }
    }
}
