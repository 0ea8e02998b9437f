//! `Proxy-Authenticate`: the ways to show credentials that a proxy offers (RFC 9110 sections 11.6.1 and 11.7.1).

/// One way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// As the proxy writes it: compare without case.
    pub(super) scheme: String,
    /// What the credentials are for.
    pub(super) realm: Option<String>,
}

impl Challenge {
    /// The challenges of one header's value, which may have many. What is none is left out: this is only for telling
    /// people, and for knowing what to show.
    pub(super) fn parse(value: &[u8]) -> Vec<Self> {
        let text = String::from_utf8_lossy(value);
        let mut challenges: Vec<Self> = Vec::new();
        for element in elements(&text) {
            let element = element.trim();
            let (word, rest) = element.split_at(element.find(|c| !is_token(c)).unwrap_or(element.len()));
            if word.is_empty() {
                continue;
            }
            // A word before a "=" is a parameter of the scheme before; else it is a scheme, perhaps with its first
            // parameter behind it.
            let parameter = if rest.trim_start().starts_with('=') {
                element
            } else {
                challenges.push(Self { scheme: word.to_owned(), realm: None });
                rest.trim_start()
            };
            if let (Some(realm), Some(last)) = (realm(parameter), challenges.last_mut()) {
                last.realm.get_or_insert(realm);
            }
        }
        challenges
    }
}

/// Splits at the commas that are not between quotes.
fn elements(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let separates = c == ',' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        separates
    })
}

/// The value of `realm=VALUE` or `realm="VALUE"`.
fn realm(parameter: &str) -> Option<String> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("realm") {
        return None;
    }
    let value = value.trim();
    let Some(quoted) = value.strip_prefix('"') else { return Some(value.to_owned()) };
    let (mut text, mut chars) = (String::new(), quoted.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => text.extend(chars.next()),
            c => text.push(c),
        }
    }
    Some(text)
}

/// RFC 9110 section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values() {
        for (value, expected) in [
            ("", vec![]),
            (", ,=x", vec![]),
            ("realm=lost", vec![]),
            ("Negotiate", vec![("Negotiate", None)]),
            ("Negotiate YII==", vec![("Negotiate", None)]),
            ("Basic realm=\"a\"", vec![("Basic", Some("a"))]),
            ("Basic realm=a", vec![("Basic", Some("a"))]),
            ("basic REALM = \"a, \\\"b\\\"\", charset=\"UTF-8\"", vec![("basic", Some("a, \"b\""))]),
            ("Basic charset=\"UTF-8\", realm=\"a\"", vec![("Basic", Some("a"))]),
            (
                "Negotiate, NTLM , Basic realm=\"x\",Bearer",
                vec![("Negotiate", None), ("NTLM", None), ("Basic", Some("x")), ("Bearer", None)],
            ),
            (
                "Digest nonce=\"1,2\", realm=\"d\", Basic realm=\"b\"",
                vec![("Digest", Some("d")), ("Basic", Some("b"))],
            ),
            ("Basic realm=\"never ends, NTLM", vec![("Basic", Some("never ends, NTLM"))]),
        ] {
            let found = Challenge::parse(value.as_bytes());
            let found: Vec<_> = found.iter().map(|c| (c.scheme.as_str(), c.realm.as_deref())).collect();
            assert_eq!(found, expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value: Vec<u8>) {
            Challenge::parse(&value);
        }

        #[test]
        fn nothing_near_a_value_panics(value in "[Ba =,\"\\\\ré]{0,40}") {
            Challenge::parse(value.as_bytes());
        }
    }
}
