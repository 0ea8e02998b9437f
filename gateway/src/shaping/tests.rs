//! Rules, a clock that the test sets, and jobs that ask.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use metra_policy::shape::config::{RawShaping, RawTenant};
use serde::Deserialize;

use super::*;

const MIB: u64 = 1 << 20;
/// 2026-11-30, a Monday, 08:59:50 in Berlin.
const MORNING: i64 = 1_796_025_590;

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Written {
    shaping: RawShaping,
    tenants: BTreeMap<String, RawTenant>,
}

fn rules(text: &str) -> Rules {
    let written: Written = toml::from_str(text).unwrap();
    let mut wrong = Vec::new();
    let rules = Rules::check(&written.shaping, &written.tenants, &|_| true, &mut |key, what| {
        wrong.push(format!("{key} {what}"));
    });
    assert_eq!(wrong, [""; 0]);
    rules
}

fn account(name: &str, tenant: Option<&str>) -> Account {
    Account { tenant: tenant.map(str::to_owned), ..Account::of_test(name) }
}

struct Bench {
    shaping: Arc<Shaping>,
    catalogue: Arc<Catalogue>,
    _task: AbortOnDrop<()>,
}

impl Bench {
    /// The wall clock goes with tokio's, from the morning on.
    fn new(text: &str) -> Self {
        Self::over(text, Arc::new(Catalogue::open_in_memory().unwrap()), MORNING)
    }

    fn over(text: &str, catalogue: Arc<Catalogue>, from: i64) -> Self {
        let start = tokio::time::Instant::now();
        let base = Arc::new(AtomicI64::new(from));
        let wall = Arc::new(move || {
            let base = Duration::from_secs(base.load(Ordering::SeqCst).unsigned_abs());
            UNIX_EPOCH + base + start.elapsed()
        });
        let (shaping, task) = Shaping::start(&Rt::tokio(), rules(text), catalogue.clone(), wall).unwrap();
        Self { shaping, catalogue, _task: task }
    }

    fn owner(&self, name: &str) -> Owner {
        self.shaping.owner(&account(name, None))
    }

    fn share(&self, name: &str, priority: u8, direction: Direction) -> Share {
        let place = self.shaping.enter(&self.owner(name), Priority::new(priority).unwrap()).unwrap();
        self.shaping.begin(place, direction)
    }

    /// A job that always wants more. What it has had.
    fn hungry(&self, name: &str, priority: u8, direction: Direction) -> Arc<AtomicI64> {
        let (had, share) = (Arc::new(AtomicI64::new(0)), self.share(name, priority, direction));
        let counts = had.clone();
        tokio::spawn(async move {
            let asks = Asks { shaping: share.shaping.clone(), ticket: share.ticket };
            asks.ask(8 * MIB);
            let mut before = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let granted = share.allowance.unused();
                counts.store(granted as i64, Ordering::SeqCst);
                asks.ask(granted - before);
                before = granted;
            }
        });
        had
    }
}

/// Mbit/s of jobs over so many seconds from now on.
async fn rates(jobs: &[&Arc<AtomicI64>], seconds: u64) -> Vec<f64> {
    let before: Vec<i64> = jobs.iter().map(|job| job.load(Ordering::SeqCst)).collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = jobs.iter().map(|job| job.load(Ordering::SeqCst));
    after.zip(before).map(|(after, before)| (after - before) as f64 * 8e-6 / seconds as f64).collect()
}

fn near(rate: f64, expected: f64) -> bool {
    (rate - expected).abs() <= 0.03 * expected
}

const OFFICE: &str = "
[shaping]
ceiling_mbit = 800
[tenants.studio]
floor_mbit = 400
[tenants.studio.users.alice]
[tenants.archive.users.bob]
[tenants.archive]
calendar = ['Mon-Fri 09:00-19:00 Europe/Berlin: 80M']
";

#[tokio::test(start_paused = true)]
async fn rates_are_divided_and_a_calendar_acts_while_jobs_run() {
    let bench = Bench::new(OFFICE);
    let alice = bench.hungry("alice", 4, Direction::Push);
    let bob = bench.hungry("bob", 4, Direction::Push);
    // The other direction is for itself.
    let other = bench.hungry("alice", 4, Direction::Pull);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let night = rates(&[&alice, &bob, &other], 6).await;
    assert!(near(night[0], 600.0) && near(night[1], 200.0) && near(night[2], 800.0), "{night:?}");
    // A second after nine.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let day = rates(&[&alice, &bob, &other], 5).await;
    assert!(near(day[0], 720.0) && near(day[1], 80.0) && near(day[2], 800.0), "{day:?}");
}

