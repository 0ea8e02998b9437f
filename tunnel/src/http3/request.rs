//! What a message must be: rules of RFC 9114 that h3 does not check, before anybody sees it.

use h3::error::StreamError;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::Authority;
use http::{Method, Request, StatusCode};

/// Why a request does not reach the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It breaks a rule of HTTP/3: its stream is reset with H3_MESSAGE_ERROR (RFC 9114 section 4.1.2).
    Malformed(&'static str),
    /// It could be taken in two ways.
    Status(StatusCode),
}

/// Looks at the head of a request; `is_extended`: it has a `:protocol`. Gives the length of the body, if that is said.
pub(super) fn check<B>(request: &Request<B>, is_extended: bool) -> Result<Option<u64>, Refusal> {
    let (uri, headers) = (request.uri(), request.headers());
    let has = (uri.scheme().is_some(), uri.path_and_query().is_some_and(|path| !path.as_str().is_empty()));
    match (request.method() == Method::CONNECT, is_extended) {
        // RFC 9220 section 3 (RFC 8441 section 4).
        (false, true) => return Err(Refusal::Malformed(":protocol without CONNECT")),
        // RFC 9114 section 4.4.
        (true, false) if has != (false, false) => {
            return Err(Refusal::Malformed("CONNECT with :scheme or :path"));
        }
        (true, false) => {}
        // Section 4.3.1; RFC 8441 section 4.
        _ if has != (true, true) => return Err(Refusal::Malformed("no :scheme or no :path")),
        _ => {}
    }
    fields(headers).map_err(Refusal::Malformed)?;
    let length = content_length(headers).map_err(Refusal::Malformed)?;
    if length.is_some() && request.method() == Method::CONNECT {
        // RFC 9297 section 3.2, RFC 9110 section 9.3.6.
        return Err(Refusal::Malformed("CONNECT with Content-Length"));
    }
    // RFC 9114 section 4.3.1: no userinfo, and one authority, wherever it is written. That the two are equal h3 has seen.
    let authority = uri.authority().ok_or(Refusal::Status(StatusCode::BAD_REQUEST))?;
    if authority.as_str().contains('@') || !one_host(headers, authority) {
        return Err(Refusal::Status(StatusCode::BAD_REQUEST));
    }
    Ok(length)
}

/// Whether h3 has refused a request because of its `:protocol`, of which it knows two. It says so in words only.
pub(super) fn is_other_protocol(error: &StreamError) -> bool {
    matches!(error, StreamError::StreamError { reason, .. } if reason.contains("invalid header value: \":protocol\" "))
}

fn one_host(headers: &HeaderMap, authority: &Authority) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => true,
        (Some(host), None) => host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()),
        _ => false,
    }
}

/// RFC 9114 section 4.2: fields that are for one connection of HTTP/1.1 have no place here. Passed on to one, they smuggle.
pub(super) fn fields(headers: &HeaderMap) -> Result<(), &'static str> {
    if FOR_ONE_CONNECTION.iter().any(|name| headers.contains_key(name)) {
        return Err("a field that is for one connection of HTTP/1.1");
    }
    if headers.get_all(TE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        return Err("TE other than trailers");
    }
    Ok(())
}

/// Takes them out of what goes out.
pub(super) fn strip(headers: &mut HeaderMap) {
    for name in &FOR_ONE_CONNECTION {
        headers.remove(name);
    }
    headers.remove(TE);
}

/// The length that is said, once or more often (RFC 9110 section 8.6).
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.as_bytes();
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let this = value.to_str().ok().filter(|_| is_number).and_then(|digits| digits.parse::<u64>().ok());
        let this = this.ok_or("a Content-Length that is no number")?;
        if length.is_some_and(|length| length != this) {
            return Err("two lengths");
        }
        length = Some(this);
    }
    Ok(length)
}

const FOR_ONE_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn get() -> http::request::Builder {
        Request::get("https://a/x")
    }

    #[test]
    fn rfc9114_4_2_fields_of_one_connection_are_malformed() {
        for (name, value, ok) in [
            ("connection", "close", false),
            ("transfer-encoding", "chunked", false),
            ("upgrade", "websocket", false),
            ("keep-alive", "1", false),
            ("proxy-connection", "close", false),
            ("te", "gzip", false),
            ("te", "trailers", true),
            ("x", "y", true),
        ] {
            let checked = check(&get().header(name, value).body(()).unwrap(), false);
            assert_eq!(checked.is_ok(), ok, "{name}: {value}");
            assert!(ok || matches!(checked, Err(Refusal::Malformed(_))));
        }
    }

    #[test]
    fn rfc9110_8_6_lengths_are_one_number() {
        for (lengths, expected) in [
            (&[][..], Ok(None)),
            (&["7"], Ok(Some(7))),
            (&["7", "7"], Ok(Some(7))),
            (&["7", "8"], Err(())),
            (&["7, 7"], Err(())),
            (&["+7"], Err(())),
            (&[""], Err(())),
            (&["99999999999999999999"], Err(())),
        ] {
            let mut request = get();
            for length in lengths {
                request = request.header(CONTENT_LENGTH, *length);
            }
            assert_eq!(check(&request.body(()).unwrap(), false).map_err(|_| ()), expected, "{lengths:?}");
        }
    }

    #[test]
    fn rfc9114_4_3_1_one_authority() {
        for (uri, hosts, ok) in [
            ("https://a/", &["a"][..], true),
            ("https://a/", &["A"], true),
            ("https://a/", &["a", "a"], false),
            ("https://a/", &["b"], false),
            ("https://u@a/", &[], false),
        ] {
            let mut request = Request::get(uri);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let checked = check(&request.body(()).unwrap(), false);
            assert_eq!(checked.is_ok(), ok, "{uri} {hosts:?}");
            assert!(ok || checked == Err(Refusal::Status(StatusCode::BAD_REQUEST)));
        }
    }

    #[test]
    fn rfc9220_3_connect_has_what_it_must() {
        let connect = |uri: &str| Request::connect(uri).body(()).unwrap();
        assert!(check(&connect("https://a/x"), true).is_ok());
        assert!(check(&connect("a:1"), true).is_err(), "extended, without :scheme and :path");
        assert!(check(&connect("a:1"), false).is_ok());
        assert!(check(&connect("https://a/x"), false).is_err());
        assert!(check(&get().body(()).unwrap(), true).is_err(), ":protocol without CONNECT");
        let mut request = connect("https://a/x");
        request.headers_mut().insert(CONTENT_LENGTH, http::HeaderValue::from_static("0"));
        assert!(check(&request, true).is_err());
    }
}
