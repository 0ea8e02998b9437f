//! Sources that cannot be read, or do not stand still.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::data::{self, MIB};
use crate::harness::{Bed, Tree, run, skip};

tests![
    a_file_that_may_not_be_read,
    a_file_at_the_gateway_that_may_not_be_read,
    a_file_that_changes_all_the_time,
    a_file_that_changes_once,
    a_file_at_the_gateway_that_changes_once,
    a_file_that_grows,
    a_file_that_goes_away,
    sockets_and_pipes,
];

/// As `nobody` where this runs as root, who may read everything.
fn without_rights(bed: &Bed, run: run::Run) -> run::Run {
    if !rustix::process::geteuid().is_root() {
        return run;
    }
    const NOBODY: u32 = 65534;
    let state = bed.folder("client-state");
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    // Also the directory of the bed, which is private.
    let bed_dir = state.parent().unwrap();
    fs::set_permissions(bed_dir, fs::Permissions::from_mode(0o755)).unwrap();
    let probe = bed.metra(["--version"]).user(NOBODY);
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| probe.run().code())) {
        Ok(0) => run.user(NOBODY),
        _ => skip("another user cannot run the program where it is"),
    }
}

fn a_file_that_may_not_be_read(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["first", "secret", "last"] {
        fs::write(tree.join(name), name).unwrap();
    }
    data::noise_file(&tree.join("secret and large"), 61, MIB);
    fs::create_dir(tree.join("closed")).unwrap();
    fs::write(tree.join("closed/x"), "x").unwrap();
    for name in ["secret", "secret and large", "closed"] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o0)).unwrap();
    }
    let ca = bed.path("ca.pem");
    fs::copy(gateway.ca(), &ca).unwrap();
    let run = bed.metra(["send", "--json", "--ca"]).arg(&ca).arg(&tree).arg(gateway.url("t"));
    let done = without_rights(bed, run).expect(9);
    for name in ["secret", "secret and large", "closed"] {
        let told = done.entries().into_iter().find(|(path, _)| path.ends_with(name));
        assert_eq!(told.map(|(_, code)| code).as_deref(), Some("read_failed"), "{name}: {done}");
        let permissions = fs::Permissions::from_mode(0o755);
        fs::set_permissions(tree.join(name), permissions).unwrap();
    }
    let there = Tree::of(&gateway.at("t"));
    let files: Vec<_> = there.paths().into_iter().filter(|p| gateway.at("t").join(p).is_file()).collect();
    assert_eq!(files, ["first", "last"]);
}

fn a_file_at_the_gateway_that_may_not_be_read(bed: &Bed) {
    // A directory where a file was when it was listed would need luck; a file that a gateway cannot open is enough.
    if rustix::process::geteuid().is_root() {
        skip("root may read everything, and the gateway runs as root here");
    }
    let gateway = bed.gateway();
    fs::create_dir(gateway.at("t")).unwrap();
    for name in ["first", "secret"] {
        fs::write(gateway.at("t").join(name), name).unwrap();
    }
    fs::set_permissions(gateway.at("t/secret"), fs::Permissions::from_mode(0o0)).unwrap();
    let done = bed.client(&gateway, ["get"]).arg(gateway.url("t")).arg(bed.path("back")).expect(9);
    assert!(
        done.entries().iter().any(|(path, code)| path.ends_with("secret") && code == "read_failed"),
        "{done}"
    );
    assert_eq!(Tree::of(&bed.path("back")).paths(), ["first"]);
}

fn a_file_that_changes_all_the_time(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 24 * MIB);
    let tree = bed.folder("tree");
    let restless = data::noise_file(&tree.join("restless"), 62, 24 * MIB);
    data::noise_file(&tree.join("quiet"), 63, 2 * MIB);
    let contents = format!("{}/", tree.display());
    let send = || bed.client(&gateway, ["send", &contents]).arg(relay.url("t"));
    let over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&restless).unwrap();
            let mut n = 0u64;
            while !over.load(Ordering::Relaxed) {
                // Another byte somewhere, many times a second.
                file.write_all_at(&n.to_le_bytes(), (n * 7919 * 4096) % (24 * MIB - 8)).unwrap();
                n += 1;
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let done = send().run();
        over.store(true, Ordering::Relaxed);
        done
    });
    let done = done.expect(9);
    assert!(
        done.entries().iter().any(|(path, code)| path.ends_with("restless") && code == "changed"),
        "{done}"
    );
    assert!(!gateway.at("t/restless").exists(), "never a mixed file");
    assert!(data::same_bytes(&tree.join("quiet"), &gateway.at("t/quiet")));

    // When it has come to rest the same command sends it.
    relay.set_rate(0);
    send().expect(0);
    assert!(data::same_bytes(&restless, &gateway.at("t/restless")));
}

