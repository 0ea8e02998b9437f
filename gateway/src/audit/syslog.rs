//! Records to a syslog server: RFC 5424 messages over TLS (RFC 5425).
//!
//! Syslog has no acknowledgements. What is written when a connection breaks is written again to the next one, so that it may be
//! there twice (records have numbers); what the system had taken before that may be lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use metra_certs::{TrustAnchors, Untrusted, client_config};
use metra_fallback::tls::TlsClient;
use metra_fallback::{BoxStream, DialOptions, Target, dial};
use metra_transport::Rt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::clock::timestamp;
use super::sink::{Batch, Health, Item, Line};
use crate::config::AuditSyslog;

/// How long the server may take to answer, and to take what is written.
const PATIENCE: Duration = Duration::from_secs(10);
/// Waits between attempts: the first, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A connection that stood for so long was a good one: the next is tried at once.
const GOOD: Duration = Duration::from_secs(5);
/// The facility "log audit" (RFC 5424 table 1).
const FACILITY: u8 = 13;

const UNTRUSTED: &str =
    "its certificate is not trusted for its name: audit.syslog.ca names the authorities that are";

/// The server, and how it is known.
pub(super) struct Server {
    target: Target,
    tls: TlsClient,
    /// What messages begin with, after the time.
    from: String,
}

impl Server {
    /// # Errors
    /// A file of certificates or keys does not hold what it should.
    pub(super) fn new(config: &AuditSyslog) -> Result<Self, metra_certs::Error> {
        let trust = match &config.ca {
            Some(ca) => TrustAnchors::new().ca_file(ca),
            None => TrustAnchors::new().system(),
        };
        let identity = config.identity.as_ref().map(|files| (&*files.cert, &*files.key));
        let tls = TlsClient::new(&*client_config(&trust, identity)?);
        let target = Target { host: config.host.clone(), port: config.port };
        Ok(Self { target, tls, from: format!("{} metra {} audit -", host_name(), std::process::id()) })
    }

    pub(super) async fn connect(&self, rt: &Rt) -> io::Result<BoxStream> {
        let opening = async {
            let dialed = dial(&self.target, None, &DialOptions::default()).await.map_err(io::Error::other)?;
            self.tls.plain(dialed.stream, &self.target.host).await.map_err(|error| {
                let text = error.to_string();
                // What that sentence advises is for clients.
                let is_unknown = Untrusted::sentence_in(&text).is_some();
                io::Error::other(if is_unknown { UNTRUSTED.to_owned() } else { text })
            })
        };
        rt.timeout(PATIENCE, opening).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Writes what is queued, until the queue is closed.
pub(super) async fn run(rt: Rt, server: Server, mut queue: mpsc::Receiver<Item>, health: Arc<Health>) {
    let mut batch = Batch::default();
    let mut wait = BACK_OFF.0;
    loop {
        match server.connect(&rt).await {
            Ok(stream) => {
                let since = rt.now();
                health.works();
                let ended = carry(&rt, &server.from, stream, &mut batch, &mut queue, &health).await;
                let Err(error) = ended else { return };
                if rt.now().saturating_duration_since(since) >= GOOD {
                    tracing::info!(%error, "the syslog server has gone");
                    wait = BACK_OFF.0;
                    continue;
                }
                health.failed(&error);
            }
            Err(error) => health.failed(&error),
        }
        rt.sleep(wait).await;
        wait = (wait * 2).min(BACK_OFF.1);
    }
}

/// Over one connection, until it breaks, or the queue is closed.
async fn carry(
    rt: &Rt,
    from: &str,
    stream: BoxStream,
    batch: &mut Batch,
    queue: &mut mpsc::Receiver<Item>,
    health: &Health,
) -> io::Result<()> {
    let (mut back, mut out): (ReadHalf<BoxStream>, WriteHalf<BoxStream>) = split(stream);
    let mut said = [0; 512];
    loop {
        if !batch.lines.is_empty() {
            let bytes: String = batch.lines.iter().map(|line| frame(line, from)).collect();
            let writing = async {
                out.write_all(bytes.as_bytes()).await?;
                out.flush().await
            };
            rt.timeout(PATIENCE, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            health.written(batch.lines.len());
            batch.lines.clear();
        }
        batch.answer();
        tokio::select! {
            item = queue.recv() => match item {
                Some(item) => batch.take(item, queue),
                None => return out.shutdown().await,
            },
            // A server says nothing (RFC 5425 section 4.3), but that it goes.
            read = back.read(&mut said) => if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            },
        }
    }
}

/// `MSG-LEN SP SYSLOG-MSG` (RFC 5425 section 4.3); the message is `HEADER SP STRUCTURED-DATA SP MSG` (RFC 5424 section 6).
fn frame(line: &Line, from: &str) -> String {
    let priority = FACILITY * 8 + line.severity;
    let message = format!("<{priority}>1 {} {from} {}", timestamp(line.time), line.text);
    format!("{} {message}", message.len())
}

/// As RFC 5424 section 6.2.4 has it: printable ASCII, or `-`.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

#[cfg(test)]
pub(super) fn frame_of(line: &Line, from: &str) -> String {
    frame(line, from)
}
