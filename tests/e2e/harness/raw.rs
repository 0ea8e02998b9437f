//! A client that speaks MTP by the frame, and need not keep to the protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metra_certs::{TrustAnchors, client_config};
use metra_core::code::Code;
use metra_core::id::{ChunkIndex, Digest, EntryIndex, Incarnation, JobId, JobKey};
use metra_core::manifest::{Entry, EntryKind, Ledger, LedgerLimits, Record};
use metra_core::priority::Priority;
use metra_core::wire::{
    Auth, ChunkHeader, EntryStatus, Finished, Frame, FrameDecoder, Hello, ManifestEnd, Overwrite, Placement,
    Push, Welcome,
};
use metra_transport::quic::{QuicClient, Tuning};
use metra_transport::{ControlRecv, ControlSend, Link, LinkError, Rt};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{Gateway, PATIENCE};

/// A link with an open control stream.
pub(crate) struct Raw {
    runtime: Arc<Runtime>,
    /// Whose end is waited for.
    client: Option<QuicClient>,
    link: Arc<dyn Link>,
    send: Box<dyn ControlSend>,
    recv: Box<dyn ControlRecv>,
    decoder: FrameDecoder,
}

/// How a job went that [`Raw::push`] opened.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) finished: Option<Finished>,
    pub(crate) failed: Option<(Code, String)>,
    pub(crate) statuses: Vec<EntryStatus>,
    pub(crate) wanted: Vec<u32>,
    pub(crate) damaged: Vec<u32>,
}

impl Outcome {
    /// What was said of an entry, by its number.
    pub(crate) fn code_of(&self, entry: usize) -> Option<Code> {
        let entry = Some(EntryIndex(entry as u32));
        self.statuses.iter().find(|status| status.entry == entry).map(|status| status.code)
    }
}

impl Raw {
    /// A link on which nothing has been said yet.
    pub(crate) fn connect(gateway: &Gateway) -> Self {
        Self::connect_from(gateway, "127.0.0.1")
    }

    /// The same, from another address of this machine.
    pub(crate) fn connect_from(gateway: &Gateway, from: &str) -> Self {
        let from = SocketAddr::new(from.parse().unwrap(), 0);
        let runtime = runtime();
        let trust = TrustAnchors::new().ca_file(gateway.ca());
        let tls = client_config(&trust, None).unwrap();
        let address = gateway.address();
        let (client, link, (send, recv)) = runtime.block_on(async move {
            let client = QuicClient::new(Rt::tokio(), from, tls, Tuning::default()).unwrap();
            let link = timeout(PATIENCE, client.connect(address, "127.0.0.1"));
            let link = link.await.expect("a link in time").expect("a link");
            let control = link.control().await.expect("a control stream");
            (client, link, control)
        });
        Self { runtime, client: Some(client), link, send, recv, decoder: FrameDecoder::new() }
    }

    /// Another link of the same client, to `address`. What is said first on it goes out at once, without an answer of the gateway
    /// (0-RTT).
    pub(crate) fn another(&self, address: SocketAddr) -> Self {
        let client = self.client.as_ref().expect("a client of its own");
        let link = self.runtime.block_on(async {
            let link = timeout(PATIENCE, client.connect(address, "127.0.0.1"));
            link.await.expect("a link in time").expect("a link")
        });
        Self::over(&self.runtime, link)
    }

    /// On a link of any kind, whose tasks run on `runtime`.
    pub(crate) fn over(runtime: &Arc<Runtime>, link: Arc<dyn Link>) -> Self {
        let (send, recv) = runtime.block_on(link.control()).expect("a control stream");
        Self { runtime: runtime.clone(), client: None, link, send, recv, decoder: FrameDecoder::new() }
    }

    /// A link that has been welcomed, as nobody in particular.
    pub(crate) fn welcomed(gateway: &Gateway) -> Self {
        let mut raw = Self::connect(gateway);
        raw.hello(Auth::None).expect("a welcome");
        raw
    }

    /// Says hello; the answer.
    pub(crate) fn hello(&mut self, auth: Auth) -> Result<Welcome, Code> {
        self.say(&Frame::Hello(Hello { version: 1, auth, agent: "end to end test".into() }));
        match self.next()? {
            Frame::Welcome(welcome) => Ok(welcome),
            frame => panic!("a welcome was expected, not {frame:?}"),
        }
    }