#[tokio::test(start_paused = true)]
async fn other_rules_act_while_jobs_run() {
    let bench = Bench::new(OFFICE);
    let alice = bench.hungry("alice", 4, Direction::Push);
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.shaping.replace(rules("[shaping]\nceiling_mbit = 100"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let low = rates(&[&alice], 4).await;
    assert!(near(low[0], 100.0), "{low:?}");
    bench.shaping.replace(rules(""));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let free = rates(&[&alice], 1).await;
    assert!(free[0] > 10_000.0, "{free:?}: whoever waited is free as well");
    bench.shaping.replace(rules("[shaping]\nceiling_mbit = 100"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let low = rates(&[&alice], 4).await;
    assert!(near(low[0], 100.0), "{low:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_limits_how_urgent_its_jobs_are() {
    let bench = Bench::new(
        "[shaping]\nceiling_mbit = 800\n[tenants.studio.users.alice]\n[tenants.archive]\npriority = 7\n[tenants.archive.users.bob]",
    );
    let alice = bench.hungry("alice", 6, Direction::Push);
    let bob = bench.hungry("bob", 0, Direction::Push);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rates = rates(&[&alice, &bob], 5).await;
    assert!(rates[0] > 750.0 && rates[1] > 8.0, "{rates:?}: behind alice, and not without anything");
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_for_their_turn_and_are_told_where_they_stand() {
    let bench = Bench::new("[tenants.default]\njobs = 1\nqueue = 2");
    let enter =
        |name: &str, priority| bench.shaping.enter(&bench.owner(name), Priority::new(priority).unwrap());
    let (mut first, mut second) = (enter("a", 4).unwrap(), enter("a", 4).unwrap());
    assert_eq!((first.turn(), second.turn()), (Turn::Begins, Turn::Waits(1)));
    let mut urgent = enter("b", 0).unwrap();
    assert_eq!((urgent.turn(), second.turn()), (Turn::Waits(1), Turn::Waits(2)));
    let (code, reason) = enter("c", 0).err().unwrap();
    assert_eq!((code, &*reason), (Code::Busy, "too many jobs of the tenant are waiting; try again later"));
    drop(bench.shaping.begin(first, Direction::Push));
    urgent.changed().await;
    assert_eq!((urgent.turn(), second.turn()), (Turn::Begins, Turn::Waits(1)));
    drop(urgent);
    assert_eq!(second.turn(), Turn::Begins);
    // More may run from now on.
    let mut third = enter("c", 4).unwrap();
    assert_eq!(third.turn(), Turn::Waits(1));
    bench.shaping.replace(rules("[tenants.default]\njobs = 2"));
    assert_eq!(third.turn(), Turn::Begins);
}

#[tokio::test(start_paused = true)]
async fn whose_tenant_it_is() {
    let bench = Bench::new("[tenants.studio.users.alice]\n[tenants.archive]");
    let tenant = |name, claimed| bench.shaping.owner(&account(name, claimed)).tenant;
    assert_eq!(tenant("alice", None), "studio");
    assert_eq!(tenant("carol", Some("archive")), "archive");
    assert_eq!(tenant("carol", Some("unheard-of")), "default");
    assert_eq!(tenant("carol", None), "default");
}

const DAY: &str = "[tenants.default]\nquota_day_gib = 1\nquota_day_files = 3\ntime_zone = 'Europe/Berlin'";

#[tokio::test(start_paused = true)]
async fn a_quota_ends_jobs_and_survives_a_restart() {
    let bench = Bench::new(DAY);
    let share = bench.share("alice", 4, Direction::Push);
    let asks = Asks { shaping: bench.shaping.clone(), ticket: share.ticket };
    asks.files(2).unwrap();
    for _ in 0..256 {
        asks.ask(4 * MIB);
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(share.allowance.unused(), 1024 * MIB);
    let exceeded = share.exceeded();
    asks.ask(1);
    let said = "the quota of bytes of the day is used up; it begins anew at 2026-11-30T23:00:00.000Z";
    assert_eq!(exceeded.await, said);
    let error = asks.files(2).unwrap_err();
    assert_eq!((error.code, error.reason.contains("files of the day")), (Code::Limit, true));
    // All but 100 MiB and one file was of no use, and is given back.
    share.ended(100 * MIB, 1);
    // Another one is in the middle of its files.
    let open = bench.share("alice", 4, Direction::Pull);
    Asks { shaping: bench.shaping.clone(), ticket: open.ticket }.files(1).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let kept = bench.catalogue.quotas().unwrap();
    assert!(kept.len() == 1 && kept[0].0 == "default", "{kept:?}");
    // As after kill -9: the open job has to bring its file again.
    let again = Bench::over(DAY, bench.catalogue.clone(), MORNING + 60);
    let share = again.share("bob", 4, Direction::Push);
    let asks = Asks { shaping: again.shaping.clone(), ticket: share.ticket };
    asks.files(2).unwrap();
    asks.files(1).unwrap_err();
    asks.ask(924 * MIB);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let had = share.allowance.unused();
    asks.ask(MIB);
    assert!(share.exceeded().await.contains("bytes of the day"));
    assert_eq!(had, 924 * MIB);
    drop(share);
    let tomorrow = Bench::over(DAY, bench.catalogue.clone(), MORNING + 86_400);
    let share = tomorrow.share("bob", 4, Direction::Push);
    Asks { shaping: tomorrow.shaping.clone(), ticket: share.ticket }.files(3).unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_has_gone_leaves_nothing() {
    let bench = Bench::new(OFFICE);
    for n in 0..100 {
        let share = bench.share(&format!("user{n}"), 4, Direction::Push);
        Asks { shaping: bench.shaping.clone(), ticket: share.ticket }.ask(MIB);
    }
    let state = bench.shaping.lock();
    assert!(state.jobs.is_empty());
    assert_eq!(state.uploads.size(), (0, 2), "only users whom the rules name");
}
