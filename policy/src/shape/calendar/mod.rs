//! Rates by the clock on the wall: business hours.
//!
//! ```text
//! Mon-Fri 08:00-19:00 Europe/Berlin: 200M      days  from-to  [zone]: cap
//! Sat,Sun 22:00-06:00 Europe/Berlin: 1.5G      over midnight: it belongs to the day on which it begins
//! daily   00:00-24:00 UTC: none                no cap, in words; so is everything that no line names
//! ```
//!
//! Where windows overlap, the lowest cap holds. Where the clock is put forward or back, the lower cap holds in doubt:
//!
//! | A window | at a time that happens twice | at a time that the clock jumps over |
//! |---|---|---|
//! | begins | at the first | when the clock jumps |
//! | ends | at the second | so long after the jump as the time was after it: 02:30 in a jump from 02:00 to 03:00 is 03:30 |
//!
//! In between it holds without a gap, whatever the clock shows meanwhile.

mod parse;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use jiff::Timestamp;

use super::zone::{days_after, system_time, timestamp};
use super::{Rate, Zone};

pub use parse::{CalendarError, CalendarFault, MAX_WINDOWS};

/// Windows in the week, each with a cap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    windows: Vec<Window>,
}

/// Some hours on some days of each week.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    /// On which days it begins; Monday first.
    days: [bool; 7],
    /// Minutes after midnight, 0 to 1439.
    from: i64,
    /// Minutes after the same midnight, above `from` and less than a day later, or 1440.
    to: i64,
    zone: Zone,
    cap: Rate,
}

impl Calendar {
    /// Reads windows, one a line; see the module's documentation. A line without a zone is in `zone`. Empty lines are left out.
    ///
    /// # Errors
    /// The first word that is wrong, and why. Fault: whoever wrote it.
    pub fn parse(text: &str, zone: &Zone) -> Result<Self, CalendarError> {
        parse::calendar(text, zone)
    }

    /// Whether there never is a cap.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The cap at a time; `None`: there is none.
    pub fn cap_at(&self, at: SystemTime) -> Option<Rate> {
        let at = timestamp(at);
        // Two days before: a window over midnight, and a clock that is put back or jumps over a day.
        let spans =
            self.windows.iter().filter(|w| w.spans(at, -2..=1).any(|(from, to)| from <= at && at < to));
        spans.map(|window| window.cap).min()
    }

    /// When the cap will be another than it is at `at`; `None`: never.
    pub fn next_change_after(&self, at: SystemTime) -> Option<SystemTime> {
        let at = timestamp(at);
        // What there is repeats itself every week, but for changes of the clock, which are over in a day.
        let spans: Vec<_> = self
            .windows
            .iter()
            .flat_map(|w| w.spans(at, -2..=9).map(|(from, to)| (from, to, w.cap)))
            .collect();
        let cap_at =
            |at| spans.iter().filter(|(from, to, _)| *from <= at && at < *to).map(|(_, _, cap)| *cap).min();
        let now = cap_at(at);
        let mut edges: Vec<Timestamp> = spans.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
        edges.retain(|edge| *edge > at);
        edges.sort_unstable();
        edges.dedup();
        // The last days lack what begins after them.
        let end = at.checked_add(jiff::SignedDuration::from_hours(8 * 24)).unwrap_or(Timestamp::MAX);
        edges.into_iter().take_while(|edge| *edge <= end).find(|edge| cap_at(*edge) != now).map(system_time)
    }
}

impl Window {
    /// When it holds, of those that begin so many days after the day of `at`.
    fn spans(
        &self,
        at: Timestamp,
        mut days: std::ops::RangeInclusive<i64>,
    ) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = self.zone.date(at);
        std::iter::from_fn(move || days.next()).filter_map(move |day| {
            let date = days_after(today, day)?;
            let begins = self.days[usize::try_from(date.weekday().to_monday_zero_offset()).ok()?];
            let span = || Some((self.zone.begin(date, self.from)?, self.zone.end(date, self.to)?));
            begins.then(span)?
        })
    }
}

/// The days of a week, from Monday.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
