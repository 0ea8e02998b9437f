//! Two sessions and the links between them; a small gateway that answers `Push` and `Pull`.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use metra_core::code::Code;
use metra_core::credit::CreditLimits;
use metra_core::id::{Digest, Incarnation, JobId, JobKey};
use metra_core::priority::Priority;
use metra_core::wire::{Finished, Frame, FrameDecoder, Keep, Overwrite, Placement, Pull, Push, Symlinks};
use metra_session::{
    JobError, Request, Session, SessionConfig, SinkConfig, SinkJob, SinkOutcome, SourceConfig, SourceJob,
    SourceOutcome,
};
use metra_store::landing::Landing;
use metra_store::source::{Loader, Reader, Root, SourceSpec};
use metra_transport::{Link, Rt};
use tokio::sync::mpsc;

use crate::link::{Cable, Path, connect};

/// The receipt that the gateway gives.
pub(crate) const RECEIPT: &[u8] = b"thank you";

pub(crate) struct Rig {
    pub(crate) rt: Rt,
    pub(crate) client: Session,
    pub(crate) gateway: Session,
    pub(crate) source: SourceConfig,
    pub(crate) sink: SinkConfig,
    serving: Arc<Serving>,
    jobs: Mutex<u64>,
}

/// What the gateway serves with.
pub(crate) struct Serving {
    pub(crate) landing: Mutex<Option<Arc<dyn Landing>>>,
    pub(crate) spec: Mutex<Option<SourceSpec>>,
    pub(crate) sinks: Mutex<Vec<Weak<SinkJob>>>,
    pub(crate) sources: Mutex<Vec<Weak<SourceJob>>>,
    pub(crate) ended: Mutex<Vec<Result<Finished, JobError>>>,
    /// How long it takes to open a push.
    pub(crate) opening: Mutex<Duration>,
    credit: Mutex<CreditLimits>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let rt = Rt::tokio();
        let (client_requests, mut unasked) = mpsc::channel(8);
        tokio::spawn(async move { while unasked.recv().await.is_some() {} });
        let (requests, queue) = mpsc::channel(8);
        let config = SessionConfig::default();
        let source = SourceConfig {
            ring: 4 << 20,
            lookahead: (4 << 20, 16 << 20),
            step: 1 << 20,
            ..SourceConfig::default()
        };
        let credit = CreditLimits { floor: 4 << 20, ceiling: 16 << 20 };
        let sink = SinkConfig { credit, ..SinkConfig::default() };
        let rig = Self {
            client: Session::new(rt.clone(), config, client_requests),
            gateway: Session::new(rt.clone(), config, requests),
            rt,
            source,
            sink,
            serving: Arc::new(Serving {
                landing: Mutex::default(),
                spec: Mutex::default(),
                sinks: Mutex::default(),
                sources: Mutex::default(),
                ended: Mutex::default(),
                opening: Mutex::default(),
                credit: Mutex::new(credit),
            }),
            jobs: Mutex::new(0),
        };
        let at = At { rt: rig.rt.clone(), session: rig.gateway.clone(), serving: rig.serving.clone() };
        tokio::spawn(serve(at, queue));
        rig
    }

    /// Joins one more link to both sessions.
    pub(crate) async fn link(&self, path: Path) -> Arc<Cable> {
        let (a, b, cable) = connect(path);
        for (session, end) in [(&self.gateway, b), (&self.client, a)] {
            let (send, recv) = end.control().await.unwrap();
            session.attach(end, send, recv, FrameDecoder::new()).unwrap();
        }
        cable
    }

    fn next_job(&self) -> JobId {
        let mut jobs = self.jobs.lock().unwrap();
        *jobs += 1;
        JobId(*jobs)
    }

    /// Prepares a push into `landing`.
    pub(crate) fn push(&self, spec: &SourceSpec, landing: Arc<dyn Landing>) -> Pushing {
        *self.serving.landing.lock().unwrap() = Some(landing);
        let id = self.next_job();
        let incarnation = Incarnation(id.0 + 77);
        let open = Frame::Push(Push {
            job: id,
            key: JobKey(Digest([1; 32])),
            incarnation,
            dest: String::new(),
            placement: Placement::Auto,
            overwrite: Overwrite::Different,
            priority: Priority::NORMAL,
        });
        let loader = Loader::new(spec);
        let job = SourceJob::new(self.rt.clone(), id, incarnation, open, loader, self.source.clone());
        Pushing { session: self.client.clone(), job, reader: Reader::new(spec, None) }
    }

    /// Prepares a pull into `landing`.
    pub(crate) fn pull(&self, spec: &SourceSpec, landing: Arc<dyn Landing>) -> Pulling {
        *self.serving.spec.lock().unwrap() = Some(spec.clone());
        let id = self.next_job();
        let open = Frame::Pull(Pull {
            job: id,
            key: JobKey(Digest([2; 32])),
            paths: vec!["any".to_owned()],
            filters: Vec::new(),
            symlinks: Symlinks::Keep,
            keep: Keep { mode: true, times: true },
            priority: Priority::NORMAL,
        });
        let (job, planner) = SinkJob::new(self.rt.clone(), id, None, Some(open), landing, self.sink.clone());
        Pulling { session: self.client.clone(), rt: self.rt.clone(), job, planner }
    }

    /// From now on the gateway takes its time to open a push.
    pub(crate) fn opens_in(&self, opening: Duration) {
        *self.serving.opening.lock().unwrap() = opening;
    }

    /// Both sides ask for as much ahead as they do outside of tests.
    pub(crate) fn ask_for_more(&mut self) {
        let credit = SinkConfig::default().credit;
        self.sink.credit = credit;
        *self.serving.credit.lock().unwrap() = credit;
    }

    /// The newest sink at the gateway.
    pub(crate) fn gateway_sink(&self) -> Option<Arc<SinkJob>> {
        self.serving.sinks.lock().unwrap().last().and_then(Weak::upgrade)
    }

    /// How the gateway's jobs ended.
    pub(crate) fn ended(&self) -> Vec<Result<Finished, JobError>> {
        self.serving.ended.lock().unwrap().clone()
    }

    /// Whether jobs of the gateway are still in memory.
    pub(crate) fn gateway_holds_jobs(&self) -> bool {
        let sinks = self.serving.sinks.lock().unwrap().iter().any(|job| job.strong_count() > 0);
        let sources = self.serving.sources.lock().unwrap().iter().any(|job| job.strong_count() > 0);
        sinks || sources
    }
}

