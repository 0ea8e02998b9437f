//! Races in virtual time, and what is learnt from them.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::Rung::{Masque, MasqueTcp, Quic, Tls, WebSocket};
use super::*;

const MS: Duration = Duration::from_millis(1);

/// Without tunnels.
const PLAIN: [Rung; 3] = [Quic, Tls, WebSocket];

fn all() -> Vec<(Rung, Option<String>)> {
    free(&PLAIN)
}

fn free(rungs: &[Rung]) -> Vec<(Rung, Option<String>)> {
    rungs.iter().map(|rung| (*rung, None)).collect()
}

/// What a rung does some time after it has begun: fail, or stand. `None`: nothing, ever.
type Fate = Option<(u64, Result<(), &'static str>)>;

/// A rung, and when something became of it. Milliseconds.
type When = (Rung, u64);

/// Runs a race to its end; gives when each rung began, the winner and when it won.
fn run(
    order: Vec<(Rung, Option<String>)>,
    rtt: u64,
    fate: impl Fn(Rung) -> Fate,
) -> (Vec<When>, Option<When>, Race) {
    let start = Instant::now();
    run_from(start, Race::new(start, order, (rtt > 0).then_some(MS * rtt as u32)), fate)
}

fn run_from(start: Instant, mut race: Race, fate: impl Fn(Rung) -> Fate) -> (Vec<When>, Option<When>, Race) {
    let (mut now, mut began, mut due) = (0u64, Vec::new(), Vec::new());
    loop {
        let at = |ms: u64| start + MS * ms as u32;
        let wait = match race.next(at(now)) {
            Step::Begin(rung) => {
                began.push((rung, now));
                if let Some((after, end)) = fate(rung) {
                    due.push((now + after, rung, end));
                }
                continue;
            }
            Step::Lost => return (began, None, race),
            Step::Wait(until) => until.map(|until| (until - start).as_millis() as u64),
        };
        due.sort();
        match (due.first().copied(), wait) {
            (Some((when, rung, end)), wait) if wait.is_none_or(|wait| when <= wait) => {
                let _ = due.remove(0);
                now = when;
                match end {
                    Ok(()) => {
                        race.won(at(now), rung);
                        return (began, Some((rung, now)), race);
                    }
                    Err(why) => race.failed(at(now), rung, Outcome::Refused(why.to_owned())),
                }
            }
            (_, Some(wait)) => now = wait,
            (None, None) => return (began, None, race),
            (Some(_), None) => unreachable!("handled above"),
        }
    }
}

fn words(race: &Race) -> Vec<&'static str> {
    race.report(Instant::now()).iter().map(|tried| tried.outcome.word()).collect()
}

#[test]
fn the_best_wins_where_it_works() {
    let (began, won, race) = run(all(), 0, |_| Some((120, Ok(()))));
    assert_eq!((began, won), (vec![(Quic, 0)], Some((Quic, 120))));
    assert_eq!(words(&race), ["used", "not_tried", "not_tried"]);
}

#[test]
fn silence_costs_the_stagger_only() {
    let (began, won, race) = run(all(), 0, |rung| if rung == Quic { None } else { Some((90, Ok(()))) });
    assert_eq!((began, won), (vec![(Quic, 0), (Tls, 250)], Some((Tls, 340))));
    assert_eq!(words(&race), ["failed", "used", "not_tried"]);
}

#[test]
fn a_refusal_costs_nothing() {
    let fate = |rung| match rung {
        Quic => Some((3, Err("ICMP"))),
        Tls => Some((4, Err("RST"))),
        _ => Some((60, Ok(()))),
    };
    let (began, won, race) = run(all(), 0, fate);
    assert_eq!((began, won), (vec![(Quic, 0), (Tls, 3), (WebSocket, 7)], Some((WebSocket, 67))));
    let report = race.report(Instant::now());
    assert_eq!(report[0].outcome, Outcome::Refused("ICMP".to_owned()));
    assert_eq!((report[1].outcome.reason().as_str(), report[1].took), ("RST", 4 * MS));
}

