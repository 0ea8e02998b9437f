#![allow(clippy::unwrap_used)]

//! Random trees, against a fluid model that knows nothing of buckets and turns: it divides rates, from the top down.

use proptest::prelude::*;

use super::driver::*;
use super::*;

/// A node, in bytes per second; children make it an inner one.
#[derive(Clone, Debug)]
struct Plan {
    floor: f64,
    ceiling: f64,
    weight: u32,
    /// What a job asks for; infinite for one that is always hungry.
    demand: f64,
    lane: u8,
    children: Vec<Plan>,
}

impl Plan {
    fn share(&self) -> Share {
        let rate = |bytes: f64| Rate::from_bytes(bytes as u64);
        let ceiling = self.ceiling.is_finite().then(|| rate(self.ceiling));
        Share { floor: rate(self.floor), ceiling, burst: DEFAULT_BURST, weight: self.weight }
    }

    /// What it could use if it were alone.
    fn usable(&self) -> f64 {
        let below = self.children.iter().map(Plan::usable).sum::<f64>();
        self.ceiling.min(if self.children.is_empty() { self.demand } else { below })
    }

    /// What of its floor, and of those below it, it has use for.
    fn floored(&self) -> f64 {
        self.usable().min(self.floor.max(self.children.iter().map(Plan::floored).sum()))
    }

    /// By what floors that do not fit are scaled.
    fn claim(&self) -> f64 {
        self.ceiling.min(self.floor.max(self.children.iter().map(Plan::claim).sum()))
    }

    /// What each job has when this node has `amount`, in the order of the jobs.
    fn divide(&self, amount: f64, rates: &mut Vec<f64>) {
        if self.children.is_empty() {
            return rates.push(amount);
        }
        let floors: Vec<_> = self.children.iter().map(Plan::floored).collect();
        let claims: Vec<_> = self.children.iter().map(Plan::claim).collect();
        let mut parts = pour(amount, &claims, &floors);
        let rest = amount - parts.iter().sum::<f64>();
        let weights: Vec<_> = self.children.iter().map(|c| f64::from(c.weight)).collect();
        let room: Vec<_> = self.children.iter().zip(&parts).map(|(c, part)| c.usable() - part).collect();
        for (part, more) in parts.iter_mut().zip(pour(rest, &weights, &room)) {
            *part += more;
        }
        for (child, part) in self.children.iter().zip(parts) {
            child.divide(part, rates);
        }
    }
}

/// Pours an amount into vessels of such sizes, in proportion to weights: whose vessel is full leaves the rest to the others.
fn pour(amount: f64, weights: &[f64], sizes: &[f64]) -> Vec<f64> {
    let mut parts = vec![0.0; sizes.len()];
    let mut open: Vec<usize> = (0..sizes.len()).filter(|i| sizes[*i] > 0.0 && weights[*i] > 0.0).collect();
    let mut left = amount;
    while left > 1e-6 && !open.is_empty() {
        let sum: f64 = open.iter().map(|i| weights[*i]).sum();
        // Up to where the first is full.
        let level = open.iter().map(|i| (sizes[*i] - parts[*i]) / weights[*i]).fold(left / sum, f64::min);
        for i in &open {
            parts[*i] += level * weights[*i];
        }
        left -= level * sum;
        open.retain(|i| sizes[*i] - parts[*i] > 1e-6);
    }
    parts
}

const MBIT: f64 = 125_000.0;
const WINDOW: f64 = 60.0;
const WARM: f64 = 20.0;
const TICK: f64 = 0.01;

fn ceilings() -> impl Strategy<Value = f64> {
    prop_oneof![3 => Just(f64::INFINITY), 2 => (5_u64..400).prop_map(|m| m as f64 * MBIT), 1 => Just(0.5 * MBIT)]
}

fn node(children: Vec<Plan>, fit: f64, limited: bool) -> impl Strategy<Value = Plan> {
    let floors = prop_oneof![Just(0.0), (1.0..fit).prop_map(|m| m * MBIT)];
    let some = u32::from(limited);
    let demands = prop_oneof![3 => Just(f64::INFINITY), some => (1_u64..100).prop_map(|m| m as f64 * MBIT)];
    (floors, ceilings(), 1_u32..8, demands, 0_u8..8).prop_map(
        move |(floor, ceiling, weight, demand, lane)| Plan {
            floor,
            ceiling,
            weight,
            demand,
            lane,
            children: children.clone(),
        },
    )
}

