//! `metra tunnel`: which port leads where, and through what.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use metra_certs::Pin;
use metra_client::{Credentials, MasqueProxy};
use metra_tunnel::client::Hop;
use metra_tunnel::forward::{Bounds, Over};
use metra_tunnel::proto::Target;

use super::connect::{read_token, trust};
use crate::exit::Failure;

/// Lead a UDP port of this machine through a MASQUE proxy, for any program
///
/// What programs send to the port goes to the target as if the proxy had sent it (CONNECT-UDP, RFC 9298), and answers come
/// back. Each program's address has a tunnel of its own. A proxy over HTTP/3 gets one connection for all of them, over TCP one
/// each. When the proxy is lost, the next datagram tries again; datagrams meanwhile are lost, as on any path.
///
/// It runs until ^C or SIGTERM. At the start it looks whether the proxy lets it through, and says why not.
#[derive(Args, Debug)]
pub(crate) struct TunnelArgs {
    /// Address to listen on, IP:PORT or [IPv6]:PORT; port 0 is any that is free
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Where it leads to, HOST:PORT or [IPv6]:PORT; a name is resolved by the proxy
    #[arg(long, value_name = "HOST:PORT", value_parser = target)]
    pub(crate) target: Target,
    /// The proxy: a URI template with {target_host} and {target_port}, or https://HOST[:PORT] for the default one,
    /// /.well-known/masque/udp/{target_host}/{target_port}/. It may have USER:PASSWORD@ before HOST
    #[arg(long, value_name = "URL")]
    proxy: String,
    /// How to reach the proxy
    #[arg(long, value_name = "WAY", default_value = "auto")]
    over: OverName,
    /// File that holds a bearer token for the proxy and nothing else
    #[arg(long, value_name = "FILE")]
    proxy_token_file: Option<PathBuf>,
    /// Client certificate chain (PEM), for proxies that ask for one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of the client certificate (PEM, unencrypted)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Trust the certificate authorities in this file (PEM), and no others; may be repeated
    #[arg(long, value_name = "FILE")]
    ca: Vec<PathBuf>,
    /// Trust the proxy whose key has this pin (sha256/...); may be repeated
    #[arg(long, value_name = "PIN")]
    pin: Vec<Pin>,
    /// Tunnels at a time; datagrams of further programs are lost
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    flows: u16,
    /// End a tunnel after so long without a datagram
    #[arg(long, value_name = "SECS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    idle: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OverName {
    /// HTTP/3, or TCP where that does not work
    #[default]
    Auto,
    /// HTTP/3: over QUIC
    H3,
    /// HTTP/2 or HTTP/1.1 over TLS
    Tcp,
}

impl TunnelArgs {
    /// How the proxy is reached.
    pub(crate) fn over(&self) -> Over {
        match self.over {
            OverName::Auto => Over::Auto,
            OverName::H3 => Over::Http3,
            OverName::Tcp => Over::Tcp,
        }
    }

    /// What the tunnels may use.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { flows: self.flows.into(), idle: Duration::from_secs(self.idle.into()) }
    }

    /// The proxy, whom to trust there, and what is shown to it.
    ///
    /// # Errors
    /// One of the options is wrong, or a file that it names. Fault: the user.
    pub(crate) fn hop(&self) -> Result<Hop, Failure> {
        let mut proxy = proxy(&self.proxy)?;
        if let Some(file) = &self.proxy_token_file {
            if *proxy.credentials() != Credentials::None {
                let message = "--proxy has a user already: --proxy-token-file does not go with it";
                return Err(Failure::usage(message));
            }
            let token = read_token("--proxy-token-file", file)?;
            proxy =
                proxy.with_token(token).map_err(|e| Failure::usage(format!("--proxy-token-file: {e}")))?;
        }
        let certificate = self.cert.as_deref().zip(self.key.as_deref());
        let tls = metra_certs::client_config(&trust(&self.ca, &self.pin), certificate)
            .map_err(|e| Failure::usage(e.to_string()))?;
        Ok(Hop { template: proxy.template().clone(), tls, credentials: proxy.credentials().clone() })
    }
}

/// As clients know MASQUE proxies.
fn proxy(text: &str) -> Result<MasqueProxy, Failure> {
    text.parse().map_err(|e| Failure::usage(format!("--proxy: {e}")))
}

/// HOST:PORT.
fn target(text: &str) -> Result<Target, String> {
    let (host, port) = text.rsplit_once(':').ok_or("it has no port: HOST:PORT")?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address,
        None if host.contains(':') => return Err("an IPv6 address has brackets: [ADDRESS]:PORT".to_owned()),
        None => host,
    };
    let port = port.parse().map_err(|_| "the port is no number from 1 to 65535")?;
    Target::new(host, port).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn targets_are_hosts_with_ports() {
        for (text, host, port) in [
            ("dns.example:53", "dns.example", 53),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ] {
            assert_eq!(target(text), Ok(Target::new(host, port).unwrap()));
        }
        for text in ["dns.example", "dns.example:", ":53", "dns.example:0", "a:65536", "2001:db8::1:53"] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn proxies_are_templates_or_hosts_and_may_have_a_user() {
        let there = target("192.0.2.1:53").unwrap();
        let at = |text: &str| {
            proxy(text).map(|proxy| (proxy.template().expand(&there), proxy.credentials().clone()))
        };
        let default = "/.well-known/masque/udp/192.0.2.1/53/";
        for text in ["https://p.example", "https://p.example/"] {
            let (uri, shown) = at(text).unwrap();
            assert!(uri.starts_with("https://p.example") && uri.ends_with(default), "{uri}");
            assert_eq!(shown, Credentials::None);
        }
        let (uri, shown) = at("https://me:p%40ss@p.example:4443/m{?target_host,target_port}").unwrap();
        assert_eq!(uri, "https://p.example:4443/m?target_host=192.0.2.1&target_port=53");
        assert_eq!(shown, Credentials::Basic { user: "me".to_owned(), password: "p@ss".to_owned() });
        for text in ["http://p.example", "p.example", "https://", "https://p.example/udp", "https://s:e%zz@p"]
        {
            let failure = at(text).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage, "{text}");
            assert!(!failure.message.contains("e%zz"), "{}", failure.message);
        }
    }
}
