//! Which proxy is for which host, as curl decides it for `https` URLs.

use std::net::IpAddr;

use super::url::{Proxy, ProxyUrlError, number};
use crate::dial::Target;

/// Which proxy is for which host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    proxy: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// A setting names no proxy. Fault: whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {source}")]
pub struct RulesError {
    /// `--proxy`, or the name of the variable.
    pub setting: &'static str,
    /// Why it names none.
    pub source: ProxyUrlError,
}

impl Rules {
    /// No proxy for any host.
    pub fn direct() -> Self {
        Self::default()
    }

    /// The rules of a user and an environment.
    ///
    /// The proxy is `explicit` (the value of `--proxy`), where `none`, `direct` and the empty text mean that there
    /// is none; else what `environment` has under the first of `https_proxy`, `HTTPS_PROXY`, `all_proxy` and
    /// `ALL_PROXY` that is there and not empty. `HTTP_PROXY` is never read: behind CGI anybody can set it.
    ///
    /// `no_proxy`, else `NO_PROXY`, lists hosts that are connected to directly; as with curl, also when `explicit`
    /// names a proxy. Its entries are separated by commas or blanks: `example.com`, `.example.com` or
    /// `*.example.com` (all three the host itself and all below it), `10.0.0.1`, `2001:db8::1`, `10.0.0.0/8`,
    /// `2001:db8::/32` (only for hosts that are given as addresses: names are not resolved for it), each of them but a
    /// network also with `:PORT` for that port only (IPv6 addresses then in brackets), and `*` for all hosts. What
    /// is none of these matches nothing.
    ///
    /// # Errors
    /// If the setting that is used names no proxy.
    pub fn new(
        explicit: Option<&str>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, RulesError> {
        let first = |names: &[&'static str]| {
            let found = names.iter().map(|name| (*name, environment(name)));
            found.filter_map(|(name, value)| Some((name, value?))).find(|(_, value)| !value.is_empty())
        };
        let (setting, text) = match explicit {
            Some("" | "none" | "direct") => return Ok(Self::direct()),
            Some(text) => ("--proxy", text.to_owned()),
            None => match first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]) {
                Some(found) => found,
                None => return Ok(Self::direct()),
            },
        };
        let proxy = text.trim().parse().map_err(|source| RulesError { setting, source })?;
        let exceptions = first(&["no_proxy", "NO_PROXY"]).map_or(String::new(), |(_, value)| value);
        let exceptions = exceptions.split([',', ' ', '\t']).filter_map(Exception::parse).collect();
        Ok(Self { proxy: Some(proxy), exceptions })
    }

    /// The proxy for `target`; `None` to connect directly.
    ///
    /// Loopback addresses are hosts like all others, as with curl: list them in `NO_PROXY` to except them.
    pub fn for_target(&self, target: &Target) -> Option<&Proxy> {
        let proxy = self.proxy.as_ref()?;
        let host = Host::of(&target.host);
        (!self.exceptions.iter().any(|e| e.matches(&host, target.port))).then_some(proxy)
    }

    /// The proxy that is used for all hosts without an exception.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// The same rules with another proxy in place of the one they have, as when its credentials come from
    /// elsewhere. Does nothing where there is none.
    #[must_use]
    pub fn with_proxy(mut self, proxy: Proxy) -> Self {
        if self.proxy.is_some() {
            self.proxy = Some(proxy);
        }
        self
    }
}

/// One entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    /// Only for this port.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// The name, in small letters and without dots at its ends, and all names below it.
    Domain(String),
    /// The addresses that have these leading bits.
    Network(IpAddr, u8),
}

/// A host, read the same way as the entries are.
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        if let Some(network) = Hosts::network(text) {
            return Some(Self { hosts: network, port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(number(port)?)),
            None => (text, None),
        };
        let hosts = match host {
            "*" => Hosts::All,
            host => Hosts::network(host).or_else(|| Hosts::domain(host))?,
        };
        Some(Self { hosts, port })
    }

    fn matches(&self, host: &Host, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        match (&self.hosts, host) {
            (Hosts::All, _) => true,
            (Hosts::Network(network, bits), Host::Address(address)) => within(*address, *network, *bits),
            (Hosts::Domain(domain), Host::Name(name)) => name
                .strip_suffix(domain.as_str())
                .is_some_and(|front| front.is_empty() || front.ends_with('.')),
            _ => false,
        }
    }
}

impl Hosts {
    /// `ADDRESS`, `[ADDRESS]` or `ADDRESS/BITS`.
    fn network(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        let address: IpAddr = bare.unwrap_or(address).parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().ok().filter(|b| *b <= most)?
            }
            Some(_) => return None,
        };
        Some(match address.to_canonical() {
            // ::ffff:10.0.0.0/104 is 10.0.0.0/8.
            mapped if mapped != address && bits >= 96 => Hosts::Network(mapped, bits - 96),
            _ => Hosts::Network(address, bits),
        })
    }

    fn domain(text: &str) -> Option<Self> {
        let text = text.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(text);
        let text = text.strip_prefix('.').unwrap_or(text);
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        (!text.is_empty()).then_some(Hosts::Domain(text))
    }
}