/// A gateway with tenants that have floors up to that. `limited`: whether there are jobs that do not want all they can get.
fn tree(floor_mbit: f64, limited: bool) -> impl Strategy<Value = Plan> {
    let jobs = prop::collection::vec(node(Vec::new(), floor_mbit / 4.0, limited), 1..4);
    let users = jobs.prop_flat_map(move |jobs| node(jobs, floor_mbit / 2.0, limited));
    let users = prop::collection::vec(users, 1..4);
    let tenants = users.prop_flat_map(move |users| node(users, floor_mbit, limited));
    (prop::collection::vec(tenants, 1..5), 50_u64..500).prop_map(|(children, mbit)| Plan {
        floor: 0.0,
        ceiling: mbit as f64 * MBIT,
        weight: 1,
        demand: 0.0,
        lane: 0,
        children,
    })
}

/// A plan as a driver has it: its jobs in the order of the plan, and for every node its plan and its jobs.
struct Running {
    driver: Driver,
    jobs: Vec<(JobId, Plan)>,
    nodes: Vec<(Plan, Vec<JobId>)>,
}

impl Running {
    /// `lanes`: whether jobs are in their lanes, or all in one.
    fn new(plan: &Plan, lanes: bool) -> Self {
        let mut driver = Driver::new(plan.share());
        let (mut jobs, mut nodes) = (Vec::new(), Vec::new());
        for tenant in &plan.children {
            let id = driver.tenant(tenant.share());
            let before_tenant = jobs.len();
            for user in &tenant.children {
                let id = driver.user(id, user.share());
                let before_user = jobs.len();
                for job in &user.children {
                    let id = driver.job(id, if lanes { job.lane } else { 4 }, job.share());
                    if job.demand.is_infinite() {
                        driver.ask(id, 1 << 50);
                    }
                    jobs.push((id, job.clone()));
                    nodes.push((job.clone(), vec![id]));
                }
                nodes.push((user.clone(), jobs[before_user..].iter().map(|(id, _)| *id).collect()));
            }
            nodes.push((tenant.clone(), jobs[before_tenant..].iter().map(|(id, _)| *id).collect()));
        }
        nodes.push((plan.clone(), jobs.iter().map(|(id, _)| *id).collect()));
        Self { driver, jobs, nodes }
    }

    fn run(&mut self) {
        for _ in 0..((WARM + WINDOW) / TICK) as u32 {
            for (id, plan) in &self.jobs {
                // A job that is behind does not pile up more than eight seconds of what it would like: so long may others be before it.
                if plan.demand.is_finite() && (self.driver.shaper.wanted(*id) as f64) < 8.0 * plan.demand {
                    self.driver.ask(*id, (plan.demand * TICK) as u64);
                }
            }
            self.driver.run(TICK);
        }
    }

    /// Bytes per second after the warm-up.
    fn rate(&self, jobs: &[JobId]) -> f64 {
        self.driver.granted(jobs, Duration::from_secs_f64(WARM)) as f64 / WINDOW
    }

    /// Whether every node can have the floors below it at once: that is what makes them a promise.
    fn floors_fit(&self) -> bool {
        let fits = |plan: &Plan| plan.children.iter().map(Plan::floored).sum::<f64>() <= plan.usable() + 1.0;
        self.nodes.iter().all(|(plan, _)| plan.children.is_empty() || fits(plan))
    }

    fn assert_model(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let mut model = Vec::new();
        plan.divide(plan.usable(), &mut model);
        for ((id, job), model) in self.jobs.iter().zip(model) {
            let rate = self.rate(&[*id]);
            prop_assert!(near(rate, model), "{:.2} Mbit/s, not {:.2}: {job:?}", rate / MBIT, model / MBIT);
        }
        Ok(())
    }

    fn assert_ceilings(&self) {
        for (plan, jobs) in &self.nodes {
            if let Some(rate) = plan.share().ceiling {
                let log = self.driver.log.iter().filter(|(_, grant)| jobs.contains(&grant.job));
                assert_within(
                    log.map(|(at, grant)| (*at, i128::from(grant.bytes))),
                    rate,
                    plan.share().burst,
                );
            }
        }
    }
}

