//! The audit trail (docs/audit.md): that it has what happened, nothing that is secret, and what happens when it cannot be written.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use metra_core::id::Digest;
use metra_core::receipt::{SignedReceipt, Statement};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::users::user;
use crate::harness::{Bed, Gateway, Metrics, Mount, data, run, wait_until};

tests![
    a_receipts_root_finds_its_record,
    refusals,
    jobs_that_do_not_end_well,
    what_is_permitted,
    tunnels,
    no_secret_is_in_a_record,
    nothing_new_while_it_cannot_be_written,
    goes_on_while_it_cannot_be_written,
    a_syslog_server_that_is_away,
    a_full_disk,
    what_runs_goes_on,
    killed,
    no_place_for_it,
];

const ALICE: &str = "alices-token-0123456789";
const BOB: &str = "bobs-token-0123456789ab";
const WRONG: &str = "no-such-token-0123456789";

/// Lines of configuration for an audit trail in the bed.
fn to_file(rest: &str) -> String {
    format!("[audit.file]\npath = \"trail/audit.log\"\n{rest}\n")
}

fn trail(bed: &Bed) -> PathBuf {
    bed.folder("trail").join("audit.log")
}

/// The records so far; each must be one of OCSF.
pub(crate) fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    // The last line may be under way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let records: Vec<Value> = whole.lines().map(parse).collect();
    for record in &records {
        let type_uid = record["class_uid"].as_u64().unwrap() * 100 + record["activity_id"].as_u64().unwrap();
        assert_eq!(record["type_uid"], type_uid);
        assert_eq!(record["metadata"]["version"], "1.4.0");
        assert!(record["src_endpoint"]["ip"].is_string());
    }
    records
}

fn is(record: &Value, event: &str, action: &str) -> bool {
    record["unmapped"]["event"] == event && record["unmapped"]["action"] == action
}

/// Waits for a record of this event and action for which `also` holds.
pub(crate) fn find(path: &Path, event: &str, action: &str, also: impl Fn(&Value) -> bool) -> Value {
    let mut found = None;
    wait_until(&format!("a record of {event} {action}"), || {
        found = records(path).into_iter().find(|record| is(record, event, action) && also(record));
        found.is_some()
    });
    found.expect("it was waited for")
}

fn send(bed: &Bed, gateway: &Gateway, path: &str, token: &str) -> run::Run {
    let file = bed.write("file", "some content");
    bed.client(gateway, ["send"]).arg(file).arg(gateway.url(path)).env("METRA_TOKEN", token)
}

