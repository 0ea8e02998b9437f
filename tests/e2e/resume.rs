//! Interrupted in every way, and gone on with: only what was not durable is sent again.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::harness::data::{self, MIB};
use crate::harness::{Bed, Done, Gateway, Relay, Tree};

tests![
    client_killed_twice,
    gateway_killed_and_the_client_goes_on,
    gateway_killed_and_the_client_too,
    client_state_lost,
    catalogue_lost,
    source_edited_in_between,
    gateway_terminated,
    pull_with_the_client_killed,
    pull_with_the_gateway_killed,
    path_cut_for_longer_than_the_idle_time,
    small_files_with_the_client_killed,
    standing_still_loses_nothing,
];

/// Large enough for a middle, small enough for a test.
const SIZE: u64 = 64 * MIB;
/// Bytes per second while a test waits for the middle.
const SLOW: u64 = 24 * MIB;

/// A gateway behind a slow path, and a file to send.
struct Scene<'a> {
    bed: &'a Bed,
    gateway: Gateway,
    relay: Relay,
    file: PathBuf,
}

impl<'a> Scene<'a> {
    fn new(bed: &'a Bed) -> Self {
        Self::with(bed, "")
    }

    fn with(bed: &'a Bed, config: &str) -> Self {
        let gateway = bed.gateway_with(config);
        let relay = bed.relay(&gateway, SLOW);
        let file = data::noise_file(&bed.path("large"), 11, SIZE);
        Self { bed, gateway, relay, file }
    }

    fn send(&self) -> crate::harness::run::Run {
        self.bed.client(&self.gateway, ["send"]).arg(&self.file).arg(self.relay.url("large"))
    }

    fn get(&self) -> crate::harness::run::Run {
        self.bed.client(&self.gateway, ["get"]).arg(self.relay.url("large")).arg(self.bed.path("back"))
    }

    /// Sends until `part` of the file has gone up since now, and kills the client.
    fn send_and_kill(&self, part: f64) {
        let start = self.relay.up();
        let mut running = self.send().start();
        self.relay.wait_up(start + (SIZE as f64 * part) as u64);
        assert!(running.is_running(), "{}", running.finish());
        running.kill();
        self.nothing_final();
    }

    /// Sends to the end, as fast as it goes.
    fn send_the_rest(&self) -> Done {
        self.relay.set_rate(0);
        let done = self.send().expect(0);
        self.arrived();
        done
    }

    /// Fails if the gateway was sent more than this multiple of the file in all.
    fn carried_up_at_most(&self, part: f64) {
        let carried = self.relay.up();
        assert!(
            carried as f64 <= SIZE as f64 * part,
            "{carried} bytes went up for {SIZE}, at most {part} times is right"
        );
    }

    /// Chunks that the gateway received in the attempt that succeeded.
    fn received_at_last(&self) -> u64 {
        let log = self.gateway.log();
        let line = log.lines().rfind(|line| line.contains("push finished")).expect("it is in the log");
        let (_, rest) = line.split_once("received=").expect("it is in the line");
        rest.split_whitespace().next().expect("a number").parse().unwrap()
    }

    fn nothing_final(&self) {
        assert_eq!(
            Tree::of(self.gateway.root()).paths(),
            Vec::<&str>::new(),
            "nothing has its final name yet"
        );
    }

    fn arrived(&self) {
        assert!(data::same_bytes(&self.file, &self.gateway.at("large")));
        assert_eq!(data::bytes_below(&self.gateway.at(".metra")), 0, "nothing is staged any more");
    }
}

/// Fails unless at most this part of the chunks was sent. A little more than what was missing is right: what was on
/// its way, or not yet synced, when the end came.
fn sent_at_most(done: &Done, part: f64) {
    let (sent, all) = (done.number("chunks_sent"), done.number("chunks"));
    assert!(
        (sent as f64) <= all as f64 * part,
        "{sent} of {all} chunks were sent, at most {part} of them is right\n{done}"
    );
    assert!(sent > 0, "something was missing\n{done}");
}

fn client_killed_twice(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.send_and_kill(0.4);
    scene.send_and_kill(0.3);
    sent_at_most(&scene.send_the_rest(), 0.55);
    // And now there is nothing to do.
    let again = scene.send().expect(0);
    assert_eq!(again.number("chunks_sent"), 0, "{again}");
}

fn gateway_killed_and_the_client_goes_on(bed: &Bed) {
    let mut scene = Scene::new(bed);
    let running = scene.send().start();
    for part in [0.4, 0.7] {
        scene.relay.wait_up((SIZE as f64 * part) as u64);
        scene.gateway.kill();
        scene.nothing_final();
        scene.gateway.restart();
    }
    scene.relay.set_rate(0);
    let done = running.finish().expect(0);
    scene.arrived();
    assert!(done.number("resumes") >= 2, "{done}");
    // Each time what was not synced yet is lost, half a second or so, and what was on its way.
    scene.carried_up_at_most(3.0);
    let received = scene.received_at_last();
    assert!(
        received * 10 <= done.number("chunks") * 9,
        "{received} chunks came after the last start\n{done}"
    );
}

