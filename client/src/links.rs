//! Opening links, and opening them again.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use metra_certs::client_config;
use metra_core::code::Code;
use metra_core::wire::{Auth, Frame, FrameDecoder, Hello, Welcome};
use metra_session::{Session, read_frame};
use metra_transport::quic::{QuicClient, Tuning};
use metra_transport::{Link, Rt};
use tokio::sync::Notify;

use crate::connect::ConnectOptions;
use crate::error::ClientError;

/// How long a gateway may take to answer when a link is opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between tries: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A link that lives for so long is worth another try at once when it is lost.
const LASTING: Duration = Duration::from_secs(2);

/// The links of a client.
pub(crate) struct Links {
    rt: Rt,
    address: crate::Address,
    agent: String,
    token: Option<String>,
    retry_for: Duration,
    tls: Arc<rustls::ClientConfig>,
    tuning: Tuning,
    session: Session,
    state: Mutex<State>,
    failed: Notify,
}

#[derive(Default)]
struct State {
    endpoints: Vec<QuicClient>,
    ticket: Option<Vec<u8>>,
    user: String,
    receipt_key: [u8; 32],
    kinds: Vec<String>,
    given_up: Option<ClientError>,
}

impl Links {
    pub(crate) fn new(rt: Rt, options: &ConnectOptions, session: Session) -> Result<Self, ClientError> {
        let certificate = options.certificate.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        let tls = client_config(&options.trust, certificate)?;
        Ok(Self {
            rt,
            address: options.address.clone(),
            agent: options.agent.clone(),
            token: options.token.clone(),
            retry_for: options.retry_for,
            tls,
            tuning: options.tuning.clone(),
            session,
            state: Mutex::default(),
            failed: Notify::new(),
        })
    }

    /// Opens one more link.
    pub(crate) async fn open(&self) -> Result<(), ClientError> {
        let late = || ClientError {
            code: Code::Timeout,
            message: format!("{} does not answer", self.address),
            retryable: true,
        };
        match self.rt.timeout(OPEN_TIMEOUT, self.open_any()).await {
            Ok(result) => result,
            Err(_) => Err(late()),
        }
    }

