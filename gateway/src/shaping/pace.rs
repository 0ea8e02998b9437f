//! How fast a job may send: somewhat faster than what it is granted, and not as fast as its path is.
//!
//! A job is granted whole chunks. Sent in bursts those of several jobs meet in the queues of the path, some of it is lost, and a
//! congestion controller backs off, most where the share is largest: it has less than it was granted then. The pace also tells
//! the controller that the path is divided, so that it does not yield to the queues of those who have what it lacks.

use std::time::Duration;

use metra_core::priority::Priority;

/// How often it is looked at.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// A job's rate is the mean of so many looks: grants are not regular.
const LOOKS: usize = 16;
/// Who waited at so many of them, or had more on its way than it delivers, has what it is granted, and no more.
const WAITS: usize = 12;
/// A job that has had nothing at so many of them is not new any more.
const NEW: usize = 4;
/// Who does not wait may send as fast at least: he may have begun just now, and what he has been granted says nothing yet. Bytes
/// per second.
const UNKNOWN: u64 = 32 << 20;
/// No slower than this, whatever was granted. Bytes per second.
const LEAST: u64 = 64 << 10;

/// What QUIC sends for so much content, headers and some repair included.
const ADDED: f64 = 1.05;

/// How fast a job may send for the moment. Bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speed {
    /// It has just begun: as fast as it can.
    New,
    /// It has done nothing lately.
    Idle,
    /// It has what it asks for: as fast as it can, nearly; what it uses, about, and what it may come to use soon.
    Open { pace: u64, uses: u64, may: u64 },
    /// It waits for what it is granted.
    Granted(u64),
}

impl Speed {
    /// What it is told; `None`: nothing.
    pub(super) fn pace(self) -> Option<u64> {
        match self {
            Speed::New | Speed::Idle => None,
            Speed::Open { pace, .. } | Speed::Granted(pace) => Some(pace),
        }
    }
}

/// What one job was granted of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Since the last look. Bytes.
    granted: u64,
    /// Bytes per second, and whether the job waited for more, or was behind.
    looks: [(u64, bool); LOOKS],
    looked: usize,
}

impl Pace {
    /// So many bytes were granted.
    pub(super) fn granted(&mut self, bytes: u64) {
        self.granted += bytes;
    }

    /// After `elapsed`; `waits`: the job waits for what it has asked for, `behind`: it has not sent so much of what it was granted.
    /// How fast it may send until the next look.
    pub(super) fn look(&mut self, elapsed: Duration, waits: bool, behind: Option<u64>) -> Speed {
        let rate = std::mem::take(&mut self.granted) as f64 / elapsed.as_secs_f64().max(1e-3);
        self.looks[self.looked % LOOKS] = (rate as u64, waits || behind.is_some());
        self.looked += 1;
        let mean = self.looks.iter().map(|look| look.0).sum::<u64>() / LOOKS as u64;
        let most = self.looks.iter().map(|look| look.0).max().unwrap_or_default();
        // For headers and repair, and for what it is granted next.
        let enough = mean + mean / 8;
        match self.looks.iter().filter(|look| look.1).count() >= WAITS {
            // What it is behind with within about a second. If it is its path that holds it up, this is no bound.
            true => Speed::Granted(enough.max(behind.unwrap_or_default()).max(LEAST)),
            // It does not use more, or has just begun: no pace shall hold it up.
            false if most > 0 => {
                let pace = (4 * most).max(UNKNOWN);
                let may = if self.looked <= LOOKS { pace } else { 2 * enough };
                Speed::Open { pace, uses: enough, may }
            }
            false if self.looked <= NEW => Speed::New,
            false => Speed::Idle,
        }
    }
}

/// One of those who share a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sharer {
    pub(super) speed: Speed,
    /// What it has whenever it wants it. Bytes per second.
    pub(super) floor: u64,
    pub(super) lane: Priority,
}

/// Divides what the line carries among those who would fill it together. `ceiling` in bytes per second.
///
/// Each may send somewhat more than it is granted, and all of them together more than the line has room for: whoever has fallen behind
/// catches up, so that what is lost is not lost to all of them for good, and a queue that never ends costs those most whose share is
/// largest. So what is said to those who wait is cut down to what is left by those who do not; but nobody is told less than his floor, or
/// who has fallen behind would stay there, as others are granted what he does not take. Of a floor is kept free for him what he uses and
/// half as much again, so that he comes back to it within seconds: where his own path is slower, the rest is for others.
///
/// Who is more urgent comes first, with all that he may come to use: what others were granted before he came waits where it is.
pub(super) fn divide(ceiling: Option<u64>, sharers: &mut [Sharer]) {
    let Some(ceiling) = ceiling else { return };
    let line = ceiling as f64 * ADDED;
    let floors = sharers.iter().map(|sharer| match sharer.speed {
        // 9/8 of what he uses, and 4/3 of that.
        Speed::Granted(pace) => safe(pace + pace / 3, sharer.floor) as f64,
        _ => 0.0,
    });
    let mut left = line - floors.sum::<f64>();
    let mut lanes: Vec<Priority> = sharers.iter().map(|sharer| sharer.lane).collect();
    lanes.sort_unstable();
    lanes.dedup();
    for lane in lanes {
        let (mut above, mut uses, mut may) = (0.0, 0.0, 0.0);
        for sharer in sharers.iter().filter(|sharer| sharer.lane == lane) {
            match sharer.speed {
                Speed::Granted(pace) => above += (pace - safe(pace, sharer.floor)) as f64,
                Speed::Open { uses: used, may: most, .. } => {
                    (uses, may) = (uses + used as f64, may + most as f64);
                }
                // Nobody knows yet what it needs.
                Speed::New => may = line,
                Speed::Idle => {}
            }
        }
        let part = ((left - uses) / f64::max(above, 1.0)).clamp(0.0, 1.0);
        for sharer in sharers.iter_mut().filter(|sharer| sharer.lane == lane) {
            if let Speed::Granted(pace) = &mut sharer.speed {
                let least = safe(*pace, sharer.floor);
                let cut = least + ((*pace - least) as f64 * part) as u64;
                *pace = cut.max(safe(u64::MAX, sharer.floor)).max(LEAST);
            }
        }
        left -= above * part + may;
    }
}

