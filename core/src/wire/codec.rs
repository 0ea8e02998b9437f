//! Layouts of frames and of the header of a chunk.

use super::frame::{
    Auth, EntryStatus, Finished, Frame, Hello, Keep, ManifestEnd, Overwrite, PeerLimits, Placement, Pull,
    Push, Symlinks, Welcome,
};
use super::varint;
use crate::code::Code;
use crate::id::{ChunkIndex, Digest, EntryIndex, Incarnation, JobId, JobKey, SessionId};
use crate::limits::{CHUNK_MAX, CHUNKS_MAX, FRAME_MAX, RANGES_MAX, SECRET_MAX, TEXT_MAX};
use crate::manifest::{Entry, RECORD_PATH_MAX, Record, RecordError};
use crate::priority::Priority;
use crate::ranges::IndexRange;
use crate::rate::{Policy, RatePolicy};

/// How a peer broke the wire format. Fault: the peer. The link is closed with [`WireError::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The payload of a frame ends within a field.
    #[error("a frame ends within a field")]
    Truncated,
    /// The payload goes on after the last field.
    #[error("a frame goes on after its last field")]
    Trailing,
    /// A frame is longer than [`FRAME_MAX`].
    #[error("a frame of type {kind:#x} is {len} bytes long; at most 262144 are allowed")]
    FrameTooLong {
        /// Its type.
        kind: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// A text, token or list is longer than allowed.
    #[error("{0} is longer than allowed")]
    TooLong(&'static str),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// A field has a value that is not defined or not allowed.
    #[error("{0} has a value that is not allowed")]
    Value(&'static str),
    /// A record or entry in the frame is not valid.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A unidirectional stream does not start with a chunk. The receiver stops the stream; the link goes on, because
    /// the type may be of a later version.
    #[error("a stream starts with type {0:#x}, which is not a chunk")]
    StreamType(u64),
}

impl WireError {
    /// The code that goes into the close of the link.
    pub fn code(self) -> Code {
        match self {
            WireError::FrameTooLong { .. } | WireError::TooLong(_) => Code::Limit,
            _ => Code::Protocol,
        }
    }
}

/// What a chunk's stream starts with; the bytes of the chunk follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkHeader {
    /// The job.
    pub job: JobId,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// Bytes of the chunk, `1..=CHUNK_MAX`.
    pub len: u32,
}

impl ChunkHeader {
    /// Most bytes of a header, in the longest forms of its four numbers.
    pub const MAX: usize = 4 * 8;

    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let ids = varint::len(self.job.0) + varint::len(u64::from(self.chunk.0));
        let mut out = Vec::with_capacity(Self::MAX);
        varint::put(kind::CHUNK, &mut out);
        varint::put(ids as u64 + u64::from(self.len), &mut out);
        varint::put(self.job.0, &mut out);
        varint::put(u64::from(self.chunk.0), &mut out);
        out
    }

    /// Reads a header from the front of `input`: the header and how many bytes it took, or `None` if more bytes are
    /// needed, which [`ChunkHeader::MAX`] bytes never do.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let mut rest = input;
        let Some(kind) = varint::take(&mut rest) else { return Ok(None) };
        if kind != kind::CHUNK {
            return Err(WireError::StreamType(kind));
        }
        let Some(length) = varint::take(&mut rest) else { return Ok(None) };
        if length > (CHUNK_MAX + 16) as u64 {
            return Err(WireError::TooLong("a chunk"));
        }
        let body = rest.len();
        let Some(job) = varint::take(&mut rest) else { return Ok(None) };
        let Some(chunk) = varint::take(&mut rest) else { return Ok(None) };
        let ids = (body - rest.len()) as u64;
        let len = length.checked_sub(ids).ok_or(WireError::Truncated)?;
        if len > CHUNK_MAX as u64 {
            return Err(WireError::TooLong("a chunk"));
        }
        if len == 0 {
            return Err(WireError::Value("the length of a chunk"));
        }
        let header = Self { job: JobId(job), chunk: chunk_index(chunk)?, len: len as u32 };
        Ok(Some((header, input.len() - rest.len())))
    }
}

