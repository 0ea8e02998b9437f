//! What a session asks for: jobs in both directions, listings, removals, rates.
//!
//! Requests are acted on in tasks of their own, so that the session's links are read meanwhile; how many at a time
//! is bounded, and a client that asks for more breaks the protocol.

mod claims;
mod memory;
mod open_jobs;
mod pull;
mod push;
mod seats;

pub(crate) use claims::{Claim, Claims};
pub(crate) use memory::Memory;
pub(crate) use open_jobs::OpenJobs;
pub(crate) use seats::Seats;

use std::sync::Arc;
use std::time::SystemTime;

use metra_core::code::Code;
use metra_core::id::{JobId, JobKey};
use metra_core::receipt::{Direction, SignedReceipt, Statement, signed_bytes};
use metra_core::wire::Frame;
use metra_policy::audit::Action;
use metra_session::{LinkHandle, Request};
use tokio::sync::{Semaphore, mpsc};

use crate::browse;
use crate::rates;
use crate::sessions::{Live, Sessions, unix_millis};

/// Requests of one session that are acted on at a time; more than a session may have jobs.
const REQUESTS: usize = 64;

/// Acts on the requests of a session until it is closed.
pub(crate) async fn serve_requests(
    sessions: Arc<Sessions>,
    live: Arc<Live>,
    mut queue: mpsc::Receiver<Request>,
) {
    let room = Arc::new(Semaphore::new(REQUESTS));
    loop {
        let request = tokio::select! {
            request = queue.recv() => request,
            () = live.session().closed() => None,
        };
        let Some(Request { link, frame }) = request else { return };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            link.link().close(Code::Limit, "too many requests at a time");
            continue;
        };
        let (sessions, live) = (sessions.clone(), live.clone());
        let rt = sessions.rt().clone();
        rt.spawn(async move {
            serve(sessions, live, link, frame).await;
            drop(permit);
        });
    }
}

async fn serve(sessions: Arc<Sessions>, live: Arc<Live>, link: LinkHandle, frame: Frame) {
    match frame {
        Frame::Push(push) => {
            let (job, path) = (push.job, push.dest.clone());
            if let Err(refused) = push::serve(&sessions, &live, &link, push).await {
                sessions.audit().decided(&live, &link, Action::Push, &path, None, Err(&refused));
                live.session().refuse(job);
                fail(&link, job, refused).await;
            }
        }
        Frame::Pull(pull) => {
            let (job, path) = (pull.job, pull.paths.join("\n"));
            if let Err(refused) = pull::serve(&sessions, &live, &link, pull).await {
                sessions.audit().decided(&live, &link, Action::Pull, &path, None, Err(&refused));
                fail(&link, job, refused).await;
            }
        }
        Frame::Rate(asked) => rates::serve(&sessions, &live, &link, asked).await,
        Frame::List { request, path, depth } => {
            browse::list(&sessions, &live, &link, request, path, depth).await;
        }
        Frame::Remove { request, path, recursive } => {
            browse::remove(&sessions, &live, &link, request, path, recursive).await;
        }
        _ => link.link().close(Code::Protocol, "this frame is not a client's to send"),
    }
}

/// Refuses a job that has not begun.
async fn fail(link: &LinkHandle, job: JobId, (code, reason): (Code, String)) {
    tracing::info!(job = job.0, %code, reason, "job refused");
    link.send(&Frame::Fail { job, code, reason }).await;
}

/// What a receipt says besides what the sink counted.
struct Receipt<'a> {
    user: &'a str,
    key: JobKey,
    direction: Direction,
    path: &'a str,
    started: u64,
}

/// What was counted.
struct Counted {
    finished: metra_core::wire::Finished,
    records: u64,
    entries: u64,
    chunks: u64,
    withdrawn: u64,
}

/// Signs a receipt, and keeps it.
async fn sign(sessions: &Sessions, receipt: Receipt<'_>, counted: Counted) -> Vec<u8> {
    let statement = Statement {
        gateway: sessions.pin().to_owned(),
        user: receipt.user.to_owned(),
        key: receipt.key,
        direction: receipt.direction,
        path: receipt.path.to_owned(),
        root: counted.finished.root,
        records: counted.records,
        entries: counted.entries,
        chunks: counted.chunks,
        bytes: counted.finished.bytes,
        failed: counted.finished.failed,
        withdrawn: counted.withdrawn,
        started: receipt.started,
        finished: unix_millis(),
    };
    let statement = statement.encode();
    let signature = sessions.receipts().sign(&signed_bytes(&statement));
    let signed = SignedReceipt { statement, public_key: sessions.receipts().public(), signature };
    let bytes = signed.encode();
    let (catalogue, kept, key) = (sessions.catalogue().clone(), bytes.clone(), receipt.key);
    let root = counted.finished.root;
    let stored =
        sessions.rt().blocking(move || catalogue.put_receipt(&key, &root, &kept, SystemTime::now())).await;
    if let Err(error) = stored {
        tracing::warn!(%error, "the receipt could not be kept");
    }
    bytes
}
