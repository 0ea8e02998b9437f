//! From text to windows. A fault points at the word.

use std::fmt;

use thiserror::Error;

use super::super::{RateError, ZoneError};
use super::{Calendar, DAYS, Rate, Window, Zone};

/// Lines that a calendar may have.
pub const MAX_WINDOWS: usize = 64;

/// What is wrong with the text of a calendar, and where. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalendarError {
    /// From 1.
    pub line: usize,
    /// The character of the line at which the word begins, from 1.
    pub column: usize,
    /// The word, or the part of it, that is wrong; empty where one is missing.
    pub word: String,
    /// What is wrong with it.
    pub fault: CalendarFault,
}

impl fmt::Display for CalendarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.word.is_empty() {
            write!(f, "{:?} ", self.word)?;
        }
        self.fault.fmt(f)
    }
}

impl std::error::Error for CalendarError {}

/// What is wrong with a word. Fault: whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CalendarFault {
    /// No day or list of days.
    #[error(
        "is no day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun, ranges and lists of them (Mon-Fri,Sun), or daily"
    )]
    Day,
    /// No `HH:MM-HH:MM`.
    #[error("is no time of day; write 08:00-19:00, with two digits each, to 24:00 at most")]
    Time,
    /// Begins and ends at the same time.
    #[error("is empty; a whole day is 00:00-24:00")]
    Empty,
    /// The zone is not known.
    #[error("{0}")]
    Zone(ZoneError),
    /// No rate, and not `none`.
    #[error("{0}; or none")]
    Rate(RateError),
    /// The colon before the rate is not there.
    #[error("should end in a colon, before the rate: Mon-Fri 08:00-19:00 Europe/Berlin: 200M")]
    Colon,
    /// The line ends too early.
    #[error(
        "something is missing; write days, hours, a time zone, a colon and a rate: Mon-Fri 08:00-19:00 Europe/Berlin: 200M"
    )]
    Missing,
    /// More than a line has.
    #[error("is too much; a line is days, hours, a time zone, a colon and a rate")]
    TooMuch,
    /// More than [`MAX_WINDOWS`].
    #[error("is one line too many; 64 are the most")]
    TooMany,
}

pub(super) fn calendar(text: &str, zone: &Zone) -> Result<Calendar, CalendarError> {
    let mut windows = Vec::new();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (count, (number, line)) in lines.enumerate() {
        // Fault at a part of the line, which tells by its place where it is.
        let at = |(part, fault): (&str, CalendarFault)| {
            let offset = part.as_ptr() as usize - line.as_ptr() as usize;
            let column = line[..offset].chars().count() + 1;
            CalendarError { line: number + 1, column, word: part.to_owned(), fault }
        };
        if count == MAX_WINDOWS {
            return Err(at((line.trim(), CalendarFault::TooMany)));
        }
        windows.extend(window(line, zone).map_err(at)?);
    }
    Ok(Calendar { windows })
}

type Fault<'a> = (&'a str, CalendarFault);

/// A line; `None`: it says that there is no cap.
fn window<'a>(line: &'a str, zone: &Zone) -> Result<Option<Window>, Fault<'a>> {
    let line = line.trim_end();
    let missing = (&line[line.len()..], CalendarFault::Missing);
    let words: Vec<&str> = line.split_whitespace().collect();
    // Word by word, so that the first one that is wrong is named.
    let days = days(words.first().ok_or(missing)?)?;
    let times = words.get(1).ok_or(missing)?;
    let (from, to) = hours(times.strip_suffix(':').unwrap_or(times))?;
    let (zone, last) = match (times.ends_with(':'), words.get(2)) {
        (true, _) => (zone.clone(), 2),
        // The colon is a word of its own.
        (false, Some(&":")) => (zone.clone(), 3),
        (false, None) => return Err(missing),
        (false, Some(name)) => {
            let bare = name.strip_suffix(':').unwrap_or(name);
            let zone = Zone::parse(bare).map_err(|e| (bare, CalendarFault::Zone(e)))?;
            match (name.ends_with(':'), words.get(3)) {
                (true, _) => (zone, 3),
                (false, Some(&":")) => (zone, 4),
                (false, _) => return Err((name, CalendarFault::Colon)),
            }
        }
    };
    let rate = words.get(last).ok_or(missing)?;
    if let Some(more) = words.get(last + 1) {
        return Err((more, CalendarFault::TooMuch));
    }
    if *rate == "none" || *rate == "unlimited" {
        return Ok(None);
    }
    let cap = Rate::parse(rate).map_err(|e| (*rate, CalendarFault::Rate(e)))?;
    Ok(Some(Window { days, from, to, zone, cap }))
}

fn days(word: &str) -> Result<[bool; 7], Fault<'_>> {
    if word.eq_ignore_ascii_case("daily") {
        return Ok([true; 7]);
    }
    let day = |name| {
        let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
        found.ok_or((name, CalendarFault::Day))
    };
    let mut set = [false; 7];
    for part in word.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // Sat-Mon goes over the end of the week.
        let length = (last + 7 - first) % 7;
        (0..=length).for_each(|n| set[(first + n) % 7] = true);
    }
    Ok(set)
}

fn hours(word: &str) -> Result<(i64, i64), Fault<'_>> {
    let (from, to) = word.split_once('-').ok_or((word, CalendarFault::Time))?;
    let (begin, end) = (minute(from)?, minute(to)?);
    if begin == 1440 {
        return Err((from, CalendarFault::Time));
    }
    match begin.cmp(&end) {
        std::cmp::Ordering::Less => Ok((begin, end)),
        std::cmp::Ordering::Equal => Err((word, CalendarFault::Empty)),
        std::cmp::Ordering::Greater => Ok((begin, end + 1440)),
    }
}

/// `HH:MM` as minutes, 00:00 to 24:00.
fn minute(word: &str) -> Result<i64, Fault<'_>> {
    let wrong = (word, CalendarFault::Time);
    let (hours, minutes) = word.split_once(':').ok_or(wrong)?;
    let two = |digits: &str| match digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse::<i64>().map_err(|_| wrong),
        false => Err(wrong),
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    if minutes > 59 || hours * 60 + minutes > 1440 { Err(wrong) } else { Ok(hours * 60 + minutes) }
}