#[test]
fn a_long_path_is_given_two_round_trips() {
    let (began, won, _) = run(all(), 300, |_| Some((620, Ok(()))));
    assert_eq!(
        (began, won),
        (vec![(Quic, 0), (Tls, 600)], Some((Quic, 620))),
        "the better one is not dropped"
    );
}

#[test]
fn all_may_fail() {
    let (began, won, mut race) = run(all(), 0, |rung| Some((if rung == Quic { 9000 } else { 5 }, Err("no"))));
    assert_eq!((began, won), (vec![(Quic, 0), (Tls, 250), (WebSocket, 255)], None));
    assert_eq!(race.next(Instant::now()), Step::Lost);
    assert_eq!(Race::new(Instant::now(), Vec::new(), None).next(Instant::now()), Step::Lost);
}

/// A race with tunnels that lead to where native QUIC does.
fn with_tunnels(
    order: Vec<(Rung, Option<String>)>,
    fate: impl Fn(Rung) -> Fate,
) -> (Vec<When>, Option<When>) {
    let start = Instant::now();
    let (began, won, _) = run_from(start, Race::new(start, order, None).abreast(Masque), fate);
    (began, won)
}

#[test]
fn a_tunnel_does_not_hold_up_tls() {
    let rungs = [Quic, Masque, Tls, WebSocket];
    let udp_is = |fate: Fate| move |rung: Rung| if rung.is_udp() { fate } else { Some((90, Ok(()))) };
    // As long as without tunnels, see above.
    let (began, won) = with_tunnels(free(&rungs), udp_is(None));
    assert_eq!((began, won), (vec![(Quic, 0), (Masque, 250), (Tls, 250)], Some((Tls, 340))));
    let (began, won) = with_tunnels(free(&rungs), udp_is(Some((3, Err("ICMP")))));
    assert_eq!((began, won), (vec![(Quic, 0), (Masque, 3), (Tls, 3), (WebSocket, 6)], Some((Tls, 93))));
    // What has been found to work, and is the first now, is given its time.
    let (began, won) = with_tunnels(free(&[Masque, Tls]), |_| Some((90, Ok(()))));
    assert_eq!((began, won), (vec![(Masque, 0)], Some((Masque, 90))));
    // What leads to another host may work where native QUIC does not.
    let (began, won, _) = run(free(&Rung::ALL), 0, |rung| (rung != Quic).then_some((90, Ok(()))));
    assert_eq!((began, won), (vec![(Quic, 0), (Masque, 250)], Some((Masque, 340))));
}

#[test]
fn rungs_have_names_of_their_own() {
    let names = Rung::ALL.map(Rung::name);
    assert_eq!(names, ["quic", "masque", "masque-tcp", "tls", "ws"]);
    assert_eq!(MasqueTcp.kind(), Masque.kind());
    assert!(Rung::ALL.is_sorted(), "the order is the order of preference");
}

fn place() -> Place {
    Place::new("192.0.2.0/24", None, "gw.example:4443")
}

fn at(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + secs)
}

/// A race at which QUIC is silent and TLS stands.
fn blocked() -> Vec<Tried> {
    let (_, _, race) = run(all(), 0, |rung| if rung == Quic { None } else { Some((90, Ok(()))) });
    race.report(Instant::now())
}

#[test]
fn what_did_not_work_comes_last_for_a_while() {
    let mut networks = Networks::default();
    networks.learn(&place(), &blocked(), at(0));
    let order = networks.order(&place(), &PLAIN, at(299));
    assert_eq!(order.iter().map(|(rung, _)| *rung).collect::<Vec<_>>(), [Tls, WebSocket, Quic]);
    let (began, won, race) = run(order, 0, |rung| if rung == Quic { None } else { Some((90, Ok(()))) });
    assert_eq!((began, won), (vec![(Tls, 0)], Some((Tls, 90))), "no time is lost");
    assert_eq!(words(&race), ["skipped", "used", "not_tried"]);
    assert_eq!(networks.order(&place(), &PLAIN, at(300)), all(), "then it is tried again");
    let elsewhere = Place::new("198.51.100.0/24", None, "gw.example:4443");
    assert_eq!(networks.order(&elsewhere, &PLAIN, at(1)), all());
    assert_eq!(networks.order(&place(), &[Quic], at(1)).len(), 1, "what is asked for is tried all the same");
}