/// What a rate may be off: what buckets and grants are at the edges of the window, and rounding of demands.
fn near(rate: f64, model: f64) -> bool {
    (rate - model).abs() < 0.02 * model + 16.0 * 1_048_576.0 / WINDOW
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_global_rejects: 10_000, ..ProptestConfig::default() })]

    /// Floors that fit, weights, demands and ceilings at all levels, all in one lane.
    #[test]
    fn one_lane_is_as_the_fluid_model(plan in tree(25.0, true)) {
        let mut running = Running::new(&plan, false);
        prop_assume!(running.floors_fit());
        running.run();
        running.assert_ceilings();
        running.assert_model(&plan)?;
    }

    /// Floors that may be far more than fits; everybody wants all.
    #[test]
    fn floors_that_do_not_fit_are_scaled_as_in_the_fluid_model(plan in tree(200.0, false)) {
        let mut running = Running::new(&plan, false);
        running.run();
        running.assert_ceilings();
        running.assert_model(&plan)?;
    }

    /// Whatever the lanes: ceilings hold, floors that fit are honoured at every node, and nothing is left that somebody may use.
    #[test]
    fn in_any_lanes_floors_hold_and_nothing_is_wasted(plan in tree(25.0, true)) {
        let mut running = Running::new(&plan, true);
        running.run();
        running.assert_ceilings();
        let all = running.rate(&running.jobs.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        prop_assert!(near(all, plan.usable()), "{:.2} of {:.2} Mbit/s", all / MBIT, plan.usable() / MBIT);
        prop_assume!(running.floors_fit());
        for (plan, jobs) in &running.nodes[..running.nodes.len() - 1] {
            let (rate, floor) = (running.rate(jobs), plan.floored());
            prop_assert!(rate > floor || near(rate, floor), "{:.2} of {:.2} Mbit/s", rate / MBIT, floor / MBIT);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Tenants alike, each with a job in the same best lane: whatever else they have, nobody has more than another.
    #[test]
    fn crowds_gain_nothing(
        best in 0_u8..8,
        crowds in prop::collection::vec(prop::collection::vec((0_u8..8, 1_u32..9, any::<bool>()), 0..65), 2..6),
    ) {
        let mut driver = Driver::new(ceiling(500));
        let tenants: Vec<Vec<JobId>> = crowds
            .iter()
            .map(|crowd| {
                let tenant = driver.tenant(Share::default());
                let mut user = driver.user(tenant, Share::default());
                let mut jobs = vec![driver.hungry(tenant, best)];
                for (lane, weight, anew) in crowd {
                    if *anew {
                        user = driver.user(tenant, Share { weight: *weight, ..Share::default() });
                    }
                    let share = Share { weight: *weight, ..Share::default() };
                    let job = driver.job(user, (*lane).max(best), share);
                    driver.ask(job, 1 << 50);
                    jobs.push(job);
                }
                jobs
            })
            .collect();
        driver.run(20.0);
        let rates: Vec<_> = tenants.iter().map(|jobs| driver.granted(jobs, Duration::ZERO)).collect();
        let (most, least) = (rates.iter().max().unwrap(), rates.iter().min().unwrap());
        prop_assert!(most - least <= 2 * PIECE, "{rates:?}");
    }
}

/// Something that happens to a shaper.
#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Ask(usize, u64),
    Refund(usize, u64),
    Retract(usize),
    Lane(usize, u8),
    Weight(usize, u32),
    Floor(usize, u64),
    Leave(usize),
    Join(usize),
    Tenant,
}

fn event() -> impl Strategy<Value = Event> {
    let any = any::<usize>;
    prop_oneof![
        4 => (0_u64..200_000_000).prop_map(Event::Wait),
        6 => (any(), prop_oneof![1_u64..10_000, 1_u64..(16 << 20)]).prop_map(|(i, n)| Event::Ask(i, n)),
        2 => (any(), 1_u64..(2 << 20)).prop_map(|(i, n)| Event::Refund(i, n)),
        1 => any().prop_map(Event::Retract),
        1 => (any(), 0_u8..8).prop_map(|(i, n)| Event::Lane(i, n)),
        1 => (any(), 0_u32..9).prop_map(|(i, n)| Event::Weight(i, n)),
        1 => (any(), 0_u64..50).prop_map(|(i, n)| Event::Floor(i, n)),
        1 => any().prop_map(Event::Leave),
        2 => any().prop_map(Event::Join),
        1 => Just(Event::Tenant),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: no window has too much, nobody waits who need not, and the queues are what they
    /// are said to be.
    #[test]
    fn any_history_keeps_the_rules(
        mbit in 1_u64..500,
        burst in 0_u64..(16 << 20),
        limits in prop::collection::vec(1_u64..100, 3),
        events in prop::collection::vec(event(), 1..200),
    ) {
        let gateway = Share { burst, ..ceiling(mbit) };
        let limit = |i: usize| Share { burst, ..ceiling(limits[i % limits.len()]) };
        let mut driver = Driver::new(gateway);
        let mut tenants: Vec<(TenantId, UserId, Share)> = Vec::new();
        let mut jobs: Vec<(JobId, usize)> = Vec::new();
        // When, which tenant, how much; what is given back counts against what was granted.
        let mut net: Vec<(Duration, usize, i128)> = Vec::new();
        for event in std::iter::once(Event::Tenant).chain(events) {
            let now = driver.instant();
            let job = |i: usize| (!jobs.is_empty()).then(|| jobs[i % jobs.len()]);
            match event {
                Event::Wait(nanos) => driver.now += Duration::from_nanos(nanos),
                Event::Ask(i, bytes) => _ = job(i).map(|(job, _)| driver.ask(job, bytes)),
                Event::Refund(i, bytes) => {
                    if let Some((job, tenant)) = job(i) {
                        let index = driver.shaper.find(job.0).unwrap() as usize;
                        let granted = driver.shaper.nodes[index].kind.leaf().unwrap().granted;
                        driver.shaper.refund(job, bytes);
                        net.push((driver.now, tenant, -i128::from(bytes.min(granted))));
                    }
                }
                Event::Retract(i) => _ = job(i).map(|(job, _)| driver.shaper.retract(job)),
                Event::Lane(i, n) => _ = job(i).map(|(job, _)| driver.shaper.set_lane(job, Priority::new(n).unwrap(), now)),
                Event::Weight(i, weight) => {
                    let i = i % tenants.len();
                    tenants[i].2.weight = weight;
                    prop_assert!(driver.shaper.set_tenant(tenants[i].0, tenants[i].2, now));
                }
                Event::Floor(i, mbit) => {
                    let i = i % tenants.len();
                    tenants[i].2.floor = Rate::from_mbit(mbit);
                    prop_assert!(driver.shaper.set_tenant(tenants[i].0, tenants[i].2, now));
                }
                Event::Leave(i) if !jobs.is_empty() => driver.shaper.remove_job(jobs.swap_remove(i % jobs.len()).0),
                Event::Leave(_) => {}
                Event::Join(i) => {
                    let i = i % tenants.len();
                    let share = if i.is_multiple_of(2) { Share::default() } else { floor(3) };
                    jobs.push((driver.job(tenants[i].1, (i % 8) as u8, share), i));
                }
                Event::Tenant => {
                    let share = limit(tenants.len());
                    let tenant = driver.tenant(share);
                    let user = driver.user(tenant, Share { weight: 2, ..Share::default() });
                    tenants.push((tenant, user, share));
                }
            }
            let before = driver.log.len();
            driver.drain();
            for (at, grant) in &driver.log[before..] {
                let tenant = jobs.iter().find(|(job, _)| *job == grant.job).unwrap().1;
                net.push((*at, tenant, i128::from(grant.bytes)));
            }
            assert_consistent(&mut driver.shaper);
        }
        assert_within(net.iter().map(|(at, _, n)| (*at, *n)), Rate::from_mbit(mbit), burst.max(MIN_BURST));
        for (i, (_, _, share)) in tenants.iter().enumerate() {
            let log = net.iter().filter(|(_, tenant, _)| *tenant == i).map(|(at, _, n)| (*at, *n));
            assert_within(log, share.ceiling.unwrap(), burst.max(MIN_BURST));
        }
    }
}

/// After a poll: nobody wants something whom no ceiling holds back, and who is held back has a time at which he is not.
fn assert_consistent(shaper: &mut Shaper) {
    let now = shaper.now;
    let mut open = vec![true; shaper.nodes.len()];
    for (i, node) in shaper.nodes.iter_mut().enumerate() {
        if let Some(ceiling) = &mut node.ceiling {
            ceiling.fill(now);
            open[i] = ceiling.is_open();
        }
    }
    let mut waiting = false;
    for (i, node) in shaper.nodes.iter().enumerate() {
        let Some(leaf) = node.kind.leaf().filter(|leaf| leaf.wanted > 0) else { continue };
        waiting = true;
        let ways = std::iter::successors(Some(i), |i| shaper.nodes[*i].parent.map(|p| p as usize));
        let closed: Vec<_> = ways.filter(|i| !open[*i]).collect();
        assert!(!closed.is_empty(), "a job that wants {} bytes could have them", leaf.wanted);
        // The lowest that is closed has a timer; those above only if somebody else waits there.
        assert!(shaper.nodes[closed[0]].wake.is_some());
    }
    assert_eq!(shaper.next_wake().is_some(), waiting);
    let claims = |parent: u32| {
        let children = shaper.nodes.iter().filter(|n| n.parent == Some(parent));
        children.map(|n| n.place.claim).sum::<u64>()
    };
    for (i, node) in shaper.nodes.iter().enumerate() {
        if let tree::Kind::Inner(inner) = &node.kind {
            assert_eq!(inner.claims, claims(i as u32));
            let shown = |lane: usize| {
                let children = shaper.nodes.iter().filter(|n| n.parent == Some(i as u32));
                children.filter(|n| n.place.lane.map(usize::from) == Some(lane)).count()
            };
            for (lane, queue) in inner.lanes.iter().enumerate() {
                assert_eq!(queue.waiting.len(), shown(lane));
            }
        }
    }
}
