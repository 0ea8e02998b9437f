//! A client sends: the gateway is the sink.

use std::sync::Arc;

use metra_core::code::Code;
use metra_core::manifest::LedgerLimits;
use metra_core::path;
use metra_core::receipt::Direction;
use metra_core::wire::{Keep, Push};
use metra_policy::audit;
use metra_policy::engine::Action;
use metra_session::{LinkHandle, SinkConfig, SinkJob};
use metra_store::landing::{Landing, NullLanding, TreeLanding, TreeTarget};

use super::seats::Comes;
use super::{Counted, Receipt, sign};
use crate::authority::Asker;
use crate::content;
use crate::measure;
use crate::paces;
use crate::sessions::{Live, Sessions, unix_millis};

/// The destination that verifies and forgets, for measuring.
const NULL: &str = "null:";

pub(super) async fn serve(
    sessions: &Arc<Sessions>,
    live: &Arc<Live>,
    link: &LinkHandle,
    push: Push,
) -> Result<(), (Code, String)> {
    let account = live.account();
    if !account.write {
        return Err((Code::Denied, format!("user {} may not send", account.name)));
    }
    if attached(live, link, &push)? || live.seats().moved(push.job, push.key, link)? {
        return Ok(());
    }
    sessions.audit().gate()?;
    let dest = push.dest.trim_matches('/').to_owned();
    if !dest.is_empty() && dest != NULL {
        path::check(&dest).map_err(|e| (Code::BadName, format!("destination {dest:?}: {e}")))?;
    }
    let asker = Asker::over(account, link.link().as_ref());
    let (may, _) = sessions.permit_path(account, &asker, Action::Send, &dest)?;
    let started = unix_millis();
    let claim = sessions.claims().take(&account.name, push.key).await;
    // The client may have opened it twice, on two links, and this one had to wait for the other.
    if attached(live, link, &push)? {
        return Ok(());
    }
    // Only now: an attempt that this one takes over does not count any more.
    let counts = sessions.open_jobs().open(&account.name, link.link().peer().ip())?;
    let comes = Comes { job: push.job, key: push.key, priority: push.priority };
    let seat = live.seats().take(sessions.shaping(), live, comes, link, Some(&claim)).await?;
    let Some((place, link)) = seat else { return Ok(()) };
    let link = &link;
    let by = sessions.authority().permit(&may)?;
    sessions.memory().admit().map_err(|reason| (Code::Busy, reason.to_owned()))?;
    let share = sessions.shaping().begin(place, Direction::Push);
    let landing = open_landing(sessions, live, link, &asker, &push, dest.clone()).await?;
    let limits = &sessions.config().limits;
    let config = SinkConfig {
        ledger: LedgerLimits {
            entries: limits.entries,
            chunks: limits.chunks,
            bytes: usize::try_from(limits.manifest_memory).unwrap_or(usize::MAX),
        },
        credit: sessions.memory().all(),
        budget: Some(sessions.memory().manifests()),
        allowance: Some(share.allowance()),
        ..SinkConfig::default()
    };
    let rt = sessions.rt().clone();
    let (job, planner) = SinkJob::new(rt.clone(), push.job, Some(push.incarnation), None, landing, config);
    claim.set_job(&job);
    live.session().add_sink(job.clone(), Some(link.clone())).map_err(|e| (e.code, e.reason))?;
    sessions.memory().add(&job, &account.name);
    tracing::info!(user = account.name, job = push.job.0, dest, key = %push.key, "push begins");
    let _watched = sessions.until_revoked(vec![may], {
        let job = job.clone();
        move |refused| job.cancel(refused.code, &refused.reason)
    });
    let paced = paces::follow(sessions.rt(), live, push.job, Direction::Push, share.pace());
    let _exceeded = sessions.until(share.exceeded(), {
        let job = job.clone();
        move |reason| job.cancel(Code::Limit, &reason)
    });
    let record = sessions.audit().transfer(live, link, audit::Action::Push, &dest, by, push.job.0);
    let progress = || job.progress();
    let run = job.run(planner);
    let (result, kpis) = measure::watched(&rt, live.session(), Direction::Push, progress, run).await;
    let verify = result.as_ref().ok().map(|outcome| outcome.verify);
    record.ended(live, result.as_ref().map(|outcome| &outcome.finished));
    measure::job_ended(Direction::Push, &kpis, job.progress().first_byte, verify, job.attachments());
    if result.is_err() {
        live.session().remove(push.job);
    }
    let files = if result.is_ok() { job.files_moved() } else { 0 };
    drop(paced);
    share.ended(job.stats().received_bytes, files);
    drop(counts);
    drop(claim);
    sessions.memory().divide();
    match result {
        Ok(outcome) => {
            let receipt = Receipt {
                user: &account.name,
                key: push.key,
                direction: Direction::Push,
                path: &dest,
                started,
            };
            let counted = Counted {
                finished: outcome.finished,
                records: outcome.records,
                entries: outcome.entries,
                chunks: outcome.chunks,
                withdrawn: outcome.withdrawn,
            };
            let receipt = sign(sessions, receipt, counted).await;
            job.conclude(Some(receipt), &outcome);
            let finished = outcome.finished;
            metrics::counter!("metra_jobs_total", "direction" => "push", "outcome" => "ok").increment(1);
            metrics::counter!("metra_bytes_received_total").increment(outcome.stats.received_bytes);
            tracing::info!(user = account.name, job = push.job.0, root = %finished.root, bytes = finished.bytes, entries = finished.entries, failed = finished.failed, received = outcome.stats.received, reused = finished.reused, damaged = outcome.stats.damaged, "push finished");
            job.wait_until_told().await;
            live.remember(&rt, push.job);
        }
        Err(error) => {
            metrics::counter!("metra_jobs_total", "direction" => "push", "outcome" => error.code.name())
                .increment(1);
            tracing::info!(user = account.name, job = push.job.0, code = %error.code, reason = error.reason, "push ended");
        }
    }
    Ok(())
}

