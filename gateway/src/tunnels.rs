//! Tunnels through this gateway (CONNECT-UDP, RFC 9298): who may have one, where it leads, and what becomes of it.
//!
//! ```text
//! asked --is it this gateway?--> place --> links of MTP, in process
//!    `--> place --> who? --> policy: the name --> resolve --> policy: the addresses --> dial --> relay
//! ```
//!
//! What was permitted is what is dialled: [`metra_policy::Permit`]. A tunnel to this gateway itself is one more way in: whoever
//! comes through it shows who they are to MTP, as on any other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderMap, PROXY_AUTHORIZATION};
use http::{Request, Response};
use http_body_util::Full;
use metra_core::code::Code;
use metra_core::wire::Auth;
use metra_policy::audit::Traffic;
use metra_policy::engine::{Action, Resource};
use metra_policy::{Denied, Host, Own, Permit, Refused, TunnelRules};
use metra_transport::quic::QuicServer;
use metra_transport::{LinkKind, Packets, Rt};
use metra_tunnel::Ended;
use metra_tunnel::proto::{ErrorType, Target};
use metra_tunnel::server::{self, Bounds, Dialled, Rates, Refusal, RelayEnd, Throttle, Tunnel};
use tracing::Instrument;

use crate::account::Account;
use crate::audit::{self, TunnelRun, TunnelTrail};
use crate::authority::Asker;
use crate::drain::Drain;
use crate::http::Connection;
use crate::measure::{self, TunnelOpened};
use crate::open::{self, Arrival, Opener, admit};
use crate::places::{NoPlace, Place, Places};
use crate::sessions::Sessions;
use crate::throttles::Throttles;

/// What the system takes to look up a name, at most.
const RESOLVE: Duration = Duration::from_secs(5);

/// What came of a request, for the metrics, and what is said of it.
type Answered = Result<(TunnelOpened, Response<Full<Bytes>>), (TunnelOpened, Refusal)>;

/// All tunnels of a gateway.
pub(crate) struct Tunnels {
    rt: Rt,
    sessions: Arc<Sessions>,
    rules: TunnelRules,
    /// Where the gateway listens.
    sockets: Vec<SocketAddr>,
    places: Arc<Places>,
    throttles: Throttles,
    bounds: Bounds,
    opener: Opener,
    drain: Drain,
    /// Whose links those within tunnels are.
    native: Arc<QuicServer>,
}

impl Tunnels {
    /// Of a gateway that listens at `sockets`, among them that of `native`.
    pub(crate) fn new(
        rt: Rt,
        sessions: Arc<Sessions>,
        opener: Opener,
        drain: Drain,
        sockets: Vec<SocketAddr>,
        native: Arc<QuicServer>,
    ) -> Self {
        let config = &sessions.config().tunnel;
        let own = Own { sockets: sockets.clone(), addresses: addresses() };
        Self {
            rules: config.rules(own).with_content(sessions.config().content.tunnels.clone()),
            sockets,
            places: Places::new(config.tunnels, config.tunnels_per_address),
            throttles: Throttles::new(
                Rates { bytes: config.peer_rate / 8, datagrams: config.peer_datagrams },
                config.tunnels_per_user,
            ),
            bounds: Bounds { idle: config.idle, lifetime: config.lifetime, rate: config.rate / 8 },
            rt,
            sessions,
            opener,
            drain,
            native,
        }
    }

