#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const DEFAULT: &str = "https://example.org/.well-known/masque/udp/{target_host}/{target_port}/";

fn target() -> Target {
    Target::new("2001:db8::42", 443).unwrap()
}

fn error(text: &str) -> TemplateError {
    Template::parse(text).expect_err(text)
}

fn path(text: &str) -> String {
    Template::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).path_and_query(&target())
}

#[test]
fn rfc9298_2_the_examples_of_the_rfc() {
    assert_eq!(path(DEFAULT), "/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/");
    let given = "https://proxy.example.org:4443/masque?h={target_host}&p={target_port}";
    assert_eq!(path(given), "/masque?h=2001%3Adb8%3A%3A42&p=443");
    let given = Template::parse("https://proxy.example.org:4443/masque{?target_host,target_port}").unwrap();
    let whole = "https://proxy.example.org:4443/masque?target_host=2001%3Adb8%3A%3A42&target_port=443";
    assert_eq!(given.expand(&target()), whole);
    assert_eq!((given.scheme(), given.authority()), ("https", "proxy.example.org:4443"));
    assert_eq!((given.host(), given.port()), ("proxy.example.org", 4443));
}

#[test]
fn rfc9298_2_default_template_of_a_host_and_a_port() {
    let template = Template::default_of("example.org", 8443).unwrap();
    assert_eq!(template.to_string(), DEFAULT.replace("org/", "org:8443/"));
    let template = Template::default_of("2001:db8::1", 443).unwrap();
    assert_eq!((template.authority(), template.host()), ("[2001:db8::1]:443", "2001:db8::1"));
    for (host, port) in [("", 1), ("a", 0), ("a/b", 1), ("a{b}", 1), ("a:b", 1), ("a@b", 1)] {
        assert_eq!(Template::default_of(host, port), Err(TemplateError::Authority), "{host}");
    }
    assert_eq!(Template::default_of("a b", 1), Err(TemplateError::Character(' ')));
}

#[test]
fn rfc9298_2_a_template_is_absolute_with_scheme_authority_and_path() {
    let rest = "{target_host}/{target_port}/";
    for other in
        ["", "/", "//example.org/", "example.org/", "http://example.org/", "https:/example.org/", "{s}://a/"]
    {
        assert_eq!(error(&format!("{other}{rest}")), TemplateError::Scheme, "{other}");
    }
    for authority in
        ["", ":443", "a:", "a:0", "a:65536", "a:+1", "u@a", "u:p@a", "[::1", "[::1]443", "[::g]", "a%20b"]
    {
        assert_eq!(error(&format!("https://{authority}/{rest}")), TemplateError::Authority, "{authority}");
    }
    assert_eq!(error("https://example.org"), TemplateError::Path);
    assert_eq!(error("https://example.org{?target_host,target_port}"), TemplateError::Path);
    assert_eq!(error("https://example.org?h={target_host}&p={target_port}"), TemplateError::Path);
    assert!(Template::parse(&DEFAULT.replace("https", "HTTPS")).is_ok());
}

#[test]
fn rfc9298_2_variables_only_in_path_and_query() {
    assert_eq!(error("https://{target_host}:{target_port}/"), TemplateError::Authority);
    assert_eq!(error("https://a.{target_host}/{target_port}/"), TemplateError::Path);
    assert_eq!(error("https://a/{target_host}#{target_port}"), TemplateError::Fragment);
}

#[test]
fn rfc9298_2_both_variables_are_needed_and_others_may_be_there() {
    assert_eq!(error("https://a/{target_host}/"), TemplateError::Lacks("target_port"));
    assert_eq!(error("https://a/{target_port}/"), TemplateError::Lacks("target_host"));
    assert_eq!(error("https://a/{Target_host}/{target_port}"), TemplateError::Lacks("target_host"));
    let given = "https://a/{x}{target_host,y}{?x.y_1,target_port,z%20}{&target_host}{&q}";
    assert_eq!(path(given), "/2001%3Adb8%3A%3A42?target_port=443&target_host=2001%3Adb8%3A%3A42");
    assert_eq!(path("https://a/{target_host,target_port}"), "/2001%3Adb8%3A%3A42,443");
}

#[test]
fn rfc9298_2_only_printable_ascii() {
    for c in [' ', '\t', '\u{7f}', 'ü', '\0'] {
        assert_eq!(error(&format!("{DEFAULT}{c}")), TemplateError::Character(c));
    }
    assert!(path(&format!("{DEFAULT}%C3%BC")).ends_with("%C3%BC"), "encoded it is fine");
}

#[test]
fn rfc9298_2_forbidden_operators() {
    for operator in ['+', '#', '.', '/', ';'] {
        assert_eq!(
            error(&format!("https://a/{{{operator}target_host}}/{{target_port}}")),
            TemplateError::Operator(operator)
        );
    }
    for operator in ['=', ',', '!', '@', '|'] {
        assert_eq!(error(&format!("{DEFAULT}{{{operator}x}}")), TemplateError::Operator(operator));
    }
}

#[test]
fn rfc9298_2_level_3_or_lower() {
    assert_eq!(error("https://a/{target_host:3}/{target_port}/"), TemplateError::Level(':'));
    assert_eq!(error("https://a/{target_host}/{target_port*}/"), TemplateError::Level('*'));
}

#[test]
fn rfc6570_2_literals_names_and_braces() {
    for c in ['"', '<', '>', '\\', '^', '`', '|', '[', ']'] {
        assert_eq!(error(&format!("{DEFAULT}{c}")), TemplateError::Literal(c));
    }
    assert_eq!(error(&format!("{DEFAULT}%2")), TemplateError::Literal('%'));
    for end in ["{", "}", "{x", "{{x}}", "{x{y}"] {
        assert_eq!(error(&format!("{DEFAULT}{end}")), TemplateError::Braces, "{end}");
    }
    for end in ["{}", "{?}", "{x,}", "{x..y}", "{.x", "{x-y}", "{%2}", "{x y}"] {
        assert!(Template::parse(&format!("{DEFAULT}{end}")).is_err(), "{end}");
    }
}

#[test]
fn both_sides_of_the_longest_template() {
    let longest = format!("{DEFAULT}{}", "a".repeat(TEMPLATE_MAX - DEFAULT.len()));
    assert!(Template::parse(&longest).is_ok());
    assert_eq!(error(&format!("{longest}a")), TemplateError::TooLong);
}

proptest! {
    #[test]
    fn what_the_default_template_names_is_found_again(
        host in prop_oneof!["[a-zü0-9.~!$'()*+,;=_-]{1,40}", any::<std::net::Ipv6Addr>().prop_map(|a| a.to_string())],
        port in 1u16..,
    ) {
        let Ok(target) = Target::new(host, port) else { return Ok(()) };
        let template = Template::default_of("example.org", 443).unwrap();
        prop_assert_eq!(Target::match_default(&template.path_and_query(&target)), Some(Ok(target)));
    }

    #[test]
    fn what_is_expanded_is_a_path_and_a_query(end in "[a-z/?&{},_.%0-9#+]{0,40}") {
        if let Ok(template) = Template::parse(&format!("{DEFAULT}{end}")) {
            let path = template.path_and_query(&target());
            prop_assert!(path.starts_with('/') && percent::is_encoded(&path));
            let stray = path.contains(['{', '}', '#', ' ']);
            prop_assert!(!stray);
        }
    }
}