/// Whether the job is there already; it is controlled over `link` then.
///
/// # Errors
/// The number belongs to another job, which is the client's fault.
fn attached(live: &Live, link: &LinkHandle, push: &Push) -> Result<bool, (Code, String)> {
    let Some(job) = live.session().sink(push.job) else { return Ok(false) };
    if job.incarnation() != Some(push.incarnation) {
        return Err((Code::Protocol, "this number belongs to another job of the session".to_owned()));
    }
    live.session().reattach(push.job, link.clone());
    Ok(true)
}

async fn open_landing(
    sessions: &Arc<Sessions>,
    live: &Arc<Live>,
    link: &LinkHandle,
    asker: &Asker,
    push: &Push,
    dest: String,
) -> Result<Arc<dyn Landing>, (Code, String)> {
    if dest == NULL {
        return Ok(Arc::new(NullLanding::default()));
    }
    let account = live.account();
    let guard = asker.guard(sessions.authority(), Action::Send, &sessions.config().root);
    let trail = || sessions.audit().files(live, link, audit::Action::Push, push.job.0);
    let guard = guard.map(|guard| trail().watch(guard, account.home.clone()));
    let target = TreeTarget {
        root: account.home.clone(),
        dest,
        placement: push.placement,
        overwrite: push.overwrite,
        // What the source does not want kept is not in its manifest.
        keep: Keep { mode: true, times: true },
        user: account.name.clone(),
        key: push.key,
        guard,
    };
    let catalogue = sessions.catalogue().clone();
    let opened = sessions.rt().blocking(move || TreeLanding::open(target, catalogue)).await;
    match (opened, content::gate(sessions, live, link, asker, push)) {
        (Ok(landing), Some(gate)) => Ok(Arc::new(landing.gated(gate))),
        (Ok(landing), None) => Ok(Arc::new(landing)),
        (Err(error), _) => Err((error.code(), error.to_string())),
    }
}
