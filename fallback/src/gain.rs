//! How many links of one kind are worth having: as many as make it faster. Sans-io.
//!
//! One TCP connection may be slow where several are not: a congestion control that backs off at each loss, a proxy that gives
//! each connection its part, one core that encrypts. Whether that is so is measured: one more, and it stays if it brings enough.
//!
//! ```text
//! measuring n --window--> measuring n + 1 --faster by a sixth--> measuring n + 2 ...
//!      ^                        `----------not, or at the cap--> resting with n
//!      `-------------------------------------------------after a minute---'
//! ```

use std::time::{Duration, Instant};

/// How long a rate is measured, ...
const WINDOW: Duration = Duration::from_secs(2);
/// ... after a new link has had so long to find its speed.
const WARM_UP: Duration = Duration::from_secs(1);
/// What another link must bring: less is noise, and takes from others what they could use.
const WORTH: f64 = 7.0 / 6.0;
/// How long a decision is good.
const REST: Duration = Duration::from_secs(60);

/// Decides how many links there shall be.
#[derive(Clone, Debug)]
pub struct Gain {
    links: usize,
    most: usize,
    /// The rate with one link less. Bytes per second.
    before: Option<f64>,
    /// What had been moved at the begin of the window, once it has begun.
    window: Option<(Instant, u64)>,
    /// When the window begins.
    from: Instant,
}

impl Gain {
    /// Begins with `links`, and goes up to `most`.
    pub fn new(now: Instant, links: usize, most: usize) -> Self {
        Self { links: links.max(1), most, before: None, window: None, from: now + WARM_UP }
    }

    /// How many links there shall be now.
    pub fn links(&self) -> usize {
        self.links
    }

    /// A look, several times a second: what all links have moved so far, in bytes, and whether they are what it waits for.
    /// A time in which something else is slower says nothing.
    pub fn look(&mut self, now: Instant, moved: u64, is_bound: bool) {
        if !is_bound {
            self.window = None;
            self.from = self.from.max(now + WARM_UP);
            return;
        }
        if now < self.from {
            return;
        }
        let (began, at_begin) = *self.window.get_or_insert((now, moved));
        let took = now.saturating_duration_since(began);
        if took < WINDOW {
            return;
        }
        let rate = moved.saturating_sub(at_begin) as f64 / took.as_secs_f64();
        self.window = None;
        match self.before {
            Some(before) if rate < before * WORTH => {
                self.links -= 1;
                self.before = None;
                self.from = now + REST;
            }
            _ if self.links >= self.most => {
                self.before = None;
                self.from = now + REST;
            }
            _ => {
                self.links += 1;
                self.before = Some(rate);
                self.from = now + WARM_UP;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for some seconds over paths on which `rate(links)` bytes a second are moved; gives the links in each second.
    fn run(
        seconds: u32,
        most: usize,
        rate: impl Fn(usize) -> u64,
        bound: impl Fn(u32) -> bool,
    ) -> Vec<usize> {
        let start = Instant::now();
        let (mut gain, mut moved, mut links) = (Gain::new(start, 1, most), 0, Vec::new());
        for tenth in 0..seconds * 10 {
            moved += rate(gain.links()) / 10;
            gain.look(start + Duration::from_millis(100) * tenth, moved, bound(tenth / 10));
            if tenth % 10 == 0 {
                links.push(gain.links());
            }
        }
        links
    }

    #[test]
    fn where_one_is_as_fast_as_many_there_is_one() {
        let links = run(60, 8, |_| 1_000_000, |_| true);
        assert_eq!((links.iter().max(), links[59]), (Some(&2), 1));
        assert!(links.iter().filter(|links| **links == 2).count() < 5, "a try is short: {links:?}");
    }

    #[test]
    fn where_each_brings_its_part_there_are_as_many_as_may_be() {
        let links = run(60, 4, |links| links as u64 * 1_000_000, |_| true);
        assert_eq!((links[14], links[59]), (4, 4), "{links:?}");
    }

    #[test]
    fn it_stops_where_they_bring_no_more() {
        let links = run(40, 8, |links| (links as u64).min(3) * 1_000_000, |_| true);
        assert_eq!(links[39], 3, "{links:?}");
    }

    #[test]
    fn what_waits_for_something_else_says_nothing() {
        let links = run(60, 8, |links| links as u64 * 1_000_000, |_| false);
        assert_eq!(links[59], 1);
        // Bound for two seconds at a time is too short for a word.
        let links = run(60, 8, |links| links as u64 * 1_000_000, |second| second % 3 != 0);
        assert_eq!(links[59], 1, "{links:?}");
    }

    #[test]
    fn after_a_minute_it_is_tried_again() {
        let tries = |seconds| {
            let links = run(seconds, 8, |_| 1_000_000, |_| true);
            links.windows(2).filter(|pair| pair[1] > pair[0]).count()
        };
        assert_eq!((tries(60), tries(100)), (1, 2));
    }
}