pub(crate) struct Pushing {
    session: Session,
    pub(crate) job: Arc<SourceJob>,
    reader: Reader,
}

impl Pushing {
    /// Runs it to its end, and forgets it.
    pub(crate) async fn run(self) -> Result<SourceOutcome, JobError> {
        self.session.add_source(self.job.clone(), None)?;
        let result = self.job.run(self.reader, true).await;
        self.session.remove(self.job.id());
        result
    }
}

pub(crate) struct Pulling {
    session: Session,
    rt: Rt,
    pub(crate) job: Arc<SinkJob>,
    planner: metra_session::Planner,
}

impl Pulling {
    /// Runs it to its end, and forgets it.
    pub(crate) async fn run(self) -> Result<(SinkOutcome, Option<Vec<u8>>), JobError> {
        self.session.add_sink(self.job.clone(), None)?;
        let result = self.job.run(self.planner).await;
        let result = match result {
            Ok(outcome) => {
                self.job.conclude(None, &outcome);
                let receipt = self.rt.timeout(Duration::from_secs(10), self.job.receipt()).await.ok();
                Ok((outcome, receipt))
            }
            Err(error) => Err(error),
        };
        self.session.remove(self.job.id());
        result
    }
}

#[derive(Clone)]
struct At {
    rt: Rt,
    session: Session,
    serving: Arc<Serving>,
}

