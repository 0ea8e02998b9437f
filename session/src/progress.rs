//! Where a job stands, for those who watch.

use std::time::Duration;

/// A snapshot of a job. Bytes are bytes of chunks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Entries known so far.
    pub entries: u64,
    /// Announced so far; grows while the source reads.
    pub announced: u64,
    /// Whether `announced` is final.
    pub complete: bool,
    /// Handed to links, repeats included (source), or received (sink).
    pub moved: u64,
    /// Of `moved`, the repeats; 0 at a sink, which counts only what it could use.
    pub repeated: u64,
    /// Verified at the sink.
    pub verified: u64,
    /// Durable at the sink.
    pub durable: u64,
    /// From the start of the job to the first byte of a chunk on a link.
    pub first_byte: Option<Duration>,
    /// What the job waits for.
    pub binding: Option<Binding>,
}

/// What limits a job at the moment, as far as this side can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// No link: waiting for the network to come back.
    Link,
    /// Other jobs: the gateway lets so many begin at a time. The position in its queue; 1 is next.
    Queue(u64),
    /// The source's disk or processor: everything read has been asked for and sent.
    Reading,
    /// The path: chunks wait for room on a link.
    Network,
    /// The sink: it has not asked for what was announced.
    Receiver,
    /// The sink's disk: what arrived waits to become durable.
    Disk,
}

impl Binding {
    /// The word shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Binding::Link => "no link",
            Binding::Queue(_) => "queue",
            Binding::Reading => "reading",
            Binding::Network => "network",
            Binding::Receiver => "receiver",
            Binding::Disk => "disk",
        }
    }
}
