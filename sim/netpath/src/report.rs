//! What happened on the links: all of it at the end as JSON, and the course of it as CSV.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metra_sim_model::Counts;
use serde::Serialize;

use super::lane::{Deeds, Lane};

/// A lane, and what to call it.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) link: usize,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) lane: Arc<Lane>,
}

/// What is written with `--stats`.
#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    /// Since the commands were started. s.
    pub(crate) seconds: f64,
    /// What the emulator used, with what the kernel did for it. s.
    pub(crate) cpu_seconds: f64,
    /// All lanes: two for each link, up and down.
    pub(crate) lanes: Vec<LaneStats>,
}

/// What happened in one lane.
#[derive(Debug, Serialize)]
pub(crate) struct LaneStats {
    pub(crate) link: usize,
    pub(crate) from: String,
    pub(crate) to: String,
    /// Packets that were sent faster than the emulator took them.
    pub(crate) overruns: u64,
    #[serde(flatten)]
    pub(crate) deeds: Deeds,
    pub(crate) model: Counts,
}

impl Stats {
    /// Writes it.
    pub(crate) fn write(&self, mut to: &File) -> io::Result<()> {
        serde_json::to_writer_pretty(to, self)?;
        to.write_all(b"\n")
    }

    /// What makes the figures wrong, if something does.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for LaneStats { link, from, to, overruns, deeds, .. } in &self.lanes {
            let lost = overruns + deeds.undelivered;
            let lane = format!("link{link}, {from} to {to}");
            if lost > 0 {
                complaints
                    .push(format!("{lane}: {lost} packets lost because this machine is too slow for them"));
            }
            if deeds.latest_us > LATE_US {
                let late = deeds.latest_us / 1000;
                complaints
                    .push(format!("{lane}: packets up to {late} ms late because this machine is too busy"));
            }
        }
        complaints
    }
}

/// What is worth a word. µs.
const LATE_US: u64 = 10_000;

/// A time series that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) path: PathBuf,
    pub(crate) every: Duration,
}

impl Series {
    /// Writes a line for each lane, again and again, from a thread of its own.
    pub(crate) fn start(&self, lanes: Vec<Named>, start: Instant) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(&self.path)?);
        writeln!(file, "t_s,link,from,to,backlog_bytes,delivered_bytes,dropped_packets")?;
        file.flush()?;
        let every = self.every;
        std::thread::Builder::new().name("series".into()).spawn(move || {
            for tick in 0.. {
                std::thread::sleep((every * tick).saturating_sub(start.elapsed()));
                if let Err(error) = lines(&mut file, &lanes, start) {
                    eprintln!("netpath: the series ends here: {error}");
                    return;
                }
            }
        })?;
        Ok(())
    }
}

fn lines(file: &mut impl Write, lanes: &[Named], start: Instant) -> io::Result<()> {
    for Named { link, from, to, lane } in lanes {
        let now = start.elapsed();
        let (backlog, counts, deeds) = (lane.backlog(now), lane.counts(), lane.deeds());
        let dropped = counts.offered - counts.passed + deeds.stopped + deeds.undelivered;
        let t = now.as_secs_f64();
        writeln!(file, "{t:.6},{link},{from},{to},{backlog},{},{dropped}", deeds.delivered_bytes)?;
    }
    file.flush()
}