impl Frame {
    /// Appends the frame: type, length, payload.
    ///
    /// Texts for people are cut: reasons, the agent and user names to [`TEXT_MAX`], the path of an [`EntryStatus`] to
    /// [`RECORD_PATH_MAX`], so that the report of an odd name cannot end the link. Everything else that is longer than the
    /// limits goes out as it is and is refused by the peer, so the caller keeps to them.
    ///
    /// # Panics
    /// If a number is larger than [`varint::MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        let kind = self.encode_payload(&mut payload);
        varint::put(kind, out);
        varint::put(payload.len() as u64, out);
        out.extend_from_slice(&payload);
    }

    /// Reads the payload of a frame of type `kind`; `None` if the type is not known, and the frame to be passed over.
    pub fn decode(kind: u64, payload: &[u8]) -> Result<Option<Self>, WireError> {
        if payload.len() > FRAME_MAX {
            return Err(WireError::FrameTooLong { kind, len: payload.len() as u64 });
        }
        let mut reader = Reader(payload);
        let Some(frame) = reader.frame(kind)? else { return Ok(None) };
        if reader.0.is_empty() { Ok(Some(frame)) } else { Err(WireError::Trailing) }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) -> u64 {
        match self {
            Frame::Hello(hello) => {
                varint::put(hello.version, out);
                match &hello.auth {
                    Auth::None => out.push(0),
                    Auth::Bearer(token) => {
                        out.push(1);
                        put_bytes(token.as_bytes(), out);
                    }
                    Auth::Ticket(ticket) => {
                        out.push(2);
                        put_bytes(ticket, out);
                    }
                }
                put_text(&hello.agent, out);
                kind::HELLO
            }
            Frame::Welcome(welcome) => {
                varint::put(welcome.version, out);
                out.extend_from_slice(&welcome.session.0);
                put_bytes(&welcome.ticket, out);
                varint::put(welcome.ticket_lifetime, out);
                put_text(&welcome.user, out);
                out.extend_from_slice(&welcome.receipt_key);
                varint::put(welcome.limits.jobs, out);
                varint::put(welcome.limits.entries, out);
                varint::put(welcome.limits.chunks, out);
                kind::WELCOME
            }
            Frame::Close { code, reason } => {
                varint::put(code.number(), out);
                put_text(reason, out);
                kind::CLOSE
            }
            Frame::Rate(rate) => {
                put_rate(*rate, out);
                kind::RATE
            }
            Frame::Granted(rate) => {
                put_rate(*rate, out);
                kind::GRANTED
            }
            Frame::Pace(rate) => {
                varint::put(rate.unwrap_or(0), out);
                kind::PACE
            }
            Frame::Push(push) => {
                varint::put(push.job.0, out);
                out.extend_from_slice(&push.key.0.0);
                out.extend_from_slice(&push.incarnation.0.to_be_bytes());
                put_bytes(push.dest.as_bytes(), out);
                out.push(number_of(&PLACEMENTS, push.placement));
                out.push(number_of(&OVERWRITES, push.overwrite));
                out.push(push.priority.number());
                kind::PUSH
            }
            Frame::Pull(pull) => {
                varint::put(pull.job.0, out);
                out.extend_from_slice(&pull.key.0.0);
                out.push(number_of(&SYMLINKS, pull.symlinks));
                out.extend([u8::from(pull.keep.mode), u8::from(pull.keep.times)]);
                varint::put(pull.paths.len() as u64, out);
                pull.paths.iter().for_each(|path| put_bytes(path.as_bytes(), out));
                varint::put(pull.filters.len() as u64, out);
                for (include, pattern) in &pull.filters {
                    out.push(u8::from(*include));
                    put_bytes(pattern.as_bytes(), out);
                }
                out.push(pull.priority.number());
                kind::PULL
            }
            Frame::Opened { job, incarnation } => {
                varint::put(job.0, out);
                out.extend_from_slice(&incarnation.0.to_be_bytes());
                kind::OPENED
            }
            Frame::Queued { job, position } => {
                varint::put(job.0, out);
                varint::put(*position, out);
                kind::QUEUED
            }
            Frame::Ready { job, from_record } => {
                varint::put(job.0, out);
                varint::put(*from_record, out);
                kind::READY
            }
            Frame::Records { job, first, records } => {
                varint::put(job.0, out);
                varint::put(*first, out);
                records.iter().for_each(|record| record.encode(out));
                kind::RECORDS
            }
            Frame::ManifestEnd(end) => {
                varint::put(end.job.0, out);
                varint::put(end.records, out);
                out.extend_from_slice(&end.root.0);
                kind::MANIFEST_END
            }
            Frame::Want { job, ranges } => {
                varint::put(job.0, out);
                for range in ranges {
                    varint::put(u64::from(range.first.0), out);
                    varint::put(u64::from(range.count), out);
                }
                kind::WANT
            }
            Frame::Have { job, ranges } => {
                put_ascending(*job, ranges, out);
                kind::HAVE
            }
            Frame::Durable { job, ranges } => {
                put_ascending(*job, ranges, out);
                kind::DURABLE
            }
            Frame::Damaged { job, chunk } => {
                varint::put(job.0, out);
                varint::put(u64::from(chunk.0), out);
                kind::DAMAGED
            }
            Frame::Gone { job, chunk } => {
                varint::put(job.0, out);
                varint::put(u64::from(chunk.0), out);
                kind::GONE
            }
            Frame::EntryStatus(status) => {
                varint::put(status.job.0, out);
                varint::put(status.entry.map_or(0, |entry| u64::from(entry.0) + 1), out);
                put_cut(&status.path, RECORD_PATH_MAX, out);
                varint::put(status.code.number(), out);
                put_text(&status.reason, out);
                kind::ENTRY_STATUS
            }
            Frame::Finished(finished) => {
                varint::put(finished.job.0, out);
                out.extend_from_slice(&finished.root.0);
                for count in [finished.entries, finished.bytes, finished.failed, finished.reused] {
                    varint::put(count, out);
                }
                kind::FINISHED
            }
            Frame::Receipt { job, bytes } => {
                varint::put(job.0, out);
                put_bytes(bytes, out);
                kind::RECEIPT
            }
            Frame::Fail { job, code, reason } => {
                varint::put(job.0, out);
                varint::put(code.number(), out);
                put_text(reason, out);
                kind::FAIL
            }
            Frame::List { request, path, depth } => {
                varint::put(*request, out);
                put_bytes(path.as_bytes(), out);
                varint::put(u64::from(*depth), out);
                kind::LIST
            }
            Frame::Listing { request, entries } => {
                varint::put(*request, out);
                entries.iter().for_each(|entry| entry.encode(out));
                kind::LISTING
            }
            Frame::Remove { request, path, recursive } => {
                varint::put(*request, out);
                put_bytes(path.as_bytes(), out);
                out.push(u8::from(*recursive));
                kind::REMOVE
            }
            Frame::Result { request, code, reason, count } => {
                varint::put(*request, out);
                varint::put(code.number(), out);
                put_text(reason, out);
                varint::put(*count, out);
                kind::RESULT
            }
        }
    }
}

