//! How much in a day and in a month.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Zone;
use super::zone::{days_after, system_time, timestamp};

/// The most that may be moved; `None`: as much as one likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Bytes a day.
    pub day_bytes: Option<u64>,
    /// Files a day.
    pub day_files: Option<u64>,
    /// Bytes a month.
    pub month_bytes: Option<u64>,
    /// Files a month.
    pub month_files: Option<u64>,
}

/// What has been used, to be kept over a restart. Its form is stable: a newer gateway reads what an older one wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuotaState {
    /// The latest time of a charge, in seconds since 1970. It says which day and month the counts are of.
    pub latest: i64,
    /// Bytes of that day.
    pub day_bytes: u64,
    /// Files of that day.
    pub day_files: u64,
    /// Bytes of that month.
    pub month_bytes: u64,
    /// Files of that month.
    pub month_files: u64,
}

impl QuotaState {
    /// The text that it is kept as.
    pub fn to_text(self) -> String {
        serde_json::to_string(&self).unwrap_or_default()
    }

    /// What a text says; `None` if it is none of [`to_text`](Self::to_text).
    pub fn of_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// Which limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaLimit {
    /// [`QuotaLimits::day_bytes`].
    DayBytes,
    /// [`QuotaLimits::day_files`].
    DayFiles,
    /// [`QuotaLimits::month_bytes`].
    MonthBytes,
    /// [`QuotaLimits::month_files`].
    MonthFiles,
}

/// A charge that would be too much; nothing of it was counted. Fault: the user, who has used up what he may. A retry is safe, and of
/// use from `resets_at` on, unless the charge alone is more than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the quota of {} is used up", match which {
    QuotaLimit::DayBytes => "bytes of the day",
    QuotaLimit::DayFiles => "files of the day",
    QuotaLimit::MonthBytes => "bytes of the month",
    QuotaLimit::MonthFiles => "files of the month",
})]
pub struct Exceeded {
    /// The limit; of several the one that lasts longest.
    pub which: QuotaLimit,
    /// When the count begins anew.
    pub resets_at: SystemTime,
}

/// Counts against limits, by days and months of a time zone.
///
/// Time never goes back here: a charge at an earlier time than the latest is taken as one at the latest. So a clock that is put
/// back gives nobody a second day; one that was far ahead by mistake leaves the counts in that future until it comes,
/// or until the state is replaced.
#[derive(Clone, Debug)]
pub struct Quota {
    limits: QuotaLimits,
    zone: Zone,
    state: QuotaState,
}

impl Quota {
    /// Goes on from a state; the default one if there is none.
    pub fn new(limits: QuotaLimits, zone: Zone, state: QuotaState) -> Self {
        Self { limits, zone, state }
    }

    /// Counts bytes and files at a time, all or nothing.
    ///
    /// # Errors
    /// A limit would be exceeded; reaching it exactly is no error.
    pub fn charge(&mut self, bytes: u64, files: u64, at: SystemTime) -> Result<(), Exceeded> {
        self.state = self.charged(bytes, files, at)?;
        Ok(())
    }

    /// Whether a charge would be counted: for one that has to fit into two quotas, of a user and of the tenant.
    ///
    /// # Errors
    /// As for [`charge`](Self::charge).
    pub fn check(&self, bytes: u64, files: u64, at: SystemTime) -> Result<(), Exceeded> {
        self.charged(bytes, files, at).map(drop)
    }

    /// Takes back what was charged at a time and was not moved then. Only from the day and month that it was counted in: it
    /// is of no use to a later one.
    pub fn give_back(&mut self, bytes: u64, files: u64, charged_at: SystemTime) {
        let then = self.zone.date(timestamp(charged_at));
        let now = self.zone.date(Timestamp::from_second(self.state.latest).unwrap_or(Timestamp::MAX));
        // Whoever charged by a clock that was late gets less back rather than more.
        let state = &mut self.state;
        if then >= now {
            state.day_bytes = state.day_bytes.saturating_sub(bytes);
            state.day_files = state.day_files.saturating_sub(files);
        }
        if (then.year(), then.month()) >= (now.year(), now.month()) {
            state.month_bytes = state.month_bytes.saturating_sub(bytes);
            state.month_files = state.month_files.saturating_sub(files);
        }
    }

    /// The counts with a charge.
    fn charged(&self, bytes: u64, files: u64, at: SystemTime) -> Result<QuotaState, Exceeded> {
        let (state, date) = self.at(at);
        let new = QuotaState {
            latest: state.latest,
            day_bytes: state.day_bytes.saturating_add(bytes),
            day_files: state.day_files.saturating_add(files),
            month_bytes: state.month_bytes.saturating_add(bytes),
            month_files: state.month_files.saturating_add(files),
        };
        // What adds nothing is never too much.
        let over = |more, count, limit: Option<u64>| more > 0 && limit.is_some_and(|limit| count > limit);
        let limits = &self.limits;
        // Months first: they last longer.
        let which = if over(bytes, new.month_bytes, limits.month_bytes) {
            QuotaLimit::MonthBytes
        } else if over(files, new.month_files, limits.month_files) {
            QuotaLimit::MonthFiles
        } else if over(bytes, new.day_bytes, limits.day_bytes) {
            QuotaLimit::DayBytes
        } else if over(files, new.day_files, limits.day_files) {
            QuotaLimit::DayFiles
        } else {
            return Ok(new);
        };
        Err(Exceeded { which, resets_at: self.resets_at(which, date) })
    }