fn gateway_killed_and_the_client_too(bed: &Bed) {
    let mut scene = Scene::new(bed);
    let running = scene.send().start();
    scene.relay.wait_up((SIZE as f64 * 0.75) as u64);
    scene.gateway.kill();
    running.kill();
    scene.gateway.restart();
    scene.nothing_final();
    // It syncs twice a second: that much may be lost.
    sent_at_most(&scene.send_the_rest(), 0.80);
}

fn client_state_lost(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.send_and_kill(0.6);
    fs::remove_dir_all(bed.path("client-state")).unwrap();
    sent_at_most(&scene.send_the_rest(), 0.7);
}

fn catalogue_lost(bed: &Bed) {
    let mut scene = Scene::new(bed);
    scene.send_and_kill(0.6);
    // Gracefully, so that everything that has come is in the staged files.
    assert!(scene.gateway.terminate().success(), "{}", scene.gateway.log());
    let mut found = 0;
    for entry in fs::read_dir(scene.gateway.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("catalogue") {
            fs::remove_file(path).unwrap();
            found += 1;
        }
    }
    assert!(found > 0, "there was a catalogue");
    scene.gateway.restart();
    // The chunks are found by hashing.
    sent_at_most(&scene.send_the_rest(), 0.7);
}

fn source_edited_in_between(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.send_and_kill(0.6);
    let edited = bed.path("edited");
    data::insert(&scene.file, &edited, SIZE / 4, &data::noise(99, MIB / 2));
    fs::rename(&edited, &scene.file).unwrap();
    // It is the new source that arrives, whole; and what the old one left is used.
    sent_at_most(&scene.send_the_rest(), 0.7);
}

fn gateway_terminated(bed: &Bed) {
    let mut scene = Scene::new(bed);
    let running = scene.send().start();
    scene.relay.wait_up(SIZE / 2);
    assert!(scene.gateway.terminate().success(), "{}", scene.gateway.log());
    scene.nothing_final();
    scene.gateway.restart();
    scene.relay.set_rate(0);
    running.finish().expect(0);
    scene.arrived();
    // What was in flight is journaled: only what was on its way is sent twice.
    scene.carried_up_at_most(1.7);
}

fn pull_with_the_client_killed(bed: &Bed) {
    let scene = Scene::new(bed);
    fs::rename(&scene.file, scene.gateway.at("large")).unwrap();
    for part in [0.4, 0.3] {
        let start = scene.relay.down();
        let running = scene.get().start();
        scene.relay.wait_down(start + (SIZE as f64 * part) as u64);
        running.kill();
        assert!(!bed.path("back").exists(), "nothing has its final name yet");
    }
    scene.relay.set_rate(0);
    let done = scene.get().expect(0);
    assert!(data::same_bytes(&scene.gateway.at("large"), &bed.path("back")));
    // The client syncs twice a second, and was killed twice.
    sent_at_most(&done, 0.8);
}

fn pull_with_the_gateway_killed(bed: &Bed) {
    let mut scene = Scene::new(bed);
    fs::rename(&scene.file, scene.gateway.at("large")).unwrap();
    let running = scene.get().start();
    for part in [0.3, 0.6] {
        scene.relay.wait_down((SIZE as f64 * part) as u64);
        scene.gateway.kill();
        scene.gateway.restart();
    }
    scene.relay.set_rate(0);
    let done = running.finish().expect(0);
    assert!(data::same_bytes(&scene.gateway.at("large"), &bed.path("back")));
    assert!(done.number("resumes") >= 1, "{done}");
    // The sink did not end, so it has everything that came.
    let (carried, size) = (scene.relay.down(), SIZE);
    assert!(carried as f64 <= size as f64 * 1.35, "{carried} bytes came for {size}");
}

fn path_cut_for_longer_than_the_idle_time(bed: &Bed) {
    let scene = Scene::with(bed, "[limits]\nidle_seconds = 5\n");
    let running = scene.send().start();
    scene.relay.wait_up(SIZE / 2);
    scene.relay.cut(true);
    std::thread::sleep(std::time::Duration::from_secs(7));
    scene.relay.cut(false);
    scene.relay.set_rate(0);
    let done = running.finish().expect(0);
    scene.arrived();
    assert!(done.number("resumes") >= 1, "{done}");
}

fn small_files_with_the_client_killed(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, SLOW / 4);
    let tree = bed.folder("tree");
    for folder in 0..20u64 {
        let dir = bed.folder(&format!("tree/{folder}"));
        for i in 0..100u64 {
            fs::write(dir.join(format!("{i}")), data::noise(folder * 1000 + i, 10_000)).unwrap();
        }
    }
    data::age(&tree);
    let send = || bed.client(&gateway, ["send"]).arg(&tree).arg(relay.url("t"));
    let running = send().start();
    relay.wait_up(12 * MIB);
    running.kill();
    assert!(!gateway.at("t").exists(), "nothing has its final name yet");
    relay.set_rate(0);
    let done = send().expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&gateway.at("t")));
    sent_at_most(&done, 0.7);
}

fn standing_still_loses_nothing(bed: &Bed) {
    let scene = Scene::new(bed);
    let running = scene.send().start();
    scene.relay.wait_up(SIZE / 2);
    running.signal(Signal::STOP);
    std::thread::sleep(std::time::Duration::from_secs(2));
    running.signal(Signal::CONT);
    scene.relay.set_rate(0);
    let done = running.finish().expect(0);
    scene.arrived();
    assert_eq!(done.number("chunks_resent"), 0, "{done}");
}