fn tunnel(bed: &Bed, gateway: &Gateway, port: u16, token: &str) -> run::Run {
    let token = bed.write("token", token);
    bed.metra(["tunnel", "--over", "h3", "--listen", "127.0.0.1:0", "--target"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("--proxy")
        .arg(format!("https://{}/.well-known/masque/udp/{{target_host}}/{{target_port}}/", gateway.address()))
        .arg("--ca")
        .arg(gateway.ca())
        .arg("--proxy-token-file")
        .arg(token)
}

/// Tunnels to this port of loopback.
fn to_port(port: u16) -> String {
    format!("[tunnel]\nallow = [\"127.0.0.1:{port}\"]\ndangerous_ranges = [\"127.0.0.1/32\"]\n")
}

fn a_receipts_root_finds_its_record(bed: &Bed) {
    let path = trail(bed);
    let gateway = bed.gateway_with(&(user("alice", ALICE, "") + &to_file("")));
    for name in ["a", "b"] {
        let file = bed.write(name, name.repeat(3_000_000));
        let to = gateway.url(&format!("in {name}"));
        bed.client(&gateway, ["send"]).arg(file).arg(to).env("METRA_TOKEN", ALICE).expect(0);
    }
    bed.client(&gateway, ["get"])
        .arg(gateway.url("in a"))
        .arg(bed.path("back"))
        .env("METRA_TOKEN", ALICE)
        .expect(0);
    let receipts: Vec<Statement> = fs::read_dir(bed.path("client-state/client/receipts"))
        .unwrap()
        .map(|entry| SignedReceipt::from_text(&fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap())
        .map(|receipt| Statement::decode(&receipt.statement).unwrap())
        .collect();
    assert_eq!(receipts.len(), 3);
    for receipt in receipts {
        let action = match receipt.direction {
            metra_core::receipt::Direction::Push => "push",
            metra_core::receipt::Direction::Pull => "pull",
        };
        let root = receipt.root.to_string();
        let has_root = |record: &Value| record["file"]["hashes"][0]["value"] == root.as_str();
        let end = find(&path, "transfer-end", action, has_root);
        let matching =
            records(&path).into_iter().filter(|r| has_root(r) && r["unmapped"]["action"] == action);
        assert_eq!(matching.count(), 1, "one record has the root of this receipt");
        assert_eq!(end["file"]["size"], receipt.bytes);
        assert_eq!(end["unmapped"]["files"], 1);
        assert_eq!((&end["status_code"], &end["status_id"]), (&"ok".into(), &1.into()));
        assert_eq!(end["file"]["path"], receipt.path.as_str());
        let time = end["time"].as_u64().unwrap();
        assert!(receipt.started <= time && time <= receipt.finished);
        // The session and the decision that led to it.
        let session = &end["actor"]["session"]["uid"];
        let of_job = |r: &Value| {
            r["actor"]["session"]["uid"] == *session && r["unmapped"]["job"] == end["unmapped"]["job"]
        };
        let decision = find(&path, "decision", action, of_job);
        assert_eq!((&decision["action_id"], &decision["type_uid"]), (&1.into(), &600_617.into()));
        let rule = if action == "push" { "user.write" } else { "user.read" };
        assert_eq!(decision["policy"]["name"], rule);
        find(&path, "transfer-start", action, of_job);
        let opened = find(&path, "decision", "session", |r| r["session"]["uid"] == *session);
        assert_eq!(
            (&opened["user"]["name"], &opened["policy"]["name"]),
            (&"alice".into(), &"user.token".into())
        );
        assert_eq!((&opened["class_uid"], &opened["action_id"]), (&3002.into(), &1.into()));
    }
    // Each has its number.
    let numbers: Vec<u64> =
        records(&path).iter().map(|r| r["metadata"]["sequence"].as_u64().unwrap()).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..numbers.len() as u64).collect::<Vec<_>>());
}

fn refusals(bed: &Bed) {
    let path = trail(bed);
    let users = user("alice", ALICE, "write = false") + &user("bob", BOB, "read = false");
    let gateway = bed.gateway_with(&(users + &to_file("")));
    let refused = |action: &str, code: &'static str| {
        let record = find(&path, "decision", action, |r| r["action_id"] == 2 && r["status_code"] == code);
        assert_eq!((&record["status_id"], &record["severity_id"]), (&2.into(), &3.into()), "{record}");
        record
    };
    send(bed, &gateway, "x", WRONG).expect(10);
    let record = refused("session", "unauthenticated");
    assert_eq!((&record["user"]["type_id"], &record["policy"]["name"]), (&0.into(), &"credentials".into()));
    send(bed, &gateway, "x\ny=|", ALICE).expect(12);
    let record = refused("push", "denied");
    assert_eq!(
        (&record["actor"]["user"]["name"], &record["file"]["path"]),
        (&"alice".into(), &"x\ny=|".into())
    );
    assert_eq!(record["policy"]["name"], "user.write");
    let run = |verb: &str, path: &str, token: &str| {
        bed.metra([verb, "--ca"]).arg(gateway.ca()).arg(gateway.url(path)).env("METRA_TOKEN", token)
    };
    run("rm", "x", ALICE).expect(12);
    assert_eq!(refused("remove", "denied")["type_uid"], 600_604);
    run("ls", "x", BOB).expect(12);
    assert_eq!(refused("list", "denied")["policy"]["name"], "user.read");
    bed.client(&gateway, ["get"])
        .arg(gateway.url("x"))
        .arg(bed.path("back"))
        .env("METRA_TOKEN", BOB)
        .expect(12);
    assert_eq!(refused("pull", "denied")["actor"]["user"]["name"], "bob");
    // Permitted, and there is nothing.
    run("rm", "none", BOB).run();
    let record = find(&path, "decision", "remove", |r| r["status_code"] == "not_found");
    assert_eq!((&record["action_id"], &record["status_id"]), (&1.into(), &2.into()));
    assert!(
        !records(&path).iter().any(|r| is(r, "transfer-start", "push") || is(r, "transfer-start", "pull"))
    );
}