    /// Answers a request for a tunnel, and carries it.
    pub(crate) async fn answer<B: Send + 'static>(
        self: &Arc<Self>,
        request: Request<B>,
        asked: Result<Target, Refusal>,
        about: &Arc<Connection>,
    ) -> Response<Full<Bytes>> {
        let mut trail = self.sessions.audit().tunnel(about.peer(), asked.as_ref().ok());
        let answered = match asked {
            Ok(target) if self.is_own(&target, &request) => self.to_self(request, about, &mut trail),
            Ok(target) => self.to_target(request, &target, about, &mut trail).await,
            Err(refusal) => Err((TunnelOpened::Malformed, refusal)),
        };
        match answered {
            Ok((outcome, response)) => {
                trail.permitted();
                measure::tunnel_opened(outcome);
                response
            }
            Err((outcome, refusal)) => {
                tracing::debug!(peer = %about.peer(), %refusal, "no tunnel");
                trail.refused(outcome.name(), &refusal.to_string());
                measure::tunnel_opened(outcome);
                refusal.into_response()
            }
        }
    }

    /// Whether a target is this gateway's MTP: named as the request names the gateway, or by the address of a socket of it.
    fn is_own<B>(&self, target: &Target, request: &Request<B>) -> bool {
        let authority = request.uri().authority().map(|authority| authority.as_str());
        let host = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let named = authority.or_else(host).and_then(|text| text.parse::<http::uri::Authority>().ok());
        let is_named = named.is_some_and(|named| {
            let host = named.host().trim_start_matches('[').trim_end_matches(']');
            host.eq_ignore_ascii_case(target.host()) && named.port_u16().unwrap_or(HTTPS) == target.port()
        });
        let address =
            target.host().parse::<IpAddr>().map(|ip| SocketAddr::new(ip.to_canonical(), target.port()));
        is_named || address.is_ok_and(|address| self.sockets.contains(&address))
    }

    fn to_self<B: Send + 'static>(
        self: &Arc<Self>,
        request: Request<B>,
        about: &Arc<Connection>,
        trail: &mut TunnelTrail,
    ) -> Answered {
        let place = self.place(about.peer().ip(), trail)?;
        trail.rule("tunnel.own");
        let (response, opened) = server::grant(&self.rt, request, about.peer());
        let (this, about, trail) = (self.clone(), about.clone(), trail.clone());
        self.rt.spawn(async move {
            let Some(tunnel) = opened.await else { return };
            let mut record = trail.begin();
            about.free();
            // Links answer for what they send.
            let _carried = about.carry(true);
            let _held = this.drain.hold();
            tokio::select! {
                () = place.displaced() => tracing::debug!("a tunnel makes way"),
                () = this.cut() => {}
                () = this.links(tunnel) => record.ended("", None),
            }
        });
        Ok((TunnelOpened::Own, response))
    }

    /// Lets links in that come through a tunnel, until it ends.
    async fn links(&self, tunnel: Tunnel) {
        let _running = measure::tunnel_running();
        let Tunnel { carrier, busy: _busy } = tunnel;
        let carrier = Arc::new(carrier);
        let peer = carrier.peer();
        let server = match self.native.beside(carrier) {
            Ok(server) => Arc::new(server),
            Err(error) => return tracing::warn!(%error, "no QUIC within a tunnel"),
        };
        let accept = until_idle(
            &self.rt,
            self.bounds.idle,
            || server.accept(),
            || server.open_links() > 0,
            |incoming| {
                if self.drain.is_on() {
                    return incoming.refuse();
                }
                let opener = self.opener.clone();
                self.rt.spawn(async move {
                    match incoming.accept().await {
                        Ok(accepted) => {
                            // HTTP within it would lead around in circles.
                            let Some(link) = accepted.into_link() else { return };
                            admit(opener, Arrival { peer: link.peer(), kind: link.kind(), link }).await;
                        }
                        Err(error) => {
                            tracing::debug!(%peer, %error, "handshake failed");
                            measure::handshake_failed(LinkKind::Masque, &error);
                        }
                    }
                });
            },
        );
        let drained = async {
            self.drain.begun().await;
            while server.open_links() > 0 {
                self.rt.sleep(LAST).await;
            }
        };
        tokio::select! {
            () = accept => {}
            () = drained => {}
        }
        server.close(Code::Ok, "");
    }

    async fn to_target<B: Send + 'static>(
        self: &Arc<Self>,
        request: Request<B>,
        target: &Target,
        about: &Arc<Connection>,
        trail: &mut TunnelTrail,
    ) -> Answered {
        let place = self.place(about.peer().ip(), trail)?;
        let account = self.user(request.headers(), about, trail).await?;
        trail.rule("limits");
        let throttle = self.throttles.join(&account, about.peer().ip(), self.rt.now()).ok_or_else(|| {
            let reason = "this user has as many tunnels as one may have";
            (TunnelOpened::Busy, Refusal::of(ErrorType::ConnectionLimitReached, reason))
        })?;
        trail.rule("tunnel.target");
        let host = Host::parse(target.host())
            .map_err(|error| (TunnelOpened::Malformed, Refusal::malformed(&error.to_string())))?;
        trail.rule("tunnel.allow");
        let named = self.rules.name(&host, target.port()).map_err(|why| denied(why, trail))?;
        // Policies are asked twice as well: what they forbid by name is not resolved.
        let asker = Asker::new(&account, about.peer().ip(), "http");
        // As it was decided on, not as it was written: resolvers read some spellings in their own way.
        let name = host.to_string();
        let mut asked = asker.asks(Action::OpenTunnel, Resource::Target { host, port: target.port() });
        let authority = self.sessions.authority();
        let forbidden = |refused: open::Refused| {
            (TunnelOpened::Denied, Refusal::of(ErrorType::HttpRequestDenied, refused.reason))
        };
        let by = authority.permit(&asked).map_err(forbidden)?;
        if let Some(policies) = by {
            trail.rule(policies);
        }
        let resolved = match named.literal() {
            Some(address) => vec![address],
            None => self.resolve(&name, target.port()).await?,
        };
        let mut permits = named.addresses(resolved).map_err(|why| denied(why, trail))?;
        if authority.is_on() {
            let mut why = None;
            permits.retain(|permit| {
                asked.context.address = Some(permit.permitted().ip());
                let may = authority.permit(&asked);
                why = may.as_ref().err().cloned().or(why.take());
                may.is_ok()
            });
            if let Some(refused) = why.filter(|_| permits.is_empty()) {
                let refusal = Refusal::of(ErrorType::DestinationIpProhibited, refused.reason);
                return Err((TunnelOpened::Denied, refusal));
            }
        }
        let (dialled, address) = dial(&permits)?;
        asked.context.address = Some(address.ip());
        let user = account.name.clone();
        trail.dialled(address);
        let (response, opened) = server::grant(&self.rt, request, about.peer());
        let (this, about, trail) = (self.clone(), about.clone(), trail.clone());
        let span = tracing::info_span!("tunnel", peer = %about.peer(), %user, %target, %address);
        let carried = async move {
            let Some(tunnel) = opened.await else { return };
            let mut record = trail.begin();
            about.free();
            let _carried = about.carry(false);
            let _held = this.drain.hold();
            tokio::select! {
                () = place.displaced() => tracing::info!("makes way"),
                () = this.cut() => tracing::info!("cut by the shutdown"),
                refused = this.sessions.authority().revoked(vec![asked]) => {
                    tracing::info!(%refused, "no longer permitted");
                    record.ended(&refused.reason, None);
                }
                () = this.relay(dialled, tunnel, &throttle, &mut record) => {}
            }
        };
        self.rt.spawn(carried.instrument(span));
        Ok((TunnelOpened::Target, response))
    }

    /// Resolves when the shutdown has lasted as long as HTTP/2 and 3 let what runs go on.
    async fn cut(&self) {
        self.drain.begun().await;
        self.rt.sleep(self.sessions.config().limits.handshake).await;
    }

    async fn relay(&self, dialled: Dialled, tunnel: Tunnel, throttle: &Throttle, record: &mut TunnelRun) {
        let _running = measure::tunnel_running();
        tracing::info!("tunnel open");
        let relay = dialled.relay(&self.rt, &tunnel.carrier, self.bounds, throttle);
        let (end, traffic) = relay.await;
        tracing::info!(%end, up = traffic.up_bytes, down = traffic.down_bytes, lost = traffic.lost, "tunnel ended");
        measure::tunnel_ended(&traffic);
        let carried = Traffic { received: traffic.up_bytes, sent: traffic.down_bytes };
        record.ended(&end.to_string(), Some(carried));
        if matches!(end, RelayEnd::Client(Ended::Malformed(_) | Ended::Lost(_))) {
            // RFC 9297 section 3.3: not an end in order, which dropping the carrier says.
            return;
        }
        tunnel.carrier.finish();
        // What is held goes out before the stream is dropped.
        self.rt.sleep(LAST).await;
    }

    fn place(&self, peer: IpAddr, trail: &mut TunnelTrail) -> Result<Place, (TunnelOpened, Refusal)> {
        trail.rule("shutdown");
        if self.drain.is_on() {
            let refusal = Refusal::of(ErrorType::ConnectionLimitReached, "the gateway is shutting down");
            return Err((TunnelOpened::Busy, refusal));
        }
        trail.rule(audit::ON_FAILURE);
        self.sessions.audit().gate().map_err(|refused| {
            (TunnelOpened::Busy, Refusal::of(ErrorType::ConnectionLimitReached, refused.reason))
        })?;
        trail.rule("limits");
        self.places.take(peer).map_err(|why| {
            let reason = match why {
                NoPlace::Address => "this address has as many tunnels as one may have",
                NoPlace::Full => "there are as many tunnels as there may be",
            };
            (TunnelOpened::Busy, Refusal::of(ErrorType::ConnectionLimitReached, reason))
        })
    }

    /// Who asks, and whether they may have tunnels.
    async fn user(
        &self,
        headers: &HeaderMap,
        about: &Connection,
        trail: &mut TunnelTrail,
    ) -> Result<Arc<Account>, (TunnelOpened, Refusal)> {
        let config = self.sessions.config();
        let auth = match shown(headers) {
            Some(token) => Auth::Bearer(token),
            None => Auth::None,
        };
        let identities = self.sessions.identities();
        let account = identities.authenticate(config, &auth, about.certificates(), about.peer().ip()).await;
        let account = account.map_err(|refused| match refused.code {
            Code::Busy => {
                (TunnelOpened::Busy, Refusal::of(ErrorType::ConnectionLimitReached, refused.reason))
            }
            _ => (TunnelOpened::Unauthenticated, Refusal::unauthenticated(&refused.reason)),
        })?;
        trail.user(&account);
        trail.rule("user.tunnel");
        if !account.tunnel {
            let refusal = Refusal::of(ErrorType::HttpRequestDenied, "this user may not open tunnels");
            return Err((TunnelOpened::Denied, refusal));
        }
        Ok(account)
    }

    async fn resolve(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, (TunnelOpened, Refusal)> {
        let failed = |error, reason: &str| (TunnelOpened::Unresolved, Refusal::of(error, reason));
        let found = self.rt.timeout(RESOLVE, tokio::net::lookup_host((name, port))).await;
        match found {
            Err(_) => Err(failed(ErrorType::DnsTimeout, "no answer from the name server")),
            Ok(Err(_)) => Err(failed(ErrorType::DnsError, "there is no such name")),
            Ok(Ok(found)) => {
                let found: Vec<SocketAddr> = found.take(ADDRESSES).collect();
                if found.is_empty() {
                    return Err(failed(ErrorType::DnsError, "the name has no address"));
                }
                Ok(found)
            }
        }
    }
}