/// What of a pace is not cut down: a floor, and somewhat more.
fn safe(pace: u64, floor: u64) -> u64 {
    pace.min(floor + floor / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn somewhat_more_than_was_granted_while_more_is_waited_for() {
        let mut pace = Pace::default();
        let mut look = |granted, waits, is_behind: bool| {
            pace.granted(granted);
            pace.look(SECOND, waits, is_behind.then_some(7_600_000)).pace()
        };
        assert_eq!(look(0, false, false), None, "it is new");
        assert_eq!(look(1, false, false), Some(UNKNOWN), "it is new");
        assert_eq!(look(10_000_000, false, false), Some(40_000_000), "it has what it asks for");
        for _ in 1..WAITS {
            assert_eq!(look(4_000_000, true, false), Some(40_000_000));
        }
        for _ in WAITS..LOOKS {
            look(4_000_000, true, false);
        }
        assert_eq!(look(4_000_000, true, false), Some(4_500_000), "it waits");
        assert_eq!(look(2_400_000, true, false), Some(4_387_500), "grants are not regular");
        assert_eq!(look(2_400_000, true, true), Some(7_600_000), "it sends less than it is granted");
        for _ in 0..LOOKS {
            look(0, true, false);
        }
        // What it was granted before may be on its way.
        assert_eq!(look(0, true, false), Some(LEAST));
        for _ in 0..LOOKS {
            look(0, false, false);
        }
        assert_eq!(look(0, false, false), None);
    }

    const MB: u64 = 1_000_000;

    fn divided<const N: usize>(ceiling: Option<u64>, of: [(Speed, u64, u8); N]) -> [u64; N] {
        let mut sharers = of.map(|(speed, floor, lane)| Sharer {
            speed,
            floor,
            lane: Priority::new(lane).unwrap_or_default(),
        });
        divide(ceiling, &mut sharers);
        sharers.map(|sharer| sharer.speed.pace().unwrap_or_default() / MB)
    }

    #[test]
    fn together_they_fill_the_line_and_no_more() {
        let open = Speed::Open { pace: 900 * MB, uses: 200 * MB, may: 0 };
        let jobs = |first, second| [(first, 0, 4), (Speed::Idle, 0, 4), (open, 0, 4), (second, 160 * MB, 4)];
        let all = jobs(Speed::Granted(600 * MB), Speed::Granted(300 * MB));
        assert_eq!(divided(None, all), [600, 0, 900, 300]);
        assert_eq!(divided(Some(2000 * MB), all), [600, 0, 900, 300]);
        // 1050 with what QUIC adds; 200 are used, 180 are a floor. 670 are left for 720.
        assert_eq!(divided(Some(1000 * MB), all), [558, 0, 900, 291]);
        assert_eq!(divided(Some(400 * MB), all), [33, 0, 900, 186]);
        // A floor whatever there is, and nobody has less than a little.
        let little = jobs(Speed::Granted(600 * MB), Speed::Granted(90 * MB));
        assert_eq!(divided(Some(100 * MB), little), [0, 0, 900, 180]);
        let mut one = [Sharer { speed: Speed::Granted(600), floor: 0, lane: Priority::default() }];
        divide(Some(1), &mut one);
        assert_eq!(one[0].speed, Speed::Granted(LEAST));
    }

    #[test]
    fn who_is_more_urgent_has_the_line_but_for_floors() {
        let jobs = [(Speed::Granted(600 * MB), 0, 7), (Speed::New, 0, 0), (Speed::Granted(300 * MB), 0, 0)];
        assert_eq!(divided(Some(1000 * MB), jobs), [0, 0, 300]);
        let urgent = Speed::Open { pace: 2000 * MB, uses: 0, may: 2000 * MB };
        let jobs =
            [(Speed::Granted(600 * MB), 0, 7), (urgent, 0, 0), (Speed::Granted(300 * MB), 160 * MB, 7)];
        assert_eq!(divided(Some(1000 * MB), jobs), [0, 2000, 180]);
        // One that has no use for it lets others have it.
        let slow = Speed::Open { pace: 2000 * MB, uses: 10 * MB, may: 20 * MB };
        let jobs = [(Speed::Granted(1200 * MB), 0, 7), (slow, 0, 0)];
        assert_eq!(divided(Some(1000 * MB), jobs), [1029, 2000]);
        // One that waits has what it is granted, and others what is left of 1050.
        let jobs = [(Speed::Granted(600 * MB), 0, 7), (Speed::Granted(800 * MB), 0, 0), (Speed::Idle, 0, 1)];
        assert_eq!(divided(Some(1000 * MB), jobs), [250, 800, 0]);
    }

    #[test]
    fn who_does_not_use_the_line_does_not_keep_it_for_long() {
        let mut pace = Pace::default();
        let mut look = || {
            pace.granted(1_000_000);
            pace.look(SECOND, false, None)
        };
        let young = Speed::Open { pace: UNKNOWN, uses: 70_312, may: UNKNOWN };
        assert_eq!(look(), young);
        let later = (0..LOOKS).map(|_| look()).last();
        assert_eq!(later, Some(Speed::Open { pace: UNKNOWN, uses: 1_125_000, may: 2_250_000 }));
    }
}
