//! A client's session with a gateway.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use metra_certs::TrustAnchors;
use metra_core::code::Code;
use metra_core::id::JobId;
use metra_core::manifest::Entry;
use metra_core::rate::RatePolicy;
use metra_core::wire::Frame;
use metra_fallback::ladder::{Rung, Tried};
use metra_fallback::proxy::Rules;
use metra_session::{Request, Session, SessionConfig};
use metra_store::Catalogue;
use metra_transport::quic::Tuning;
use metra_transport::{AbortOnDrop, LinkStats, Rt};
use tokio::sync::mpsc;

use crate::error::ClientError;
use crate::links::Links;
use crate::masque::MasqueProxy;
use crate::paths;
use crate::url::Address;

/// Entries that one listing may have.
const LISTING_MAX: usize = 4_000_000;
/// Answers that wait to be taken.
const ANSWER_QUEUE: usize = 64;
/// How long an answer to a request may take after the last part of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// With whom to speak, and how.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The gateway.
    pub address: Address,
    /// By what it is known.
    pub trust: TrustAnchors,
    /// PEM files of a client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Bearer token.
    pub token: Option<String>,
    /// The client's state folder: catalogue, receipts and what is known of paths. Made if it is not there.
    pub state: PathBuf,
    /// Connections at a time, at least 1. One QUIC connection is at most one core.
    pub links: usize,
    /// Connections at a time over TCP, if that many make it faster.
    pub links_max: usize,
    /// How long to try again when the gateway cannot be reached, or asks to come back later.
    pub retry_for: Duration,
    /// Whether what is measured of the path to a gateway is kept in the state folder, for connections of the next hour to
    /// start from. `tuning.paths` counts for nothing.
    pub remember_paths: bool,
    /// The ways that may be used, the best first; not empty. With several they race, and the transfer moves between them.
    pub via: Vec<Rung>,
    /// Which proxy TCP connections go through.
    pub proxy: Rules,
    /// The proxies for UDP that [`Rung::Masque`] and [`Rung::MasqueTcp`] go through, the nearest first; they look the gateway's
    /// name up. Without any, these rungs lead to the gateway itself.
    pub masque: Vec<MasqueProxy>,
    /// Whether a TLS connection is refused, before anything is sent, whose certificate the gateway does not say to be its own.
    pub refuse_inspection: bool,
    /// How its connections behave.
    pub tuning: Tuning,
    /// How the path is shared, if the gateway grants it, and the rate of all connections together, of which each has the
    /// same part. `None`: fair, without a ceiling.
    pub rate: Option<RatePolicy>,
    /// Name and version of the program, for the gateway's log.
    pub agent: String,
}

/// A session with a gateway. See the crate's documentation.
pub struct Client {
    pub(crate) rt: Rt,
    pub(crate) options: ConnectOptions,
    pub(crate) session: Session,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) links: Arc<Links>,
    answers: tokio::sync::Mutex<mpsc::Receiver<Request>>,
    next_job: AtomicU64,
    next_request: AtomicU64,
    /// When what is known of paths was loaded.
    began: SystemTime,
    supervisor: Mutex<Option<AbortOnDrop<()>>>,
}

impl Client {
    /// Opens the first link.
    ///
    /// # Errors
    /// Why there is none, after the first try: a command with a typing error should not wait.
    pub async fn connect(rt: Rt, options: ConnectOptions) -> Result<Self, ClientError> {
        let client = Self::begin(rt, options).await?;
        client.links.connected().await?;
        Ok(client)
    }

    /// Begins to open the first link. A job that is begun meanwhile is opened together with it, which saves a round trip; it
    /// fails if there is no link after the first try.
    ///
    /// # Errors
    /// What is wrong with the options or the state folder.
    pub async fn begin(rt: Rt, mut options: ConnectOptions) -> Result<Self, ClientError> {
        let began = SystemTime::now();
        let (state, remember) = (options.state.clone(), options.remember_paths);
        let opened = rt.blocking(move || {
            let catalogue = Catalogue::open(&state.join("client.sqlite"), began);
            (catalogue, remember.then(|| paths::load(&state)))
        });
        let (opened, paths) = opened.await;
        options.tuning.paths = paths;
        let catalogue = opened.map_err(|e| ClientError::new(Code::WriteFailed, e.to_string()))?;
        let links = options.links.max(1);
        let rate = options.rate.map(|rate| rate.shared_by(links));
        // Those of one kind are there for a while beside those of another.
        let most = links.max(options.links_max) * 2 + 2;
        let config = SessionConfig { links: most, rate, is_granted: true, ..SessionConfig::default() };
        let (requests, answers) = mpsc::channel(ANSWER_QUEUE);
        let session = Session::new(rt.clone(), config, requests);
        let links = Arc::new(Links::new(rt.clone(), &options, session.clone())?);
        let supervisor = rt.spawn(links.clone().open_and_keep()).abort_on_drop();
        Ok(Self {
            rt,
            options,
            session,
            catalogue: Arc::new(catalogue),
            links,
            answers: tokio::sync::Mutex::new(answers),
            next_job: AtomicU64::new(1),
            next_request: AtomicU64::new(1),
            began,
            supervisor: Mutex::new(Some(supervisor)),
        })
    }

