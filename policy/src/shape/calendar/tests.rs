#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// The time that a text of RFC 3339 names.
fn time(text: &str) -> SystemTime {
    system_time(text.parse().unwrap())
}

fn calendar(text: &str) -> Calendar {
    Calendar::parse(text, &Zone::UTC).unwrap()
}

fn mbit(mbit: u64) -> Option<Rate> {
    Some(Rate::from_mbit(mbit))
}

/// The changes from a time on, each as a time in UTC and the cap in Mbit/s from then on.
fn changes(calendar: &Calendar, from: &str, count: usize) -> Vec<(String, Option<u64>)> {
    let mut at = time(from);
    let mut found = Vec::new();
    for _ in 0..count {
        let Some(next) = calendar.next_change_after(at) else { break };
        // Between two changes is none.
        let before = next - Duration::from_nanos(1);
        assert_eq!(calendar.cap_at(at), calendar.cap_at(before));
        found.push((timestamp(next).to_string(), calendar.cap_at(next).map(|cap| cap.bits() / 1_000_000)));
        at = next;
    }
    found
}

fn assert_changes(calendar: &Calendar, from: &str, expected: &[(&str, Option<u64>)]) {
    let expected: Vec<_> = expected.iter().map(|(at, cap)| ((*at).to_owned(), *cap)).collect();
    assert_eq!(changes(calendar, from, expected.len()), expected);
}

#[test]
fn business_hours_in_summer_and_winter() {
    let berlin = calendar("Mon-Fri 08:00-19:00 Europe/Berlin: 200M");
    // Friday to Monday, and the clock is put forward on Sunday.
    assert_changes(
        &berlin,
        "2026-03-27T12:00:00Z",
        &[
            ("2026-03-27T18:00:00Z", None),
            ("2026-03-30T06:00:00Z", Some(200)),
            ("2026-03-30T17:00:00Z", None),
            ("2026-03-31T06:00:00Z", Some(200)),
        ],
    );
    assert_eq!(berlin.cap_at(time("2026-03-27T07:00:00Z")), mbit(200), "its first moment belongs to it");
    assert_eq!(berlin.cap_at(time("2026-03-27T06:59:59.999999999Z")), None);
    assert_eq!(berlin.cap_at(time("2026-03-27T18:00:00Z")), None, "its end does not");
}

#[test]
fn the_lowest_cap_holds_where_windows_overlap() {
    let both = calendar(
        "Mon-Fri 08:00-19:00: 500M\nMon-Sun 12:00-13:00: 100M\n\ndaily 00:00-24:00: none\nWed 09:00-10:00: unlimited",
    );
    assert_changes(
        &both,
        "2026-06-03T00:00:00Z",
        &[
            ("2026-06-03T08:00:00Z", Some(500)),
            ("2026-06-03T12:00:00Z", Some(100)),
            ("2026-06-03T13:00:00Z", Some(500)),
            ("2026-06-03T19:00:00Z", None),
        ],
    );
}

#[test]
fn over_midnight_a_window_belongs_to_the_day_on_which_it_begins() {
    let night = calendar("Fri 22:00-06:00: 1G");
    assert_changes(
        &night,
        "2026-06-01T00:00:00Z",
        &[
            ("2026-06-05T22:00:00Z", Some(1000)),
            ("2026-06-06T06:00:00Z", None),
            ("2026-06-12T22:00:00Z", Some(1000)),
        ],
    );
    let to_midnight = calendar("Sun 20:00-24:00: 1G\nSat-Mon 23:00-00:00: 2G");
    assert_eq!(to_midnight.cap_at(time("2026-06-07T23:59:59Z")), mbit(1000));
    assert_eq!(to_midnight.cap_at(time("2026-06-08T00:00:00Z")), None);
    assert_eq!(to_midnight.cap_at(time("2026-06-08T23:30:00Z")), mbit(2000));
    assert_eq!(to_midnight.cap_at(time("2026-06-09T23:30:00Z")), None);
}

#[test]
fn berlin_jumps_from_two_to_three_and_goes_back() {
    // 2026-03-29 01:00 UTC; 02:30 is not there. It begins with the jump, or ends an hour after its reading before.
    let begins = calendar("Sun 02:30-05:00 Europe/Berlin: 10M");
    assert_changes(
        &begins,
        "2026-03-28T12:00:00Z",
        &[("2026-03-29T01:00:00Z", Some(10)), ("2026-03-29T03:00:00Z", None)],
    );
    let ends = calendar("Sun 00:00-02:30 Europe/Berlin: 10M");
    assert_changes(
        &ends,
        "2026-03-28T12:00:00Z",
        &[("2026-03-28T23:00:00Z", Some(10)), ("2026-03-29T01:30:00Z", None)],
    );
    let within = calendar("Sun 02:15-02:45 Europe/Berlin: 10M");
    assert_changes(
        &within,
        "2026-03-28T12:00:00Z",
        &[("2026-03-29T01:00:00Z", Some(10)), ("2026-03-29T01:45:00Z", None)],
    );
    // 2026-10-25 01:00 UTC; 02:30 is at 00:30 and at 01:30 UTC.
    assert_changes(
        &begins,
        "2026-10-24T12:00:00Z",
        &[("2026-10-25T00:30:00Z", Some(10)), ("2026-10-25T04:00:00Z", None)],
    );
    assert_changes(
        &ends,
        "2026-10-24T12:00:00Z",
        &[("2026-10-24T22:00:00Z", Some(10)), ("2026-10-25T01:30:00Z", None)],
    );
    assert_eq!(begins.cap_at(time("2026-10-25T01:15:00Z")), mbit(10), "02:15 for the second time");
}