    /// Sends a frame.
    pub(crate) fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        // That the link is gone shows when its end is looked at.
        let _ = self.say_bytes(&bytes);
    }

    /// Sends any bytes on the control stream.
    pub(crate) fn say_bytes(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let sending = self.send.send(Bytes::copy_from_slice(bytes));
        self.runtime.block_on(async { timeout(PATIENCE, sending).await.expect("room to send in time") })
    }

    /// The bytes that have come on the link so far.
    pub(crate) fn received(&self) -> u64 {
        self.link.stats().received_bytes
    }

    /// The next frame, or the code with which the gateway closed the link.
    pub(crate) fn next(&mut self) -> Result<Frame, Code> {
        self.next_within(PATIENCE).unwrap_or_else(|| panic!("waited in vain for a frame"))
    }

    /// As [`next`](Self::next); `None` if nothing comes for so long.
    pub(crate) fn next_within(&mut self, patience: Duration) -> Option<Result<Frame, Code>> {
        Some(self.next_or_end(patience)?.map_err(|error| match error {
            LinkError::ClosedByPeer { code, .. } => code,
            error => panic!("the link is lost: {error}"),
        }))
    }

    /// The same, or how the link ended.
    pub(crate) fn next_or_end(&mut self, patience: Duration) -> Option<Result<Frame, LinkError>> {
        let reading = async {
            loop {
                match self.decoder.next().expect("frames of the gateway parse") {
                    Some(Frame::Close { code, reason }) => {
                        return Err(LinkError::ClosedByPeer { code, reason });
                    }
                    Some(frame) => return Ok(frame),
                    None => {}
                }
                match self.recv.recv().await {
                    Ok(Some(bytes)) => self.decoder.push(&bytes),
                    Ok(None) => panic!("the gateway finished the control stream"),
                    // Why the link is closed, which says more, is on its way.
                    Err(error) if error.is_stream() => return Err(self.link.closed().await),
                    Err(error) => return Err(error),
                }
            }
        };
        self.runtime.block_on(async { timeout(patience, reading).await.ok() })
    }

    /// Reads on until the gateway closes the link; the code.
    pub(crate) fn ending(&mut self) -> Code {
        loop {
            if let Err(code) = self.next() {
                return code;
            }
        }
    }

    /// Sends a chunk.
    pub(crate) fn chunk(&self, job: JobId, chunk: u32, body: &[u8]) -> Result<(), LinkError> {
        let header = ChunkHeader { job, chunk: ChunkIndex(chunk), len: body.len() as u32 };
        self.stream(header.encode(), body)
    }

    /// Sends any bytes on a stream of their own.
    pub(crate) fn stream(&self, header: Vec<u8>, body: &[u8]) -> Result<(), LinkError> {
        let sending = self.link.send_chunk(header.into(), vec![Bytes::copy_from_slice(body)], 0);
        self.runtime.block_on(async { timeout(PATIENCE, sending).await.expect("room to send in time") })
    }

    /// Opens a job; the answer to it.
    pub(crate) fn open(&mut self, job: JobId, key: &str, dest: &str) -> Frame {
        self.open_at(job, key, dest, Placement::Into)
    }

    fn open_at(&mut self, job: JobId, key: &str, dest: &str, placement: Placement) -> Frame {
        self.say(&push_at(job, key, dest, placement));
        loop {
            // Of one before there may be something left to be said.
            let frame = self.next().expect("an answer to the push");
            if frame.job() == Some(job) {
                return frame;
            }
        }
    }

    /// Says hello, and all the rest without waiting for the answer, in one piece.
    pub(crate) fn hello_and(&mut self, auth: Auth, rest: &[Frame]) {
        let mut bytes = Vec::new();
        Frame::Hello(Hello { version: 1, auth, agent: "end to end test".into() }).encode(&mut bytes);
        rest.iter().for_each(|frame| frame.encode(&mut bytes));
        self.say_bytes(&bytes).expect("room to send");
    }

    /// Sends records, in as many frames as it takes.
    pub(crate) fn records(&mut self, job: JobId, mut first: u64, records: &[Record]) {
        for part in records.chunks(512) {
            let mut records = part.to_vec();
            // Long names: one at a time.
            let long = records.iter().map(Record::encoded_len).sum::<usize>() > 200_000;
            for records in if long { records.drain(..).map(|r| vec![r]).collect() } else { vec![records] } {
                let count = records.len() as u64;
                self.say(&Frame::Records { job, first, records });
                first += count;
            }
        }
    }

    /// A whole push of `manifest` into `dest`. `serve` gives the bytes to send for a chunk, if any; it may lie.
    pub(crate) fn push(
        &mut self,
        job: JobId,
        dest: &str,
        manifest: &Manifest,
        serve: impl FnMut(u32) -> Option<Vec<u8>>,
    ) -> Outcome {
        self.push_at(job, dest, Placement::Into, manifest, serve)
    }

    /// The same, with what `dest` means.
    pub(crate) fn push_at(
        &mut self,
        job: JobId,
        dest: &str,
        placement: Placement,
        manifest: &Manifest,
        mut serve: impl FnMut(u32) -> Option<Vec<u8>>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        match self.open_at(job, &format!("{job:?} {dest}"), dest, placement) {
            Frame::Ready { from_record, .. } => assert_eq!(from_record, 0),
            Frame::Fail { code, reason, .. } => {
                outcome.failed = Some((code, reason));
                return outcome;
            }
            frame => panic!("Ready was expected, not {frame:?}"),
        }
        self.records(job, 0, &manifest.records);
        self.say(&Frame::ManifestEnd(manifest.end(job)));
        loop {
            let frame = match self.next_within(PATIENCE) {
                Some(Ok(frame)) => frame,
                Some(Err(code)) => panic!("the link was closed with {code}: {outcome:?}"),
                None => panic!("nothing happens any more: {outcome:?}"),
            };
            if frame.job() != Some(job) {
                continue;
            }
            match frame {
                Frame::Want { ranges, .. } => {
                    for chunk in ranges.iter().flat_map(|range| range.indexes()) {
                        outcome.wanted.push(chunk);
                        if let Some(body) = serve(chunk) {
                            let _ = self.chunk(job, chunk, &body);
                        }
                    }
                }
                // It says that the chunk did not arrive well, and asks for it again.
                Frame::Damaged { chunk, .. } => {
                    outcome.damaged.push(chunk.0);
                    if let Some(body) = serve(chunk.0) {
                        let _ = self.chunk(job, chunk.0, &body);
                    }
                }
                Frame::EntryStatus(status) => outcome.statuses.push(status),
                Frame::Finished(finished) => {
                    outcome.finished = Some(finished);
                    return outcome;
                }
                Frame::Fail { code, reason, .. } => {
                    outcome.failed = Some((code, reason));
                    return outcome;
                }
                _ => {}
            }
        }
    }
}

