//! A client fetches: the gateway is the source.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use metra_core::code::Code;
use metra_core::id::Incarnation;
use metra_core::limits::SECRET_MAX;
use metra_core::manifest::LedgerLimits;
use metra_core::receipt::Direction;
use metra_core::wire::{Frame, Pull};
use metra_policy::audit;
use metra_policy::engine::Action;
use metra_session::{LinkHandle, SourceConfig, SourceJob};
use metra_store::source::{Filters, Loader, ManifestCache, Reader, Root, SourceSpec, expand};

use super::seats::Comes;
use super::{Counted, Receipt, sign};
use crate::authority::Asker;
use crate::measure;
use crate::paces;
use crate::sessions::{Live, Sessions, random, unix_millis};

/// Most paths that one pull may name once its globs are expanded.
const PATHS_MAX: usize = 65_535;

pub(super) async fn serve(
    sessions: &Arc<Sessions>,
    live: &Arc<Live>,
    link: &LinkHandle,
    pull: Pull,
) -> Result<(), (Code, String)> {
    let account = live.account();
    if !account.read {
        return Err((Code::Denied, format!("user {} may not fetch", account.name)));
    }
    if attached(live, link, &pull) || live.seats().moved(pull.job, pull.key, link)? {
        return Ok(());
    }
    sessions.audit().gate()?;
    let started = unix_millis();
    let home = account.home.clone();
    let request = pull.clone();
    let rt = sessions.rt().clone();
    let mut spec = rt.blocking(move || spec(&home, &request)).await?;
    let asker = Asker::over(account, link.link().as_ref());
    let mut may = Vec::new();
    for root in &spec.roots {
        let Root::Path { path, .. } = root else { continue };
        let path = path.to_string_lossy();
        // A folder may end in `.` here; the home itself is nothing else.
        let path = if path == "." { "" } else { path.trim_end_matches("/.") };
        may.push(sessions.permit_path(account, &asker, Action::Get, path)?.0);
    }
    let counts = match sessions.open_jobs().open(&account.name, link.link().peer().ip()) {
        Ok(counts) => counts,
        // The client may have opened it again on another link meanwhile, and that is what counts.
        Err(_) if attached(live, link, &pull) || live.seats().moved(pull.job, pull.key, link)? => {
            return Ok(());
        }
        Err(refused) => return Err(refused),
    };
    let comes = Comes { job: pull.job, key: pull.key, priority: pull.priority };
    let seat = live.seats().take(sessions.shaping(), live, comes, link, None).await?;
    let Some((place, link)) = seat else { return Ok(()) };
    let link = &link;
    let mut by = BTreeSet::new();
    for may in &may {
        by.extend(sessions.authority().permit(may)?);
    }
    let by = (!by.is_empty()).then(|| by.into_iter().collect::<Vec<_>>().join(", "));
    let (ring, _ring) = sessions.memory().ring().map_err(|reason| (Code::Busy, reason.to_owned()))?;
    let share = sessions.shaping().begin(place, Direction::Pull);
    let guard = asker.guard(sessions.authority(), Action::Get, &sessions.config().root);
    let trail = || sessions.audit().files(live, link, audit::Action::Pull, pull.job.0);
    spec.guard = guard.map(|guard| trail().watch(guard, account.home.clone()));
    let random: [u8; 8] = random()?;
    let incarnation = Incarnation(u64::from_be_bytes(random));
    let limits = &sessions.config().limits;
    let config = SourceConfig {
        ledger: LedgerLimits {
            entries: limits.entries,
            chunks: limits.chunks,
            bytes: usize::try_from(limits.manifest_memory).unwrap_or(usize::MAX),
        },
        budget: Some(sessions.memory().manifests()),
        ring,
        allowance: Some(share.allowance()),
        ..SourceConfig::default()
    };
    let open = Frame::Opened { job: pull.job, incarnation };
    let loader = Loader::new(&spec);
    let cache: Arc<dyn ManifestCache> = sessions.catalogue().clone();
    let reader = Reader::new(&spec, Some(cache));
    let job = SourceJob::new(rt, pull.job, incarnation, open, loader, config);
    if let Err(error) = live.session().add_source(job.clone(), Some(link.clone())) {
        // The client may have opened it again on another link meanwhile, and that was faster.
        return if attached(live, link, &pull) { Ok(()) } else { Err((error.code, error.reason)) };
    }
    let path = first_path(&pull);
    tracing::info!(user = account.name, job = pull.job.0, path, "pull begins");
    let _watched = sessions.until_revoked(may, {
        let job = job.clone();
        move |refused| job.cancel(refused.code, &refused.reason)
    });
    let paced = paces::follow(sessions.rt(), live, pull.job, Direction::Pull, share.pace());
    let _exceeded = sessions.until(share.exceeded(), {
        let job = job.clone();
        move |reason| job.cancel(Code::Limit, &reason)
    });
    let paths = pull.paths.join("\n");
    let record = sessions.audit().transfer(live, link, audit::Action::Pull, &paths, by, pull.job.0);
    let progress = || job.progress();
    let run = job.run(reader, false);
    let (result, kpis) =
        measure::watched(sessions.rt(), live.session(), Direction::Pull, progress, run).await;
    let verify = result.as_ref().ok().map(|outcome| outcome.verify);
    record.ended(live, result.as_ref().map(|outcome| &outcome.finished));
    measure::job_ended(Direction::Pull, &kpis, job.progress().first_byte, verify, job.attachments());
    let files = if result.is_ok() { job.files_moved() } else { 0 };
    drop(paced);
    share.ended(job.stats().bytes_sent, files);
    drop(counts);
    match result {
        Ok(outcome) => {
            let receipt = Receipt {
                user: &account.name,
                key: pull.key,
                direction: Direction::Pull,
                path: &path,
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
            job.send_receipt(receipt);
            metrics::counter!("metra_jobs_total", "direction" => "pull", "outcome" => "ok").increment(1);
            metrics::counter!("metra_bytes_sent_total").increment(outcome.stats.bytes_sent);
            tracing::info!(user = account.name, job = pull.job.0, root = %outcome.finished.root, bytes = outcome.finished.bytes, sent = outcome.stats.chunks_sent, resent = outcome.stats.chunks_resent, "pull finished");
            job.wait_until_told().await;
            live.remember(sessions.rt(), pull.job);
            return Ok(());
        }
        Err(error) => {
            metrics::counter!("metra_jobs_total", "direction" => "pull", "outcome" => error.code.name())
                .increment(1);
            tracing::info!(user = account.name, job = pull.job.0, code = %error.code, reason = error.reason, "pull ended");
        }
    }
    live.session().remove(pull.job);
    Ok(())
}

/// Whether the job is there already; it is controlled over `link` then.
fn attached(live: &Live, link: &LinkHandle, pull: &Pull) -> bool {
    let there = live.session().source(pull.job).is_some();
    if there {
        live.session().reattach(pull.job, link.clone());
    }
    there
}

/// The first path asked for, shortened to what a receipt may carry.
fn first_path(pull: &Pull) -> String {
    let path = pull.paths.first().map_or("", String::as_str);
    path.chars().take(SECRET_MAX / 4).collect()
}

/// What to read for a pull. Everything stays below `home`.
fn spec(home: &Path, pull: &Pull) -> Result<SourceSpec, (Code, String)> {
    let filters = pull.filters.iter().map(|(include, pattern)| (*include, pattern));
    let filters = Filters::new(filters).map_err(|e| (Code::BadName, e.to_string()))?;
    let mut roots = Vec::new();
    for pattern in &pull.paths {
        let contents = pattern.ends_with('/') || pattern.is_empty();
        let trimmed = pattern.trim_matches('/');
        if trimmed.is_empty() {
            roots.push(Root::Path { path: ".".into(), contents: true });
            continue;
        }
        let own = trimmed.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case(".metra"));
        let found = if own { Vec::new() } else { expand_in(home, trimmed)? };
        if found.is_empty() {
            return Err((Code::NotFound, format!("{trimmed}: no such file or directory")));
        }
        roots.extend(found.into_iter().map(|path| Root::Path { path, contents }));
        if roots.len() > PATHS_MAX {
            return Err((Code::Limit, format!("more than {PATHS_MAX} paths match")));
        }
    }
    let confine = Some(home.to_path_buf());
    Ok(SourceSpec { roots, filters, symlinks: pull.symlinks, keep: pull.keep, confine, guard: None })
}

fn expand_in(home: &Path, pattern: &str) -> Result<Vec<std::path::PathBuf>, (Code, String)> {
    expand(home, pattern, PATHS_MAX).map_err(|e| (Code::BadName, e.to_string()))
}