#[test]
fn new_york_jumps_and_goes_back() {
    let begins = calendar("Sun 02:30-05:00 America/New_York: 10M");
    assert_changes(
        &begins,
        "2026-03-07T12:00:00Z",
        &[("2026-03-08T07:00:00Z", Some(10)), ("2026-03-08T09:00:00Z", None)],
    );
    let twice = calendar("Sun 00:30-01:30 America/New_York: 10M");
    assert_changes(
        &twice,
        "2026-10-31T12:00:00Z",
        &[("2026-11-01T04:30:00Z", Some(10)), ("2026-11-01T06:30:00Z", None)],
    );
}

#[test]
fn lord_howe_moves_by_half_an_hour() {
    // Forward on 2026-10-04: 02:00 +10:30 becomes 02:30 +11, at 15:30 UTC of the day before.
    let begins = calendar("Sun 02:10-04:00 Australia/Lord_Howe: 10M");
    assert_changes(
        &begins,
        "2026-10-03T00:00:00Z",
        &[("2026-10-03T15:30:00Z", Some(10)), ("2026-10-03T17:00:00Z", None)],
    );
    let ends = calendar("Sun 00:00-02:10 Australia/Lord_Howe: 10M");
    assert_changes(
        &ends,
        "2026-10-03T00:00:00Z",
        &[("2026-10-03T13:30:00Z", Some(10)), ("2026-10-03T15:40:00Z", None)],
    );
    // Back on 2026-04-05: 02:00 +11 becomes 01:30 +10:30, at 15:00 UTC of the day before; 01:45 is at 14:45 and 15:15.
    let begins = calendar("Sun 01:45-04:00 Australia/Lord_Howe: 10M");
    assert_changes(
        &begins,
        "2026-04-04T00:00:00Z",
        &[("2026-04-04T14:45:00Z", Some(10)), ("2026-04-04T17:30:00Z", None)],
    );
    let ends = calendar("Sun 00:00-01:45 Australia/Lord_Howe: 10M");
    assert_changes(
        &ends,
        "2026-04-04T00:00:00Z",
        &[("2026-04-04T13:00:00Z", Some(10)), ("2026-04-04T15:15:00Z", None)],
    );
}

#[test]
fn zones_without_change_and_a_day_that_was_left_out() {
    let tokyo = calendar("Mon-Fri 09:00-17:00 Asia/Tokyo: 10M");
    for day in ["2026-03-27", "2026-06-26", "2026-10-23", "2026-12-18"] {
        assert_eq!(tokyo.cap_at(time(&format!("{day}T00:00:00Z"))), mbit(10));
        assert_eq!(tokyo.cap_at(time(&format!("{day}T08:00:00Z"))), None);
    }
    // Samoa had no 30 December 2011, a Friday; what was to begin and end on it holds for what would have been that day.
    let apia = calendar("Fri 09:00-17:00 Pacific/Apia: 10M");
    assert_changes(
        &apia,
        "2011-12-29T12:00:00Z",
        &[("2011-12-30T10:00:00Z", Some(10)), ("2011-12-31T03:00:00Z", None)],
    );
}

#[test]
fn what_never_changes_says_so() {
    assert_eq!(calendar("").next_change_after(time("2026-01-01T00:00:00Z")), None);
    assert_eq!(calendar("").cap_at(time("2026-01-01T00:00:00Z")), None);
    let always = calendar("daily 00:00-24:00 Europe/Berlin: 10M\ndaily 10:00-11:00: none");
    assert_eq!(always.next_change_after(time("2026-03-28T00:00:00Z")), None);
    assert_eq!(always.cap_at(time("2026-03-28T23:00:00Z")), mbit(10));
    // Once a week, seen from right after it.
    let weekly = calendar("Mon 00:00-00:01: 10M");
    assert_changes(&weekly, "2026-06-01T00:01:00Z", &[("2026-06-08T00:00:00Z", Some(10))]);
    // No time is beyond it.
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    assert_eq!(weekly.next_change_after(far), None);
    let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 40);
    assert_eq!(weekly.cap_at(early), None);
}

