//! Asking a service over TCP, with timeouts.

use std::io::SeekFrom;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::pool::{Place, Pool};
use crate::{Exchange, IcapError, Options, OptionsExchange, Outcome, ServiceUrl, Subject};

/// Bytes that are read at a time.
const READ: usize = 16 * 1024;
/// Bytes of a file that wait to be sent.
const AHEAD: usize = 128 * 1024;
/// How long a service that could not be reached is not tried again.
const DOWN: Duration = Duration::from_secs(2);

/// How a service is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it is.
    pub url: ServiceUrl,
    /// Time to resolve its name and to connect.
    pub connect: Duration,
    /// Time in which nothing moves in either direction, as while it scans.
    pub silence: Duration,
    /// Time for one file, from when there is a connection for it.
    pub total: Duration,
    /// Connections at a time, at least 1; fewer if the service says so (Max-Connections).
    pub connections: usize,
}

/// A service. Can be asked by many at once; those who find all connections in use wait.
pub struct Client {
    settings: Settings,
    pool: Pool,
    known: Mutex<Known>,
}

/// What is known of the service.
#[derive(Default)]
struct Known {
    /// What it says of itself, and until when.
    options: Option<(Options, Instant)>,
    /// That it could not be reached, and until when that is believed.
    down: Option<(String, Instant)>,
}

impl Client {
    /// No connection is made before the first question.
    pub fn new(settings: Settings) -> Self {
        // One, until the service has said how many it takes.
        Self { pool: Pool::new(1), settings, known: Mutex::default() }
    }

    /// How it is asked.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the service says of itself: asked for again when what is known is older than the service allows.
    ///
    /// # Errors
    /// It cannot be asked, or cannot be used.
    pub async fn options(&self) -> Result<Options, IcapError> {
        if let Some(options) = self.known()? {
            return Ok(options);
        }
        let place = self.pool.enter().await;
        // Whoever had the place before may have learned it.
        if let Some(options) = self.known()? {
            return Ok(options);
        }
        let options = self.ask_options(&place).await?;
        drop(place);
        self.pool.limit(options.max_connections.unwrap_or(usize::MAX).min(self.settings.connections));
        self.lock().options = Some((options.clone(), Instant::now() + options.ttl));
        Ok(options)
    }

