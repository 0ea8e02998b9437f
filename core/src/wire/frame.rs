//! The frames of a control stream.

use crate::code::Code;
use crate::id::{ChunkIndex, Digest, EntryIndex, Incarnation, JobId, JobKey, SessionId};
use crate::manifest::{Entry, Record};
use crate::priority::Priority;
use crate::ranges::IndexRange;
use crate::rate::RatePolicy;

/// One frame of a control stream. Who may send it when is in `docs/protocol.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Client to gateway, first on every link.
    Hello(Hello),
    /// Gateway to client, the answer to a `Hello` that is accepted.
    Welcome(Welcome),
    /// Either side: the link ends; the same code is in the transport's close.
    Close {
        /// Why.
        code: Code,
        /// For people.
        reason: String,
    },
    /// Client to gateway: how this link may share its path, if the gateway grants it.
    Rate(RatePolicy),
    /// Gateway to client, the answer to `Rate`: how it may, both ways.
    Granted(RatePolicy),
    /// Gateway to client: how fast the client may send on this link for the moment, whatever was granted, because its jobs may not
    /// move more: sent in bursts, what they may move would meet that of others. Bits per second of what the transport
    /// sends; `None`: as fast as was granted.
    Pace(Option<u64>),
    /// Client to gateway: a job in which the client is the source.
    Push(Push),
    /// Client to gateway: a job in which the client is the sink.
    Pull(Pull),
    /// Gateway to client: the answer to `Pull`. Says which run of the source will send the records, so that the sink
    /// knows whether those that it holds are of the same manifest.
    Opened {
        /// The job.
        job: JobId,
        /// The run of the source.
        incarnation: Incarnation,
    },
    /// Gateway to client: the job waits until others are over. Comes again whenever the position changes, until the job is
    /// answered.
    Queued {
        /// The job.
        job: JobId,
        /// Jobs that will begin before it, and itself: 1 is next.
        position: u64,
    },
    /// Sink to source: send records from here on. The answer to `Push` and to `Opened`.
    Ready {
        /// The job.
        job: JobId,
        /// Records of this incarnation that the sink holds already.
        from_record: u64,
    },
    /// Source to sink: more of the manifest.
    Records {
        /// The job.
        job: JobId,
        /// The number of the first record, counted from 0 over the whole manifest.
        first: u64,
        /// At least one.
        records: Vec<Record>,
    },
    /// Source to sink: the manifest is complete.
    ManifestEnd(ManifestEnd),
    /// Sink to source: send these chunks. Credit and request in one.
    Want {
        /// The job.
        job: JobId,
        /// In the order wanted.
        ranges: Vec<IndexRange>,
    },
    /// Sink to source: these chunks are held (found, or arrived and verified) but perhaps not yet durable.
    Have {
        /// The job.
        job: JobId,
        /// Ascending.
        ranges: Vec<IndexRange>,
    },
    /// Sink to source: these chunks survive a crash of the sink.
    Durable {
        /// The job.
        job: JobId,
        /// Ascending.
        ranges: Vec<IndexRange>,
    },
    /// Sink to source: a chunk arrived and failed its hash. The source checks its own copy before it sends again.
    Damaged {
        /// The job.
        job: JobId,
        /// The chunk.
        chunk: ChunkIndex,
    },
    /// Source to sink: a wanted chunk cannot be had any more (its file changed or cannot be read). The entries in it have been or will be
    /// withdrawn; it need not be asked for again.
    Gone {
        /// The job.
        job: JobId,
        /// The chunk.
        chunk: ChunkIndex,
    },
    /// Either side: what became of one entry, when it is not "transferred".
    EntryStatus(EntryStatus),
    /// Sink to source: everything is verified, the root is equal, the names are final.
    Finished(Finished),
    /// Gateway to client: the signed receipt of a finished job, as [`crate::receipt`] encodes it.
    Receipt {
        /// The job.
        job: JobId,
        /// The encoded, signed receipt.
        bytes: Vec<u8>,
    },
    /// Either side: the job ends here without success. What is durable stays.
    Fail {
        /// The job.
        job: JobId,
        /// Why.
        code: Code,
        /// For people: names the file where there is one.
        reason: String,
    },
    /// Client to gateway: list a path.
    List {
        /// Chosen by the client; the answers carry it.
        request: u64,
        /// Relative to the gateway's root; empty is the root.
        path: String,
        /// Whether to descend; `stat` is a list without children.
        depth: u32,
    },
    /// Gateway to client: some of what was asked for.
    Listing {
        /// Of the `List`.
        request: u64,
        /// Paths are relative to the path of the request; the path itself is "".
        entries: Vec<Entry>,
    },
    /// Client to gateway: remove a path.
    Remove {
        /// Chosen by the client.
        request: u64,
        /// Relative to the gateway's root; never empty.
        path: String,
        /// Whether a directory that is not empty may go with everything in it.
        recursive: bool,
    },
    /// Gateway to client: a `List` or `Remove` is complete.
    Result {
        /// Of the request.
        request: u64,
        /// How it ended.
        code: Code,
        /// For people.
        reason: String,
        /// Entries listed or removed.
        count: u64,
    },
}

