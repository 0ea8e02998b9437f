//! Sending: this side is the source.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metra_core::code::Code;
use metra_core::id::{Incarnation, JobKey};
use metra_core::manifest::{Entry, EntryKind};
use metra_core::priority::Priority;
use metra_core::receipt::SignedReceipt;
use metra_core::wire::{Frame, Overwrite, Placement, Push};
use metra_session::{JobError, Meter, Side, SourceConfig, SourceJob, SourceOutcome};
use metra_store::source::{Loader, LocalFile, ManifestCache, Part, Reader, Root, SourceSpec, resolve};

use crate::connect::Client;
use crate::error::ClientError;
use crate::identity::{KeyBuilder, random};
use crate::receipts::verify;
use crate::report::{Collected, JobReport, Watch};

/// How often a running job is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// How long to wait before a gateway that asked for it is tried again.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// What to send, and where to.
#[derive(Clone, Debug)]
pub struct SendRequest {
    /// What.
    pub spec: SourceSpec,
    /// Relative to the gateway's root; `null:` verifies and forgets.
    pub dest: String,
    /// What `dest` means.
    pub placement: Placement,
    /// What happens to what is there.
    pub overwrite: Overwrite,
    /// Whether what has arrived is removed here.
    pub delete_source: bool,
    /// How urgent it is, beside others at the gateway.
    pub priority: Priority,
}

impl Client {
    /// Sends, and stays with it until everything is durable and has its final name: lost links are opened again, a
    /// gateway that restarts is waited for.
    ///
    /// # Errors
    /// Why it cannot go on. What has arrived stays: the same call goes on from there.
    pub async fn send(&self, request: SendRequest, watch: Watch) -> Result<JobReport, ClientError> {
        let meter = Meter::new(Side::Source, self.session.traffic());
        let mut collected = Collected::new(watch, self.rt.now(), meter);
        let key = key(&request)?;
        let mut trying_since = None;
        loop {
            let (job, result) = self.send_once(&request, key, &mut collected).await?;
            let stats = job.stats();
            collected.chunks_sent += stats.chunks_sent;
            collected.chunks_resent += stats.chunks_resent;
            collected.resumes += job.attachments().saturating_sub(1);
            match result {
                Ok(outcome) => {
                    let receipt = job.receipt().map(|bytes| self.genuine(&bytes)).transpose()?;
                    if request.delete_source {
                        self.delete_sources(&request.spec, &job, &mut collected).await;
                    }
                    return Ok(self.sent(collected, &job, &outcome, receipt));
                }
                Err(error) => self.may_try_again(&error, stats.chunks_sent > 0, &mut trying_since).await?,
            }
            collected.resumes += 1;
        }
    }

    /// A receipt that is signed by this very gateway.
    ///
    /// # Errors
    /// It is not: what the gateway says of the job cannot be relied on.
    pub(crate) fn genuine(&self, bytes: &[u8]) -> Result<SignedReceipt, ClientError> {
        let bad = |why: String| ClientError::new(Code::Integrity, format!("the gateway's receipt: {why}"));
        let receipt = SignedReceipt::decode(bytes).map_err(|e| bad(e.to_string()))?;
        verify(&receipt, None, Some(&self.links.receipt_key())).map_err(|e| bad(e.to_string()))?;
        Ok(receipt)
    }

    async fn send_once(
        &self,
        request: &SendRequest,
        key: JobKey,
        collected: &mut Collected,
    ) -> Result<(Arc<SourceJob>, Result<SourceOutcome, JobError>), ClientError> {
        let incarnation = Incarnation(random()?);
        let id = self.next_job();
        let open = Frame::Push(Push {
            job: id,
            key,
            incarnation,
            dest: request.dest.clone(),
            placement: request.placement,
            overwrite: request.overwrite,
            priority: request.priority,
        });
        let retain = request.spec.roots.iter().any(|root| matches!(root, Root::Stdin { .. }));
        let cache: Arc<dyn ManifestCache> = self.catalogue.clone();
        let reader = Reader::new(&request.spec, Some(cache));
        let config = SourceConfig { retain, ..SourceConfig::default() };
        let loader = Loader::new(&request.spec);
        let job = SourceJob::new(self.rt.clone(), id, incarnation, open, loader, config);
        self.session.add_source(job.clone(), None)?;
        let began = self.rt.now();
        let look = |collected: &mut Collected| {
            let reports = job.take_reports();
            collected.connected(self.links.connection().map(|(at, _)| at));
            collected.rate(self.options.rate, self.rate());
            collected.look(self.rt.now(), began, job.progress(), &self.session.traffic(), reports);
        };
        let result = {
            let run = job.run(reader, true);
            tokio::pin!(run);
            loop {
                let pause = self.rt.sleep(LOOK);
                tokio::select! {
                    result = &mut run => break result,
                    () = pause => look(collected),
                    error = self.links.given_up() => {
                        self.session.remove(id);
                        return Err(error);
                    }
                }
            }
        };
        look(collected);
        collected.meter.attempt_over();
        self.session.remove(id);
        Ok((job, result))
    }

