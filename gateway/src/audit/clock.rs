//! Times as text, in UTC.

use time::OffsetDateTime;

/// As syslog has it (RFC 5424 section 6.2.3). `millis` since the epoch.
pub(crate) fn timestamp(millis: u64) -> String {
    let (t, millis) = split(millis);
    let (date, hms) = (t.date(), t.to_hms());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{millis:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        hms.0,
        hms.1,
        hms.2
    )
}

/// For names of files: the order of names is that of times.
pub(super) fn stamp(millis: u64) -> String {
    timestamp(millis).replace(['-', ':'], "")
}

/// Whether it is what [`stamp`] gives.
pub(super) fn is_stamp(text: &str) -> bool {
    let shape = "00000000T000000.000Z";
    let fits = |(c, shape): (char, char)| if shape == '0' { c.is_ascii_digit() } else { c == shape };
    text.len() == shape.len() && text.chars().zip(shape.chars()).all(fits)
}

fn split(millis: u64) -> (OffsetDateTime, u64) {
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    (OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH), millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_and_in_order() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(1_767_225_600_123), "2026-01-01T00:00:00.123Z");
        assert_eq!(timestamp(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(stamp(1_709_251_199_999), "20240229T235959.999Z");
        assert!(is_stamp(&stamp(1_767_225_600_123)));
        for other in ["", "1", "20240229T235959.999", "20240229T235959.999Z.gz", "2024022xT235959.999Z"] {
            assert!(!is_stamp(other), "{other}");
        }
        assert_eq!(timestamp(u64::MAX), "1970-01-01T00:00:00.615Z", "no time at all");
    }
}