#[test]
fn it_is_believed_twice_as_long_each_time_up_to_a_day() {
    let mut networks = Networks::default();
    let (mut now, mut lasted) = (0, Vec::new());
    for _ in 0..11 {
        networks.learn(&place(), &blocked(), at(now));
        let until = (now..).find(|t| networks.order(&place(), &PLAIN, at(*t)) == all()).unwrap();
        lasted.push((until - now) / 60);
        now = until;
    }
    assert_eq!(lasted, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]);
    // Within one belief a second failure is no news.
    networks.failed(&place(), Quic, String::new(), at(now - 1));
    networks.works(&place(), Quic);
    assert_eq!(networks, Networks::default(), "what works is forgotten at once");
}

#[test]
fn a_lost_race_teaches_nothing() {
    let (_, _, race) = run(all(), 0, |_| Some((5, Err("the network is down"))));
    let mut networks = Networks::default();
    networks.learn(&place(), &race.report(Instant::now()), at(0));
    assert_eq!(networks, Networks::default());
}

#[test]
fn the_memory_is_a_text() {
    let mut networks = Networks::default();
    let odd = Place::new("a b\nc", Some("http://proxy:3128"), "[::1]:4443");
    networks.failed(&odd, Quic, "one\nline".to_owned(), at(0));
    networks.failed(&place(), Tls, String::new(), at(5));
    let text = networks.to_text();
    let again = Networks::from_text(&text, at(10)).unwrap();
    assert_eq!(again.to_text(), text);
    assert_eq!(again.order(&odd, &[Quic], at(9))[0].1.as_deref(), Some("one line"));
    assert_eq!(Networks::from_text(&text, at(8 * 86_400)).unwrap(), Networks::default(), "old");
    assert_eq!(
        Networks::from_text(&text, at(0) - Duration::from_secs(9)).unwrap(),
        Networks::default(),
        "future"
    );
    for bad in
        ["", "metra networks 2\n", "metra networks 1\na b c quic x 1 \n", "metra networks 1\na b c d 1 1\n"]
    {
        assert!(Networks::from_text(bad, at(0)).is_err(), "{bad:?}");
    }
}

#[test]
fn the_memory_is_bounded() {
    let mut networks = Networks::default();
    for i in 0..2000 {
        let place = Place::new(&i.to_string(), None, "gw:1");
        networks.learn(&place, &blocked(), at(i));
    }
    assert!(networks.to_text().lines().count() <= 513);
    let newest = Place::new("1999", None, "gw:1");
    assert!(networks.order(&newest, &[Quic], at(2000))[0].1.is_some(), "the oldest go");
}

proptest! {
    #[test]
    fn arbitrary_texts_never_panic(text in "(metra networks 1\n)?[a-z0-9 \n]{0,200}") {
        let _ = Networks::from_text(&text, at(0));
    }

    /// Whatever rungs do: each begins once, in order, and whatever stands first wins.
    #[test]
    fn every_race_ends(fates in prop::collection::vec(prop::option::of((0u64..2000, any::<bool>())), 3), rtt in 0u64..400) {
        let fate = |rung: Rung| fates[PLAIN.iter().position(|plain| *plain == rung).unwrap()].map(|(ms, ok)| (ms, if ok { Ok(()) } else { Err("no") }));
        let (began, won, race) = run(all(), rtt, fate);
        prop_assert!(began.iter().map(|(rung, _)| *rung).eq(PLAIN.into_iter().take(began.len())));
        let stands = |(rung, at): &(Rung, u64)| fate(*rung).filter(|fate| fate.1.is_ok()).map(|fate| at + fate.0);
        prop_assert_eq!(won.map(|(_, at)| at), began.iter().filter_map(stands).min());
        prop_assert_eq!(race.report(Instant::now()).len(), 3);
    }
}
