//! The client of one flow, and what can be seen of it from outside.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metra_client::{
    Client, ClientError, ConnectOptions, GetRequest, GetTo, JobReport, Priority, SendRequest, Watch,
};
use metra_core::wire::{Keep, Overwrite, Placement, Symlinks};
use metra_session::Progress;
use metra_store::source::{Root, SourceSpec};
use metra_transport::Rt;

use crate::clock::{Clock, lock};
use crate::outcome::{FlowOutcome, FlowSample, NotDone};
use crate::scenario::{Flow, Way};

/// A client from its beginning to its end.
pub(crate) async fn drive(rt: Rt, flow: Flow, number: u64, options: ConnectOptions, slot: Arc<Slot>) {
    rt.sleep(Duration::from_secs_f64(flow.start_s)).await;
    lock(&slot.seen).began = Some(slot.clock.elapsed());
    let client = match Client::connect(rt.clone(), options).await {
        Ok(client) => Arc::new(client),
        Err(error) => {
            return slot.end(Err(NotDone::Failed(error.to_string())));
        }
    };
    lock(&slot.seen).client = Some(client.clone());
    let report = transfer(&client, &flow, number, &slot).await;
    slot.end(report.map_err(|e| NotDone::Failed(e.to_string())));
    if let Some(client) = Arc::into_inner(client) {
        client.close().await;
    }
}

/// What can be seen of a flow from outside.
pub(crate) struct Slot {
    way: Way,
    clock: Clock,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    began: Option<Duration>,
    first_byte: Option<Duration>,
    moved: u64,
    client: Option<Arc<Client>>,
    end: Option<(Duration, Result<JobReport, NotDone>)>,
}

impl Slot {
    pub(crate) fn new(flow: &Flow, clock: &Clock) -> Arc<Self> {
        Arc::new(Self { way: flow.way, clock: clock.clone(), seen: Mutex::default() })
    }

    fn end(&self, report: Result<JobReport, NotDone>) {
        let mut seen = lock(&self.seen);
        seen.client = None;
        seen.end = Some((self.clock.elapsed(), report));
    }

    /// All but what only the network knows.
    pub(crate) fn sample(&self) -> FlowSample {
        let (moved, client) = {
            let seen = lock(&self.seen);
            (seen.moved, seen.client.clone())
        };
        let links = client.map_or_else(Vec::new, |client| client.links());
        let in_flight =
            links.iter().map(|link| link.sent_bytes.saturating_sub(link.acked_bytes + link.lost_bytes)).sum();
        let arrived = links.iter().map(|link| match self.way {
            Way::Push => link.acked_bytes,
            Way::Pull => link.received_bytes,
        });
        FlowSample {
            moved,
            arrived: arrived.sum(),
            landed: 0,
            mtu: links.iter().map(|link| link.mtu).max().unwrap_or(0),
            rtt: links.first().map_or(Duration::ZERO, |link| link.rtt),
            cwnd: links.iter().map(|link| link.cwnd).sum(),
            in_flight,
        }
    }

    /// What came of the flow in a run that has ended now: by itself, or as it was `stopped`. All but what only the network
    /// knows.
    pub(crate) fn outcome(&self, stopped: bool) -> FlowOutcome {
        let FlowSample { arrived, mtu, .. } = self.sample();
        let now = self.clock.elapsed();
        let mut seen = lock(&self.seen);
        seen.client = None;
        let began = seen.began.unwrap_or(now);
        let (ended, report) = seen.end.take().unwrap_or_else(|| {
            let after = (now - began).as_secs_f64();
            let late = NotDone::Failed(format!("not done after {after:.3} s"));
            (now, Err(if stopped { NotDone::Stopped } else { late }))
        });
        let first_byte = seen.first_byte;
        FlowOutcome { began, elapsed: ended - began, arrived, mtu, first_byte, bursts: None, report }
    }
}

async fn transfer(
    client: &Client,
    flow: &Flow,
    number: u64,
    slot: &Arc<Slot>,
) -> Result<JobReport, ClientError> {
    let (called, of) = (slot.clock.elapsed(), slot.clone());
    let progress = Box::new(move |progress: &Progress| {
        let mut seen = lock(&of.seen);
        seen.moved = progress.moved;
        seen.first_byte = progress.first_byte.map(|after| called + after);
    });
    let watch = Watch { progress, ..Watch::default() };
    let priority = Priority::new(flow.priority).unwrap_or(Priority::NORMAL);
    match flow.way {
        Way::Push => {
            let root = Root::Random { size: flow.bytes, seed: number, name: data(number) };
            let request = SendRequest {
                spec: SourceSpec::new(vec![root]),
                dest: "null:".to_owned(),
                placement: Placement::Auto,
                overwrite: Overwrite::Always,
                delete_source: false,
                priority,
            };
            client.send(request, watch).await
        }
        Way::Pull => {
            let request = GetRequest {
                paths: vec![data(number)],
                filters: Vec::new(),
                symlinks: Symlinks::Keep,
                keep: Keep { mode: true, times: true },
                to: GetTo::Null,
                overwrite: Overwrite::Always,
                priority,
            };
            client.get(request, watch).await
        }
    }
}

/// The name of what a flow transfers.
pub(crate) fn data(flow: u64) -> String {
    format!("data{flow}")
}

/// Makes a file that does not compress.
pub(crate) fn make(path: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = bytes;
    while left > 0 {
        let mut piece = vec![0; left.min(1 << 20) as usize];
        random.fill(&mut piece);
        file.write_all(&piece)?;
        left -= piece.len() as u64;
    }
    file.flush()
}
