//! What each deviation from the draft is worth: the same flows with and without it.

use super::path::{Link, Path};
use super::*;

/// Names, and what is changed.
type Variant = (&'static str, fn(&mut Params));

const VARIANTS: [Variant; 6] = [
    ("as it is", |_| {}),
    ("random loss is congestion", |params| params.bears_random_loss = false),
    ("UP fills twice the pipe", |params| params.up_cwnd_gain = params.up_cwnd_gain_competing),
    ("UP stops at a queue at once", |params| params.up_rounds = 0),
    ("DOWN drains slowly", |params| params.drain_rounds = f64::INFINITY),
    ("others are never seen", |params| params.held_rounds = u32::MAX),
];

/// Shares of the link of each flow from `from` to `to` seconds, and the mean queue in round-trip times.
fn run(link: Link, flows: usize, cubic: bool, params: &Params, from: f64, to: f64) -> (Vec<f64>, f64) {
    let mut path = Path::new(link, 77);
    for number in 0..flows {
        path.run_until(0.5 * number as f64);
        if cubic && number == 0 { path.join_cubic() } else { path.join(params.clone()) }
    }
    path.run_until(from);
    path.share(0, to - from);
    let all = path.link.rate * (to - from);
    (path.flows.iter().map(|flow| flow.received as f64 / all).collect(), path.queue_mean())
}

#[test]
#[ignore = "prints a table: cargo test --release -p metra-core --lib ablation -- --ignored --nocapture"]
fn ablation() {
    println!("| | 0 % | 0.5 % | 2 % | 5 % | queue, 1 flow | Jain, 4 flows | queue, 4 flows | beside CUBIC |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for (name, change) in VARIANTS {
        let mut params = Params::default();
        change(&mut params);
        let mut row = format!("| {name} ");
        for loss in [0.0, 0.005, 0.02, 0.05] {
            let (shares, _) = run(Link::new(1_000.0, 120, 1.0, loss), 1, false, &params, 5.0, 25.0);
            row += &format!("| {:.3} ", shares[0] / (1.0 - loss));
        }
        let (_, queue) = run(Link::new(100.0, 50, 2.0, 0.0), 1, false, &params, 5.0, 25.0);
        let (shares, queue_of_four) = run(Link::new(100.0, 50, 1.0, 0.0), 4, false, &params, 10.0, 40.0);
        let (sum, squares): (f64, f64) = (shares.iter().sum(), shares.iter().map(|x| x * x).sum());
        let (beside, _) = run(Link::new(100.0, 50, 1.0, 0.0), 2, true, &params, 10.0, 40.0);
        let jain = sum * sum / (4.0 * squares);
        println!("{row}| {queue:.3} | {jain:.3} | {queue_of_four:.3} | {:.2} |", beside[1]);
    }
}