    /// What may still be moved at a time: bytes and files; `None`: as much as one likes.
    pub fn left(&self, at: SystemTime) -> (Option<u64>, Option<u64>) {
        let (state, _) = self.at(at);
        let left = |limit: Option<u64>, used| limit.map(|limit| limit.saturating_sub(used));
        let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let limits = &self.limits;
        (
            least(left(limits.day_bytes, state.day_bytes), left(limits.month_bytes, state.month_bytes)),
            least(left(limits.day_files, state.day_files), left(limits.month_files, state.month_files)),
        )
    }

    /// What has been used, to be kept.
    pub fn state(&self) -> QuotaState {
        self.state
    }

    /// Changes the limits, from now on. What has been used stays.
    pub fn set_limits(&mut self, limits: QuotaLimits) {
        self.limits = limits;
    }

    /// The counts as they are at a time, and the day.
    fn at(&self, at: SystemTime) -> (QuotaState, Date) {
        let mut state = self.state;
        let before = self.zone.date(Timestamp::from_second(state.latest).unwrap_or(Timestamp::MIN));
        state.latest = state.latest.max(timestamp(at).as_second());
        let date = self.zone.date(Timestamp::from_second(state.latest).unwrap_or(Timestamp::MAX));
        if date != before {
            (state.day_bytes, state.day_files) = (0, 0);
        }
        if (date.year(), date.month()) != (before.year(), before.month()) {
            (state.month_bytes, state.month_files) = (0, 0);
        }
        (state, date)
    }

