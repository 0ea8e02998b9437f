//! From [`Probe`]s to [`Finding`]s: what is wrong on the way to a gateway, in words. Nothing is asked or measured here.
//!
//! | What stands in the way | `name` |
//! |---|---|
//! | everything is dropped | `silent` |
//! | ICMP, a reset, or a proxy says no | `refused`, `proxy_refused`, `proxy_credentials`, `proxy` |
//! | the handshake passes, then nothing more does | `stalled`, `lost` |
//! | TLS without MTP: a TLS alert on ALPN | `no_protocol` |
//! | another certificate: TLS inspection | `inspected`; `untrusted` where that is not certain |
//! | packets of more than 1200 bytes are dropped | `small_packets` |

use metra_certs::Pin;
use metra_client::{Address, Probe, Rung, Stage, Trouble};

use crate::output;

/// What was tried.
pub(super) struct Case<'a> {
    pub(super) address: &'a Address,
    pub(super) probes: &'a [Probe],
    /// By which keys the gateway is known (`--pin`).
    pub(super) pins: &'a [Pin],
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) rung: Rung,
    /// For scripts; never changes.
    pub(super) name: &'static str,
    /// For whoever wants to transfer something.
    pub(super) user: String,
    /// For whoever can change the network, to be sent as it is.
    pub(super) administrator: Option<String>,
}

/// The shortest longest datagram of QUIC (RFC 9000 section 14). Bytes of UDP payload.
const DATAGRAM_MIN: u16 = 1200;