impl Host {
    fn of(text: &str) -> Self {
        // The zone of a link-local address is no part of it.
        let address = text.split_once('%').map_or(text, |(address, _)| address);
        match address.parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) => Host::Name(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()),
        }
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let rest = width - u32::from(bits);
        // A shift by the whole width is none in Rust.
        a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => same(a.to_bits().into(), n.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => same(a.to_bits(), n.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn target(text: &str) -> Target {
        let (host, port) = text.rsplit_once(' ').unwrap_or((text, "443"));
        Target { host: host.to_owned(), port: port.parse().unwrap() }
    }

    fn environment<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
    }

    fn chosen(explicit: Option<&str>, pairs: &[(&str, &str)]) -> Option<String> {
        let rules = Rules::new(explicit, environment(pairs)).unwrap();
        rules.for_target(&target("gw.example")).map(ToString::to_string)
    }

    #[test]
    fn which_setting_counts() {
        let all = [
            ("ALL_PROXY", "http://d:1"),
            ("all_proxy", "http://c:1"),
            ("HTTPS_PROXY", "http://b:1"),
            ("https_proxy", "http://a:1"),
            ("http_proxy", "http://never:1"),
            ("HTTP_PROXY", "http://never:1"),
        ];
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(chosen(None, &all), is("http://a:1"));
        assert_eq!(chosen(None, &all[..3]), is("http://b:1"));
        assert_eq!(chosen(None, &all[..2]), is("http://c:1"));
        assert_eq!(chosen(None, &all[..1]), is("http://d:1"));
        assert_eq!(chosen(None, &all[4..]), None);
        assert_eq!(chosen(None, &[]), None);
        // Empty is as good as not there.
        assert_eq!(chosen(None, &[("https_proxy", ""), ("HTTPS_PROXY", "b:1")]), is("http://b:1"));
        assert_eq!(chosen(Some("socks5h://e:9050"), &all), is("socks5h://e:9050"));
        for off in ["none", "direct", ""] {
            assert_eq!(chosen(Some(off), &all), None);
        }
    }

    #[test]
    fn exceptions_hold_for_an_explicit_proxy_too() {
        assert_eq!(chosen(Some("http://p:1"), &[("no_proxy", ".example")]), None);
        // Lower case wins, unless it is empty.
        assert!(chosen(Some("http://p:1"), &[("no_proxy", "x"), ("NO_PROXY", "*")]).is_some());
        assert!(chosen(Some("http://p:1"), &[("no_proxy", ""), ("NO_PROXY", "*")]).is_none());
    }

    #[test]
    fn errors_name_the_setting() {
        let error = Rules::new(None, environment(&[("ALL_PROXY", "socks4://h")])).unwrap_err();
        assert_eq!((error.setting, error.source), ("ALL_PROXY", ProxyUrlError::Socks4));
        let error = Rules::new(Some("ftp://me:secret@h"), |_| None).unwrap_err().to_string();
        assert!(error.starts_with("--proxy: \"ftp\" is no kind of proxy") && !error.contains("secret"));
    }

    #[test]
    fn a_proxy_is_replaced_but_not_added() {
        let other: Proxy = "http://me:pw@p:1".parse().unwrap();
        let rules = Rules::new(Some("http://p:1"), |_| None).unwrap().with_proxy(other.clone());
        assert_eq!(rules.proxy(), Some(&other));
        assert_eq!(Rules::direct().with_proxy(other), Rules::direct());
    }

    #[test]
    fn exceptions() {
        for (list, host, excepted) in [
            ("*", "anything", true),
            ("*", "10.0.0.1", true),
            ("a,*", "anything", true),
            ("*:443", "anything", true),
            ("*:80", "anything", false),
            ("example.com", "example.com", true),
            ("example.com", "EXAMPLE.com.", true),
            ("Example.com.", "www.example.com", true),
            ("example.com", "nonexample.com", false),
            ("example.com", "example.com.org", false),
            (".example.com", "example.com", true),
            (".example.com", "a.b.example.com", true),
            ("*.example.com", "a.example.com", true),
            ("*example.com", "example.com", false),
            ("*.example.com:443", "a.example.com", true),
            ("example.com:443", "example.com 443", true),
            ("example.com:443", "example.com 80", false),
            ("example.com:0", "example.com 443", false),
            ("example.com:x", "example.com", false),
            ("a, b\tc", "b", true),
            ("a, b\tc", "c", true),
            (",, ,", "a", false),
            (".", "a", false),
            ("localhost", "localhost", true),
            ("localhost", "127.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.10", false),
            ("10.0.0.1:443", "10.0.0.1", true),
            ("10.0.0.1:80", "10.0.0.1", false),
            ("0.0.1", "10.0.0.1", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.255.0.1", true),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("192.168.128.0/17", "192.168.127.1", false),
            ("192.168.128.0/17", "192.168.255.1", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("10.0.0.0/-1", "10.0.0.0", false),
            ("10.0.0.0/", "10.0.0.0", false),
            ("10.0.0.0/8", "ten.example", false),
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("[::1]:443", "::1", true),
            ("[::1]:80", "::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
            ("fe80::/10", "fe80::1%eth0", true),
            ("2001:db8::1", "2001:0db8:0::1", true),
        ] {
            let rules = Rules::new(Some("http://p:1"), environment(&[("no_proxy", list)])).unwrap();
            assert_eq!(rules.for_target(&target(host)).is_none(), excepted, "{list} for {host}");
        }
    }

    proptest! {
        #[test]
        fn no_list_panics(list in "[a-f0-9.:/*, \\[\\]%]{0,60}", host in "[a-f0-9.:%\\[]{0,20}", port: u16) {
            let rules = Rules::new(Some("p:1"), |_| Some(list.clone())).unwrap();
            rules.for_target(&Target { host, port });
        }
    }
}