async fn serve(at: At, mut queue: mpsc::Receiver<Request>) {
    while let Some(Request { link, frame }) = queue.recv().await {
        match frame {
            Frame::Push(push) => {
                if at.session.sink(push.job).is_some() {
                    at.session.reattach(push.job, link);
                } else {
                    let (at, opening) = (at.clone(), *at.serving.opening.lock().unwrap());
                    let open = async move {
                        at.rt.sleep(opening).await;
                        // It may have been opened again meanwhile, on another link.
                        match at.session.sink(push.job) {
                            Some(_) => at.session.reattach(push.job, link),
                            None => at.take(push, link),
                        }
                    };
                    if opening.is_zero() { open.await } else { drop(tokio::spawn(open)) }
                }
            }
            Frame::Pull(pull) => {
                if at.session.source(pull.job).is_some() {
                    at.session.reattach(pull.job, link);
                } else {
                    at.give(pull.job, link);
                }
            }
            _ => link.link().close(Code::Protocol, "not expected"),
        }
    }
}

impl At {
    fn take(&self, push: Push, link: metra_session::LinkHandle) {
        let landing = self.serving.landing.lock().unwrap().clone().unwrap();
        let config = SinkConfig { credit: *self.serving.credit.lock().unwrap(), ..SinkConfig::default() };
        let (job, planner) =
            SinkJob::new(self.rt.clone(), push.job, Some(push.incarnation), None, landing, config);
        self.serving.sinks.lock().unwrap().push(Arc::downgrade(&job));
        self.session.add_sink(job.clone(), Some(link)).unwrap();
        let at = self.clone();
        tokio::spawn(async move {
            let result = job.run(planner).await;
            if let Ok(outcome) = &result {
                job.conclude(Some(RECEIPT.to_vec()), outcome);
                job.wait_until_told().await;
                tokio::select! {
                    () = at.rt.sleep(Duration::from_secs(30)) => {}
                    () = at.session.closed() => {}
                }
            }
            at.serving.ended.lock().unwrap().push(result.map(|o| o.finished));
            at.session.remove(push.job);
        });
    }

    fn give(&self, id: JobId, link: metra_session::LinkHandle) {
        let spec = self.serving.spec.lock().unwrap().clone().unwrap();
        let incarnation = Incarnation(1000 + self.serving.sources.lock().unwrap().len() as u64);
        let open = Frame::Opened { job: id, incarnation };
        let config = SourceConfig {
            ring: 4 << 20,
            lookahead: (4 << 20, 16 << 20),
            step: 1 << 20,
            ..SourceConfig::default()
        };
        let job = SourceJob::new(self.rt.clone(), id, incarnation, open, Loader::new(&spec), config);
        self.serving.sources.lock().unwrap().push(Arc::downgrade(&job));
        self.session.add_source(job.clone(), Some(link)).unwrap();
        let at = self.clone();
        tokio::spawn(async move {
            let result = job.run(Reader::new(&spec, None), false).await;
            if result.is_ok() {
                job.send_receipt(RECEIPT.to_vec());
                job.wait_until_told().await;
                tokio::select! {
                    () = at.rt.sleep(Duration::from_secs(30)) => {}
                    () = at.session.closed() => {}
                }
            }
            at.serving.ended.lock().unwrap().push(result.map(|o| o.finished));
            at.session.remove(id);
        });
    }
}

/// Random bytes that need no disk.
pub(crate) fn random(size: u64) -> SourceSpec {
    SourceSpec::new(vec![Root::Random { size, seed: 5, name: "random".to_owned() }])
}

/// Fails the test if `work` has not ended after an hour of virtual time: nothing would ever wake it.
pub(crate) async fn ends<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), work).await.expect("it stands still")
}