impl Frame {
    /// The job that the frame is about, if it is about one.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Frame::Push(push) => Some(push.job),
            Frame::Pull(pull) => Some(pull.job),
            Frame::ManifestEnd(end) => Some(end.job),
            Frame::EntryStatus(status) => Some(status.job),
            Frame::Finished(finished) => Some(finished.job),
            Frame::Opened { job, .. }
            | Frame::Queued { job, .. }
            | Frame::Ready { job, .. }
            | Frame::Records { job, .. }
            | Frame::Want { job, .. }
            | Frame::Have { job, .. }
            | Frame::Durable { job, .. }
            | Frame::Damaged { job, .. }
            | Frame::Gone { job, .. }
            | Frame::Receipt { job, .. }
            | Frame::Fail { job, .. } => Some(*job),
            Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Close { .. }
            | Frame::Rate(_)
            | Frame::Granted(_)
            | Frame::Pace(_)
            | Frame::List { .. }
            | Frame::Listing { .. }
            | Frame::Remove { .. }
            | Frame::Result { .. } => None,
        }
    }
}

/// How a client says who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing, or the client certificate of the transport.
    None,
    /// A bearer token.
    Bearer(String),
    /// The ticket of an earlier session (see [`Welcome::ticket`]), to join or revive it.
    Ticket(Vec<u8>),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Auth::None => "None",
            Auth::Bearer(_) => "Bearer(..)",
            Auth::Ticket(_) => "Ticket(..)",
        })
    }
}

/// Opens a link. Safe to replay: it creates or joins a session and does nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Highest version of MTP that the client speaks; now 1.
    pub version: u64,
    /// Credentials.
    pub auth: Auth,
    /// Name and version of the implementation, for logs.
    pub agent: String,
}

/// Accepts a link.
#[derive(Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version in use, at most the client's.
    pub version: u64,
    /// The session that the link has joined.
    pub session: SessionId,
    /// Sealed by the gateway; shows it this session and user again on another link.
    pub ticket: Vec<u8>,
    /// Seconds that the ticket is good for.
    pub ticket_lifetime: u64,
    /// The name that the client is known by.
    pub user: String,
    /// Ed25519 public key (32 bytes) that signs receipts.
    pub receipt_key: [u8; 32],
    /// What the gateway accepts.
    pub limits: PeerLimits,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A ticket stands in for the credentials of its user: it is kept out of logs.
        f.debug_struct("Welcome")
            .field("version", &self.version)
            .field("session", &self.session)
            .field("ticket", &format_args!(".."))
            .field("ticket_lifetime", &self.ticket_lifetime)
            .field("user", &self.user)
            .field("receipt_key", &Digest(self.receipt_key))
            .field("limits", &self.limits)
            .finish()
    }
}