/// Takes what `next` gives, until that is `None`, or for `idle` nothing has come and nothing is in use.
async fn until_idle<T, F: Future<Output = Option<T>>>(
    rt: &Rt,
    idle: Duration,
    next: impl Fn() -> F,
    is_used: impl Fn() -> bool,
    take: impl Fn(T),
) {
    loop {
        match rt.timeout(idle, next()).await {
            Ok(None) => return,
            Err(_) if !is_used() => return,
            Err(_) => {}
            Ok(Some(incoming)) => take(incoming),
        }
    }
}

/// A socket for the first of the permitted addresses that there is a route to.
fn dial(permits: &[Permit<SocketAddr>]) -> Result<(Dialled, SocketAddr), (TunnelOpened, Refusal)> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for permit in permits {
        match server::dial(permit) {
            Ok(dialled) => return Ok((dialled, *permit.permitted())),
            Err(error) => failed = error,
        }
    }
    let error = match failed.kind() {
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::AddrNotAvailable => ErrorType::DestinationIpUnroutable,
        _ => ErrorType::ProxyInternalError,
    };
    Err((TunnelOpened::Failed, Refusal::of(error, failed.to_string())))
}

fn denied(denied: Denied, trail: &mut TunnelTrail) -> (TunnelOpened, Refusal) {
    trail.rule(match denied {
        Denied::Rule => "tunnel.allow",
        Denied::Content => "content.tunnels",
        Denied::Name | Denied::Special(_) => "tunnel.dangerous_ranges",
        Denied::Own => "tunnel.own",
    });
    let error = match denied.refused() {
        Refused::Request => ErrorType::HttpRequestDenied,
        Refused::Address => ErrorType::DestinationIpProhibited,
    };
    (TunnelOpened::Denied, Refusal::of(error, denied.to_string()))
}