fn jobs_that_do_not_end_well(bed: &Bed) {
    let path = trail(bed);
    let mut gateway = bed.gateway_with(&(user("alice", ALICE, "") + &to_file("")));
    let relay = bed.relay(&gateway, 1_000_000);
    let file = bed.write("large", data::noise(7, 30_000_000));
    let start = |name: &str| {
        let before = relay.up();
        let run =
            bed.client(&gateway, ["send"]).arg(&file).arg(relay.url(name)).env("METRA_TOKEN", ALICE).start();
        relay.wait_up(before + 1_000_000);
        run
    };
    // The same command takes the job over.
    start("taken-over").kill();
    relay.set_rate(100_000_000);
    bed.client(&gateway, ["send"])
        .arg(&file)
        .arg(relay.url("taken-over"))
        .env("METRA_TOKEN", ALICE)
        .expect(0);
    let of = |code: &str| {
        let code = code.to_owned();
        move |r: &Value| r["file"]["path"] == "taken-over" && r["status_code"] == code.as_str()
    };
    let end = find(&path, "transfer-end", "push", of("superseded"));
    assert_eq!(end["status_id"], 2);
    assert!(end["file"]["hashes"].is_null() && end["duration"].is_u64());
    assert_eq!(find(&path, "transfer-end", "push", of("ok"))["file"]["size"], 30_000_000);

    relay.set_rate(1_000_000);
    let running = start("shut-down");
    assert!(gateway.terminate().success());
    running.kill();
    let of = |event: &str| {
        let of = |r: &&Value| is(r, event, "push") && r["file"]["path"] == "shut-down";
        let records = records(&path);
        assert_eq!(records.iter().filter(of).count(), 1, "{event}");
        records.iter().find(of).cloned().expect("one")
    };
    let (start, end) = (of("transfer-start"), of("transfer-end"));
    assert_eq!(end["status_code"], "draining");
    assert_eq!(start["actor"], end["actor"]);
}

fn what_is_permitted(bed: &Bed) {
    let path = trail(bed);
    let mut gateway = bed.gateway_with(&(user("alice", ALICE, "") + &to_file("")));
    let permitted = |action: &str| {
        find(&path, "decision", action, |r| {
            r["action_id"] == 1 && r["status_code"] == "ok" && r["severity_id"] == 1
        })
    };
    send(bed, &gateway, "a", ALICE).arg("--rate-policy").arg("low").expect(0);
    let record = permitted("rate");
    assert_eq!((&record["type_uid"], &record["privileges"][0]), (&300_301.into(), &"low".into()));
    assert_eq!(record["policy"]["name"], "rates");
    // By default nobody may take more than others.
    send(bed, &gateway, "b", ALICE).arg("--rate-policy").arg("high").expect(0);
    let record = find(&path, "decision", "rate", |r| r["action_id"] == 2);
    assert_eq!((&record["privileges"][0], &record["unmapped"]["asked"]), (&"fair".into(), &"high".into()));

    let run = |verb: &str| {
        let run = bed.metra([verb, "--ca"]).arg(gateway.ca()).arg(gateway.url("a"));
        run.env("METRA_TOKEN", ALICE).expect(0)
    };
    run("ls");
    assert_eq!(permitted("list")["file"]["path"], "a");
    run("rm");
    let record = permitted("remove");
    assert_eq!((&record["type_uid"], &record["unmapped"]["files"]), (&600_604.into(), &1.into()));

    // Every way in has its name, and a tunnel to the gateway itself is one.
    for (via, way) in [("quic", "quic"), ("tls", "tls"), ("ws", "ws"), ("masque", "masque")] {
        send(bed, &gateway, way, ALICE).arg("--via").arg(via).expect(0);
        let end = find(&path, "transfer-end", "push", |r| r["file"]["path"] == way);
        assert_eq!(end["unmapped"]["way"], way);
        assert_eq!(end["src_endpoint"]["ip"], "127.0.0.1");
    }
    let back = bed.folder("back");
    bed.client(&gateway, ["get"])
        .args([gateway.url("quic"), gateway.url("tls")])
        .arg(&back)
        .env("METRA_TOKEN", ALICE)
        .expect(0);
    let end = find(&path, "transfer-end", "pull", |r| r["status_code"] == "ok");
    assert_eq!((&end["file"]["path"], &end["unmapped"]["files"]), (&"quic\ntls".into(), &2.into()));
    let record = permitted("tunnel");
    assert_eq!(
        (&record["policy"]["name"], &record["actor"]["user"]["type_id"]),
        (&"tunnel.own".into(), &0.into())
    );
    find(&path, "tunnel-start", "tunnel", |r| r["policy"]["name"] == "tunnel.own");
    // It may be idle for a while when its link is gone; a shutdown ends it.
    assert!(gateway.terminate().success());
    find(&path, "tunnel-end", "tunnel", |r| r["policy"]["name"] == "tunnel.own");
}