    fn resets_at(&self, which: QuotaLimit, date: Date) -> SystemTime {
        let next = match which {
            QuotaLimit::DayBytes | QuotaLimit::DayFiles => days_after(date, 1),
            QuotaLimit::MonthBytes | QuotaLimit::MonthFiles => days_after(date.last_of_month(), 1),
        };
        system_time(next.and_then(|date| self.zone.begin(date, 0)).unwrap_or(Timestamp::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> SystemTime {
        system_time(text.parse().unwrap())
    }

    fn quota(limits: QuotaLimits, zone: &str) -> Quota {
        Quota::new(limits, Zone::parse(zone).unwrap(), QuotaState::default())
    }

    const DAY: QuotaLimits =
        QuotaLimits { day_bytes: Some(100), day_files: Some(3), month_bytes: None, month_files: None };

    #[test]
    fn a_limit_may_be_reached_and_not_passed() {
        let mut quota = quota(DAY, "UTC");
        let noon = time("2026-06-01T12:00:00Z");
        quota.charge(100, 2, noon).unwrap();
        let exceeded = quota.charge(1, 1, noon).unwrap_err();
        assert_eq!(
            exceeded,
            Exceeded { which: QuotaLimit::DayBytes, resets_at: time("2026-06-02T00:00:00Z") }
        );
        assert_eq!(exceeded.to_string(), "the quota of bytes of the day is used up");
        assert_eq!(quota.state().day_files, 2, "what is refused is not counted");
        quota.charge(0, 1, noon).unwrap();
        assert_eq!(quota.charge(0, 1, noon).unwrap_err().which, QuotaLimit::DayFiles);
        quota.charge(0, 0, noon).unwrap();
        assert_eq!(quota.left(noon), (Some(0), Some(0)));
        quota.charge(100, 3, exceeded.resets_at).unwrap();
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let mut quota = quota(DAY, "America/New_York");
        quota.charge(100, 0, time("2026-03-08T05:00:00Z")).unwrap();
        // The day on which the clock is put forward ends after 23 hours.
        let exceeded = quota.charge(1, 0, time("2026-03-09T03:59:59Z")).unwrap_err();
        assert_eq!(exceeded.resets_at, time("2026-03-09T04:00:00Z"));
        quota.charge(100, 0, time("2026-03-09T04:00:00Z")).unwrap();
        // In 2018 Brazil's clocks jumped from midnight to one.
        let mut quota = self::quota(DAY, "America/Sao_Paulo");
        quota.charge(100, 0, time("2018-11-03T20:00:00Z")).unwrap();
        let exceeded = quota.charge(1, 0, time("2018-11-03T20:00:00Z")).unwrap_err();
        assert_eq!(exceeded.resets_at, time("2018-11-04T03:00:00Z"));
        quota.charge(1, 0, exceeded.resets_at).unwrap();
    }

    #[test]
    fn a_month_outlasts_its_days() {
        let limits = QuotaLimits { month_bytes: Some(150), month_files: Some(2), ..DAY };
        let mut quota = quota(limits, "Europe/Berlin");
        quota.charge(100, 1, time("2026-12-30T12:00:00Z")).unwrap();
        quota.charge(50, 1, time("2026-12-31T12:00:00Z")).unwrap();
        let new_year = time("2026-12-31T23:00:00Z");
        for (bytes, files, which) in [(100, 0, QuotaLimit::MonthBytes), (0, 1, QuotaLimit::MonthFiles)] {
            let exceeded = quota.charge(bytes, files, time("2026-12-31T22:59:59Z")).unwrap_err();
            assert_eq!(exceeded, Exceeded { which, resets_at: new_year });
        }
        quota.charge(100, 2, new_year).unwrap();
    }

    #[test]
    fn a_clock_that_is_put_back_gives_nothing() {
        let mut quota = quota(DAY, "UTC");
        quota.charge(100, 0, time("2026-06-02T00:00:01Z")).unwrap();
        let exceeded = quota.charge(1, 0, time("2026-06-01T12:00:00Z")).unwrap_err();
        assert_eq!(exceeded.resets_at, time("2026-06-03T00:00:00Z"));
        quota.charge(1, 0, time("2026-06-03T00:00:00Z")).unwrap();
    }

    #[test]
    fn the_state_survives_and_an_older_one_is_read() {
        let mut quota = quota(DAY, "UTC");
        let noon = time("2026-06-01T12:00:00Z");
        quota.charge(60, 1, noon).unwrap();
        let again = QuotaState::of_text(&quota.state().to_text()).unwrap();
        let mut quota = Quota::new(DAY, Zone::UTC, again);
        assert!(quota.charge(41, 0, noon).is_err());
        quota.charge(40, 0, noon).unwrap();
        let old = QuotaState::of_text(r#"{"latest": 5, "day_bytes": 7, "more": 1}"#).unwrap();
        assert_eq!(old, QuotaState { latest: 5, day_bytes: 7, ..QuotaState::default() });
    }

    #[test]
    fn what_is_given_back_is_of_use_on_the_same_day_only() {
        let limits = QuotaLimits { month_bytes: Some(150), ..DAY };
        let mut quota = quota(limits, "UTC");
        let (first, second) = (time("2026-06-01T23:59:59Z"), time("2026-06-02T00:00:00Z"));
        quota.charge(100, 1, first).unwrap();
        assert!(quota.check(1, 0, first).is_err());
        quota.give_back(30, 0, first);
        quota.check(30, 0, first).unwrap();
        quota.charge(30, 0, first).unwrap();
        quota.charge(50, 0, second).unwrap();
        // The month is full, and gets back what the day before did not use; the day does not.
        quota.give_back(40, 0, first);
        assert_eq!((quota.state().day_bytes, quota.state().month_bytes), (50, 110));
        assert_eq!(quota.check(41, 0, second).unwrap_err().which, QuotaLimit::MonthBytes);
        quota.charge(40, 0, second).unwrap();
    }

    #[test]
    fn counts_do_not_overflow() {
        let mut quota = quota(QuotaLimits::default(), "UTC");
        let noon = time("2026-06-01T12:00:00Z");
        quota.charge(u64::MAX, u64::MAX, noon).unwrap();
        quota.charge(u64::MAX, 1, noon).unwrap();
        assert_eq!(quota.left(noon), (None, None));
        quota.set_limits(DAY);
        assert!(quota.charge(1, 0, noon).is_err());
        let state = QuotaState { latest: i64::MAX, ..QuotaState::default() };
        assert!(Quota::new(DAY, Zone::UTC, state).charge(1, 0, noon).is_ok());
    }

    proptest! {
        /// Against a plain count by day of the zone, with a clock that jumps about.
        #[test]
        fn no_day_has_more_than_its_limit(steps in prop::collection::vec((-40_000_i64..80_000, 0_u64..60), 1..100)) {
            let zone = Zone::parse("Australia/Lord_Howe").unwrap();
            let mut quota = Quota::new(DAY, zone.clone(), QuotaState::default());
            let (mut at, mut latest) = (1_767_225_600_i64, 0);
            let mut days = std::collections::BTreeMap::new();
            for (step, bytes) in steps {
                at += step;
                let now = SystemTime::UNIX_EPOCH + Duration::from_secs(at.unsigned_abs());
                let day = zone.date(Timestamp::from_second(at.max(latest)).unwrap());
                let used: &mut u64 = days.entry(day).or_default();
                let fits = *used + bytes <= 100;
                prop_assert_eq!(quota.charge(bytes, 0, now).is_ok(), fits || bytes == 0);
                if fits {
                    *used += bytes;
                    latest = latest.max(at);
                }
            }
        }
    }
}
