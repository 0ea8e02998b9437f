//! Source, sink, and everything between them.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::{Duration, Instant};

use metra_core::credit::CreditLimits;
use metra_core::id::{ChunkIndex, Digest, EntryIndex};
use metra_core::manifest::{Entry, EntryKind, LedgerLimits, Record};
use metra_core::ranges::IndexRange;
use metra_core::sink::{Abilities, Arrival, Resolution, Sink, SinkOptions};
use metra_core::source::{Sending, Source};

/// A job to be played.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    /// For each file: how many chunks, and which content the first has; equal contents are twins.
    pub(crate) files: Vec<(u32, u32)>,
    /// Credit window. Bytes.
    pub(crate) window: u64,
    pub(crate) reads_back: bool,
    pub(crate) in_sequence: bool,
    /// The plan is thrown away when so many chunks are planned.
    pub(crate) replan_at: Option<u32>,
    /// How many things go wrong.
    pub(crate) faults: u64,
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

enum ToSink {
    /// The job is opened on this link.
    Open,
    Records(u64, Vec<Record>),
    End(u64, Digest),
    Gone(u32),
}

enum ToSource {
    Ready(u64),
    Want(Vec<IndexRange>),
    Have(Vec<IndexRange>),
    Durable(Vec<IndexRange>),
    Damaged(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On its way; `true`: the source knows that its transport has taken all of it.
    Sent(bool),
    /// Accepted by the sink, in this epoch.
    Landing(bool, u32),
}

struct Stream {
    sending: Sending,
    link: u64,
    stage: Stage,
}

#[derive(Default)]
struct Control {
    link: u64,
    to_sink: VecDeque<ToSink>,
    to_source: VecDeque<ToSource>,
    /// `Open` has arrived, and `Ready` has been said.
    ready: bool,
}

pub(crate) struct World {
    setup: Setup,
    dice: Dice,
    now: Instant,
    pub(crate) source: Source,
    pub(crate) sink: Sink,
    unread: VecDeque<Record>,
    control: Option<Control>,
    links: BTreeSet<u64>,
    next_link: u64,
    streams: Vec<Stream>,
    /// Lost links that the source, or the sink, has not noticed yet.
    unnoticed: (Vec<u64>, Vec<u64>),
    /// Chunks whose content the source has lost.
    unreadable: HashSet<u32>,
    gone: VecDeque<u32>,
    damaged: VecDeque<u32>,
    damages: BTreeMap<u32, u32>,
    wanted_ever: BTreeSet<u32>,
    /// Chunks that the disk has still to be asked about, and those it has not made up its mind on.
    unplanned: VecDeque<u32>,
    undecided: Vec<u32>,
    planned: u32,
    end: Option<(u64, Digest)>,
    copying: Option<(ChunkIndex, u32)>,
    syncing: Option<Vec<IndexRange>>,
    /// What the sink has settled, in the opinion of this test.
    settled: BTreeMap<u32, u64>,
    faults: u64,
}

/// A job of this size that has not ended after so many events never will.
const EVENTS: u64 = 60_000;

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let mut dice = Dice(setup.seed);
        let credit = CreditLimits { floor: setup.window, ceiling: setup.window };
        let abilities = Abilities { reads_back: setup.reads_back, in_sequence: setup.in_sequence };
        let options = SinkOptions { ledger: LedgerLimits::default(), credit, abilities };
        let unread = records(&setup, &mut dice);
        let chunks = unread.iter().filter(|r| matches!(r, Record::Chunk { .. })).count() as u64;
        let unreadable = if setup.faults > 10 && chunks > 0 && !setup.in_sequence {
            (0..dice.roll(3)).map(|_| dice.roll(chunks) as u32).collect()
        } else {
            HashSet::new()
        };
        Self {
            faults: setup.faults,
            setup,
            dice,
            now: Instant::now(),
            source: Source::new(LedgerLimits::default()),
            sink: Sink::new(options),
            unread,
            control: None,
            links: BTreeSet::new(),
            next_link: 0,
            streams: Vec::new(),
            unnoticed: (Vec::new(), Vec::new()),
            unreadable,
            gone: VecDeque::new(),
            damaged: VecDeque::new(),
            damages: BTreeMap::new(),
            wanted_ever: BTreeSet::new(),
            unplanned: VecDeque::new(),
            undecided: Vec::new(),
            planned: 0,
            end: None,
            copying: None,
            syncing: None,
            settled: BTreeMap::new(),
        }
    }

    /// Plays the job to its end.
    pub(crate) fn run(mut self) -> Self {
        let mut events = 0;
        while !self.is_over() {
            events += 1;
            assert!(events < EVENTS, "it stands still: {self:?}");
            self.event();
            self.check();
        }
        self.check_end();
        self.attach_once_more();
        self
    }

    fn is_over(&self) -> bool {
        let told = self.source.progress().durable == self.source.progress().announced;
        self.source.root().is_some() && self.sink.is_complete() && told && self.streams.is_empty()
    }

    /// One of the things that can happen next.
    fn event(&mut self) {
        self.now += Duration::from_micros(self.dice.roll(3000));
        match self.dice.roll(18) {
            0 => self.read(),
            1 => self.source_says(),
            2 => self.sink_hears(),
            3 => self.plan(),
            4 => self.decide(),
            5..7 => self.sink_says(),
            7..9 => self.source_hears(),
            9 | 10 => self.send(),
            11..13 => self.stream(),
            13 => self.copy(),
            14 => self.sync(),
            15 => self.notice(),
            16 if self.dice.roll(4) > 0 => self.link(),
            // Other jobs have come, and the window shrinks below what is asked for or held; or some have gone.
            16 if self.fault() => {
                let window = 1 + self.dice.roll(self.setup.window);
                self.sink.credit().set_limits(CreditLimits { floor: window, ceiling: window });
            }
            _ if self.fault() => self.cut(),
            _ => {}
        }
    }

    /// Whether something goes wrong now.
    fn fault(&mut self) -> bool {
        let now = self.faults > 0 && self.dice.roll(6) == 0;
        self.faults -= u64::from(now);
        now
    }

    fn read(&mut self) {
        match self.unread.pop_front() {
            Some(record) => {
                self.source.push(&record).unwrap();
            }
            None if self.source.root().is_none() => {
                self.source.finish().unwrap();
            }
            None => {}
        }
    }

    fn source_says(&mut self) {
        let Some(control) = &mut self.control else { return };
        let room = 1 + self.dice.roll(300) as usize;
        if let Some((first, records)) = self.source.poll_records(room) {
            control.to_sink.push_back(ToSink::Records(first, records));
        } else if let Some(chunk) = self.gone.pop_front() {
            control.to_sink.push_back(ToSink::Gone(chunk));
        } else if let Some((records, root)) = self.source.poll_end() {
            control.to_sink.push_back(ToSink::End(records, root));
        }
    }

    fn sink_hears(&mut self) {
        // The end is acted on when everything before it is planned, as the driver does.
        if let Some((records, root)) =
            self.end.take_if(|_| self.unplanned.is_empty() && self.undecided.is_empty())
        {
            self.sink.on_end(records, root).unwrap();
        }
        let Some(frame) = self.control.as_mut().and_then(|c| c.to_sink.pop_front()) else { return };
        match frame {
            ToSink::Open => {
                self.sink.reattached();
                self.sink.report_all();
                let records = self.sink.records();
                let control = self.control.as_mut().unwrap();
                control.to_source.push_back(ToSource::Ready(records));
                control.ready = true;
            }
            ToSink::Records(first, records) => {
                let before = self.sink.ledger().chunks();
                let known = self.sink.on_records(first, &records).unwrap();
                for record in &records[known..] {
                    if let Record::Withdraw(entry) = record {
                        let withdrawn = self.sink.ledger().chunks_of(*entry);
                        self.undecided.retain(|chunk| !withdrawn.contains(chunk));
                        self.withdraw(withdrawn.collect());
                    }
                }
                self.unplanned.extend(before..self.sink.ledger().chunks());
            }
            ToSink::End(records, root) => self.end = Some((records, root)),
            ToSink::Gone(chunk) => {
                if self.sink.gone(ChunkIndex(chunk)) {
                    self.settle(chunk);
                }
            }
        }
    }

    /// Chunks of a withdrawn entry that were not here are void now, those that were stay, and those that are on their
    /// way still come.
    fn withdraw(&mut self, chunks: Vec<u32>) {
        let landing: HashSet<u32> = self
            .streams
            .iter()
            .filter(|s| matches!(s.stage, Stage::Landing(_, epoch) if epoch == self.sink.epoch()))
            .map(|s| s.sending.chunk.0)
            .chain(self.copying.iter().filter(|c| c.1 == self.sink.epoch()).map(|c| c.0.0))
            .collect();
        for chunk in chunks {
            if !landing.contains(&chunk) && !self.settled.contains_key(&chunk) {
                self.settle(chunk);
            }
        }
    }

    fn plan(&mut self) {
        for _ in 0..1 + self.dice.roll(4) {
            let Some(chunk) = self.unplanned.pop_front() else { return };
            self.planned += 1;
            if self.setup.replan_at.take_if(|at| *at <= self.planned).is_some() {
                self.replan();
                return;
            }
            if self.dice.roll(5) == 0 && !self.setup.in_sequence {
                self.undecided.push(chunk);
            } else {
                self.resolve(chunk);
            }
            self.sink.planned(1);
        }
    }

    fn replan(&mut self) {
        self.sink.replan();
        self.unplanned = (0..self.sink.ledger().chunks()).collect();
        self.undecided.clear();
        self.planned = 0;
        self.settled.clear();
    }

    fn decide(&mut self) {
        if !self.undecided.is_empty() {
            let which = self.dice.roll(self.undecided.len() as u64) as usize;
            let chunk = self.undecided.swap_remove(which);
            self.resolve(chunk);
        }
    }

    fn resolve(&mut self, chunk: u32) {
        let missing = if self.setup.in_sequence { 1 } else { 10 };
        let resolution = match self.dice.roll(missing) {
            6 => Resolution::Void,
            7 => Resolution::Kept,
            8 => Resolution::Durable,
            9 => Resolution::Written,
            _ => Resolution::Missing,
        };
        let before = self.sink.progress().verified;
        self.sink.resolve(ChunkIndex(chunk), resolution);
        // It may have been settled before it was planned, when its entry was withdrawn.
        if self.sink.progress().verified > before {
            self.settle(chunk);
        }
    }

    fn settle(&mut self, chunk: u32) {
        let len = u64::from(self.sink.ledger().chunk(ChunkIndex(chunk)).unwrap().len);
        assert_eq!(self.settled.insert(chunk, len), None, "chunk {chunk} is settled twice");
    }

    fn sink_says(&mut self) {
        let Some(control) = self.control.as_mut().filter(|c| c.ready) else { return };
        if let Some(chunk) = self.damaged.pop_front() {
            control.to_source.push_back(ToSource::Damaged(chunk));
            return;
        }
        let ranges = self.sink.poll_have();
        if !ranges.is_empty() {
            control.to_source.push_back(ToSource::Have(ranges));
            return;
        }
        let ranges = self.sink.poll_want();
        if !ranges.is_empty() {
            for chunk in ranges.iter().flat_map(|r| r.indexes()) {
                assert!(!self.settled.contains_key(&chunk), "chunk {chunk} is here and asked for");
            }
            control.to_source.push_back(ToSource::Want(ranges));
            return;
        }
        let ranges = self.sink.poll_durable();
        if !ranges.is_empty() {
            control.to_source.push_back(ToSource::Durable(ranges));
        }
    }

    fn source_hears(&mut self) {
        let Some(frame) = self.control.as_mut().and_then(|c| c.to_source.pop_front()) else { return };
        match frame {
            ToSource::Ready(from) => self.source.ready(from).unwrap(),
            ToSource::Want(ranges) => {
                self.wanted_ever.extend(ranges.iter().flat_map(|r| r.indexes()));
                self.source.want(&ranges).unwrap();
            }
            ToSource::Have(ranges) => self.source.have(&ranges).unwrap(),
            ToSource::Durable(ranges) => self.source.durable(&ranges).unwrap(),
            ToSource::Damaged(chunk) => self.source.damaged(ChunkIndex(chunk)).unwrap(),
        }
    }

    fn some_link(&mut self) -> Option<u64> {
        let which = self.dice.roll(self.links.len().max(1) as u64) as usize;
        self.links.iter().nth(which).copied()
    }

    fn send(&mut self) {
        let Some(link) = self.some_link() else { return };
        if self.streams.iter().filter(|s| s.link == link).count() >= 4 {
            return;
        }
        let Some(sending) = self.source.next_chunk(link) else { return };
        let chunk = sending.chunk.0;
        assert!(self.wanted_ever.contains(&chunk), "chunk {chunk} was never wanted");
        if self.unreadable.contains(&chunk) {
            self.source.gone(&sending);
            self.gone.push_back(chunk);
        } else {
            self.streams.push(Stream { sending, link, stage: Stage::Sent(false) });
        }
    }

    /// Some stream gets on; in any order.
    fn stream(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        let which = self.dice.roll(self.streams.len() as u64) as usize;
        let (sending, link, stage) = {
            let stream = &self.streams[which];
            (stream.sending, stream.link, stream.stage)
        };
        if !self.links.contains(&link) {
            return;
        }
        let chunk = sending.chunk;
        match stage {
            Stage::Sent(false) | Stage::Landing(false, _) if self.dice.roll(2) == 0 => {
                self.source.sent(&sending);
                self.streams[which].stage = match stage {
                    Stage::Landing(_, epoch) => Stage::Landing(true, epoch),
                    Stage::Sent(_) => Stage::Sent(true),
                };
            }
            Stage::Sent(known) => match self.sink.accept(chunk, sending.info.len) {
                Arrival::Accept => self.streams[which].stage = Stage::Landing(known, self.sink.epoch()),
                Arrival::Duplicate | Arrival::Unwanted => {
                    // What the transport has taken already is not heard of any more.
                    if !known {
                        self.source.not_wanted(&sending);
                    }
                    self.streams.swap_remove(which);
                }
                Arrival::WrongLength => panic!("the length is right"),
            },
            Stage::Landing(known, epoch) => {
                if !known && self.fault() {
                    self.source.not_wanted(&sending);
                    self.lost(chunk, epoch);
                    self.streams.swap_remove(which);
                    return;
                }
                if !known {
                    self.source.sent(&sending);
                }
                self.streams.swap_remove(which);
                if epoch != self.sink.epoch() {
                    return;
                }
                let times = self.damages.entry(chunk.0).or_default();
                if *times < 4 && self.faults > 0 && self.dice.roll(4) == 0 {
                    *times += 1;
                    self.faults -= 1;
                    self.sink.damaged(chunk).unwrap();
                    self.damaged.push_back(chunk.0);
                } else {
                    self.sink.written(self.now, chunk, true);
                    self.settle(chunk.0);
                }
            }
        }
    }

    fn lost(&mut self, chunk: ChunkIndex, epoch: u32) {
        if epoch == self.sink.epoch() {
            self.sink.lost(chunk);
        }
    }

    fn copy(&mut self) {
        match self.copying.take() {
            None => self.copying = self.sink.poll_copy().map(|(_, to)| (to, self.sink.epoch())),
            Some((_, epoch)) if epoch != self.sink.epoch() => {}
            Some((to, _)) if self.fault() => self.sink.copy_failed(to),
            Some((to, _)) => {
                self.sink.written(self.now, to, false);
                self.settle(to.0);
            }
        }
    }

    fn sync(&mut self) {
        match self.syncing.take() {
            None => self.syncing = Some(self.sink.begin_sync()).filter(|ranges| !ranges.is_empty()),
            Some(ranges) => self.sink.synced(&ranges),
        }
    }

    /// Adds a link if there are few; opens the job on one if it is not open.
    fn link(&mut self) {
        if self.links.is_empty() || (self.links.len() < 3 && self.dice.roll(4) == 0) {
            self.next_link += 1;
            self.links.insert(self.next_link);
        }
        // The source notices the loss of its control link before it opens the job on another.
        if self.control.is_none() && self.unnoticed.0.is_empty() {
            let link = self.some_link().unwrap();
            self.source.detach();
            let to_sink = VecDeque::from([ToSink::Open]);
            self.control = Some(Control { link, to_sink, ..Control::default() });
        }
    }

    fn cut(&mut self) {
        let Some(link) = self.some_link() else { return };
        self.links.remove(&link);
        self.unnoticed.0.push(link);
        self.unnoticed.1.push(link);
        if self.control.as_ref().is_some_and(|c| c.link == link) {
            self.control = None;
        }
    }

    /// One side notices that a link is lost.
    fn notice(&mut self) {
        if self.dice.roll(2) == 0 {
            let Some(link) = self.unnoticed.0.pop() else { return };
            // Its senders fail before or after the link is known to be lost.
            let early = self.dice.roll(2) == 0;
            if early {
                self.source.link_lost(link);
            }
            for stream in self.streams.iter_mut().filter(|s| s.link == link) {
                if let Stage::Sent(false) | Stage::Landing(false, _) = stream.stage {
                    self.source.send_failed(&stream.sending);
                }
            }
            if !early {
                self.source.link_lost(link);
            }
        } else {
            let Some(link) = self.unnoticed.1.pop() else { return };
            for stream in self.streams.iter_mut().filter(|s| s.link == link) {
                if let Stage::Landing(known, epoch) = stream.stage {
                    // It is not landing any more.
                    stream.stage = Stage::Sent(known);
                    if epoch == self.sink.epoch() {
                        self.sink.lost(stream.sending.chunk);
                    }
                }
            }
        }
        let (source, sink) = (&self.unnoticed.0, &self.unnoticed.1);
        let links = &self.links;
        // A stream is forgotten when both sides have.
        self.streams
            .retain(|s| links.contains(&s.link) || source.contains(&s.link) || sink.contains(&s.link));
    }

    fn check(&mut self) {
        let settled: u64 = self.settled.values().sum();
        let progress = self.sink.progress();
        assert_eq!(progress.verified, settled, "{self:?}");
        assert!(progress.durable <= progress.verified && progress.verified <= progress.announced);
        let source = self.source.progress();
        assert!(source.durable <= source.held && source.held <= source.resolved);
        assert!(source.resolved <= source.announced);
        // One chunk may be asked for though the window has no room, and one copied.
        let longest = self.sink_chunks().map(|(_, len)| len).max().unwrap_or(0);
        let outstanding = self.sink.credit().outstanding();
        let copy = if self.copying.is_some() { longest } else { 0 };
        let bound = self.setup.window.max(longest) + copy;
        assert!(outstanding <= bound, "{outstanding} of {bound}");
        if self.setup.in_sequence {
            let low = self.sink_chunks().find(|(index, _)| !self.settled.contains_key(index));
            let low = low.map_or(u32::MAX, |(index, _)| index);
            let early: u64 = self.settled.range(low..).map(|(_, len)| len).sum();
            assert!(outstanding + early <= self.setup.window + longest, "{outstanding} and {early} early");
        }
    }

    fn sink_chunks(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let ledger = self.sink.ledger();
        (0..ledger.chunks()).map(move |i| (i, u64::from(ledger.chunk(ChunkIndex(i)).unwrap().len)))
    }

    fn check_end(&mut self) {
        let progress = self.sink.progress();
        assert_eq!((progress.verified, progress.durable), (progress.announced, progress.announced));
        assert_eq!(self.settled.len() as u32, self.sink.ledger().chunks(), "every chunk is settled");
        assert_eq!(self.sink.credit().outstanding(), 0, "credit has drifted");
        assert_eq!(self.sink.unsynced_bytes(), 0);
        assert!(self.sink.poll_want().is_empty() && self.sink.poll_copy().is_none());
        let source = self.source.progress();
        assert_eq!(source.announced, progress.announced);
        assert_eq!((source.resolved, source.held), (source.announced, source.announced));
        assert_eq!(self.sink.root(), self.source.root());
        for chunk in self.sink.gone_chunks() {
            assert!(self.unreadable.contains(chunk));
        }
    }

    /// The word that all is finished was lost with its link: the source attaches again.
    fn attach_once_more(&mut self) {
        self.sink.take_ledger();
        self.source.detach();
        self.sink.reattached();
        self.sink.report_all();
        self.source.ready(self.sink.records()).unwrap();
        assert_eq!(self.source.poll_records(1 << 20), None, "nothing is announced again");
        let (records, root) = self.source.poll_end().unwrap();
        self.sink.on_end(records, root).unwrap();
        assert!(self.sink.poll_want().is_empty());
        loop {
            let (have, durable) = (self.sink.poll_have(), self.sink.poll_durable());
            self.source.have(&have).unwrap();
            self.source.durable(&durable).unwrap();
            if have.is_empty() && durable.is_empty() {
                break;
            }
        }
        assert!(self.sink.is_complete());
        let progress = self.source.progress();
        assert_eq!(progress.durable, progress.announced);
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("setup", &self.setup)
            .field("source", &self.source.progress())
            .field("sink", &self.sink.progress())
            .field("streams", &self.streams.len())
            .field("links", &self.links)
            .field("undecided", &self.undecided)
            .field(
                "unsettled",
                &self.sink_chunks().filter(|c| !self.settled.contains_key(&c.0)).collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

/// A manifest of large files, small files in packs, empty ones, streams, and some that are withdrawn.
fn records(setup: &Setup, dice: &mut Dice) -> VecDeque<Record> {
    let mut records = VecDeque::new();
    let mut entries = 0;
    let mut entry = |records: &mut VecDeque<Record>, kind| {
        let path = format!("entry {entries}");
        records.push_back(Record::Entry(Entry { path, kind, mode: None, mtime: None }));
        entries += 1;
        EntryIndex(entries - 1)
    };
    let chunk = |len: u32, content: u32| {
        let hash = Digest::of(&(u64::from(len) << 32 | u64::from(content)).to_be_bytes());
        Record::Chunk { len, hash }
    };
    for (index, (chunks, content)) in setup.files.iter().enumerate() {
        let lens: Vec<u32> = (0..*chunks).map(|i| 270_000 + (content + i) % 3 * 1000).collect();
        let size: u64 = lens.iter().map(|len| u64::from(*len)).sum();
        // What was written in order cannot be taken back: a driver ends the job there.
        let kind = if setup.in_sequence { [0, 1, 3][dice.roll(3) as usize] } else { dice.roll(6) };
        let file = match kind {
            0 => {
                // A pack of small files, an empty one among them.
                let sizes: Vec<u64> = (0..*chunks).map(|i| 1 + u64::from(i) * 10).collect();
                for size in &sizes {
                    entry(&mut records, EntryKind::File { size: *size });
                    entry(&mut records, EntryKind::Directory);
                }
                records.push_back(chunk(sizes.iter().sum::<u64>() as u32, *content));
                continue;
            }
            1 => {
                let file = entry(&mut records, EntryKind::Stream);
                records.extend(lens.iter().enumerate().map(|(i, len)| chunk(*len, content + i as u32)));
                records.push_back(Record::StreamEnd { size });
                file
            }
            2 => {
                // It changed while it was read: withdrawn in the middle.
                let file = entry(&mut records, EntryKind::File { size: size + 1 });
                records.extend(lens.iter().enumerate().map(|(i, len)| chunk(*len, content + i as u32)));
                records.push_back(Record::Withdraw(file));
                continue;
            }
            _ => {
                let file = entry(&mut records, EntryKind::File { size });
                records.extend(lens.iter().enumerate().map(|(i, len)| chunk(*len, content + i as u32)));
                file
            }
        };
        if index % 5 == 4 && !setup.in_sequence {
            records.push_back(Record::Withdraw(file));
        }
    }
    records
}