fn tunnels(bed: &Bed) {
    let path = trail(bed);
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, from)) = echo.recv_from(&mut room) {
            let _ = echo.send_to(&room[..length], from);
        }
    });
    let other = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let users = user("alice", ALICE, "") + &user("bob", BOB, "tunnel = false");
    let gateway = bed.gateway_with(&(users + &to_file("") + &to_port(port)));

    let refused = |user: Option<&str>, rule: &str, code: &str| {
        let record =
            find(&path, "decision", "tunnel", |r| r["policy"]["name"] == rule && r["status_code"] == code);
        assert_eq!((&record["type_uid"], &record["action_id"]), (&400_105.into(), &2.into()));
        assert_eq!(record["actor"]["user"]["name"], user.unwrap_or("unknown"));
        assert_eq!(record["unmapped"]["way"], "http");
        record
    };
    tunnel(bed, &gateway, port, WRONG).expect(10);
    refused(None, "credentials", "unauthenticated");
    tunnel(bed, &gateway, port, BOB).expect(12);
    refused(Some("bob"), "user.tunnel", "denied");
    tunnel(bed, &gateway, other, ALICE).expect(12);
    let record = refused(Some("alice"), "tunnel.allow", "denied");
    assert_eq!(
        (&record["dst_endpoint"]["hostname"], &record["dst_endpoint"]["port"]),
        (&"127.0.0.1".into(), &other.into())
    );

    let listen = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let token = bed.write("token", ALICE);
    let running = bed
        .metra([
            "tunnel",
            "--over",
            "h3",
            "--listen",
            &listen.to_string(),
            "--target",
            &format!("127.0.0.1:{port}"),
        ])
        .arg("--proxy")
        .arg(format!("https://{}", gateway.address()))
        .arg("--ca")
        .arg(gateway.ca())
        .arg("--proxy-token-file")
        .arg(token)
        .start();
    let program = UdpSocket::bind("127.0.0.1:0").unwrap();
    program.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    wait_until("an answer through the tunnel", || {
        let _ = program.send_to(&[7; 1000], listen);
        program.recv(&mut [0; 2048]).is_ok()
    });
    running.signal(Signal::INT);
    running.finish().expect(0);
    let end = find(&path, "tunnel-end", "tunnel", |r| r["traffic"]["bytes_in"].as_u64() >= Some(1000));
    assert_eq!((&end["type_uid"], &end["dst_endpoint"]["ip"]), (&400_102.into(), &"127.0.0.1".into()));
    assert!(end["traffic"]["bytes_out"].as_u64() >= Some(1000) && end["duration"].is_u64());
    let count = |event: &str| records(&path).iter().filter(|r| is(r, event, "tunnel")).count();
    wait_until("an end for each start", || count("tunnel-start") == count("tunnel-end"));
    let permitted = find(&path, "decision", "tunnel", |r| r["action_id"] == 1);
    assert_eq!(
        (&permitted["status_code"], &permitted["policy"]["name"]),
        (&"ok".into(), &"tunnel.allow".into())
    );
}

fn no_secret_is_in_a_record(bed: &Bed) {
    let path = trail(bed);
    for format in ["json", "cef"] {
        let _ = fs::remove_file(&path);
        let users = user("alice", ALICE, "") + &user("bob", BOB, "tunnel = false");
        let file = to_file(&format!("format = \"{format}\""));
        let mut gateway = bed.gateway_with(&(users + &file + &to_port(1)));
        send(bed, &gateway, &format!("{format}-a"), ALICE).expect(0);
        send(bed, &gateway, "b", WRONG).expect(10);
        tunnel(bed, &gateway, 2, ALICE).expect(12);
        tunnel(bed, &gateway, 1, BOB).expect(12);
        tunnel(bed, &gateway, 1, WRONG).expect(10);
        assert!(gateway.terminate().success());
        // A shutdown writes all there is.
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("alice") && text.contains("bob") && text.contains("transfer-end"), "{text}");
        let hash = Digest::of(ALICE.as_bytes()).to_string();
        for secret in [ALICE, BOB, WRONG, &hash, "some content"] {
            // Not even its beginning.
            assert!(!text.contains(&secret[..12]), "{secret} is in\n{text}");
        }
    }
}

