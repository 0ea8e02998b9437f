#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

#[test]
fn rfc9209_2_3_names_and_recommended_status_codes() {
    let expected = [
        ("dns_timeout", 504),
        ("dns_error", 502),
        ("destination_not_found", 500),
        ("destination_unavailable", 503),
        ("destination_ip_prohibited", 502),
        ("destination_ip_unroutable", 502),
        ("connection_refused", 502),
        ("connection_terminated", 502),
        ("connection_timeout", 504),
        ("connection_limit_reached", 503),
        ("http_request_error", 400),
        ("http_request_denied", 403),
        ("proxy_internal_error", 500),
        ("proxy_configuration_error", 500),
        ("proxy_loop_detected", 502),
    ];
    let all = ErrorType::ALL.map(|error| (error.name(), error.status()));
    assert_eq!(all, expected);
    for error in ErrorType::ALL {
        assert_eq!(ErrorType::from_name(error.name()), Some(error));
    }
    assert_eq!(ErrorType::from_name("tls_alert_received"), None);
}

#[test]
fn rfc9209_2_1_parameters_of_this_proxy() {
    assert_eq!(ProxyStatus::default().to_string(), "metra");
    let status = ProxyStatus::error(ErrorType::DnsError).rcode("NXDOMAIN").details("no \"a.example\"\\\n");
    assert_eq!(
        status.to_string(),
        r#"metra; error=dns_error; rcode="NXDOMAIN"; details="no \"a.example\"\\?""#
    );
    let status = ProxyStatus::error(ErrorType::DnsTimeout).rcode("NXDOMAIN");
    assert_eq!(status.to_string(), "metra; error=dns_timeout", "rcode belongs to dns_error only");
    assert_eq!(
        ProxyStatus::default().next_hop("[2001:db8::1]:443").to_string(),
        r#"metra; next-hop="[2001:db8::1]:443""#
    );
    let long = ProxyStatus::default().details("ü".repeat(DETAILS_MAX + 1)).to_string();
    assert_eq!(long, format!("metra; details=\"{}\"", "?".repeat(DETAILS_MAX)));
}

#[test]
fn rfc9209_2_existing_members_are_preserved() {
    let own = ProxyStatus::error(ErrorType::HttpRequestDenied);
    for existing in ["SomeOtherProxy", r#""a, b"; error=dns_error; details="x, y", c;x=1.5"#] {
        assert_eq!(own.append_to(existing), format!("{existing}, {own}"));
        assert_eq!(members(&own.append_to(existing)).len(), members(existing).len() + 1);
    }
    let many = vec!["p"; MEMBERS_MAX + 1].join(",");
    assert!(own.append_to(&many).starts_with(&many), "more than are read");
}

#[test]
fn rfc9651_4_2_what_is_no_list_counts_as_absent() {
    let own = ProxyStatus::error(ErrorType::HttpRequestDenied);
    for existing in ["", "  ", "a;", "a; details=\"open", "a,", ",", "(a b)", "a;error=x y", "5", "a, 5"] {
        assert_eq!(own.append_to(existing), own.to_string(), "{existing}");
    }
}

#[test]
fn rfc9209_2_the_first_member_is_closest_to_the_origin() {
    let field =
        r#"far; error=dns_error; rcode="NXDOMAIN"; details="no such name", near;error=http_protocol_error"#;
    let cause = cause(field).unwrap();
    assert_eq!((cause.proxy.as_str(), cause.error_type()), ("far", Some(ErrorType::DnsError)));
    assert_eq!(cause.to_string(), "far says dns_error (no such name)");
    let near = members(field).pop().unwrap();
    assert_eq!((near.error.as_deref(), near.error_type()), (Some("http_protocol_error"), None));
    assert_eq!(super::cause("a; next-hop=b.example:80, c"), None);
}

#[test]
fn rfc9209_2_1_unknown_parameters_are_ignored() {
    let field = r#"a; received-status=200; x; y=?0; z=:AA==:; error="quoted"; details=token; next-hop=b"#;
    let expected = Member {
        proxy: "a".into(),
        error: Some("quoted".into()),
        details: Some("token".into()),
        next_hop: Some("b".into()),
    };
    assert_eq!(members(field), [expected]);
}

#[test]
fn what_is_read_is_bounded() {
    assert_eq!(members(&vec!["p"; MEMBERS_MAX + 1].join(", ")).len(), MEMBERS_MAX);
    let long = format!("a; error=dns_error, b; details=\"{}\"", "x".repeat(FIELD_MAX));
    assert_eq!(members(&long).len(), 1, "up to where it is cut off");
    assert_eq!(ProxyStatus::default().append_to(&long), format!("{long}, metra"), "and still none is lost");
}

proptest! {
    #[test]
    fn what_is_written_is_read(details in any::<String>(), error in 0..ErrorType::ALL.len(), existing in "[a-z\";=, \\\\?1ü]{0,40}") {
        let own = ProxyStatus::error(ErrorType::ALL[error]).details(details).next_hop("a.example:1");
        let field = own.append_to(&existing);
        let last = members(&field).pop().unwrap();
        prop_assert_eq!((last.proxy.as_str(), last.error_type()), (PROXY, Some(ErrorType::ALL[error])));
        prop_assert!(last.details.is_some() && field.bytes().all(|b| matches!(b, b' '..=b'~')));
    }
}
