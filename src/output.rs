//! How things are shown to people and to programs.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use metra_core::manifest::{Entry, EntryKind, Timestamp};
use serde::Serialize;

/// A name as it may be shown: characters that move the cursor or change the direction of text are escaped, because a
/// name is chosen by somebody else.
pub(crate) fn name(name: &str) -> Cow<'_, str> {
    if !name.contains(is_misleading) {
        return Cow::Borrowed(name);
    }
    let mut shown = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if is_misleading(c) || c == '\\' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn is_misleading(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text that a gateway has sent, for people: as a name, but line breaks stay.
pub(crate) fn text(text: &str) -> String {
    text.split('\n').map(name).collect::<Vec<_>>().join("\n")
}

/// Bytes in powers of 1024, three digits or so.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 999.95 would be shown as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A rate in bits per second, powers of 1000, as networks are measured.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    let bits = bytes_per_second * 8.0;
    if bits < 999.5e3 {
        format!("{:.0} kbit/s", bits / 1e3)
    } else if bits < 999.5e6 {
        format!("{:.0} Mbit/s", bits / 1e6)
    } else {
        format!("{:.2} Gbit/s", bits / 1e9)
    }
}

/// A time as people say it.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=9 => format!("{:.1} s", duration.as_secs_f64()),
        10..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        6000..=359_999 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `n` things, with the plural where it belongs.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// Gbit/s over a whole transfer.
pub(crate) fn gbps(bytes: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { bytes as f64 * 8.0 / 1e9 / seconds } else { 0.0 }
}

/// Seconds of processor time that this process has used.
pub(crate) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// To the third digit after the point; more would only look exact.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A point in time, UTC.
pub(crate) fn timestamp(time: Timestamp) -> String {
    match time::OffsetDateTime::from_unix_timestamp(time.secs) {
        Ok(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        ),
        Err(_) => format!("@{}", time.secs),
    }
}

/// Milliseconds since 1970, as a point in time, UTC.
pub(crate) fn millis(ms: u64) -> String {
    timestamp(Timestamp { secs: i64::try_from(ms / 1000).unwrap_or(i64::MAX), nanos: 0 })
}

/// Permission bits with the type in front, as `ls -l` shows them.
pub(crate) fn mode(entry: &Entry) -> String {
    let kind = match entry.kind {
        EntryKind::File { .. } | EntryKind::Stream => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink { .. } => 'l',
    };
    let Some(mode) = entry.mode else { return format!("{kind}?????????") };
    let bit = |mask, c| if mode & mask != 0 { c } else { '-' };
    let last = |exec: u32, special: u32, both, only| match (mode & exec != 0, mode & special != 0) {
        (true, true) => both,
        (false, true) => only,
        (true, false) => 'x',
        (false, false) => '-',
    };
    [
        kind,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        last(0o100, 0o4000, 's', 'S'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        last(0o010, 0o2000, 's', 'S'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        last(0o001, 0o1000, 't', 'T'),
    ]
    .iter()
    .collect()
}

/// An entry as a JSON object.
#[derive(Serialize)]
pub(crate) struct EntryJson<'a> {
    path: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    /// Permission bits, octal.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    /// Seconds since 1970, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime_nanos: Option<u32>,
}

impl<'a> EntryJson<'a> {
    pub(crate) fn new(path: &'a str, entry: &'a Entry) -> Self {
        Self {
            path,
            kind: kind(entry),
            size: matches!(entry.kind, EntryKind::File { .. }).then(|| entry.size()),
            target: match &entry.kind {
                EntryKind::Symlink { target } => Some(target),
                _ => None,
            },
            mode: entry.mode.map(|mode| format!("{mode:04o}")),
            mtime: entry.mtime.map(|t| t.secs),
            mtime_nanos: entry.mtime.map(|t| t.nanos),
        }
    }
}

/// The word for what an entry is.
pub(crate) fn kind(entry: &Entry) -> &'static str {
    match entry.kind {
        EntryKind::File { .. } => "file",
        EntryKind::Stream => "stream",
        EntryKind::Directory => "directory",
        EntryKind::Symlink { .. } => "symlink",
    }
}