    fn known(&self) -> Result<Option<Options>, IcapError> {
        let (known, now) = (self.lock(), Instant::now());
        if let Some((why, until)) = &known.down
            && *until > now
        {
            return Err(IcapError::Down(why.clone()));
        }
        Ok(known.options.as_ref().filter(|(_, until)| *until > now).map(|(options, _)| options.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while held")
    }

    async fn ask_options(&self, place: &Place<'_>) -> Result<Options, IcapError> {
        let mut stream = self.connect().await?;
        let (mut exchange, request) = OptionsExchange::new(&self.settings.url);
        let ask = async {
            stream.write_all(&request).await.map_err(IcapError::Broken)?;
            let mut buffer = vec![0; READ];
            loop {
                let len = stream.read(&mut buffer).await.map_err(IcapError::Broken)?;
                if len == 0 {
                    return Err(IcapError::Closed);
                }
                if let Some(options) = exchange.received(&buffer[..len])? {
                    return Ok(options);
                }
            }
        };
        let asked = timeout(self.settings.silence, ask).await;
        let options = asked.map_err(|_| IcapError::Timeout("no answer to OPTIONS"))??;
        if exchange.is_reusable() {
            place.keep(stream);
        }
        Ok(options)
    }

    /// Asks about a file. `content` has `subject.size` bytes; it is read from its start, and perhaps a second time.
    ///
    /// Waits for as long as all connections are in use: that a service is busy is no failure.
    pub async fn scan<C>(&self, subject: &Subject, content: &mut C) -> Outcome
    where
        C: AsyncRead + AsyncSeek + Unpin,
    {
        let asked = async {
            let options = self.options().await?;
            let place = self.pool.enter().await;
            // What those before found out.
            self.known()?;
            let asked = timeout(self.settings.total, self.ask(&place, &options, subject, content)).await;
            asked.map_err(|_| IcapError::Timeout("no answer within the time for one file"))?
        };
        asked.await.unwrap_or_else(Outcome::Failed)
    }

    async fn ask<C>(
        &self,
        place: &Place<'_>,
        options: &Options,
        subject: &Subject,
        content: &mut C,
    ) -> Result<Outcome, IcapError>
    where
        C: AsyncRead + AsyncSeek + Unpin,
    {
        let mut kept = place.kept();
        loop {
            let (mut stream, was_kept) = match kept.take() {
                Some(stream) => (stream, true),
                None => (self.connect().await?, false),
            };
            content.seek(SeekFrom::Start(0)).await.map_err(IcapError::Content)?;
            let mut exchange = Exchange::new(&self.settings.url, subject, options.preview);
            let outcome = converse(&mut stream, &mut exchange, content, self.settings.silence).await;
            // A service may close a connection that was kept at any time: that is no answer to this question.
            if was_kept && !exchange.has_heard() && is_closed(&outcome) {
                continue;
            }
            if exchange.is_reusable() {
                place.keep(stream);
            }
            // Another tag: the service has changed, and perhaps what it says of itself (RFC 3507 section 4.7).
            if exchange.istag().is_some_and(|tag| tag != options.istag) {
                self.lock().options = None;
            }
            return Ok(outcome);
        }
    }

    async fn connect(&self) -> Result<TcpStream, IcapError> {
        let url = &self.settings.url;
        let connect = TcpStream::connect((url.host(), url.port()));
        let stream = match timeout(self.settings.connect, connect).await {
            Ok(connected) => connected.map_err(IcapError::Connect),
            Err(_) => Err(IcapError::Timeout("no connection")),
        };
        // A thousand files must not wait for the same timeout one after the other.
        let stream =
            stream.inspect_err(|e| self.lock().down = Some((e.to_string(), Instant::now() + DOWN)))?;
        // Requests are written in as few pieces as can be; the last one must not wait.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Runs an exchange to its end. Reads and writes at the same time: see [`Exchange`].
async fn converse<S, C>(
    stream: &mut S,
    exchange: &mut Exchange,
    content: &mut C,
    silence: Duration,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: AsyncRead + Unpin,
{
    let (mut from, mut to) = tokio::io::split(stream);
    let mut buffer = vec![0; READ];
    let mut piece = vec![0; AHEAD];
    let mut broken = None;
    loop {
        if let Some(outcome) = exchange.outcome() {
            return outcome;
        }
        while exchange.wants() > 0 && exchange.transmit().len() < AHEAD {
            let want = exchange.wants().min(piece.len());
            match content.read(&mut piece[..want]).await {
                Ok(0) => {
                    let short =
                        std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it is shorter than it was");
                    return Outcome::Failed(IcapError::Content(short));
                }
                Ok(len) => exchange.content(&piece[..len]),
                Err(error) => return Outcome::Failed(IcapError::Content(error)),
            }
        }
        let writes = !exchange.transmit().is_empty() && broken.is_none();
        let moved = timeout(silence, async {
            tokio::select! {
                read = from.read(&mut buffer) => Moved::In(read),
                wrote = to.write(exchange.transmit()), if writes => Moved::Out(wrote),
            }
        });
        match moved.await {
            Ok(Moved::In(Ok(0))) => match broken.take() {
                Some(error) => return Outcome::Failed(IcapError::Broken(error)),
                None => exchange.closed(),
            },
            Ok(Moved::In(Ok(len))) => exchange.received(&buffer[..len]),
            Ok(Moved::In(Err(error))) => {
                return exchange_broke(exchange, broken.take().unwrap_or(error));
            }
            Ok(Moved::Out(Ok(0))) => broken = Some(std::io::ErrorKind::WriteZero.into()),
            Ok(Moved::Out(Ok(len))) => exchange.transmitted(len),
            // It may have answered before it closed: that is still to be read.
            Ok(Moved::Out(Err(error))) => broken = Some(error),
            Err(_) => return Outcome::Failed(IcapError::Timeout("nothing was heard of it")),
        }
    }
}

fn is_closed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(IcapError::Closed | IcapError::Broken(_)))
}

/// What was found before the connection broke stays found.
fn exchange_broke(exchange: &mut Exchange, error: std::io::Error) -> Outcome {
    exchange.closed();
    match exchange.outcome() {
        Some(Outcome::Failed(_)) | None => Outcome::Failed(IcapError::Broken(error)),
        Some(outcome) => outcome,
    }
}

enum Moved {
    In(std::io::Result<usize>),
    Out(std::io::Result<usize>),
}
