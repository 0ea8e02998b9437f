//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use metra_sim_model::Direction;
use serde::{Deserialize, Serialize};

use super::topology::{MTU, Topology};

/// Runs a command in a network of its own, over links that are as slow, long and lossy as you say.
///
/// Hosts are network namespaces, links are carried by netpath itself. Without --topology there are two hosts, client
/// and server, and one link between them; the command runs in client. All processes, hosts and links are gone when
/// the command ends, however it ends. Needs root and iproute2; needs no qdisc.
#[derive(Debug, Parser)]
#[command(name = "netpath", version, after_help = AFTER, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Hosts and links, as a TOML file says (see README.md)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "rtt", "loss", "jitter", "queue_bdp", "mtu", "seed"])]
    topology: Option<PathBuf>,
    /// Where the command runs [default: the first host]
    #[arg(long = "in", value_name = "HOST")]
    place: Option<String>,
    /// Starts another command before, in the background ("sh -c CMD"); ended when COMMAND ends
    #[arg(long, num_args = 2, value_names = ["HOST", "CMD"], action = clap::ArgAction::Append)]
    at: Vec<String>,
    /// Starts COMMAND when something listens on this port (TCP or UDP)
    #[arg(long, value_name = "HOST:PORT")]
    wait_for: Vec<String>,

    /// Mbit/s each way [default: no limit]
    #[arg(long, value_name = "MBIT", help_heading = "The link")]
    rate: Option<f64>,
    /// Round trip: half of it each way
    #[arg(long, value_name = "MS", default_value_t = 0.0, help_heading = "The link")]
    rtt: f64,
    /// Lost at random, each way
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, help_heading = "The link")]
    loss: f64,
    /// Each packet is late by up to this much more, without overtaking, each way
    #[arg(long, value_name = "MS", default_value_t = 0.0, help_heading = "The link")]
    jitter: f64,
    /// Length of the queue before the link, in rate x rtt; at least 100 packets
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, help_heading = "The link")]
    queue_bdp: f64,
    /// Of the interfaces. Bytes
    #[arg(long, value_name = "BYTES", default_value_t = MTU, help_heading = "The link")]
    mtu: u32,
    /// Decides which packets are lost
    #[arg(long, value_name = "NUMBER", default_value_t = 1, help_heading = "The link")]
    seed: u64,

    /// Writes at the end what happened on the links, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    stats: Option<PathBuf>,
    /// Writes meanwhile what happens on the links, as CSV
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    series: Option<PathBuf>,
    /// Time between the lines of --series, such as 100ms
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = time, help_heading = "Reports")]
    every: Duration,
    /// Says which addresses there are
    #[arg(long, short, help_heading = "Reports")]
    verbose: bool,

    /// What to run, with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What is to be done: all that the inner process must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) topology: Topology,
    /// The host where the command runs.
    pub(crate) place: usize,
    pub(crate) command: Vec<String>,
    /// Hosts, and what runs there in the background.
    pub(crate) background: Vec<(usize, String)>,
    /// Hosts, and ports where something must listen first.
    pub(crate) wait_for: Vec<(usize, u16)>,
    pub(crate) stats: Option<PathBuf>,
    pub(crate) series: Option<PathBuf>,
    pub(crate) every: Duration,
    pub(crate) verbose: bool,
}

impl Args {
    /// Checks everything, and reads the topology.
    pub(crate) fn job(self) -> Result<Job, String> {
        let topology = match &self.topology {
            Some(path) => Topology::read(path)?,
            None => Topology::two_hosts(self.direction(), self.mtu, self.seed)?,
        };
        let place = self.place.as_deref().map_or(Ok(0), |name| topology.host(name))?;
        let background = self.at.chunks_exact(2).map(|at| Ok((topology.host(&at[0])?, at[1].clone())));
        let background = background.collect::<Result<_, String>>()?;
        let wait_for = self.wait_for.iter().map(|place| topology.place(place)).collect::<Result<_, _>>()?;
        let Self { command, stats, series, every, verbose, .. } = self;
        Ok(Job { place, command, background, wait_for, stats, series, every, verbose, topology })
    }

    fn direction(&self) -> Direction {
        let mut direction = Direction {
            rate_mbit: self.rate,
            delay_ms: self.rtt / 2.0,
            jitter_ms: self.jitter,
            loss_percent: self.loss,
            ..Direction::default()
        };
        let least = 100 * u64::from(self.mtu);
        direction.queue_bytes =
            direction.bdp_bytes(self.rtt).map(|bdp| least.max((bdp as f64 * self.queue_bdp) as u64));
        direction
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let seconds = match (number.parse::<f64>(), unit) {
        (Ok(number), "ms") => number / 1e3,
        (Ok(number), "s") => number,
        _ => return Err("expected a time such as 100ms or 1s".into()),
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time >= Duration::from_millis(1) => Ok(time),
        _ => Err("expected at least 1ms".into()),
    }
}

const AFTER: &str = "\
COMMAND and the commands of --at find the addresses of the hosts in their environment: NETPATH_SERVER is that of the
host server on its first link, NETPATH_SERVER_LINK1 that on link1, and NETPATH_SERVER_NS the file of its namespace, for
nsenter --net.

Examples:
  netpath --rate 100 --rtt 40 -- sh -c 'ping -c 5 $NETPATH_SERVER'
  netpath --rate 1000 --rtt 100 --loss 0.5 --at server 'iperf3 -s' --wait-for server:5201 -- \\
      sh -c 'iperf3 -c $NETPATH_SERVER'
  netpath --topology corporate.toml -v -- bash

The exit code is that of COMMAND; 128 and the number of the signal, if one ended it; 2 if netpath cannot do what you
say; 126 or 127 if COMMAND cannot be started.";

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn job(words: &[&str]) -> Result<Job, String> {
        let words = ["netpath"].iter().chain(words);
        Args::try_parse_from(words).map_err(|e| e.to_string()).and_then(Args::job)
    }

    #[test]
    fn the_simple_case() {
        let job = job(&["--rate", "1000", "--rtt", "100", "--loss", "0.5", "ping", "-c", "1"]).unwrap();
        let up = job.topology.links[0].up();
        assert_eq!((up.rate_mbit, up.delay_ms, up.loss_percent), (Some(1000.0), 50.0, 0.5));
        assert_eq!(up.queue_bytes, Some(12_500_000));
        assert_eq!(job.command, ["ping", "-c", "1"]);
        let back: Job = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
        assert_eq!(back, job);
    }

    #[test]
    fn short_paths_have_a_queue_too() {
        let up = |words| job(words).unwrap().topology.links[0].up();
        assert_eq!(up(&["--rate", "10", "true"]).queue_bytes, Some(150_000));
        assert_eq!(up(&["--rtt", "10", "true"]).queue_bytes, None);
    }

    #[test]
    fn mistakes_are_named() {
        for (words, said) in [
            (&["--rate", "10"][..], "COMMAND"),
            (&["--rate", "0", "true"], "rate_mbit"),
            (&["--in", "moon", "true"], "moon"),
            (&["--at", "moon", "true", "--", "true"], "moon"),
            (&["--wait-for", "server", "true"], "HOST:PORT"),
            (&["--every", "100", "true"], "100ms"),
            (&["--topology", "x", "--rate", "1", "true"], "cannot be used with"),
        ] {
            let error = job(words).unwrap_err();
            assert!(error.contains(said), "{error:?} does not name {said:?}");
        }
    }
}