fn nothing_new_while_it_cannot_be_written(bed: &Bed) {
    let path = trail(bed);
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let metrics = Metrics::new();
    let config =
        metrics.config() + "[audit]\non_failure = \"refuse\"\n" + &to_file("") + &user("alice", ALICE, "");
    let gateway = bed.gateway_with(&(config + &to_port(1)));
    // The first that comes finds out; what it asks for may have begun by then.
    send(bed, &gateway, "first", ALICE).arg("--timeout").arg("1").run();
    metrics.wait_for(1.0, "metra_audit_failing", &["sink=\"file\""]);
    let refused = send(bed, &gateway, "a", ALICE).arg("--timeout").arg("1").run();
    assert_ne!(refused.code(), 0);
    assert!(refused.to_string().contains("the audit trail cannot be written"), "{refused}");
    let refused = tunnel(bed, &gateway, 1, ALICE).run();
    assert_ne!(refused.code(), 0);
    assert!(refused.stderr.contains("503"), "{refused}");
    assert!(!gateway.at("a").exists());
    assert!(metrics.sum("metra_audit_refused_total", &[]) >= 2.0);
    // It can be written again.
    fs::remove_file(&path).unwrap();
    wait_until("it to be written again", || metrics.sum("metra_audit_failing", &[]) == 0.0);
    send(bed, &gateway, "a", ALICE).expect(0);
    find(&path, "transfer-end", "push", |r| r["file"]["path"] == "a");
    // And what was refused meanwhile is there.
    let rule = |r: &Value| r["policy"]["name"] == "audit.on_failure" && r["action_id"] == 2;
    find(&path, "decision", "session", rule);
    find(&path, "decision", "tunnel", rule);
}

fn goes_on_while_it_cannot_be_written(bed: &Bed) {
    let path = trail(bed);
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let metrics = Metrics::new();
    let gateway = bed.gateway_with(&(metrics.config() + &user("alice", ALICE, "") + &to_file("")));
    send(bed, &gateway, "a", ALICE).expect(0);
    metrics.wait_for(1.0, "metra_audit_failing", &["sink=\"file\""]);
    send(bed, &gateway, "b", ALICE).expect(0);
    assert_eq!(metrics.sum("metra_audit_refused_total", &[]), 0.0);
    assert!(gateway.log().contains("the audit trail cannot be written"));
    fs::remove_file(&path).unwrap();
    // Nothing was lost: there was room for all of it.
    find(&path, "transfer-end", "push", |r| r["file"]["path"] == "a");
    find(&path, "transfer-end", "push", |r| r["file"]["path"] == "b");
    assert_eq!(metrics.sum("metra_audit_lost_total", &[]), 0.0);
}

fn a_syslog_server_that_is_away(bed: &Bed) {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let metrics = Metrics::new();
    let syslog = format!("[audit]\non_failure = \"refuse\"\n[audit.syslog]\naddress = \"{nobody}\"\n");
    let path = trail(bed);
    let gateway = bed.gateway_with(&(metrics.config() + &syslog + &to_file("") + &user("alice", ALICE, "")));
    metrics.wait_for(1.0, "metra_audit_failing", &["sink=\"syslog\""]);
    let refused = send(bed, &gateway, "a", ALICE).arg("--timeout").arg("1").run();
    assert!(refused.code() != 0 && !gateway.at("a").exists(), "{refused}");
    // The file does not wait for it.
    find(&path, "decision", "session", |r| r["policy"]["name"] == "audit.on_failure");
    assert_eq!(metrics.sum("metra_audit_failing", &["sink=\"file\""]), 0.0);
}