/// A line of a list of what would be transferred: size and name.
pub(crate) fn listed(path: &str, entry: &Entry) -> String {
    let size = match entry.kind {
        EntryKind::File { size } => size.to_string(),
        _ => "-".to_owned(),
    };
    format!("{size:>14}  {}", shown(path, entry))
}

/// A path with what `ls` shows behind it: `/` after a directory, the target of a link.
pub(crate) fn shown(path: &str, entry: &Entry) -> String {
    match &entry.kind {
        EntryKind::Directory => format!("{}/", name(path.trim_end_matches('/'))),
        EntryKind::Symlink { target } => format!("{} -> {}", name(path), name(target)),
        EntryKind::File { .. } | EntryKind::Stream => name(path).into_owned(),
    }
}

/// A JSON object as a line.
pub(crate) fn json(value: &impl Serialize) -> String {
    // All that is shown are structs and maps with text keys.
    serde_json::to_string(value).expect("plain data can be written as JSON")
}

/// Seconds since 1970, for JSON.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rounded(since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(name("plain name é"), "plain name é");
        assert_eq!(name("a\\b"), "a\\b");
        assert_eq!(name("a\u{1b}[2J\\"), "a\\u{1b}[2J\\\\");
        assert_eq!(name("a\nb\u{202e}c"), "a\\nb\\u{202e}c");
        assert_eq!(text("a\nb\r"), "a\nb\\r");
    }

    #[test]
    fn bytes_are_short() {
        for (n, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1023 * 1024, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), shown);
        }
    }

    #[test]
    fn rates_are_in_bits() {
        assert_eq!(rate(0.0), "0 kbit/s");
        assert_eq!(rate(125_000.0), "1 Mbit/s");
        assert_eq!(rate(125e6), "1.00 Gbit/s");
        assert_eq!(gbps(125_000_000, Duration::from_secs(1)), 1.0);
        assert_eq!(gbps(5, Duration::ZERO), 0.0);
    }

    #[test]
    fn durations_read_well() {
        for (ms, shown) in [
            (5, "5 ms"),
            (1500, "1.5 s"),
            (12_900, "12 s"),
            (100_000, "1 min 40 s"),
            (7_260_000, "2 h 01 min"),
            (360_000_000, "4 days"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), shown);
        }
    }

    #[test]
    fn times_are_utc() {
        let at = |secs| timestamp(Timestamp { secs, nanos: 5 });
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(-1), "1969-12-31 23:59:59");
        assert_eq!(at(1_709_210_096), "2024-02-29 12:34:56");
        assert_eq!(at(i64::MAX), format!("@{}", i64::MAX));
        assert_eq!(millis(1_709_210_096_789), "2024-02-29 12:34:56");
    }

    #[test]
    fn modes_look_as_in_ls() {
        let shown = |kind, mode| mode_of(kind, Some(mode));
        assert_eq!(shown(EntryKind::File { size: 1 }, 0o644), "-rw-r--r--");
        assert_eq!(shown(EntryKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(shown(EntryKind::File { size: 1 }, 0o6711), "-rws--s--x");
        assert_eq!(shown(EntryKind::File { size: 1 }, 0o4600), "-rwS------");
        assert_eq!(mode_of(EntryKind::Symlink { target: "x".into() }, None), "l?????????");
    }

    fn mode_of(kind: EntryKind, bits: Option<u32>) -> String {
        mode(&Entry { path: String::new(), kind, mode: bits, mtime: None })
    }

    #[test]
    fn entries_in_json() {
        let mtime = Some(Timestamp { secs: -5, nanos: 7 });
        let file = Entry { path: "a\n".into(), kind: EntryKind::File { size: 0 }, mode: Some(0o755), mtime };
        let expected = r#"{"path":"a\n","type":"file","size":0,"mode":"0755","mtime":-5,"mtime_nanos":7}"#;
        assert_eq!(json(&EntryJson::new(&file.path, &file)), expected);
        let kind = EntryKind::Symlink { target: "t".into() };
        let link = Entry { path: "l".into(), kind, mode: None, mtime: None };
        assert_eq!(json(&EntryJson::new("x", &link)), r#"{"path":"x","type":"symlink","target":"t"}"#);
    }

    #[test]
    fn numbers_of_things() {
        assert_eq!(count(1, "entry", "entries"), "1 entry");
        assert_eq!(count(0, "entry", "entries"), "0 entries");
    }
}