    /// The name by which the gateway knows this client.
    pub fn user(&self) -> String {
        self.links.user()
    }

    /// What its open links say of themselves.
    pub fn links(&self) -> Vec<LinkStats> {
        self.session.links().iter().map(|link| link.link().stats()).collect()
    }

    /// What was granted of [`ConnectOptions::rate`] and is in use, of all links together: as asked for only if it is so on
    /// each of them. `None` as long as nothing is known.
    pub fn rate(&self) -> Option<RatePolicy> {
        self.session.granted().map(|rate| match (self.options.rate, self.options.links.max(1)) {
            // What does not divide is not to look like another rate.
            (Some(asked), links) if asked.shared_by(links) == rate => asked,
            (_, links) => rate.of_links(links),
        })
    }

    /// The entries at and below `path`, to `depth` levels; the first is the path itself, with the path "".
    ///
    /// # Errors
    /// What the gateway says; a lost link.
    pub async fn list(&self, path: &str, depth: u32) -> Result<Vec<Entry>, ClientError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::List { request, path: path.to_owned(), depth };
        Ok(self.ask(request, frame).await?.0)
    }

    /// Removes `path`; a directory that is not empty only if `recursive`. Returns how many entries went.
    ///
    /// # Errors
    /// What the gateway says; a lost link (it is not known then whether anything was removed).
    pub async fn remove(&self, path: &str, recursive: bool) -> Result<u64, ClientError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::Remove { request, path: path.to_owned(), recursive };
        Ok(self.ask(request, frame).await?.1)
    }

    async fn ask(&self, request: u64, frame: Frame) -> Result<(Vec<Entry>, u64), ClientError> {
        self.links.connected().await?;
        let mut answers = self.answers.lock().await;
        let lost = || ClientError::new(Code::Timeout, "the link was lost");
        let link = self.session.links().first().cloned().ok_or_else(lost)?;
        if !link.send(&frame).await {
            return Err(lost());
        }
        let mut entries = Vec::new();
        loop {
            let answer = tokio::select! {
                answer = self.rt.timeout(ANSWER_TIMEOUT, answers.recv()) => answer,
                _ = link.link().closed() => return Err(lost()),
            };
            match answer.ok().flatten().ok_or_else(lost)?.frame {
                Frame::Listing { request: of, entries: more } if of == request => {
                    if entries.len() + more.len() > LISTING_MAX {
                        return Err(ClientError::new(Code::Limit, "the listing is too long"));
                    }
                    entries.extend(more);
                }
                Frame::Result { request: of, code, reason, count } if of == request => {
                    if code != Code::Ok {
                        return Err(ClientError::new(code, reason));
                    }
                    return Ok((entries, count));
                }
                // The rest of an answer that nobody waited for to its end.
                _ => {}
            }
        }
    }

    /// Ends the session.
    pub async fn close(self) {
        self.supervisor.lock().expect("no panic while held").take();
        self.session.close(Code::Ok, "");
        self.links.close().await;
        let (catalogue, state) = (self.catalogue.clone(), self.options.state.clone());
        let (paths, began) = (self.options.tuning.paths.clone(), self.began);
        let keep = move || {
            catalogue.flush_hashes();
            if let Some(Err(error)) = paths.map(|paths| paths::save(&state, &paths, began)) {
                tracing::debug!(%error, "what is known of paths is not kept");
            }
        };
        self.rt.blocking(keep).await;
    }

    /// How long it took to reach the gateway.
    pub(crate) fn connect_time(&self) -> Duration {
        self.links.connection().map_or(Duration::ZERO, |(_, took)| took)
    }

    pub(crate) fn next_job(&self) -> JobId {
        JobId(self.next_job.fetch_add(1, Ordering::Relaxed))
    }

    /// What came of each way to the gateway, the best first; and whether it leads through a proxy.
    pub fn ladder(&self) -> Vec<(Tried, bool)> {
        self.links.ladder()
    }

    /// Whether any link goes over a TLS connection whose certificate is not the gateway's own: somebody in between reads
    /// along, whom the client has been told to trust.
    pub fn is_inspected(&self) -> bool {
        self.links.is_inspected()
    }

    /// Kinds of the links now.
    pub(crate) fn link_kinds(&self) -> Vec<String> {
        self.links.kinds()
    }
}