impl Case<'_> {
    /// All that is wrong, the best rung first.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        for finding in self.probes.iter().filter_map(|probe| self.finding(probe)) {
            // A name is the same for all ways.
            let is_new = finding.name != "name" || findings.iter().all(|other| other.name != "name");
            findings.extend(is_new.then_some(finding));
        }
        findings
    }

    /// Whether it is more likely the gateway than the network: of no way anything is heard but refusals.
    pub(super) fn is_nobody_there(&self) -> bool {
        let nobody = |probe: &Probe| {
            matches!(
                &probe.trouble,
                Some(Trouble::Silent(Stage::Connect) | Trouble::Refused(_) | Trouble::Name(_))
            )
        };
        self.probes.iter().all(nobody)
    }

    /// Whether the certificate that a rung has shown is another one than the gateway's. `None`: it cannot be told.
    pub(super) fn inspected(&self, probe: &Probe) -> Option<bool> {
        let pin = probe.pin?;
        let shown_by = |quic: bool| {
            let others = self.probes.iter().filter(move |other| is_quic(other.rung) == quic);
            others.filter_map(|other| other.pin)
        };
        // What inspects TLS does not speak QUIC: a key that QUIC shows, too, is the gateway's, if not the one expected.
        if !self.pins.is_empty() {
            let is_known = self.pins.contains(&pin);
            return (is_known || !shown_by(true).any(|own| own == pin)).then_some(!is_known);
        }
        if probe.inspected.is_some() {
            return probe.inspected;
        }
        // Two ways over TCP may well be inspected by the same proxy.
        match probe.rung {
            Rung::Quic | Rung::Masque | Rung::MasqueTcp => {
                shown_by(false).any(|other| other == pin).then_some(false)
            }
            _ => shown_by(true).next().map(|own| own != pin),
        }
    }

    fn finding(&self, probe: &Probe) -> Option<Finding> {
        let Some(trouble) = &probe.trouble else {
            return self.of_one_that_works(probe);
        };
        let (name, (user, administrator)) = match trouble {
            Trouble::Untrusted { .. } if self.inspected(probe) == Some(true) => {
                ("inspected", self.is_inspected(probe))
            }
            trouble => (trouble.name(), self.words(probe, trouble)),
        };
        Some(Finding { rung: probe.rung, name, user, administrator })
    }

    fn of_one_that_works(&self, probe: &Probe) -> Option<Finding> {
        let found = |name, (user, administrator)| Finding { rung: probe.rung, name, user, administrator };
        if self.inspected(probe) == Some(true) {
            return Some(found("inspected", self.is_inspected(probe)));
        }
        let (mtu, lost) = probe.mtu?;
        // Within TCP it says nothing of packets.
        if mtu > DATAGRAM_MIN || lost < 2 || !probe.rung.is_udp() {
            return None;
        }
        let user = "It works, but packets of more than 1200 bytes are dropped: transfers are slower than they could be.";
        let administrator = format!(
            "{} passes with packets of up to 1200 bytes; longer ones, which are sent with \"don't fragment\", are dropped \
             without an ICMP message. Please see that the path carries IP packets of 1500 bytes, or as many as its tunnels \
             leave, and that ICMP \"fragmentation needed\" and \"packet too big\" are let through.",
            self.flow(probe)
        );
        Some(found("small_packets", (user.to_owned(), Some(administrator))))
    }

    fn words(&self, probe: &Probe, trouble: &Trouble) -> (String, Option<String>) {
        let (flow, please, spoken) = (self.flow(probe), self.ask(probe), spoken(probe.rung));
        let ask = capital(&please);
        let transport = transport(probe.rung);
        let two = |user: String, administrator: String| (user, Some(administrator));
        match trouble {
            Trouble::Name(why) => two(
                format!("The name has no address that could be found: {why}."),
                format!(
                    "The name {} cannot be resolved from here: {why}. Please see that the resolver of this network knows it.",
                    self.address.host
                ),
            ),
            Trouble::Silent(Stage::Connect) => two(
                format!("Nothing is heard over {transport}: a firewall drops it, or the gateway is not there."),
                format!("{flow} gets no answer: the packets, or the answers, are dropped. {ask}"),
            ),
            Trouble::Silent(Stage::Secure) => two(
                "TCP connects, but TLS gets no answer: something on the way takes the connection and passes nothing on."
                    .to_owned(),
                format!("{flow} connects, but the handshake of {spoken} gets no answer. {ask}"),
            ),
            Trouble::Refused(why) => two(
                format!("It is refused ({why}): by a firewall, or because the gateway does not listen there."),
                format!("{flow} ({spoken}) is refused: {why}. If a rule of the network does that, {please}"),
            ),
            Trouble::ProxyRefused(why) => two(
                format!("The proxy does not let it through: {why}."),
                format!("{}: {why}. {ask}", self.through(probe)),
            ),
            Trouble::ProxyCredentials(why) => two(
                format!("The proxy wants credentials ({}): {why}.", credentials(probe.rung)),
                format!(
                    "{}: {why}. Please say which credentials of a kind that a program can show (Basic, Bearer) it takes, or \
                     let this connection through without.",
                    self.through(probe)
                ),
            ),
            Trouble::Proxy(why) => two(
                format!("The proxy cannot be used: {why}."),
                format!("{} cannot be used: {why}. {ask}", self.through(probe)),
            ),
            Trouble::Stalled { arrived, of } => {
                let part = format!("{} of {}", output::bytes(*arrived), output::bytes(*of));
                two(
                    format!("The handshake passes, then {part} arrive and nothing more: something stops it on the way."),
                    format!(
                        "{flow} ({spoken}) is let through at first and stopped after the handshake: {part} arrived. Please \
                         exempt it from whatever looks into such connections or limits them. {ask}"
                    ),
                )
            }
            Trouble::Lost(why) => two(
                format!("The connection stood, and was cut off while some hundred kilobytes were sent: {why}."),
                format!(
                    "{flow} ({spoken}) is cut off some seconds after it stands: {why}. Please exempt it from whatever looks \
                     into such connections or limits them. {ask}"
                ),
            ),
            Trouble::NoProtocol(why) => two(
                format!("Whoever answers there does not speak MTP: {why}."),
                format!(
                    "{flow} is answered by something that does not take {spoken}: {why}. If a proxy or firewall of the \
                     network ends TLS there, please exempt {} from it. {ask}",
                    self.address
                ),
            ),
            Trouble::Untrusted { pin, message } => two(
                format!("{}.", capital(message)),
                format!(
                    "{flow} shows a TLS certificate that is not trusted here{}. If it is that of a proxy which inspects TLS, \
                     please exempt {} from inspection, or say where the certificate of its authority is to be had.",
                    pin.map_or(String::new(), |pin| format!(" (key {pin})")),
                    self.address
                ),
            ),
            Trouble::Tls(why) => two(
                format!("TLS fails: {why}."),
                format!(
                    "{flow}: the TLS 1.3 handshake of {spoken} fails: {why}. If TLS is inspected on the way, or held to older \
                     versions, please exempt {} from that.",
                    self.address
                ),
            ),
            Trouble::Answer(error) => (format!("The gateway refuses: {error}."), None),
            Trouble::Local(why) => (format!("This machine cannot do it: {why}."), None),
        }
    }

    fn is_inspected(&self, probe: &Probe) -> (String, Option<String>) {
        let shown = probe.pin.map_or(String::new(), |pin| format!(" (key {pin})"));
        let refused = if probe.trouble.is_some() { ", and is not trusted here" } else { "" };
        let user = format!(
            "Somebody in between opens and reads it{refused}: the certificate is not the gateway's own."
        );
        let administrator = format!(
            "{} is opened by TLS inspection: the certificate shown{shown} is not the gateway's own. What is carried is \
             encrypted for the gateway, and large; please exempt {} from TLS inspection.",
            self.flow(probe),
            self.address
        );
        (user, Some(administrator))
    }

    /// What passes, from where to where.
    fn flow(&self, probe: &Probe) -> String {
        let from = probe.from.map_or("this machine".to_owned(), |from| from.to_string());
        let transport = transport(probe.rung);
        let host = self.address;
        match (&probe.proxy, probe.to) {
            (Some(proxy), _) => format!("{transport} from {from} through the proxy {proxy} to {host}"),
            (None, Some(to)) if to.ip().to_string() == host.host => {
                format!("{transport} from {from} to {} port {}", to.ip(), to.port())
            }
            (None, Some(to)) => {
                format!("{transport} from {from} to {} ({}) port {}", host.host, to.ip(), to.port())
            }
            (None, None) => format!("{transport} from {from} to {} port {}", host.host, host.port),
        }
    }

    fn through(&self, probe: &Probe) -> String {
        format!("The proxy {} for {}", probe.proxy.as_deref().unwrap_or("of the network"), self.address)
    }

    /// What the administrator is asked for.
    fn ask(&self, probe: &Probe) -> String {
        let (address, port, spoken) = (self.address, self.address.port, spoken(probe.rung));
        let to = probe.to.map_or(self.address.host.clone(), |to| to.ip().to_string());
        match &probe.proxy {
            Some(proxy) if is_tunnel(probe.rung) => {
                format!("please allow tunnels (CONNECT-UDP) to {address} at the proxy {proxy}.")
            }
            Some(proxy) => format!("please allow connections (CONNECT) to {address} at the proxy {proxy}."),
            None if probe.rung.is_udp() => format!(
                "please allow UDP to {to} port {port} ({spoken}), and the answers to it, for as long as packets come at least \
                 every 15 s."
            ),
            None => format!("please allow TCP to {to} port {port} ({spoken})."),
        }
    }
}

/// Whether the key that a rung shows is that of QUIC's own TLS, which nobody in between can open and read on.
fn is_quic(rung: Rung) -> bool {
    rung == Rung::Quic || is_tunnel(rung)
}

fn is_tunnel(rung: Rung) -> bool {
    matches!(rung, Rung::Masque | Rung::MasqueTcp)
}

fn transport(rung: Rung) -> &'static str {
    if rung.is_udp() { "UDP" } else { "TCP" }
}

/// The options that have credentials for a proxy.
fn credentials(rung: Rung) -> &'static str {
    if is_tunnel(rung) {
        "--masque-proxy with USER:PASSWORD@, --masque-token-file or --masque-cert"
    } else {
        "--proxy with USER:PASSWORD@, or --proxy-token-file"
    }
}

fn spoken(rung: Rung) -> &'static str {
    match rung {
        Rung::Quic => "QUIC with ALPN mtp/1",
        Rung::Masque => "HTTP/3 with CONNECT-UDP",
        Rung::MasqueTcp => "HTTPS with CONNECT-UDP",
        Rung::Tls => "TLS 1.3 with ALPN mtp/1",
        Rung::WebSocket => "HTTPS with WebSocket",
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
