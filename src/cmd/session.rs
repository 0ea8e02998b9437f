//! What every client command needs: an executor, the signals that end it, a session.

use std::future::Future;
use std::time::Duration;

use metra_client::{Address, Client, ClientError, ConnectOptions, JobReport, Watch};
use metra_session::EntryReport;
use metra_transport::Rt;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Asked, ConnectArgs};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::report::Reporter;

/// How long the gateway is given to hear that the client goes, when a signal ends it.
const FAREWELL: Duration = Duration::from_millis(300);

/// An executor.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|e| Failure::io("cannot start", &e))
}

/// Runs `main`, and does not wait for what may block for ever after it (standard input).
pub(super) fn block_on<T>(main: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let result = runtime.block_on(main);
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Waits for SIGINT or SIGTERM, and says how the command ends then.
pub(super) async fn signalled() -> Exit {
    let streams = signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
    // Without handlers the signals do what they always do.
    let Ok((mut interrupt, mut terminate)) = streams else { return std::future::pending().await };
    tokio::select! {
        _ = interrupt.recv() => Exit::Interrupted,
        _ = terminate.recv() => Exit::Terminated,
    }
}

/// Does one thing with a gateway.
pub(super) fn with_client<T>(
    connect: &ConnectArgs,
    address: &Address,
    task: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
) -> Result<T, Failure> {
    let options = options(connect, address)?;
    block_on(async {
        tokio::select! {
            result = async {
                let client = Client::connect(Rt::tokio(), options).await?;
                let result = task(&client).await;
                client.close().await;
                result
            } => result.map_err(Failure::from),
            exit = signalled() => Err(Failure::new(exit, "interrupted")),
        }
    })
}

/// How to reach a gateway; what is to be said of the configuration is said.
pub(super) fn options(connect: &ConnectArgs, address: &Address) -> Result<ConnectOptions, Failure> {
    let asked = connect.asked(address)?;
    if let Some(warning) = &asked.warning {
        eprintln!("metra: {}", output::text(warning));
    }
    Ok(asked.options)
}

/// Carries a job to its end and reports it.
pub(super) fn transfer(
    connect: &ConnectArgs,
    address: &Address,
    reporter: &Reporter,
    what: Value,
    job: impl AsyncFnOnce(&Client, Watch) -> Result<JobReport, ClientError>,
) -> Result<Exit, Failure> {
    let result = connect.asked(address).and_then(|Asked { options, warning }| {
        if let Some(warning) = &warning {
            reporter.note(&output::text(warning));
        }
        let state = options.state.clone();
        reporter.start(what);
        let report = block_on(async {
            let mut client = None;
            let result = tokio::select! {
                result = async {
                    let client = client.insert(Client::begin(Rt::tokio(), options).await?);
                    job(client, reporter.watch()).await
                } => result.map_err(Failure::from),
                exit = signalled() => {
                    Err(Failure::new(exit, "interrupted; the same command goes on from here"))
                }
            };
            if let Some(client) = client {
                match &result {
                    Ok(_) => client.close().await,
                    // Whatever keeps the gateway from hearing it: a next attempt takes the job over.
                    Err(_) => drop(tokio::time::timeout(FAREWELL, client.close()).await),
                }
            }
            result
        })?;
        Ok((state, report))
    });
    let mut kept = None;
    let result = result.map(|(state, report)| {
        kept =
            report.receipt.as_ref().map(|receipt| metra_client::keep_receipt(&state, &report.root, receipt));
        let exit = if report.failed > 0 { Exit::Partial } else { Exit::Ok };
        (exit, report)
    });
    let receipt = match kept {
        Some(Ok(path)) => Some(path.display().to_string()),
        Some(Err(error)) => {
            reporter.note(&format!("the receipt could not be kept: {error}"));
            None
        }
        None => None,
    };
    if let Ok((_, report)) = &result {
        report.reports.iter().filter(|r| came_after_the_end(r)).for_each(|r| {
            reporter.note(&format!("{}: {}", output::name(&r.path), r.reason));
        });
    }
    reporter.finish(&result, receipt.as_deref());
    match result {
        Ok((exit, _)) => Ok(exit),
        Err(failure) if reporter.has_stderr() => Err(Failure { message: String::new(), ..failure }),
        Err(failure) => Err(failure),
    }
}

/// What was said of an entry after the job was over: it arrived, but its source could not be removed.
fn came_after_the_end(report: &EntryReport) -> bool {
    report.code == metra_core::code::Code::Ok && report.entry.is_none()
}
