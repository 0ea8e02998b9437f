//! `metra tunnel`.

use std::time::Duration;

use metra_fallback::Target as Shown;
use metra_transport::Rt;
use metra_transport::quic::Tuning;
use metra_tunnel::forward::{Ended, Event, Forward, OpenError, Opener};

use super::session;
use crate::args::TunnelArgs;
use crate::exit::{Exit, Failure};
use crate::output;

pub(super) fn run(args: TunnelArgs) -> Result<Exit, Failure> {
    let hop = args.hop()?;
    session::block_on(forward(args, hop))
}

async fn forward(args: TunnelArgs, hop: metra_tunnel::client::Hop) -> Result<Exit, Failure> {
    let rt = Rt::tokio();
    // From here on a signal is heard, however early it comes.
    let signal = session::signalled();
    tokio::pin!(signal);
    let target = Shown { host: args.target.host().to_owned(), port: args.target.port() };
    let proxy = hop.template.authority().to_owned();
    let opener = Opener::new(&rt, hop, args.over(), Tuning::default());
    let flows = args.bounds().flows;
    let forward = Forward::bind(&rt, args.listen, opener, args.target.clone(), args.bounds(), move |event| {
        if let Some(text) = said(&event, flows) {
            eprintln!("metra: {}", output::text(&text));
        }
    });
    let forward = forward.map_err(|e| Failure::new(Exit::Other, format!("{}: {e}", args.listen)))?;
    let address = forward.local_addr().map_err(|e| Failure::io(args.listen, &e))?;
    tokio::select! {
        checked = forward.check() => checked.map_err(|e| failed(&proxy, &e))?,
        exit = &mut signal => return Err(Failure::new(exit, "ended before it was ready")),
    }
    eprintln!(
        "metra: {}",
        output::text(&format!("udp {address} leads to {target} through {proxy} (^C ends it)"))
    );
    tokio::select! {
        error = forward.run() => Err(Failure::io(address, &error)),
        _ = &mut signal => {
            forward.finish().await;
            Ok(Exit::Ok)
        }
    }
}

/// What the user should know.
fn said(event: &Event, flows: usize) -> Option<String> {
    match event {
        Event::Opened(_) | Event::Ended(_, Ended::Finished) => None,
        Event::Ended(from, ended) => Some(format!("the tunnel of {from} has ended: {ended}")),
        Event::Failed(error, pause) => {
            Some(format!("no tunnel, and no other try for {}: {error}", seconds(*pause)))
        }
        Event::Full => Some(format!("there are {flows} tunnels: what others send is lost (--flows)")),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

/// How the command ends when the proxy does not let it through.
fn failed(proxy: &str, error: &OpenError) -> Failure {
    let exit = match error.status() {
        _ if error.is_of_certificate() => Exit::Authentication,
        Some(401 | 407) => Exit::Authentication,
        Some(403) => Exit::Policy,
        _ if error.is_retryable() => Exit::Retryable,
        _ => Exit::NotRetryable,
    };
    Failure::new(exit, format!("{proxy}: {error}"))
}
