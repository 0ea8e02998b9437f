//! ^C, and the path that goes away for good.

use rustix::process::Signal;

use crate::harness::data::{self, MIB};
use crate::harness::{Bed, Tree};

tests![interrupted, terminated, nobody_there, gone_for_good];

fn ended_by(bed: &Bed, signal: Signal, code: i32) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 24 * MIB);
    let file = data::noise_file(&bed.path("file"), 95, 32 * MIB);
    let send = || bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("x"));
    let running = send().start();
    relay.wait_up(16 * MIB);
    let asked = std::time::Instant::now();
    running.signal(signal);
    let done = running.finish().expect(code);
    assert!(asked.elapsed().as_secs() < 5, "it ends at once\n{done}");
    assert!(done.stderr.contains("the same command"), "it says what to do\n{done}");
    assert_eq!(Tree::of(gateway.root()).paths(), Vec::<&str>::new());
    relay.set_rate(0);
    let done = send().expect(0);
    assert!(data::same_bytes(&file, &gateway.at("x")));
    let (sent, all) = (done.number("chunks_sent"), done.number("chunks"));
    assert!(sent <= all * 7 / 10, "{sent} of {all} chunks were sent\n{done}");
}

fn interrupted(bed: &Bed) {
    ended_by(bed, Signal::INT, 130);
}

fn terminated(bed: &Bed) {
    ended_by(bed, Signal::TERM, 143);
}

fn nobody_there(bed: &Bed) {
    let mut gateway = bed.gateway();
    gateway.kill();
    let file = bed.write("file", "content");
    let run = bed.client(&gateway, ["send", "--timeout", "2"]).arg(&file).arg(gateway.url("x"));
    let done = run.expect(5);
    assert!(done.stderr.contains(&gateway.address().to_string()), "it says who is not there\n{done}");
}

fn gone_for_good(bed: &Bed) {
    let mut gateway = bed.gateway_with("[limits]\nidle_seconds = 5\n");
    let relay = bed.relay(&gateway, 16 * MIB);
    let file = data::noise_file(&bed.path("file"), 96, 32 * MIB);
    let run = bed.client(&gateway, ["send", "--timeout", "2"]).arg(&file).arg(relay.url("x")).start();
    relay.wait_up(8 * MIB);
    gateway.kill();
    let done = run.finish().expect(5);
    assert!(done.elapsed.as_secs() < 45, "{done}");
    // And there is something to come back to.
    gateway.restart();
    relay.set_rate(0);
    bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("x")).expect(0);
    assert!(data::same_bytes(&file, &gateway.at("x")));
}
