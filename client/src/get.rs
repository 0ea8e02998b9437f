//! Fetching: this side is the sink.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metra_core::code::Code;
use metra_core::id::JobKey;
use metra_core::priority::Priority;
use metra_core::receipt::SignedReceipt;
use metra_core::wire::{Frame, Keep, Overwrite, Placement, Pull, Symlinks};
use metra_session::{JobError, Meter, Side, SinkConfig, SinkJob, SinkOutcome};
use metra_store::landing::{Landing, NullLanding, StreamLanding, TreeLanding, TreeTarget};

use crate::connect::Client;
use crate::error::ClientError;
use crate::identity::{KeyBuilder, random};
use crate::report::{Collected, JobReport, Watch};
use crate::send::{LOOK, absolute};

/// How long the gateway may take to sign the receipt.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(10);

/// What to fetch, and where to.
#[derive(Clone, Debug)]
pub struct GetRequest {
    /// Paths on the gateway, with globs; a trailing `/` means the contents.
    pub paths: Vec<String>,
    /// In order, the first that matches decides: `true` includes.
    pub filters: Vec<(bool, String)>,
    /// What the gateway does with symbolic links.
    pub symlinks: Symlinks,
    /// Which metadata is kept.
    pub keep: Keep,
    /// Where to.
    pub to: GetTo,
    /// What happens to what is there.
    pub overwrite: Overwrite,
    /// How urgent it is, beside others at the gateway.
    pub priority: Priority,
}

/// Where fetched data goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GetTo {
    /// Into the file system.
    Path {
        /// A file or a directory.
        path: PathBuf,
        /// Into it, even if it is not there yet.
        into: bool,
    },
    /// Nowhere, for measuring.
    Null,
    /// To standard output, files one after the other.
    Stdout,
}

impl Client {
    /// Fetches, and stays with it until everything is durable and has its final name.
    ///
    /// # Errors
    /// Why it cannot go on. What has arrived stays: the same call goes on from there.
    pub async fn get(&self, request: GetRequest, watch: Watch) -> Result<JobReport, ClientError> {
        let meter = Meter::new(Side::Sink, self.session.traffic());
        let mut collected = Collected::new(watch, self.rt.now(), meter);
        let key = self.key(&request)?;
        let mut trying_since = None;
        loop {
            let (job, result) = self.get_once(&request, key, &mut collected).await?;
            let stats = job.stats();
            collected.chunks_sent += stats.received + stats.damaged + stats.duplicates;
            collected.chunks_resent += stats.damaged + stats.duplicates;
            collected.resumes += job.attachments().saturating_sub(1);
            match result {
                Ok((outcome, receipt)) => {
                    let receipt = receipt.map(|bytes| self.genuine(&bytes)).transpose()?;
                    return Ok(self.fetched(collected, &job, &outcome, receipt));
                }
                // Standard output cannot be taken back.
                Err(error) if request.to == GetTo::Stdout && stats.received > 0 => return Err(error.into()),
                Err(error) => self.may_try_again(&error, stats.received > 0, &mut trying_since).await?,
            }
            collected.resumes += 1;
        }
    }

    async fn get_once(
        &self,
        request: &GetRequest,
        key: JobKey,
        collected: &mut Collected,
    ) -> Result<(Arc<SinkJob>, Result<(SinkOutcome, Option<Vec<u8>>), JobError>), ClientError> {
        let landing = self.landing(request, key).await?;
        let id = self.next_job();
        let open = Frame::Pull(Pull {
            job: id,
            key,
            paths: request.paths.clone(),
            filters: request.filters.clone(),
            symlinks: request.symlinks,
            keep: request.keep,
            priority: request.priority,
        });
        let config = SinkConfig::default();
        let (job, planner) = SinkJob::new(self.rt.clone(), id, None, Some(open), landing, config);
        self.session.add_sink(job.clone(), None)?;
        let began = self.rt.now();
        let look = |collected: &mut Collected| {
            let reports = job.take_reports();
            collected.connected(self.links.connection().map(|(at, _)| at));
            collected.rate(self.options.rate, self.rate());
            collected.look(self.rt.now(), began, job.progress(), &self.session.traffic(), reports);
        };
        let result = {
            let run = async {
                let outcome = job.run(planner).await?;
                job.conclude(None, &outcome);
                let receipt = self.rt.timeout(RECEIPT_TIMEOUT, job.receipt()).await.ok();
                Ok((outcome, receipt))
            };
            tokio::pin!(run);
            loop {
                let pause = self.rt.sleep(LOOK);
                tokio::select! {
                    result = &mut run => break result,
                    () = pause => look(collected),
                    error = self.links.given_up() => {
                        // What has arrived is journaled before the end.
                        job.cancel(error.code, &error.message);
                        let _ = run.await;
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

    async fn landing(&self, request: &GetRequest, key: JobKey) -> Result<Arc<dyn Landing>, ClientError> {
        let (path, into) = match &request.to {
            GetTo::Null => return Ok(Arc::new(NullLanding::default())),
            GetTo::Stdout => return Ok(Arc::new(StreamLanding::new(std::io::stdout()))),
            GetTo::Path { path, into } => (absolute(path), *into),
        };
        let (keep, overwrite) = (request.keep, request.overwrite);
        let catalogue = self.catalogue.clone();
        let opened = self.rt.blocking(move || {
            let (root, dest, placement) = place(&path, into)?;
            let user = String::new();
            let target = TreeTarget { root, dest, placement, overwrite, keep, user, key, guard: None };
            TreeLanding::open(target, catalogue).map_err(|e| ClientError::new(e.code(), e.to_string()))
        });
        Ok(Arc::new(opened.await?))
    }

    fn fetched(
        &self,
        collected: Collected,
        job: &SinkJob,
        outcome: &SinkOutcome,
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

    /// The key of a pull: the same paths, options and destination are the same job.
    fn key(&self, request: &GetRequest) -> Result<JobKey, ClientError> {
        let to = match &request.to {
            GetTo::Path { path, into } => format!("path {into} {}", absolute(path).display()),
            GetTo::Null => "null".to_owned(),
            GetTo::Stdout => format!("stdout {}", random()?),
        };
        let options = format!(
            "{:?} {:?} {:?} {:?}",
            request.filters, request.symlinks, request.keep, request.overwrite
        );
        let mut key = KeyBuilder::new("pull").with(&self.options.address.to_string());
        for path in &request.paths {
            key = key.with(path);
        }
        Ok(key.with(&options).with(&to).key())
    }
}

/// The directory beneath which everything is written, the path within it, and what that means.
fn place(path: &Path, into: bool) -> Result<(PathBuf, String, Placement), ClientError> {
    let failed = |e: std::io::Error| ClientError::new(Code::WriteFailed, format!("{}: {e}", path.display()));
    if into || path.is_dir() {
        std::fs::create_dir_all(path).map_err(failed)?;
        return Ok((path.to_path_buf(), String::new(), Placement::Into));
    }
    let parent = path.parent().filter(|p| p.is_dir()).ok_or_else(|| {
        ClientError::new(Code::NotFound, format!("{}: no such directory", path.with_file_name("").display()))
    })?;
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        ClientError::new(Code::BadName, format!("{}: the name is not UTF-8", path.display()))
    })?;
    Ok((parent.to_path_buf(), name.to_owned(), Placement::As))
}
