//! Time zones: what a clock on the wall says, and what it does not say or says twice.

use std::fmt;
use std::sync::OnceLock;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use thiserror::Error;

/// A time zone of the IANA database, which is part of the program: what the system has does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone without any change.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// A zone by its name, as `Europe/Berlin` or `UTC`; case does not matter.
    ///
    /// # Errors
    /// There is none of that name. Fault: whoever wrote it.
    pub fn parse(name: &str) -> Result<Self, ZoneError> {
        static DATABASE: OnceLock<TimeZoneDatabase> = OnceLock::new();
        let zone = DATABASE.get_or_init(TimeZoneDatabase::bundled).get(name).map_err(|_| ZoneError)?;
        Ok(Self(zone))
    }

    /// The day at a time.
    pub(super) fn date(&self, at: Timestamp) -> Date {
        self.0.to_datetime(at).date()
    }

    /// From when a clock on the wall shows this or more, by the earliest reading. In an hour that happens twice, that is the first
    /// of the two; where the clock jumps over the time, the moment at which it jumps. `None`: beyond the years
    /// that there are.
    pub(super) fn begin(&self, date: Date, minutes: i64) -> Option<Timestamp> {
        let reading = self.0.to_ambiguous_timestamp(at_minute(date, minutes)?);
        let earliest = reading.earlier().ok()?;
        match reading.offset() {
            AmbiguousOffset::Gap { .. } => Some(self.0.following(earliest).next()?.timestamp()),
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => Some(earliest),
        }
    }

    /// Until when a clock shows less than this, by the latest reading. In an hour that happens twice, that is the second; where the
    /// clock jumps over the time, it is as if the clock had not jumped.
    pub(super) fn end(&self, date: Date, minutes: i64) -> Option<Timestamp> {
        self.0.to_ambiguous_timestamp(at_minute(date, minutes)?).later().ok()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

/// There is no time zone of that name. Fault: whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is no time zone; write one of the IANA database, as in Europe/Berlin or UTC")]
pub struct ZoneError;

/// A time as jiff has it; what it does not reach (the year 9999) is its last.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    let last = if at < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(at).unwrap_or(last)
}

/// The same the other way; what the system's time does not reach is its beginning.
pub(super) fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::try_from(at).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// So many minutes after midnight by the clock; 1440 and more are on a later day.
fn at_minute(date: Date, minutes: i64) -> Option<jiff::civil::DateTime> {
    let date = days_after(date, minutes.div_euclid(1440))?;
    let minutes = minutes.rem_euclid(1440);
    Some(date.at((minutes / 60) as i8, (minutes % 60) as i8, 0, 0))
}

/// The day so many days later.
pub(super) fn days_after(date: Date, days: i64) -> Option<Date> {
    date.checked_add(jiff::SignedDuration::from_hours(24 * days)).ok()
}