    /// Whether a job that ended so is worth another attempt; waits a little if it is.
    pub(crate) async fn may_try_again(
        &self,
        error: &JobError,
        progressed: bool,
        trying_since: &mut Option<std::time::Instant>,
    ) -> Result<(), ClientError> {
        let again = match error.code {
            Code::Draining | Code::Busy | Code::Timeout => error.by_peer,
            // Said by this side: the gateway was restarted under a pull. Said by the gateway: somebody else has taken
            // the job over, and to take it back would be to quarrel.
            // Unless that was the same job, opened first over a way that was given up for a faster one.
            Code::Superseded => !error.by_peer || self.links.was_outrun(),
            _ => false,
        };
        let now = self.rt.now();
        if progressed {
            *trying_since = None;
        }
        let since = *trying_since.get_or_insert(now);
        if !again || now.saturating_duration_since(since) > self.options.retry_for {
            return Err(error.clone().into());
        }
        self.rt.sleep(PAUSE).await;
        Ok(())
    }

    fn sent(
        &self,
        collected: Collected,
        job: &SourceJob,
        outcome: &SourceOutcome,
        receipt: Option<SignedReceipt>,
    ) -> JobReport {
        let (failed, unchanged) = job.report_counts();
        JobReport {
            bytes: outcome.finished.bytes,
            entries: outcome.finished.entries,
            unchanged,
            failed: failed.max(outcome.finished.failed.saturating_sub(outcome.withdrawn)),
            elapsed: self.rt.now().saturating_duration_since(collected.started),
            first_byte: collected.first_byte,
            verify: outcome.verify,
            chunks: outcome.chunks,
            chunks_sent: collected.chunks_sent,
            chunks_resent: collected.chunks_resent,
            chunks_reused: collected.reused(&outcome.finished, outcome.chunks),
            resumes: collected.resumes,
            kpis: collected.meter.kpis(),
            rate: self.rate().unwrap_or_default(),
            root: outcome.finished.root,
            links: self.link_kinds(),
            ladder: self.ladder(),
            inspected: self.is_inspected(),
            connect: self.connect_time(),
            receipt,
            reports: collected.reports,
        }
    }

    /// Removes what has arrived. What changed since it was read stays.
    async fn delete_sources(&self, spec: &SourceSpec, job: &Arc<SourceJob>, collected: &mut Collected) {
        let (spec, job) = (spec.clone(), job.clone());
        let kept = self.rt.blocking(move || {
            let loader = Loader::new(&spec);
            let mut kept = Vec::new();
            job.for_each_sent(|local, entry| {
                if let Some(path) = resolve(&spec, local, &entry.path)
                    && let Err(reason) = delete(&loader, local, entry, &path)
                {
                    kept.push((entry.path.clone(), reason));
                }
            });
            kept
        });
        let reports = kept.await.into_iter().map(|(path, reason)| metra_session::EntryReport {
            entry: None,
            path,
            code: Code::Ok,
            reason: format!("arrived, but is not removed here: {reason}"),
        });
        collected.reports.extend(reports);
    }
}

fn delete(loader: &Loader, local: LocalFile, entry: &Entry, path: &PathBuf) -> Result<(), String> {
    if matches!(entry.kind, EntryKind::File { .. }) {
        // Loading the first byte fails if the file is not the one that was read.
        let len = entry.size().min(1) as u32;
        let part = Part { local, path: &entry.path, offset: 0, len };
        loader.load(&[part]).map_err(|e| e.to_string())?;
    }
    std::fs::remove_file(path).map_err(|e| e.to_string())
}

/// The key of a push: the same sources, options and destination are the same job.
fn key(request: &SendRequest) -> Result<JobKey, ClientError> {
    let mut key = KeyBuilder::new("push");
    for root in &request.spec.roots {
        let text = match root {
            Root::Path { path, contents } => {
                format!("path {contents} {}", absolute(path).display())
            }
            // A list may be long; its paths are part of the key all the same.
            Root::Listed { base, paths } => format!("listed {} {paths:?}", absolute(base).display()),
            // What comes from a stream once does not come again.
            Root::Stdin { name } => format!("stdin {name} {}", random()?),
            Root::Zero { size, name } => format!("zero {size} {name}"),
            Root::Random { size, seed, name } => format!("random {size} {seed} {name}"),
        };
        key = key.with(&text);
    }
    let spec = &request.spec;
    let options = format!("{:?} {:?} {:?}", spec.filters, spec.symlinks, spec.keep);
    let target = format!("{:?} {:?}", request.placement, request.overwrite);
    Ok(key.with(&options).with(&target).with(&request.dest).key())
}

pub(crate) fn absolute(path: &std::path::Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
