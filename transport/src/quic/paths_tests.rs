#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const PATH: Remembered =
    Remembered { bandwidth: 125e6, min_rtt: Duration::from_millis(120), random_loss: 0.005 };

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn key(peer: &str) -> Key {
    Key::new(peer.parse().unwrap(), None)
}

/// What a connection that begins now may start from.
fn enter(paths: &Paths, key: Key, seconds: u64) -> Option<Remembered> {
    paths.enter(key, at(seconds), Instant::now())
}

/// One path, noted at 1000 s.
fn one() -> Paths {
    let paths = Paths::default();
    paths.note("192.0.2.1".parse().unwrap(), None, PATH, at(1000));
    paths
}

#[test]
fn a_path_is_an_address_without_a_port_or_a_prefix() {
    let paths = one();
    assert_eq!(enter(&paths, key("::ffff:192.0.2.1"), 1000), Some(PATH), "mapped");
    assert_eq!(enter(&paths, key("192.0.2.2"), 1000), None);
    paths.note("2001:db8::1".parse().unwrap(), None, PATH, at(1000));
    assert_eq!(enter(&paths, key("2001:db8::2:3"), 1000), Some(PATH), "of the same /64");
    assert_eq!(enter(&paths, key("2001:db8:0:1::1"), 1000), None);
    let other = Key::new("192.0.2.1".parse().unwrap(), Some("10.0.0.1".parse().unwrap()));
    assert_eq!(enter(&paths, other, 1000), None, "by another interface");
}

#[test]
fn what_is_old_or_of_the_future_is_not_believed() {
    for (now, is_known) in [(1000, true), (4600, true), (4601, false), (999, false), (0, false)] {
        assert_eq!(enter(&one(), key("192.0.2.1"), now).is_some(), is_known, "{now}");
    }
}

#[test]
fn one_connection_at_a_time_starts_from_it() {
    let (paths, key) = (one(), key("192.0.2.1"));
    assert_eq!(enter(&paths, key, 1000), Some(PATH));
    assert_eq!(enter(&paths, key, 1000), None, "the path is in use");
    paths.learn(&key, Some(Remembered { bandwidth: 1e6, ..PATH }), false, at(1001));
    assert_eq!(enter(&paths, key, 1001), None);
    (0..3).for_each(|_| paths.leave(&key));
    assert_eq!(enter(&paths, key, 1001).map(|path| path.bandwidth), Some(1e6), "what was noted last");
}

#[test]
fn a_connection_that_is_quiet_does_not_count() {
    let (paths, key, start) = (one(), key("192.0.2.1"), Instant::now());
    let enter = |seconds| paths.enter(key, at(1000), start + Duration::from_secs(seconds));
    assert_eq!(enter(0), Some(PATH));
    assert_eq!(enter(5), None);
    assert_eq!(enter(11), Some(PATH), "the other two have sent nothing since");
    paths.touch(&key, start + Duration::from_secs(14));
    assert_eq!(enter(17), None, "one of them has");
}

#[test]
fn what_was_too_much_is_forgotten_until_it_is_measured() {
    let (paths, key) = (one(), key("192.0.2.1"));
    enter(&paths, key, 1000);
    paths.learn(&key, None, false, at(1000));
    assert!(paths.lock()[&key].known.is_some(), "nothing was measured, and nothing tried");
    paths.learn(&key, None, true, at(1000));
    let slot = paths.lock()[&key];
    assert_eq!((slot.known, slot.users), (None, 1));
    paths.leave(&key);
    assert!(paths.lock().is_empty(), "no trace is left");
}

#[test]
fn there_is_room_for_so_many_and_the_oldest_go() {
    let paths = Paths::default();
    for number in 0..2 * PATHS_MAX as u32 {
        let peer = IpAddr::from(number.to_be_bytes());
        paths.note(peer, None, PATH, at(u64::from(number)));
    }
    let slots = paths.lock();
    assert_eq!(slots.len(), PATHS_MAX);
    assert!(slots.values().all(|slot| slot.known.unwrap().saved >= PATHS_MAX as u64));
}

#[test]
fn a_text_gives_the_same_again() {
    let paths = one();
    paths.note("2001:db8::1".parse().unwrap(), Some("2001:db8:1::5".parse().unwrap()), PATH, at(2000));
    let text = paths.to_text();
    let again = Paths::from_text(&text, at(2000)).unwrap();
    assert_eq!(*again.lock(), *paths.lock());
    assert_eq!(again.to_text(), text);
    let later = Paths::from_text(&text, at(5000)).unwrap();
    assert_eq!(later.lock().len(), 1, "the older one is too old");
    assert!(Paths::from_text(&Paths::default().to_text(), at(0)).unwrap().lock().is_empty());
}

#[test]
fn another_text_is_no_memory() {
    let good = one().to_text();
    for bad in [
        String::new(),
        good.replace("paths 1", "paths 2"),
        good.replace("192.0.2.1", "gateway.example"),
        good.replace(" - ", " "),
        good.replace(" 5000 ", " 1000000 "),
        good.replace("125000000", "-1"),
        good.trim_end().to_owned() + " 7\n",
        good.clone() + "\n",
    ] {
        assert_eq!(Paths::from_text(&bad, at(1000)), Err(PathsError), "{bad:?}");
    }
}

#[test]
fn the_newer_of_two_is_kept() {
    let (mine, other) = (one(), one());
    let newer = Remembered { bandwidth: 7e6, ..PATH };
    other.note("192.0.2.1".parse().unwrap(), None, newer, at(1001));
    other.note("192.0.2.9".parse().unwrap(), None, newer, at(1));
    mine.merge(&other, at(1002));
    assert_eq!(*mine.lock(), *one().lock(), "that is all older");
    mine.merge(&other, at(0));
    assert_eq!(*mine.lock(), *other.lock());
    other.merge(&one(), at(0));
    assert_eq!(*mine.lock(), *other.lock(), "what is older changes nothing");
}

proptest! {
    #[test]
    fn whatever_a_file_holds(text in "(metra paths 1\n)?([0-9a-f:. -]{0,40}\n?){0,5}", now in any::<u32>()) {
        let _ = Paths::from_text(&text, at(now.into()));
    }

    #[test]
    fn whatever_is_noted_can_be_read(bandwidth in any::<f64>(), nanos in any::<u64>(), loss in any::<f64>()) {
        let paths = Paths::default();
        let path = Remembered { bandwidth, min_rtt: Duration::from_nanos(nanos), random_loss: loss };
        paths.note("192.0.2.1".parse().unwrap(), None, path, at(1));
        let text = paths.to_text();
        prop_assert!(Paths::from_text(&text, at(1)).is_ok(), "{}", text);
    }
}
