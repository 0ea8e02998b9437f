//! Peers that do not keep to the rules, spoken by hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metra_core::code::Code;
use metra_core::id::{ChunkIndex, Digest, EntryIndex, Incarnation, JobId, JobKey};
use metra_core::manifest::{Entry, EntryKind, Record};
use metra_core::priority::Priority;
use metra_core::ranges::IndexRange;
use metra_core::wire::{
    ChunkHeader, Finished, Frame, FrameDecoder, Keep, ManifestEnd, Overwrite, Placement, Pull, Push, Symlinks,
};
use metra_store::landing::NullLanding;
use metra_transport::{ControlRecv, ControlSend, Link, LinkError};

use crate::landing::{Manners, MemoryLanding};
use crate::link::{Cable, FakeLink, Path, connect};
use crate::rig::{Rig, ends, random};

const JOB: JobId = JobId(1);
const MIB: u64 = 1 << 20;

/// A client made of frames.
struct Raw {
    link: Arc<FakeLink>,
    send: Box<dyn ControlSend>,
    recv: Box<dyn ControlRecv>,
    decoder: FrameDecoder,
    cable: Arc<Cable>,
}

impl Raw {
    /// Joined to the gateway of `rig`.
    async fn join(rig: &Rig) -> Self {
        Self::join_over(rig, Path::default()).await
    }

    async fn join_over(rig: &Rig, path: Path) -> Self {
        let (link, end, cable) = connect(path);
        let (send, recv) = end.control().await.unwrap();
        rig.gateway.attach(end, send, recv, FrameDecoder::new()).unwrap();
        let (send, recv) = link.control().await.unwrap();
        Self { link, send, recv, decoder: FrameDecoder::new(), cable }
    }

    async fn say(&mut self, frame: Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send.send(bytes.into()).await.unwrap();
    }

    async fn hear(&mut self) -> Frame {
        ends(async {
            loop {
                if let Some(frame) = self.decoder.next().unwrap() {
                    return frame;
                }
                let bytes = self.recv.recv().await.unwrap().unwrap();
                self.decoder.push(&bytes);
            }
        })
        .await
    }

    /// The next frame for which `pick` gives something.
    async fn hear_until<T>(&mut self, mut pick: impl FnMut(&Frame) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(&self.hear().await) {
                return found;
            }
        }
    }

    async fn hear_fail(&mut self) -> (Code, String) {
        self.hear_until(|frame| match frame {
            Frame::Fail { code, reason, .. } => Some((*code, reason.clone())),
            _ => None,
        })
        .await
    }

    async fn push(&mut self) {
        self.say(Frame::Push(Push {
            job: JOB,
            key: JobKey(Digest([7; 32])),
            incarnation: Incarnation(5),
            dest: String::new(),
            placement: Placement::Auto,
            overwrite: Overwrite::Different,
            priority: Priority::NORMAL,
        }))
        .await;
    }

    async fn pull(&mut self) {
        self.say(Frame::Pull(Pull {
            job: JOB,
            key: JobKey(Digest([7; 32])),
            paths: vec!["any".to_owned()],
            filters: Vec::new(),
            symlinks: Symlinks::Keep,
            keep: Keep { mode: true, times: true },
            priority: Priority::NORMAL,
        }))
        .await;
        assert!(matches!(self.hear().await, Frame::Opened { .. }));
    }

    async fn ready(&mut self) -> u64 {
        self.hear_until(|frame| match frame {
            Frame::Ready { from_record, .. } => Some(*from_record),
            _ => None,
        })
        .await
    }

    async fn records(&mut self, first: u64, records: Vec<Record>) {
        self.say(Frame::Records { job: JOB, first, records }).await;
    }

    /// Waits for `Want`, and gives the chunks.
    async fn wanted(&mut self) -> Vec<u32> {
        self.hear_until(|frame| match frame {
            Frame::Want { ranges, .. } => Some(ranges.iter().flat_map(|r| r.indexes()).collect()),
            _ => None,
        })
        .await
    }

    async fn chunk(&self, chunk: u32, data: &[u8]) -> Result<(), LinkError> {
        let header = ChunkHeader { job: JOB, chunk: ChunkIndex(chunk), len: data.len() as u32 };
        self.link.send_chunk(header.encode().into(), vec![Bytes::copy_from_slice(data)], 0).await
    }
}