fn a_full_disk(bed: &Bed) {
    let path = trail(bed);
    // A few pages.
    let disk = Mount::tmpfs(path.parent().unwrap(), 32 << 10);
    let metrics = Metrics::new();
    let config =
        metrics.config() + "[audit]\non_failure = \"refuse\"\n" + &to_file("") + &user("alice", ALICE, "");
    let gateway = bed.gateway_with(&config);
    let mut sent = 0;
    wait_until("the disk to be full", || {
        sent += 1;
        send(bed, &gateway, &format!("file-{sent}"), ALICE).arg("--timeout").arg("1").run();
        metrics.sum("metra_audit_failing", &[]) == 1.0
    });
    // What is there is whole.
    assert!(!records(&path).is_empty());
    assert!(fs::read(&path).unwrap().ends_with(b"\n"), "a part of a line was left");
    disk.resize(1 << 20);
    wait_until("it to be written again", || metrics.sum("metra_audit_failing", &[]) == 0.0);
    send(bed, &gateway, "last", ALICE).expect(0);
    find(&path, "transfer-end", "push", |r| r["file"]["path"] == "last");
    // What waited is there, in order and once.
    let numbers: Vec<u64> =
        records(&path).iter().map(|r| r["metadata"]["sequence"].as_u64().unwrap()).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, (0..numbers.len() as u64).collect::<Vec<_>>());
    drop(gateway);
}

fn what_runs_goes_on(bed: &Bed) {
    let path = trail(bed);
    let disk = Mount::tmpfs(path.parent().unwrap(), 64 << 10);
    let metrics = Metrics::new();
    let config =
        metrics.config() + "[audit]\non_failure = \"refuse\"\n" + &to_file("") + &user("alice", ALICE, "");
    let gateway = bed.gateway_with(&config);
    let relay = bed.relay(&gateway, 1_000_000);
    let file = bed.write("large", data::noise(8, 20_000_000));
    let running =
        bed.client(&gateway, ["send"]).arg(file).arg(relay.url("large")).env("METRA_TOKEN", ALICE).start();
    relay.wait_up(1_000_000);
    // All the rest of the disk.
    let filler = path.with_file_name("filler");
    let _ = fs::write(&filler, vec![0; 64 << 10]);
    wait_until("the last page to be full", || {
        send(bed, &gateway, "small", ALICE).run();
        metrics.sum("metra_audit_failing", &[]) == 1.0
    });
    relay.set_rate(100_000_000);
    running.finish().expect(0);
    assert_eq!(metrics.sum("metra_audit_failing", &[]), 1.0, "all that while");
    assert_ne!(send(bed, &gateway, "new", ALICE).run().code(), 0);
    // Its end is recorded when there is room.
    fs::remove_file(filler).unwrap();
    find(&path, "transfer-end", "push", |r| r["file"]["path"] == "large" && r["status_code"] == "ok");
    drop((gateway, disk));
}

fn killed(bed: &Bed) {
    let path = trail(bed);
    let mut gateway = bed.gateway_with(&(user("alice", ALICE, "") + &to_file("")));
    for round in 0..3 {
        for n in 0..2 {
            send(bed, &gateway, &format!("{round}-{n}"), ALICE).expect(0);
        }
        gateway.kill();
        // A machine that stopped in the middle of a line.
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"time\":17");
        fs::write(&path, text).unwrap();
        gateway.restart();
    }
    send(bed, &gateway, "last", ALICE).expect(0);
    assert!(gateway.terminate().success());
    let text = fs::read_to_string(&path).unwrap();
    let (torn, whole): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| *line == "{\"time\":17");
    assert_eq!(torn.len(), 3);
    let whole: Vec<Value> = whole.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for round in 0..3 {
        // All but what was under way when it was killed.
        let is_end = |r: &&Value| is(r, "transfer-end", "push") && r["file"]["path"] == format!("{round}-0");
        assert_eq!(whole.iter().filter(is_end).count(), 1);
    }
    assert_eq!(whole.iter().filter(|r| r["metadata"]["sequence"] == 0).count(), 4, "four runs");
}

fn no_place_for_it(bed: &Bed) {
    let root = bed.folder("root");
    let state = bed.path("state");
    for (path, reason) in [("absent/audit.log", "absent/audit.log"), ("root/audit.log", "inside of root")] {
        let config = format!("root = {root:?}\nstate = {state:?}\n[audit.file]\npath = \"{path}\"\n");
        let config = bed.write("gateway.toml", config);
        let done = bed.metra(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config).expect(2);
        assert!(done.stderr.contains(reason), "{done}");
    }
}