/// What is left of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn frame(&mut self, kind: u64) -> Result<Option<Frame>, WireError> {
        Ok(Some(match kind {
            kind::HELLO => Frame::Hello(Hello {
                version: self.number()?,
                auth: match self.array::<1>()? {
                    [0] => Auth::None,
                    [1] => Auth::Bearer(self.text(SECRET_MAX, "a token")?),
                    [2] => Auth::Ticket(self.bytes(SECRET_MAX, "a ticket")?.to_vec()),
                    _ => return Err(WireError::Value("the kind of credentials")),
                },
                agent: self.text(TEXT_MAX, "the agent")?,
            }),
            kind::WELCOME => Frame::Welcome(Welcome {
                version: self.number()?,
                session: SessionId(self.array()?),
                ticket: self.bytes(SECRET_MAX, "a ticket")?.to_vec(),
                ticket_lifetime: self.number()?,
                user: self.text(TEXT_MAX, "the user")?,
                receipt_key: self.array()?,
                limits: PeerLimits { jobs: self.number()?, entries: self.number()?, chunks: self.number()? },
            }),
            kind::CLOSE => Frame::Close { code: self.code()?, reason: self.reason()? },
            kind::RATE => Frame::Rate(self.rate()?),
            kind::GRANTED => Frame::Granted(self.rate()?),
            kind::PACE => Frame::Pace(Some(self.number()?).filter(|rate| *rate > 0)),
            kind::PUSH => Frame::Push(Push {
                job: self.job()?,
                key: JobKey(self.digest()?),
                incarnation: self.incarnation()?,
                dest: self.path()?,
                placement: self.one_of(&PLACEMENTS, "the placement")?,
                overwrite: self.one_of(&OVERWRITES, "the overwrite rule")?,
                priority: self.priority()?,
            }),
            kind::PULL => Frame::Pull(Pull {
                job: self.job()?,
                key: JobKey(self.digest()?),
                symlinks: self.one_of(&SYMLINKS, "the rule for links")?,
                keep: Keep { mode: self.flag()?, times: self.flag()? },
                paths: match self.list("the list of paths", Self::path)? {
                    paths if paths.is_empty() => return Err(WireError::Value("the list of paths")),
                    paths => paths,
                },
                filters: self.list("the list of filters", |r| Ok((r.flag()?, r.path()?)))?,
                priority: self.priority()?,
            }),
            kind::OPENED => Frame::Opened {
                job: self.job()?,
                incarnation: Incarnation(u64::from_be_bytes(self.array()?)),
            },
            kind::QUEUED => Frame::Queued {
                job: self.job()?,
                position: match self.number()? {
                    0 => return Err(WireError::Value("the position in a queue")),
                    position => position,
                },
            },
            kind::READY => Frame::Ready { job: self.job()?, from_record: self.number()? },
            kind::RECORDS => {
                let (job, first) = (self.job()?, self.number()?);
                let records = self.rest(Record::decode)?;
                if records.is_empty() {
                    return Err(WireError::Value("the list of records"));
                }
                Frame::Records { job, first, records }
            }
            kind::MANIFEST_END => Frame::ManifestEnd(ManifestEnd {
                job: self.job()?,
                records: self.number()?,
                root: self.digest()?,
            }),
            kind::WANT => Frame::Want { job: self.job()?, ranges: self.ranges(|first, _| Some(first))? },
            kind::HAVE => Frame::Have { job: self.job()?, ranges: self.ranges(after)? },
            kind::DURABLE => Frame::Durable { job: self.job()?, ranges: self.ranges(after)? },
            kind::DAMAGED => Frame::Damaged { job: self.job()?, chunk: chunk_index(self.number()?)? },
            kind::GONE => Frame::Gone { job: self.job()?, chunk: chunk_index(self.number()?)? },
            kind::ENTRY_STATUS => Frame::EntryStatus(EntryStatus {
                job: self.job()?,
                entry: match self.number()? {
                    0 => None,
                    n => Some(EntryIndex(
                        u32::try_from(n - 1).map_err(|_| WireError::Value("the number of an entry"))?,
                    )),
                },
                path: self.path()?,
                code: self.code()?,
                reason: self.reason()?,
            }),
            kind::FINISHED => Frame::Finished(Finished {
                job: self.job()?,
                root: self.digest()?,
                entries: self.number()?,
                bytes: self.number()?,
                failed: self.number()?,
                reused: self.number()?,
            }),
            kind::RECEIPT => Frame::Receipt {
                job: self.job()?,
                bytes: self.bytes(crate::receipt::RECEIPT_MAX, "a receipt")?.to_vec(),
            },
            kind::FAIL => Frame::Fail { job: self.job()?, code: self.code()?, reason: self.reason()? },
            kind::LIST => Frame::List {
                request: self.number()?,
                path: self.path()?,
                depth: u32::try_from(self.number()?).map_err(|_| WireError::Value("the depth"))?,
            },
            kind::LISTING => Frame::Listing { request: self.number()?, entries: self.rest(Entry::decode)? },
            kind::REMOVE => {
                Frame::Remove { request: self.number()?, path: self.path()?, recursive: self.flag()? }
            }
            kind::RESULT => Frame::Result {
                request: self.number()?,
                code: self.code()?,
                reason: self.reason()?,
                count: self.number()?,
            },
            _ => return Ok(None),
        }))
    }

    fn number(&mut self) -> Result<u64, WireError> {
        varint::take(&mut self.0).ok_or(WireError::Truncated)
    }

    fn job(&mut self) -> Result<JobId, WireError> {
        self.number().map(JobId)
    }

    fn priority(&mut self) -> Result<Priority, WireError> {
        let [number] = self.array()?;
        Priority::new(number).ok_or(WireError::Value("the priority"))
    }

    fn incarnation(&mut self) -> Result<Incarnation, WireError> {
        self.array().map(|bytes| Incarnation(u64::from_be_bytes(bytes)))
    }

    fn code(&mut self) -> Result<Code, WireError> {
        self.number().map(Code::from_number)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*array)
    }

    fn digest(&mut self) -> Result<Digest, WireError> {
        self.array().map(Digest)
    }

    fn rate(&mut self) -> Result<RatePolicy, WireError> {
        let (policy, rate) = (self.one_of(&Policy::ALL, "the rate policy")?, self.number()?);
        RatePolicy::new(policy, (rate > 0).then_some(rate)).ok_or(WireError::Value("the rate"))
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        self.one_of(&[false, true], "a flag")
    }

    fn one_of<T: Copy>(&mut self, values: &[T], what: &'static str) -> Result<T, WireError> {
        let [number] = self.array()?;
        values.get(usize::from(number)).copied().ok_or(WireError::Value(what))
    }

    fn bytes(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let len = self.number()?;
        if len > max as u64 {
            return Err(WireError::TooLong(what));
        }
        let (bytes, rest) = self.0.split_at_checked(len as usize).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self, max: usize, what: &'static str) -> Result<String, WireError> {
        let bytes = self.bytes(max, what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError::Utf8)
    }

    fn path(&mut self) -> Result<String, WireError> {
        self.text(RECORD_PATH_MAX, "a path")
    }

    fn reason(&mut self) -> Result<String, WireError> {
        self.text(TEXT_MAX, "a reason")
    }

    /// A count and so many items.
    fn list<T>(
        &mut self,
        what: &'static str,
        item: impl Fn(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.number()?;
        if count > LIST_MAX as u64 {
            return Err(WireError::TooLong(what));
        }
        (0..count).map(|_| item(self)).collect()
    }

    /// Items up to the end of the payload, whose length bounds them.
    fn rest<T>(&mut self, item: fn(&mut &'a [u8]) -> Result<T, RecordError>) -> Result<Vec<T>, WireError> {
        let mut items = Vec::new();
        while !self.0.is_empty() {
            items.push(item(&mut self.0)?);
        }
        Ok(items)
    }

    /// Ranges up to the end of the payload. `first` turns the number on the wire and the end of the last range into
    /// the first index.
    fn ranges(&mut self, first: fn(u64, u64) -> Option<u64>) -> Result<Vec<IndexRange>, WireError> {
        let mut ranges = Vec::new();
        let mut end = 0;
        while !self.0.is_empty() {
            if ranges.len() == RANGES_MAX {
                return Err(WireError::TooLong("the list of ranges"));
            }
            let (number, count) = (self.number()?, self.number()?);
            let first = first(number, end).ok_or(WireError::Value("a range of chunks"))?;
            // Neither is above 2^63, so the sum is a number.
            end = first + count;
            if count == 0 || end > u64::from(CHUNKS_MAX) {
                return Err(WireError::Value("a range of chunks"));
            }
            ranges.push(IndexRange { first: ChunkIndex(first as u32), count: count as u32 });
        }
        Ok(ranges)
    }
}

fn after(gap: u64, end: u64) -> Option<u64> {
    gap.checked_add(end)
}

fn chunk_index(number: u64) -> Result<ChunkIndex, WireError> {
    if number >= u64::from(CHUNKS_MAX) {
        return Err(WireError::Value("the index of a chunk"));
    }
    Ok(ChunkIndex(number as u32))
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::put(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_rate(rate: RatePolicy, out: &mut Vec<u8>) {
    out.push(number_of(&Policy::ALL, rate.policy()));
    varint::put(rate.rate().unwrap_or(0), out);
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_cut(text, TEXT_MAX, out);
}

/// A text, cut at a character if it is longer than `max` bytes.
fn put_cut(text: &str, max: usize, out: &mut Vec<u8>) {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_bytes(&text.as_bytes()[..end], out);
}

/// Ranges as gaps and counts. They must ascend, which a set gives by itself; a list that does not is put in order.
fn put_ascending(job: JobId, ranges: &[IndexRange], out: &mut Vec<u8>) {
    varint::put(job.0, out);
    let sorted;
    let ranges = if ranges.is_sorted_by(|a, b| a.indexes().end <= b.first.0) {
        ranges
    } else {
        let mut set = crate::ranges::IndexSet::new();
        ranges.iter().for_each(|range| set.insert_range(*range));
        sorted = set.ranges().collect::<Vec<_>>();
        &sorted
    };
    let mut end = 0;
    for range in ranges {
        varint::put(u64::from(range.first.0 - end), out);
        varint::put(u64::from(range.count), out);
        end = range.indexes().end;
    }
}

/// Appends a frame of the `n`th type that never means anything, with a few bytes of no meaning in it. A peer that does
/// not pass it over would fail on the next version, too (`docs/protocol.md`, section 14).
pub fn grease(n: u64, out: &mut Vec<u8>) {
    // Past a million the types only become longer.
    varint::put(0x21 + 0x1f * (n % 1_000_000), out);
    let content = n.to_le_bytes();
    let len = (n % 9) as usize;
    varint::put(len as u64, out);
    out.extend_from_slice(&content[..len]);
}

/// A frame of a type that never means anything, with so many bytes in it: for measuring a path.
pub fn filler(len: usize) -> Vec<u8> {
    debug_assert!(len <= FRAME_MAX);
    let mut frame = Vec::with_capacity(len + 8);
    varint::put(0x21, &mut frame);
    varint::put(len as u64, &mut frame);
    frame.resize(frame.len() + len, 0x55);
    frame
}

/// What a greeting has at least where it has to fill a packet. Bytes: a packet of Ethernet has no more.
const FULL_SIZE: usize = 1500;

/// `Hello` or `Welcome`, as it is sent. With `full_size` a frame that means nothing goes before it, so that the peer reads it only if the
/// path carries packets of full size (`docs/protocol.md`, section 3.7).
pub fn greeting(frame: &Frame, full_size: bool) -> Vec<u8> {
    let mut bytes = if full_size { filler(FULL_SIZE) } else { Vec::new() };
    frame.encode(&mut bytes);
    bytes
}

fn number_of<T: PartialEq>(values: &[T], value: T) -> u8 {
    let position = values.iter().position(|v| *v == value);
    position.expect("invariant: every value is in the list of its type") as u8
}

/// Most paths or filters in one frame.
const LIST_MAX: usize = 4096;

const PLACEMENTS: [Placement; 3] = [Placement::Auto, Placement::Into, Placement::As];
const OVERWRITES: [Overwrite; 3] = [Overwrite::Never, Overwrite::Always, Overwrite::Different];
const SYMLINKS: [Symlinks; 3] = [Symlinks::Keep, Symlinks::Follow, Symlinks::Skip];

/// Numbers of types. Those of the form `0x1f * N + 0x21` are for grease and are never given to a frame.
mod kind {
    pub(super) const HELLO: u64 = 0x01;
    pub(super) const WELCOME: u64 = 0x02;
    pub(super) const CLOSE: u64 = 0x03;
    pub(super) const RATE: u64 = 0x04;
    pub(super) const GRANTED: u64 = 0x05;
    pub(super) const PACE: u64 = 0x06;
    pub(super) const PUSH: u64 = 0x10;
    pub(super) const PULL: u64 = 0x11;
    pub(super) const READY: u64 = 0x12;
    pub(super) const RECORDS: u64 = 0x13;
    pub(super) const MANIFEST_END: u64 = 0x14;
    pub(super) const WANT: u64 = 0x15;
    pub(super) const HAVE: u64 = 0x16;
    pub(super) const DURABLE: u64 = 0x17;
    pub(super) const DAMAGED: u64 = 0x18;
    pub(super) const GONE: u64 = 0x19;
    pub(super) const ENTRY_STATUS: u64 = 0x1a;
    pub(super) const FINISHED: u64 = 0x1b;
    pub(super) const RECEIPT: u64 = 0x1c;
    pub(super) const FAIL: u64 = 0x1d;
    pub(super) const OPENED: u64 = 0x1e;
    pub(super) const QUEUED: u64 = 0x1f;
    /// Opens a unidirectional stream; never on a control stream.
    pub(super) const CHUNK: u64 = 0x20;
    pub(super) const LIST: u64 = 0x30;
    pub(super) const LISTING: u64 = 0x31;
    pub(super) const REMOVE: u64 = 0x32;
    pub(super) const RESULT: u64 = 0x33;
}

#[cfg(test)]
#[path = "codec_tests.rs"]
pub(super) mod tests;