/// Limits of a gateway for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Jobs open at a time.
    pub jobs: u64,
    /// Entries of one manifest.
    pub entries: u64,
    /// Chunks of one manifest.
    pub chunks: u64,
}

/// What the destination path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Into it if it is a directory, else under that very name (as `cp` does).
    Auto,
    /// Into it, which is made if needed.
    Into,
    /// Under that very name: the first component of every entry is replaced by the destination.
    As,
}

/// What happens when an entry's final name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Overwrite {
    /// Keep what is there.
    Never,
    /// Replace it.
    Always,
    /// Keep it if type, size, time and content are equal, else replace it.
    #[default]
    Different,
}

/// Which metadata the sink shall apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keep {
    /// Permission bits.
    pub mode: bool,
    /// Times of modification.
    pub times: bool,
}

/// What a source does with symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Symlinks {
    /// Carries the link itself.
    #[default]
    Keep,
    /// Carries what it points to.
    Follow,
    /// Leaves it out.
    Skip,
}

/// A job in which the client is the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The job.
    pub job: JobId,
    /// Finds an earlier attempt.
    pub key: JobKey,
    /// This run of the source.
    pub incarnation: Incarnation,
    /// Relative to the gateway's root; may be empty (the root).
    pub dest: String,
    /// What `dest` means.
    pub placement: Placement,
    /// What happens to what is there.
    pub overwrite: Overwrite,
    /// How urgent it is.
    pub priority: Priority,
}

/// A job in which the client is the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// The job.
    pub job: JobId,
    /// Finds an earlier attempt.
    pub key: JobKey,
    /// Relative to the gateway's root, `*`, `?`, `[..]`, `{..}` and `**` as globs; a trailing `/` means the contents. At least one.
    pub paths: Vec<String>,
    /// In order, the first that matches decides: `true` includes, `false` excludes.
    pub filters: Vec<(bool, String)>,
    /// How symbolic links are carried: kept, followed, skipped.
    pub symlinks: Symlinks,
    /// Which metadata the entries shall carry.
    pub keep: Keep,
    /// How urgent it is.
    pub priority: Priority,
}

/// The manifest is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestEnd {
    /// The job.
    pub job: JobId,
    /// Records in all.
    pub records: u64,
    /// The root over all of them.
    pub root: Digest,
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryStatus {
    /// The job.
    pub job: JobId,
    /// The entry, if it made it into the manifest (a file that cannot be opened does not).
    pub entry: Option<EntryIndex>,
    /// Its path, as the sender knows it.
    pub path: String,
    /// `Ok`: kept as it was. Else why it was not transferred.
    pub code: Code,
    /// For people.
    pub reason: String,
}

/// A job is finished at the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The job.
    pub job: JobId,
    /// The root that the sink computed.
    pub root: Digest,
    /// Entries with their final names, those that were equal already among them.
    pub entries: u64,
    /// Bytes of these entries.
    pub bytes: u64,
    /// Entries that were refused, withdrawn or skipped.
    pub failed: u64,
    /// Chunks that did not have to be sent.
    pub reused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed() {
        let welcome = Welcome {
            version: 1,
            session: SessionId([7; 16]),
            ticket: b"sesame".to_vec(),
            ticket_lifetime: 60,
            user: "ann".to_owned(),
            receipt_key: [9; 32],
            limits: PeerLimits { jobs: 1, entries: 2, chunks: 3 },
        };
        let auth = [Auth::Bearer("sesame".to_owned()), Auth::Ticket(b"sesame".to_vec())];
        let printed = format!("{:?} {auth:?}", Frame::Welcome(welcome));
        assert!(!printed.contains("sesame") && !printed.contains("115, 101"), "{printed}");
        assert!(printed.contains("ann"), "what is no secret is: {printed}");
    }
}