    async fn open_any(&self) -> Result<(), ClientError> {
        let named = |e: std::io::Error| ClientError {
            code: Code::NotFound,
            message: format!("{}: {e}", self.address),
            retryable: true,
        };
        let host = (self.address.host.as_str(), self.address.port);
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host(host).await.map_err(named)?.collect();
        let mut last = ClientError::new(Code::NotFound, format!("{}: no address", self.address));
        for address in addresses {
            match self.open_at(address).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn open_at(&self, address: SocketAddr) -> Result<(), ClientError> {
        let any: SocketAddr = if address.is_ipv6() {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let system = |e: std::io::Error| ClientError::new(Code::Internal, e.to_string());
        // A socket of its own for each link: several links are several flows, and run on several cores.
        let endpoint =
            QuicClient::new(self.rt.clone(), any, self.tls.clone(), self.tuning.clone()).map_err(system)?;
        let link = endpoint.connect(address, &self.address.host).await.map_err(|e| ClientError::link(&e))?;
        self.join(link.clone()).await.inspect_err(|e| link.close(e.code, &e.message))?;
        let mut state = self.lock();
        state.kinds.push(link.kind().name().to_owned());
        state.endpoints.push(endpoint);
        Ok(())
    }

    /// Says hello on a new link, and adds it to the session when it is welcome.
    async fn join(&self, link: Arc<dyn Link>) -> Result<(), ClientError> {
        let lost = |e| ClientError::link(&e);
        let ticket = self.lock().ticket.clone();
        if ticket.is_none() {
            // A token is not sent as early data, which can be replayed.
            link.handshake_confirmed().await.map_err(lost)?;
        }
        let auth = match (ticket, &self.token) {
            (Some(ticket), _) => Auth::Ticket(ticket),
            (None, Some(token)) => Auth::Bearer(token.clone()),
            (None, None) => Auth::None,
        };
        let hello = Frame::Hello(Hello { version: 1, auth, agent: self.agent.clone() });
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        let (mut send, mut recv) = link.control().await.map_err(lost)?;
        send.send(bytes.into()).await.map_err(lost)?;
        let mut decoder = FrameDecoder::new();
        let frame = match read_frame(&mut recv, &mut decoder).await {
            Ok(frame) => frame,
            // The stream breaks with the link; why the link is closed says more.
            Err(_) => return Err(self.refused(&link).await),
        };
        match frame {
            Some(Frame::Welcome(welcome)) => self.welcomed(&welcome),
            Some(Frame::Close { code, reason }) => {
                return Err(ClientError::new(code, format!("the gateway says: {reason}")));
            }
            None => return Err(self.refused(&link).await),
            Some(_) => {
                return Err(ClientError::new(Code::Protocol, "the gateway did not answer with Welcome"));
            }
        }
        self.session.attach(link, send, recv, decoder)?;
        Ok(())
    }

    async fn refused(&self, link: &Arc<dyn Link>) -> ClientError {
        let error = ClientError::link(&link.closed().await);
        if error.code == Code::Unauthenticated {
            // A ticket that is no longer good: the next try shows the token.
            let had_ticket = self.lock().ticket.take().is_some();
            return ClientError { retryable: had_ticket, ..error };
        }
        error
    }

    fn welcomed(&self, welcome: &Welcome) {
        let mut state = self.lock();
        state.ticket = Some(welcome.ticket.clone());
        state.user = welcome.user.clone();
        state.receipt_key = welcome.receipt_key;
    }

    /// Keeps `wanted` links open for as long as it is polled. Gives up when for `retry_for` there was no link that
    /// lasted.
    pub(crate) async fn keep(self: Arc<Self>, mut wanted: usize) {
        let mut pause = PAUSE.0;
        let mut opened_at = self.rt.now();
        let mut failing_since: Option<Instant> = None;
        loop {
            let open = self.session.links().len();
            if open >= wanted {
                self.session.links_fewer_than(wanted).await;
                if self.rt.now().saturating_duration_since(opened_at) >= LASTING {
                    failing_since = None;
                    pause = PAUSE.0;
                } else {
                    failing_since.get_or_insert(opened_at);
                }
                continue;
            }
            self.lock().endpoints.retain(|endpoint| endpoint.open_links() > 0);
            let error = if open == 0 && self.is_over(failing_since) {
                ClientError::new(Code::Protocol, "the gateway ends every link as soon as it is open")
            } else {
                if open == 0 && failing_since.is_some() {
                    self.rt.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
                match self.open().await {
                    Ok(()) => {
                        opened_at = self.rt.now();
                        continue;
                    }
                    Err(error) => error,
                }
            };
            tracing::debug!(%error, "no link");
            if error.code == Code::Limit && open > 0 {
                // The gateway allows no more: those that are open do.
                wanted = open;
                continue;
            }
            failing_since.get_or_insert(self.rt.now());
            if open == 0 && (self.is_over(failing_since) || !error.retryable) {
                self.lock().given_up = Some(error.clone());
                self.session.cancel_jobs(error.code, &error.message);
                self.failed.notify_waiters();
                return;
            }
            if open > 0 {
                self.rt.sleep(PAUSE.1).await;
            }
        }
    }

    fn is_over(&self, failing_since: Option<Instant>) -> bool {
        failing_since.is_some_and(|since| self.rt.now().saturating_duration_since(since) >= self.retry_for)
    }

    /// Resolves when the gateway cannot be reached any more, with why.
    pub(crate) async fn given_up(&self) -> ClientError {
        loop {
            let failed = self.failed.notified();
            if let Some(error) = self.lock().given_up.clone() {
                return error;
            }
            failed.await;
        }
    }

    /// The key that the gateway signs receipts with, as it said on the authenticated link.
    pub(crate) fn receipt_key(&self) -> [u8; 32] {
        self.lock().receipt_key
    }

    pub(crate) fn user(&self) -> String {
        self.lock().user.clone()
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        self.lock().kinds.clone()
    }

    /// Lets the gateway know that the links are closed.
    pub(crate) async fn close(&self) {
        let endpoints = std::mem::take(&mut self.lock().endpoints);
        for endpoint in endpoints {
            let _ = self.rt.timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}
