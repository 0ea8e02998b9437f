//! How far a transfer is: a line on a terminal, or JSON.
//!
//! The text is made by [`lines`], which knows no terminal; [`Rates`] turns snapshots into speeds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use metra_session::{Binding, Progress};

use crate::output;

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Send,
    Get,
}

impl Way {
    /// What has happened to the bytes that are under way.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Way::Send => "sent",
            Way::Get => "received",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Send => "send",
            Way::Get => "get",
        }
    }
}

/// Speeds over the last few seconds. Bytes per second.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// When, moved, durable.
    samples: VecDeque<(Instant, u64, u64)>,
}

/// Over which time speeds are taken.
const WINDOW: Duration = Duration::from_secs(4);
/// Samples that are kept at most, however often one is added.
const SAMPLES_MAX: usize = 64;

impl Rates {
    /// Adds a snapshot; returns the speed of what moves and of what becomes durable.
    pub(crate) fn add(&mut self, now: Instant, progress: &Progress) -> (f64, f64) {
        // A second attempt counts from the start again.
        if self
            .samples
            .back()
            .is_some_and(|(_, moved, durable)| progress.moved < *moved || progress.durable < *durable)
        {
            self.samples.clear();
        }
        let is_old = |(at, ..): &(Instant, u64, u64)| now.saturating_duration_since(*at) > WINDOW;
        while self.samples.len() >= SAMPLES_MAX || self.samples.front().is_some_and(is_old) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, progress.moved, progress.durable));
        let (at, moved, durable) = self.samples[0];
        let seconds = now.saturating_duration_since(at).as_secs_f64();
        if seconds < 0.05 {
            return (0.0, 0.0);
        }
        ((progress.moved - moved) as f64 / seconds, (progress.durable - durable) as f64 / seconds)
    }
}

/// The lines for people: how far and how fast; what is where. Each fits a terminal of 80 columns, the first one beside
/// the bar.
pub(crate) fn lines(way: Way, progress: &Progress, (moving, settling): (f64, f64)) -> (String, String) {
    let Progress { announced, complete, moved, verified, durable, .. } = *progress;
    // Nobody knows how much there is before everything has been looked at.
    let of = if complete { output::bytes(announced) } else { format!("{}+", output::bytes(announced)) };
    let mut first = format!("{of} {}", output::rate(moving));
    if let Some(binding) = progress.binding {
        first.push_str(&match binding {
            Binding::Queue(position) => format!(", waits at the gateway, position {position}"),
            binding => format!(", limit: {}", binding.name()),
        });
    }
    if complete && durable < announced && settling > 0.0 {
        let left =
            Duration::try_from_secs_f64((announced - durable) as f64 / settling).unwrap_or(Duration::MAX);
        first.push_str(&format!(", {} left", output::duration(left)));
    }
    let second = format!(
        "{} {}, verified {}, durable {}",
        way.done(),
        output::bytes(moved),
        output::bytes(verified),
        output::bytes(durable),
    );
    (first, second)
}

/// A bar and two lines on standard error.
pub(crate) struct Bar {
    bar: ProgressBar,
    rates: Rates,
    way: Way,
}

impl Bar {
    pub(crate) fn new(way: Way) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let style =
            ProgressStyle::with_template("{bar:20} {wide_msg}\n{prefix}").expect("the template is right");
        bar.set_style(style.progress_chars("=> "));
        bar.set_message("connecting");
        bar.tick();
        Self { bar, rates: Rates::default(), way }
    }

    pub(crate) fn update(&mut self, progress: &Progress) {
        let rates = self.rates.add(Instant::now(), progress);
        self.bar.set_length(progress.announced.max(1));
        self.bar.set_position(progress.durable);
        let (first, second) = lines(self.way, progress, rates);
        self.bar.set_message(first);
        self.bar.set_prefix(second);
    }

    /// Prints a line above the bar.
    pub(crate) fn print(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(moved: u64, durable: u64) -> Progress {
        Progress { announced: 4 << 30, moved, verified: durable, durable, ..Progress::default() }
    }

    #[test]
    fn sent_verified_and_durable_are_told_apart() {
        let mut progress = Progress { verified: 1 << 30, ..progress(2 << 30, 512 << 20) };
        let (first, second) = lines(Way::Send, &progress, (125e6, 50e6));
        assert_eq!(first, "4.0 GiB+ 1.00 Gbit/s");
        assert_eq!(second, "sent 2.0 GiB, verified 1.0 GiB, durable 512.0 MiB");
        progress.complete = true;
        progress.binding = Some(Binding::Disk);
        let (first, second) = lines(Way::Get, &progress, (125e6, f64::from(1 << 20) * 512.0));
        assert_eq!(first, "4.0 GiB 1.00 Gbit/s, limit: disk, 7.0 s left");
        assert!(second.starts_with("received 2.0 GiB"), "{second}");
    }

    #[test]
    fn no_time_is_told_that_is_not_known() {
        let mut progress = progress(0, 0);
        let left =
            |progress: &Progress, settling| lines(Way::Send, progress, (0.0, settling)).0.contains("left");
        assert!(!left(&progress, 1.0), "the manifest is not complete");
        progress.complete = true;
        assert!(!left(&progress, 0.0), "nothing moves");
        assert!(left(&progress, 1e-300), "however long it takes");
    }

    #[test]
    fn lines_fit_80_columns() {
        let progress = Progress {
            announced: 1023 << 30,
            complete: true,
            moved: 1000 << 20,
            verified: 1000 << 20,
            durable: 1000 << 20,
            binding: Some(Binding::Receiver),
            ..Progress::default()
        };
        let (first, second) = lines(Way::Get, &progress, (99.99e9 / 8.0, 4e6));
        assert!(first.len() + 21 <= 79, "{first}");
        assert!(second.len() <= 79, "{second}");
    }

    #[test]
    fn speeds_are_of_the_last_seconds() {
        let mut rates = Rates::default();
        let start = Instant::now();
        let mut at = |ms, moved, durable| {
            let (moving, settling) = rates.add(start + Duration::from_millis(ms), &progress(moved, durable));
            (moving.round() as u64, settling.round() as u64)
        };
        assert_eq!(at(0, 0, 0), (0, 0));
        assert_eq!(at(1000, 1000, 500), (1000, 500));
        assert_eq!(at(4000, 1000, 500), (250, 125));
        assert_eq!(at(5000, 3000, 500), (500, 0), "what is older than the window is forgotten");
        assert_eq!(at(6000, 10, 0), (0, 0), "a new attempt");
    }

    #[test]
    fn samples_are_bounded() {
        let mut rates = Rates::default();
        let now = Instant::now();
        for n in 0..1000 {
            rates.add(now + Duration::from_millis(n), &progress(n, n));
        }
        assert!(rates.samples.len() <= SAMPLES_MAX);
    }
}