/// What opens a job.
pub(crate) fn push(job: JobId, key: &str, dest: &str) -> Frame {
    push_at(job, key, dest, Placement::Into)
}

fn push_at(job: JobId, key: &str, dest: &str, placement: Placement) -> Frame {
    Frame::Push(Push {
        job,
        key: JobKey(Digest::of(key.as_bytes())),
        incarnation: Incarnation(1),
        dest: dest.to_owned(),
        placement,
        overwrite: Overwrite::Different,
        priority: Priority::NORMAL,
    })
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.link.close(Code::Ok, "");
        let Some(client) = &self.client else { return };
        let _ =
            self.runtime.block_on(async { timeout(Duration::from_millis(200), client.wait_idle()).await });
    }
}

/// What links run on: a thread of its own.
pub(crate) fn runtime() -> Arc<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Arc::new(builder.worker_threads(1).enable_all().build().unwrap())
}

/// Records of a manifest, and the bytes of its chunks.
#[derive(Default)]
pub(crate) struct Manifest {
    pub(crate) records: Vec<Record>,
    pub(crate) chunks: Vec<Vec<u8>>,
}

impl Manifest {
    /// Adds a small file in a pack of its own.
    pub(crate) fn file(mut self, path: &str, content: &[u8]) -> Self {
        assert!((1..256 * 1024).contains(&content.len()), "a small file");
        let kind = EntryKind::File { size: content.len() as u64 };
        self = self.entry(path, kind);
        self.chunk(content)
    }

    /// Adds a large file of these chunks.
    pub(crate) fn large(mut self, path: &str, chunks: &[Vec<u8>]) -> Self {
        let size = chunks.iter().map(|c| c.len() as u64).sum();
        self = self.entry(path, EntryKind::File { size });
        chunks.iter().fold(self, |manifest, chunk| manifest.chunk(chunk))
    }

    /// Adds an entry without metadata.
    pub(crate) fn entry(mut self, path: &str, kind: EntryKind) -> Self {
        self.records.push(Record::Entry(Entry { path: path.to_owned(), kind, mode: None, mtime: None }));
        self
    }

    fn chunk(mut self, content: &[u8]) -> Self {
        self.records.push(Record::Chunk { len: content.len() as u32, hash: Digest::of(content) });
        self.chunks.push(content.to_vec());
        self
    }

    /// The right bytes.
    pub(crate) fn honest(&self) -> impl FnMut(u32) -> Option<Vec<u8>> + '_ {
        |chunk| self.chunks.get(chunk as usize).cloned()
    }

    /// The closing frame.
    pub(crate) fn end(&self, job: JobId) -> ManifestEnd {
        let mut ledger = Ledger::new(LedgerLimits::default());
        for record in &self.records {
            ledger.push(record).expect("a manifest in order");
        }
        ManifestEnd { job, records: ledger.records(), root: ledger.finish().expect("complete") }
    }
}