fn a_file_that_changes_once(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 24 * MIB);
    let file = data::noise_file(&bed.path("file"), 64, 160 * MIB);
    let running = bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("file")).start();
    relay.wait_up(8 * MIB);
    // At the end, which has not been sent, and at the start, which has.
    let writer = File::options().write(true).open(&file).unwrap();
    writer.write_all_at(b"changed", 159 * MIB).unwrap();
    writer.write_all_at(b"changed", 17).unwrap();
    drop(writer);
    relay.set_rate(0);
    let done = running.finish();
    // It is read again and then it stands still; or the change came after it was read. Never a mixture.
    match done.code() {
        0 => {
            let there = fs::read(gateway.at("file")).unwrap();
            let new = fs::read(&file).unwrap();
            let mut old = new.clone();
            let before = data::noise(64, MIB);
            old[17..24].copy_from_slice(&before[17..24]);
            assert!(
                there == new || there.len() == new.len() && there[17..24] == old[17..24],
                "a mixture arrived"
            );
            if there != new {
                assert_ne!(&there[(159 << 20)..(159 << 20) + 7], b"changed", "a mixture arrived");
            }
        }
        9 => {
            done.entry("file", "changed");
            assert!(!gateway.at("file").exists(), "{done}");
        }
        _ => panic!("{done}"),
    }
}

fn a_file_at_the_gateway_that_changes_once(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 24 * MIB);
    let file = data::noise_file(&gateway.at("file"), 70, 160 * MIB);
    let running = bed.client(&gateway, ["get"]).arg(relay.url("file")).arg(bed.path("back")).start();
    relay.wait_down(8 * MIB);
    let writer = File::options().write(true).open(&file).unwrap();
    writer.write_all_at(b"changed", 159 * MIB).unwrap();
    writer.write_all_at(b"changed", 17).unwrap();
    drop(writer);
    relay.set_rate(0);
    let done = running.finish();
    match done.code() {
        // It was read again, and stood still.
        0 => assert!(data::same_bytes(&file, &bed.path("back")), "a mixture arrived\n{done}"),
        9 => {
            done.entry("file", "changed");
            assert!(!bed.path("back").exists(), "{done}");
        }
        _ => panic!("{done}"),
    }
}

fn a_file_that_grows(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 24 * MIB);
    let file = data::noise_file(&bed.path("log"), 65, 128 * MIB);
    let running = bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("log")).start();
    relay.wait_up(4 * MIB);
    let writer = File::options().append(true).open(&file).unwrap();
    std::io::Write::write_all(&mut (&writer), &data::noise(66, MIB)).unwrap();
    drop(writer);
    relay.set_rate(0);
    let done = running.finish();
    let length = fs::metadata(gateway.at("log")).map(|meta| meta.len());
    match (done.code(), length) {
        // As it was, or as it is.
        (0, Ok(length)) => assert!(length == 128 * MIB || length == 129 * MIB, "{length}"),
        (9, Err(_)) => {}
        (code, length) => panic!("{code}, {length:?}\n{done}"),
    }
}

fn a_file_that_goes_away(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 24 * MIB);
    let tree = bed.folder("tree");
    data::noise_file(&tree.join("1 stays"), 67, 4 * MIB);
    // More than is read ahead.
    let gone = data::noise_file(&tree.join("2 goes"), 68, 200 * MIB);
    data::noise_file(&tree.join("3 stays"), 69, 4 * MIB);
    let running = bed.client(&gateway, ["send"]).arg(&tree).arg(relay.url("t")).start();
    relay.wait_up(6 * MIB);
    // What is open is not gone by removal alone; and what is cut short first may be sent so.
    let open = File::options().write(true).open(&gone).unwrap();
    fs::remove_file(&gone).unwrap();
    open.set_len(5 * MIB).unwrap();
    relay.set_rate(0);
    let done = running.finish().expect(9);
    let told = done.entries().into_iter().find(|(path, _)| path.ends_with("2 goes")).expect("it is reported");
    assert!(["changed", "read_failed", "not_found"].contains(&told.1.as_str()), "{told:?}");
    assert!(!gateway.at("t/2 goes").exists());
    for name in ["1 stays", "3 stays"] {
        assert!(data::same_bytes(&tree.join(name), &gateway.at("t").join(name)));
    }
}

fn sockets_and_pipes(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    fs::write(tree.join("good"), "good").unwrap();
    let made = std::process::Command::new("mkfifo").arg(tree.join("pipe")).status();
    assert!(made.unwrap().success());
    // The path of a socket is short, so it is made elsewhere.
    let listener = UnixListener::bind(tree.join("socket"));
    let done = bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(9);
    let expected = 1 + u64::from(listener.is_ok());
    assert_eq!(done.number("failed"), expected, "{done}");
    assert!(done.entries().iter().all(|(_, code)| code == "unsupported"), "{done}");
    assert_eq!(Tree::of(&gateway.at("t")).paths(), ["good"]);
}