#[test]
fn faults_point_at_the_word() {
    for (text, message) in [
        ("Mon-Fry 08:00-19:00 Europe/Berlin: 200M", "line 1, column 5: \"Fry\" is no day"),
        ("Mon, 08:00-19:00: 200M", "line 1, column 5: is no day"),
        ("\n  Mo 08:00-19:00: 200M", "line 2, column 3: \"Mo\" is no day"),
        ("Mon 8:00-19:00 UTC: 200M", "line 1, column 5: \"8:00\" is no time"),
        ("Mon 08:00-24:01 UTC: 200M", "line 1, column 11: \"24:01\" is no time"),
        ("Mon 24:00-03:00 UTC: 200M", "line 1, column 5: \"24:00\" is no time"),
        ("Mon 08:60-19:00 UTC: 200M", "line 1, column 5: \"08:60\" is no time"),
        ("Mon 08:00 UTC: 200M", "line 1, column 5: \"08:00\" is no time"),
        ("Mon 08:00-08:00 UTC: 200M", "line 1, column 5: \"08:00-08:00\" is empty"),
        ("Mon 08:00-19:00 Europe/Börlin: 200M", "line 1, column 17: \"Europe/Börlin\" is no time zone"),
        ("Mon 08:00-19:00 Europe/Berlin 200M", "line 1, column 17: \"Europe/Berlin\" should end in a colon"),
        ("Mon 08:00-19:00 200M", "line 1, column 17: \"200M\" is no time zone"),
        ("Mon 08:00-19:00 UTC: 200X", "line 1, column 22: \"200X\" is no rate"),
        ("Mon 08:00-19:00 UTC: 9T", "line 1, column 22: \"9T\" is too high"),
        ("Mon 08:00-19:00 UTC: 200 M", "line 1, column 26: \"M\" is too much"),
        ("Mon 08:00-19:00 UTC:", "line 1, column 21: something is missing"),
        ("Mon 08:00-19:00", "line 1, column 16: something is missing"),
        ("Mon", "line 1, column 4: something is missing"),
    ] {
        let error = Calendar::parse(text, &Zone::UTC).unwrap_err().to_string();
        assert!(error.starts_with(message), "{text:?}: {error}");
    }
    let line = "Mon 08:00-19:00: 1M\n";
    assert!(Calendar::parse(&line.repeat(MAX_WINDOWS), &Zone::UTC).is_ok());
    let error = Calendar::parse(&line.repeat(MAX_WINDOWS + 1), &Zone::UTC).unwrap_err();
    assert_eq!((error.line, error.fault), (65, CalendarFault::TooMany));
}

#[test]
fn forms_that_mean_the_same() {
    let zone = Zone::parse("Europe/Berlin").unwrap();
    let same = Calendar::parse("Mon-Wed,Fri 08:00-19:00: 0.2G", &zone).unwrap();
    for text in [
        "mon,tue,wed,fri 08:00-19:00 europe/berlin: 200M",
        "FRI,MON-WED 08:00-19:00 Europe/Berlin : 200000K",
        "  Mon-Tue,Tue-Wed,Fri\t08:00-19:00 :  200000000  ",
    ] {
        assert_eq!(Calendar::parse(text, &zone).unwrap(), same, "{text}");
    }
}

proptest! {
    /// No text makes the parser fall over, and a column is within its line.
    #[test]
    fn any_text(text in "([MoTuFrid,\\- 0-9:äGM]|Mon|-Fri| 08:00-|19:00|Europe/Berlin|\n){0,30}") {
        if let Err(error) = Calendar::parse(&text, &Zone::UTC) {
            let line = text.lines().nth(error.line - 1).unwrap();
            prop_assert!(error.column <= line.chars().count() + 1);
            let rest: String = line.chars().skip(error.column - 1).collect();
            prop_assert!(rest.starts_with(&error.word));
        }
    }

    /// Every clock on the wall that shows a time of the window, on a day of it, sees the cap.
    #[test]
    fn the_cap_holds_wherever_the_clock_says_so(
        zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo"]),
        from in 0_i64..1440,
        length in 1_i64..1440,
        hours in 0_i64..(3 * 8760),
        minutes in 0_i64..60,
    ) {
        let to = (from + length) % 1440;
        let text = format!("Sun {:02}:{:02}-{:02}:{:02} {zone}: 10M", from / 60, from % 60, to / 60, to % 60);
        let calendar = calendar(&text);
        let at = Timestamp::from_second(1_767_225_600 + hours * 3600 + minutes * 60).unwrap();
        let clock = jiff::tz::TimeZone::get(zone).unwrap().to_datetime(at);
        let minute = i64::from(clock.hour()) * 60 + i64::from(clock.minute());
        let day = clock.weekday();
        let shows = if from < to {
            day == jiff::civil::Weekday::Sunday && from <= minute && minute < to
        } else {
            day == jiff::civil::Weekday::Sunday && from <= minute || day == jiff::civil::Weekday::Monday && minute < to
        };
        if shows {
            prop_assert_eq!(calendar.cap_at(system_time(at)), mbit(10));
        }
        if let Some(next) = calendar.next_change_after(system_time(at)) {
            prop_assert_ne!(calendar.cap_at(next), calendar.cap_at(system_time(at)));
            let before = next - Duration::from_secs(1);
            prop_assert_eq!(calendar.cap_at(before), calendar.cap_at(system_time(at)));
        }
    }
}