fn file(path: &str, data: &[u8]) -> [Record; 2] {
    let kind = EntryKind::File { size: data.len() as u64 };
    let entry = Entry { path: path.to_owned(), kind, mode: None, mtime: None };
    [Record::Entry(entry), Record::Chunk { len: data.len() as u32, hash: Digest::of(data) }]
}

/// A gateway that sends 16 MiB to whoever pulls.
fn giving() -> Rig {
    let rig = Rig::new();
    drop(rig.pull(&random(16 * MIB), Arc::new(NullLanding::default())));
    rig
}

/// A gateway that takes what is pushed.
fn taking() -> (Rig, Arc<MemoryLanding>) {
    let rig = Rig::new();
    let landing = Arc::new(MemoryLanding::default());
    drop(rig.push(&random(1), landing.clone()));
    (rig, landing)
}

/// The session has let go of the job, with this code.
async fn over(rig: &Rig, code: Code) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ended = rig.ended();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].as_ref().unwrap_err().code, code);
    assert_eq!(rig.gateway.jobs(), 0);
    assert!(!rig.gateway_holds_jobs(), "a task still holds the job");
}

fn range(first: u32, count: u32) -> IndexRange {
    IndexRange { first: ChunkIndex(first), count }
}

#[tokio::test(start_paused = true)]
async fn requests_that_make_no_sense_end_the_job() {
    let job = JOB;
    let nonsense = [
        Frame::Want { job, ranges: vec![range(0, 4_000_000)] },
        Frame::Want { job, ranges: vec![range(3_999_999, 1)] },
        Frame::Want { job, ranges: vec![range(0, 1); 100] },
        Frame::Have { job, ranges: vec![range(3_000_000, 1)] },
        Frame::Durable { job, ranges: vec![range(0, 3_000_000)] },
        Frame::Damaged { job, chunk: ChunkIndex(0) },
        Frame::Damaged { job, chunk: ChunkIndex(9999) },
        Frame::Ready { job, from_record: 1 << 40 },
        // A source's to send, or a gateway's.
        Frame::Gone { job, chunk: ChunkIndex(0) },
        Frame::Records { job, first: 0, records: file("a", b"a").to_vec() },
        Frame::ManifestEnd(ManifestEnd { job, records: 0, root: Digest([0; 32]) }),
        Frame::Opened { job, incarnation: Incarnation(1) },
        Frame::Receipt { job, bytes: vec![1] },
    ];
    for frame in nonsense {
        let rig = giving();
        let mut raw = Raw::join(&rig).await;
        raw.pull().await;
        raw.say(Frame::Ready { job, from_record: 0 }).await;
        assert!(matches!(raw.hear().await, Frame::Records { .. }));
        raw.say(frame.clone()).await;
        assert_eq!(raw.hear_fail().await.0, Code::Protocol, "{frame:?}");
        over(&rig, Code::Protocol).await;
        assert_eq!(raw.cable.close_code(), None, "the link goes on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_finishes_another_manifest_ends_the_job() {
    let rig = giving();
    let mut raw = Raw::join(&rig).await;
    raw.pull().await;
    let root = Digest([3; 32]);
    raw.say(Frame::Finished(Finished { job: JOB, root, entries: 1, bytes: 1, failed: 0, reused: 0 })).await;
    assert_eq!(raw.hear_fail().await.0, Code::Integrity);
    over(&rig, Code::Integrity).await;
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_never_asks_is_sent_nothing_and_costs_no_more_than_the_lookahead() {
    let rig = giving();
    let mut raw = Raw::join(&rig).await;
    raw.pull().await;
    raw.say(Frame::Ready { job: JOB, from_record: 0 }).await;
    let mut announced: Vec<Record> = Vec::new();
    let all = raw.hear_until(|frame| {
        if let Frame::Records { first, records, .. } = frame {
            // `Ready` has some of them said again.
            announced.truncate(*first as usize);
            announced.extend_from_slice(records);
        }
        matches!(frame, Frame::ManifestEnd(_)).then_some(())
    });
    // However long: it may be one that must not ask yet.
    assert!(tokio::time::timeout(Duration::from_secs(600), all).await.is_err());
    assert_eq!(raw.cable.chunks(), 0);
    let len = |r: &Record| if let Record::Chunk { len, .. } = r { u64::from(*len) } else { 0 };
    let bytes: u64 = announced.iter().map(len).sum();
    assert!(
        (4 * MIB..=9 * MIB).contains(&bytes),
        "{bytes}: a window of 4 MiB, and the step that goes beyond it"
    );
    rig.gateway.cancel_jobs(Code::Timeout, "enough");
    assert_eq!(raw.hear_fail().await.0, Code::Timeout);
    over(&rig, Code::Timeout).await;
}

#[tokio::test(start_paused = true)]
async fn chunks_that_nobody_asked_for_are_stopped() {
    let (rig, landing) = taking();
    let mut raw = Raw::join(&rig).await;
    raw.push().await;
    assert_eq!(raw.ready().await, 0);
    assert_eq!(
        raw.chunk(0, &vec![1; 1 << 20]).await,
        Err(LinkError::StreamStopped(Code::Cancelled)),
        "not announced"
    );
    let data = vec![5; 1000];
    raw.records(0, file("a", &data).to_vec()).await;
    assert_eq!(raw.wanted().await, [0]);
    raw.chunk(0, &data).await.unwrap();
    raw.hear_until(|frame| matches!(frame, Frame::Have { .. }).then_some(())).await;
    assert_eq!(
        raw.chunk(0, &vec![9; 1 << 20]).await,
        Err(LinkError::StreamStopped(Code::Cancelled)),
        "it is there"
    );
    assert_eq!(landing.file(0), data);
}

#[tokio::test(start_paused = true)]
async fn manifests_that_break_the_rules_end_the_job() {
    let records = file("a", b"data");
    let cases: [(Vec<Frame>, Code); 6] = [
        (vec![Frame::Records { job: JOB, first: 1, records: records.to_vec() }], Code::Protocol),
        (vec![Frame::Records { job: JOB, first: 0, records: vec![records[1].clone()] }], Code::Protocol),
        (
            vec![
                Frame::Records { job: JOB, first: 0, records: records.to_vec() },
                Frame::ManifestEnd(ManifestEnd { job: JOB, records: 3, root: Digest([0; 32]) }),
            ],
            Code::Protocol,
        ),
        (
            vec![
                Frame::Records { job: JOB, first: 0, records: records.to_vec() },
                Frame::ManifestEnd(ManifestEnd { job: JOB, records: 2, root: Digest([0; 32]) }),
            ],
            Code::Integrity,
        ),
        (vec![Frame::Want { job: JOB, ranges: vec![range(0, 1)] }], Code::Protocol),
        (vec![Frame::Ready { job: JOB, from_record: 0 }], Code::Protocol),
    ];
    for (frames, code) in cases {
        let (rig, landing) = taking();
        let mut raw = Raw::join(&rig).await;
        raw.push().await;
        raw.ready().await;
        for frame in &frames {
            raw.say(frame.clone()).await;
        }
        assert_eq!(raw.hear_fail().await.0, code, "{frames:?}");
        over(&rig, code).await;
        assert!(!landing.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_in_order_is_not_taken_back() {
    let rig = Rig::new();
    let landing = Arc::new(MemoryLanding::new(Manners { in_sequence: true, ..Manners::default() }));
    drop(rig.push(&random(1), landing));
    let mut raw = Raw::join(&rig).await;
    raw.push().await;
    raw.ready().await;
    let mut records = file("a", b"data").to_vec();
    records.push(Record::Withdraw(EntryIndex(0)));
    raw.records(0, records).await;
    assert_eq!(raw.hear_fail().await.0, Code::Changed);
    over(&rig, Code::Changed).await;
}

#[tokio::test(start_paused = true)]
async fn records_that_come_again_on_another_link_are_passed_over() {
    let (rig, landing) = taking();
    let mut raw = Raw::join(&rig).await;
    raw.push().await;
    raw.ready().await;
    let (one, two) = (vec![1; 2000], vec![2; 3000]);
    let records: Vec<Record> = file("one", &one).into_iter().chain(file("two", &two)).collect();
    raw.records(0, records[..2].to_vec()).await;
    assert_eq!(raw.wanted().await, [0]);
    raw.cable.cut();
    let mut raw = Raw::join(&rig).await;
    raw.push().await;
    assert_eq!(raw.ready().await, 2, "it says what it holds");
    assert_eq!(raw.wanted().await, [0], "what did not come is asked for again");
    raw.records(0, records.clone()).await;
    raw.records(1, records[1..].to_vec()).await;
    assert_eq!(raw.wanted().await, [1]);
    raw.chunk(1, &two).await.unwrap();
    raw.chunk(0, &one).await.unwrap();
    let mut ledger = metra_core::manifest::Ledger::new(Default::default());
    for record in &records {
        ledger.push(record).unwrap();
    }
    let end = ManifestEnd { job: JOB, records: 4, root: ledger.finish().unwrap() };
    raw.say(Frame::ManifestEnd(end)).await;
    raw.say(Frame::ManifestEnd(end)).await;
    let finished = raw
        .hear_until(|frame| match frame {
            Frame::Finished(finished) => Some(*finished),
            _ => None,
        })
        .await;
    assert_eq!((finished.entries, finished.bytes, finished.failed), (2, 5000, 0));
    assert_eq!((landing.file(0), landing.file(1)), (one, two));
    // What was said is said again to a client whose link broke before it heard it, and nothing is asked of it.
    raw.cable.cut();
    let mut raw = Raw::join(&rig).await;
    raw.push().await;
    assert_eq!(raw.ready().await, 4);
    raw.hear_until(|frame| matches!(frame, Frame::Finished(_)).then_some(())).await;
    raw.hear_until(|frame| matches!(frame, Frame::Receipt { .. }).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_said_on_a_link_that_does_not_control_the_job_is_not_heard() {
    let (rig, _) = taking();
    let mut raw = Raw::join(&rig).await;
    raw.push().await;
    raw.ready().await;
    let mut other = Raw::join(&rig).await;
    other.say(Frame::Fail { job: JOB, code: Code::Cancelled, reason: String::new() }).await;
    other.records(7, file("a", b"a").to_vec()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.gateway.jobs(), 1);
    raw.say(Frame::Fail { job: JOB, code: Code::Cancelled, reason: String::new() }).await;
    over(&rig, Code::Cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_leaves_a_link_that_does_not_take_what_it_says() {
    let rig = Rig::new();
    let landing = Arc::new(MemoryLanding::new(Manners { refuse: Some("x"), ..Manners::default() }));
    drop(rig.push(&random(1), landing));
    let mut stuck = Raw::join_over(&rig, Path { control_room: 1, ..Path::default() }).await;
    stuck.push().await;
    stuck.ready().await;
    // From here on it reads nothing, and every entry gives the sink something to say.
    let entry = |i: u64| {
        let path = format!("{}{i}x", "long".repeat(200));
        Record::Entry(Entry { path, kind: EntryKind::Directory, mode: None, mtime: None })
    };
    for first in (0..2000).step_by(100) {
        stuck.records(first, (first..first + 100).map(entry).collect()).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut raw = Raw::join(&rig).await;
    raw.push().await;
    let from = raw.ready().await;
    assert!(from < 2000, "it waits for room for its statuses, and not without bound: {from}");
    for first in (from..2000).step_by(100) {
        raw.records(first, (first..2000.min(first + 100)).map(entry).collect()).await;
    }
    let mut told = std::collections::HashSet::new();
    while told.len() < 2000 {
        let frame = raw.hear().await;
        let Frame::EntryStatus(status) = frame else { continue };
        told.insert(status.entry.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_stops_in_the_middle_of_a_chunk_does_not_keep_the_job() {
    let (rig, _) = taking();
    let mut raw = Raw::join_over(&rig, Path::slow(10_000)).await;
    raw.push().await;
    raw.ready().await;
    let data = vec![5; 200_000];
    raw.records(0, file("a", &data).to_vec()).await;
    raw.wanted().await;
    let link = raw.link.clone();
    let header = ChunkHeader { job: JOB, chunk: ChunkIndex(0), len: 200_000 };
    let sending =
        tokio::spawn(async move { link.send_chunk(header.encode().into(), vec![data.into()], 0).await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(rig.gateway_holds_jobs());
    rig.gateway.cancel_jobs(Code::Cancelled, "enough");
    over(&rig, Code::Cancelled).await;
    assert_eq!(ends(sending).await.unwrap(), Err(LinkError::StreamStopped(Code::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_does_not_read_does_not_keep_the_job() {
    let rig = giving();
    // The raw client accepts no streams, so that the senders fill what room there is and wait.
    let mut raw = Raw::join_over(&rig, Path { control_room: 1, ..Path::default() }).await;
    raw.pull().await;
    raw.say(Frame::Ready { job: JOB, from_record: 0 }).await;
    assert!(matches!(raw.hear().await, Frame::Records { .. }));
    raw.say(Frame::Want { job: JOB, ranges: vec![range(0, 2)] }).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(raw.cable.chunks(), 2);
    rig.gateway.cancel_jobs(Code::Cancelled, "enough");
    // There may be no room on the control stream to say so; the job ends all the same.
    tokio::time::sleep(Duration::from_secs(30)).await;
    over(&rig, Code::Cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn statuses_and_gone_chunks_from_a_source_are_bounded_and_harmless() {
    let (rig, _) = taking();
    let mut raw = Raw::join(&rig).await;
    raw.push().await;
    raw.ready().await;
    for _ in 0..3000 {
        raw.say(Frame::EntryStatus(metra_core::wire::EntryStatus {
            job: JOB,
            entry: Some(EntryIndex(4_000_000_000)),
            path: "p".repeat(16_000),
            code: Code::ReadFailed,
            reason: String::new(),
        }))
        .await;
        raw.say(Frame::Gone { job: JOB, chunk: ChunkIndex(77) }).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sink = rig.gateway_sink().unwrap();
    assert_eq!(sink.report_counts().0, 3000);
    let kept: usize = sink.take_reports().iter().map(|report| report.path.len()).sum();
    assert!(kept < 5 << 20, "{kept} bytes kept");
}

/// Records that a source may not send before the sink is ready: more than a sink holds, and with a gap.
#[tokio::test(start_paused = true)]
async fn records_before_ready_that_are_too_many_or_have_a_gap_close_the_link() {
    let many: Vec<Record> = vec![Record::Chunk { len: 1, hash: Digest([0; 32]) }; 1000];
    for (first, records, code) in [(0, many.clone(), Code::Limit), (1, many[..1].to_vec(), Code::Protocol)] {
        let rig = Rig::new();
        rig.opens_in(Duration::from_secs(1));
        let mut raw = Raw::join(&rig).await;
        raw.push().await;
        raw.say(Frame::Records { job: JOB, first, records }).await;
        match ends(raw.link.closed()).await {
            LinkError::ClosedByPeer { code: told, .. } => assert_eq!(told, code),
            other => panic!("{other:?}"),
        }
    }
}