/// The token that is shown: as Bearer (RFC 6750), or as the password of Basic (RFC 7617).
fn shown(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(PROXY_AUTHORIZATION).or_else(|| headers.get(AUTHORIZATION))?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let both = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    Some(both.split_once(':')?.1.to_owned())
}

/// The addresses of this machine.
fn addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    interfaces.filter_map(|interface| address(interface.address?)).collect()
}

/// Addresses of a name that are looked at.
const ADDRESSES: usize = 16;
/// The port of https.
const HTTPS: u16 = 443;
/// How long what is held at the end of a tunnel may take to leave.
const LAST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// RFC 9298 section 3.1: a tunnel to the gateway itself has no socket, and is closed when it is idle all the same.
    #[tokio::test(start_paused = true)]
    async fn rfc9298_3_1_a_tunnel_to_the_gateway_ends_when_nothing_is_in_it() {
        let (rt, idle) = (Rt::tokio(), Duration::from_secs(120));
        let began = tokio::time::Instant::now();
        until_idle(&rt, idle, pending::<Option<()>>, || false, |()| {}).await;
        assert_eq!(began.elapsed().as_secs(), 120, "nothing has ever come");

        // A link that comes after a minute, and is open for five.
        let (began, taken) = (tokio::time::Instant::now(), AtomicU32::new(0));
        let next = || async {
            tokio::time::sleep_until(began + Duration::from_secs(60)).await;
            if taken.load(Ordering::Relaxed) > 0 { pending().await } else { Some(()) }
        };
        let is_open = || began.elapsed() < Duration::from_secs(360);
        let take = |()| {
            taken.fetch_add(1, Ordering::Relaxed);
        };
        until_idle(&rt, idle, next, is_open, take).await;
        assert_eq!((began.elapsed().as_secs(), taken.into_inner()), (420, 1));

        until_idle(&rt, idle, || async { None::<()> }, || true, |()| {}).await;
    }
}
