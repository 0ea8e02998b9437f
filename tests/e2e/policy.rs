//! Policies: what they let through, by every way, and what becomes of what runs when they change.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::data::{self, MIB};
use crate::harness::users::user;
use crate::harness::{Bed, Gateway, run, wait_until};
use crate::tunnel;

tests![
    the_same_by_every_way,
    who_may_come_in_and_how,
    paths_within_a_tree,
    the_type_of_what_is_sent,
    links_lead_nowhere_else,
    what_runs_ends_when_it_is_no_longer_permitted,
    a_wrong_file_changes_nothing,
    a_dry_run_denies_nothing,
    tunnels,
    rates,
    decisions_are_in_the_audit_trail,
    check_and_test_and_explain,
];

const ALICE: &str = "alices-token-0123456789";
const BOB: &str = "bobs-token-0123456789ab";

const OFFICE: &str = r#"
@id("come-in") permit(principal, action == Metra::Action::"openSession", resource);
@id("staff") permit(principal in Metra::Group::"staff", action in [Metra::Action::"send", Metra::Action::"delete"], resource in Metra::Path::"/incoming");
@id("public") permit(principal, action in [Metra::Action::"get", Metra::Action::"list"], resource in Metra::Path::"/public");
@id("secret") forbid(principal, action, resource in Metra::Path::"/public/secret");
"#;

/// Alice is of the staff, bob is not.
fn users() -> String {
    user("alice", ALICE, "groups = [\"staff\"]\ntenant = \"acme\"") + &user("bob", BOB, "")
}

struct Office<'b> {
    bed: &'b Bed,
    policies: PathBuf,
    gateway: Gateway,
}

impl<'b> Office<'b> {
    fn new(bed: &'b Bed, policies: &str, rest: &str) -> Self {
        let policies = bed.write("office.cedar", policies);
        let gateway = bed.gateway_with(&format!("{}[policy]\nfiles = [{policies:?}]\n{rest}", users()));
        for (path, content) in
            [("public/a", "a"), ("public/secret/key", "key"), ("private/b", "b"), ("incoming/c", "c")]
        {
            let path = gateway.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        Self { bed, policies, gateway }
    }

    fn run(&self, token: &str, words: &[&str]) -> run::Run {
        match words {
            ["rm", ..] => self.bed.metra(words).arg("--ca").arg(self.gateway.ca()).env("METRA_TOKEN", token),
            _ => self.bed.client(&self.gateway, words).env("METRA_TOKEN", token),
        }
    }

    fn send(&self, token: &str, path: &str) -> run::Run {
        let file = self.bed.write("file", "content");
        self.run(token, &["send"]).arg(file).arg(self.gateway.url(path))
    }

    fn get(&self, token: &str, path: &str) -> run::Run {
        let copy = self.bed.path("copy");
        let _ = fs::remove_file(&copy);
        let _ = fs::remove_dir_all(&copy);
        self.run(token, &["get"]).arg(self.gateway.url(path)).arg(copy)
    }

    fn change(&self, policies: &str) {
        let read = |gateway: &Gateway| gateway.log().matches("policies read").count();
        let before = read(&self.gateway);
        fs::write(&self.policies, policies).unwrap();
        wait_until("new policies", || read(&self.gateway) > before);
    }
}

fn the_same_by_every_way(bed: &Bed) {
    let office = Office::new(bed, OFFICE, "");
    let own = format!("https://{}", office.gateway.address());
    let ways: [&[&str]; 4] = [
        &["--via", "quic"],
        &["--via", "tls"],
        &["--via", "ws"],
        &["--via", "masque", "--masque-proxy", &own, "--masque-ca"],
    ];
    for way in ways {
        let by = |run: run::Run| match way {
            [via, name] => run.args([*via, *name]),
            _ => run.args(&way[..4]),
        };
        by(office.send(ALICE, "incoming/a")).expect(0);
        by(office.get(BOB, "public/a")).expect(0);
        by(office.run(BOB, &["ls"]).arg(office.gateway.url("public"))).expect(0);
        for (denied, by_whom) in [
            (office.send(BOB, "incoming/b"), "no policy permits it"),
            (office.send(ALICE, "public/b"), "no policy permits it"),
            (office.send(ALICE, "incomings"), "no policy permits it"),
            (office.get(ALICE, "private/b"), "no policy permits it"),
            (office.get(ALICE, "public/secret/key"), "policy secret"),
            (office.get(ALICE, "//public//secret/key"), "policy secret"),
            (office.run(ALICE, &["ls"]).arg(office.gateway.url("private")), "no policy permits it"),
            (office.run(BOB, &["rm"]).arg(office.gateway.url("incoming/c")), "no policy permits it"),
        ] {
            let done = by(denied).expect(12);
            assert!(done.stderr.contains(by_whom), "{by_whom}\n{done}");
        }
        assert!(!office.gateway.at("incoming/b").exists() && !office.gateway.at("public/b").exists());
        assert!(office.gateway.at("incoming/c").exists());
    }
}

fn who_may_come_in_and_how(bed: &Bed) {
    let policies = format!(
        "{OFFICE}@id(\"no-web\") forbid(principal == Metra::User::\"bob\", action == Metra::Action::\"openSession\", resource) when {{ context.way == \"ws\" || !context.source.isLoopback() }};"
    );
    let office = Office::new(bed, &policies, "");
    office.get(BOB, "public/a").args(["--via", "tls"]).expect(0);
    office.get(ALICE, "public/a").args(["--via", "ws"]).expect(0);
    let denied = office.get(BOB, "public/a").args(["--via", "ws"]).expect(12);
    assert!(denied.stderr.contains("policy no-web"), "{denied}");
}

fn paths_within_a_tree(bed: &Bed) {
    let shut = "@id(\"no-exe\") forbid(principal, action == Metra::Action::\"send\", resource) when { resource.extension == \"exe\" };\n@id(\"small\") forbid(principal, action == Metra::Action::\"send\", resource) when { context has size && context.size > 1000000 };";
    let office = Office::new(bed, &format!("{OFFICE}{shut}"), "");
    // What may not be read is left out, and said.
    let got = office.get(BOB, "public").expect(9);
    assert!(bed.path("copy/a").exists() || bed.path("copy/public/a").exists(), "{got}");
    assert!(!bed.path("copy/secret/key").exists() && !bed.path("copy/public/secret/key").exists());
    assert!(got.text().contains("policy secret"), "{got}");
    // Listings do not show it.
    let listed = office.run(BOB, &["ls", "-R"]).arg(office.gateway.url("public")).expect(0);
    assert!(listed.text().contains('a') && !listed.text().contains("secret"), "{listed}");
    // What may not be written is refused, and the rest arrives.
    for (name, length) in
        [("tree/x.exe", 10), ("tree/y.txt", 10), ("tree/sub/z.EXE", 10), ("tree/large", 2_000_000)]
    {
        let path = bed.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data::noise(3, length)).unwrap();
    }
    let tree = bed.path("tree");
    let sent = office.run(ALICE, &["send"]).arg(tree).arg(office.gateway.url("incoming/")).expect(9);
    assert!(office.gateway.at("incoming/tree/y.txt").exists(), "{sent}");
    for refused in ["x.exe", "sub/z.EXE", "large"] {
        assert!(!office.gateway.at(&format!("incoming/tree/{refused}")).exists(), "{refused}\n{sent}");
        assert!(sent.text().contains(&format!("tree/{refused}")), "{refused}\n{sent}");
    }
    // A folder with something in it that may not be removed stays whole.
    office.change(&format!("{OFFICE}@id(\"keep\") forbid(principal, action == Metra::Action::\"delete\", resource == Metra::Path::\"/incoming/tree/y.txt\");"));
    let kept = office.run(ALICE, &["rm", "-r"]).arg(office.gateway.url("incoming/tree")).expect(12);
    assert!(
        kept.stderr.contains("policy keep") && office.gateway.at("incoming/tree/y.txt").exists(),
        "{kept}"
    );
}

fn links_lead_nowhere_else(bed: &Bed) {
    let office = Office::new(bed, OFFICE, "");
    let link = |target: &str, at: &str| std::os::unix::fs::symlink(target, office.gateway.at(at)).unwrap();
    link("../private/b", "public/by-link");
    link("../private", "public/folder");
    for path in ["public/by-link", "public/folder/b", "public/folder/"] {
        let run = office.get(BOB, path).args(["--symlinks", "follow"]).run();
        assert_ne!(run.code(), 0, "{path}\n{run}");
        assert!(fs::read(bed.path("copy")).map_or(true, |bytes| bytes != b"b"), "{path}\n{run}");
        assert!(!bed.path("copy/b").exists(), "{path}\n{run}");
    }
}

fn what_runs_ends_when_it_is_no_longer_permitted(bed: &Bed) {
    let office = Office::new(bed, OFFICE, "");
    let relay = bed.relay(&office.gateway, 2 * MIB);
    let file = data::noise_file(&bed.path("large"), 5, 24 * MIB);
    // A job; and then a whole session.
    let without_staff = OFFICE.replace("Group::\"staff\"", "Group::\"nobody\"");
    let without_entry = OFFICE.replace(
        "permit(principal, action == Metra::Action::\"openSession\"",
        "permit(principal == Metra::User::\"bob\", action == Metra::Action::\"openSession\"",
    );
    for (policies, why) in [(without_staff, "no policy permits it"), (without_entry, "no policy permits it")]
    {
        office.change(OFFICE);
        let start = relay.up();
        let run =
            office.run(ALICE, &["send"]).args(["--timeout", "5"]).arg(&file).arg(relay.url("incoming/large"));
        let mut running = run.start();
        relay.wait_up(start + MIB);
        assert!(running.is_running());
        let changed = Instant::now();
        office.change(&policies);
        wait_until("the end of the job", || {
            office.gateway.log().matches("push ended").count() > 0 || !running.is_running()
        });
        let took = changed.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        let done = running.finish().expect(12);
        assert!(done.stderr.contains(why), "{done}");
        assert!(!office.gateway.at("incoming/large").exists());
    }
}

fn a_wrong_file_changes_nothing(bed: &Bed) {
    let office = Office::new(bed, OFFICE, "");
    fs::write(&office.policies, "permit(principal, action, resource) when { context.colour };").unwrap();
    wait_until("an error", || office.gateway.log().contains("those before stay in force"));
    assert!(office.gateway.log().contains("office.cedar:1:"), "{}", office.gateway.log());
    office.get(BOB, "public/a").expect(0);
    office.get(BOB, "private/b").expect(12);
    // At the start nothing is in force yet.
    let config = bed.write(
        "wrong.toml",
        format!("root = {:?}\n[policy]\nfiles = [{:?}]\n", bed.folder("other"), office.policies),
    );
    let done = bed.metra(["serve", "--config"]).arg(config).arg("--state").arg(bed.path("s")).expect(2);
    assert!(done.stderr.contains("office.cedar:1:"), "{done}");
}

fn a_dry_run_denies_nothing(bed: &Bed) {
    let office = Office::new(bed, OFFICE, "dry_run = true\n");
    office.get(BOB, "private/b").expect(0);
    office.send(BOB, "incoming/b").expect(0);
    let log = office.gateway.log();
    assert!(log.contains("would be denied") && log.contains("action=send"), "{log}");
}

fn tunnels(bed: &Bed) {
    let somebody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let echo = somebody.local_addr().unwrap();
    let policies = |condition: &str| {
        format!(
            "permit(principal == Metra::User::\"alice\", action == Metra::Action::\"openTunnel\", resource) {condition};"
        )
    };
    let file = bed.write("tunnels.cedar", policies("when { resource.port == 1 }"));
    let gateway = tunnel::proxy_with(bed, echo.port(), &format!("[policy]\nfiles = [{file:?}]\n"));
    let token = bed.write("token", tunnel::TOKEN);
    let open = |over: &str| {
        tunnel::command(bed, &gateway, tunnel::ANY, echo, over).arg("--proxy-token-file").arg(&token)
    };
    for over in ["h3", "tcp"] {
        let done = open(over).expect(12);
        assert!(done.stderr.contains("the proxy answers 403"), "{done}");
    }
    let change = |condition: &str| {
        let before = gateway.log().matches("policies read").count();
        fs::write(&file, policies(condition)).unwrap();
        wait_until("new policies", || gateway.log().matches("policies read").count() > before);
    };
    // By what it is resolved to, which is known only then.
    change("unless { context has address && context.address.isLoopback() }");
    let done = open("h3").expect(5);
    assert!(done.stderr.contains("destination_ip_prohibited"), "{done}");
    change("");
    let listen = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut running =
        tunnel::command(bed, &gateway, listen, echo, "h3").arg("--proxy-token-file").arg(&token).start();
    let program = UdpSocket::bind("127.0.0.1:0").unwrap();
    let used = || {
        let _ = program.send_to(b"x", listen);
    };
    wait_until("a tunnel", || {
        used();
        gateway.log().contains("tunnel open")
    });
    assert!(running.is_running());
    change("when { false }");

    wait_until("its end", || {
        used();
        gateway.log().contains("no longer permitted")
    });
    running.kill();
}

fn rates(bed: &Bed) {
    let rest = "[rates]\nhigh = true\nfixed_mbit = 1000\n";
    let policies = format!(
        "{OFFICE}@id(\"slow\") permit(principal, action == Metra::Action::\"useRate\", resource) when {{ context.rate == \"fixed\" && context has mbit && context.mbit <= 100 }};"
    );
    let office = Office::new(bed, &policies, rest);
    let granted = |options: &[&str]| {
        let done = office.send(ALICE, "incoming/r").args(options).expect(0);
        done.summary()["rate_policy"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(granted(&["--rate-policy", "fixed", "--rate", "100mbit"]), "fixed");
    assert_eq!(granted(&["--rate-policy", "fixed", "--rate", "101mbit"]), "fair");
    assert_eq!(granted(&["--rate-policy", "high"]), "fair");
    // Who is locked has low, whatever is asked for, and is told.
    office.change(&format!(
        "{policies}@id(\"night\") @rate(\"low\") permit(principal in Metra::Group::\"staff\", action == Metra::Action::\"openSession\", resource);"
    ));
    for options in [&["--rate-policy", "fixed", "--rate", "50mbit"][..], &["--rate-policy", "high"], &[]] {
        assert_eq!(granted(options), "low", "{options:?}");
    }
    let told = office.send(ALICE, "incoming/s").args(["--rate-policy", "high"]).expect(0);
    assert!(told.stderr.contains("does not grant the rate policy high: it is low"), "{told}");
    let told = office.send(ALICE, "incoming/t").expect(0);
    assert!(told.stderr.contains("lets this transfer have the rate policy low only"), "{told}");
}

fn decisions_are_in_the_audit_trail(bed: &Bed) {
    let trail = bed.path("audit.log");
    let policies = format!(
        "{OFFICE}@id(\"no-exe\") forbid(principal, action == Metra::Action::\"send\", resource) when {{ resource.extension == \"exe\" }};"
    );
    let office = Office::new(bed, &policies, &format!("[audit.file]\npath = {trail:?}\nsync_seconds = 0\n"));
    office.get(BOB, "public/secret/key").expect(12);
    office.get(BOB, "private/b").expect(12);
    let has = |parts: &[&str]| {
        let text = fs::read_to_string(&trail).unwrap_or_default();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    };
    wait_until("its records", || {
        has(&["public/secret/key", "\"secret\"", "bob"]) && has(&["private/b", "\"default\""])
    });
    office.send(ALICE, "incoming/a").expect(0);
    wait_until("its record", || has(&["incoming/a", "\"alice\"", "\"staff\"", "\"acme\""]));
    // What is left out of a tree, in either direction.
    bed.write("tree/a.exe", "x");
    bed.write("tree/b", "x");
    let tree = office.run(ALICE, &["send"]).arg(bed.path("tree"));
    tree.arg(office.gateway.url("incoming/")).expect(9);
    office.get(BOB, "public").expect(9);
    wait_until("the records of both", || {
        has(&[
            "\"path\":\"incoming/tree/a.exe\"",
            "{\"name\":\"no-exe\"",
            "\"action\":\"push\"",
            "\"size\":1}",
        ]) && has(&["\"path\":\"public/secret\"", "{\"name\":\"secret\"", "\"action\":\"pull\""])
    });
}

/// What a file is by its content is known once it is whole, and decided on then.
fn the_type_of_what_is_sent(bed: &Bed) {
    let typed = "@id(\"no-programs\") forbid(principal, action == Metra::Action::\"send\", resource) when { context has fileType && [\"elf\", \"script\"].contains(context.fileType) };\n@id(\"pictures\") permit(principal == Metra::User::\"bob\", action == Metra::Action::\"send\", resource in Metra::Path::\"/public\") when { if context has fileType then context.fileType == \"png\" else true };\n@id(\"short\") forbid(principal, action == Metra::Action::\"send\", resource) when { context has size && context.size > 1000000 };";
    let trail = bed.path("audit.log");
    let audit = format!("[audit.file]\npath = {trail:?}\nsync_seconds = 0\n");
    let office = Office::new(bed, &format!("{OFFICE}{typed}"), &audit);
    bed.write("d/run.txt", "#!/bin/sh\n");
    bed.write("d/text.txt", "text");
    bed.write("d/picture", b"\x89PNG\r\n\x1a\n");
    let tree = |token: &str, to: &str| {
        office.run(token, &["send"]).arg(bed.path("d")).arg(office.gateway.url(to)).expect(9)
    };
    let there = |path: &str| office.gateway.at(path).exists();
    let sent = tree(ALICE, "incoming/");
    sent.entry("d/run.txt", "denied");
    assert!(sent.text().contains("send on /incoming/d/run.txt is denied: policy no-programs"), "{sent}");
    assert_eq!(sent.number("failed"), 1);
    assert!(
        there("incoming/d/text.txt") && there("incoming/d/picture") && !there("incoming/d/run.txt"),
        "{sent}"
    );
    let sent = tree(BOB, "public/");
    sent.entry("d/text.txt", "denied");
    assert!(sent.text().contains("no policy permits it"), "{sent}");
    assert!(there("public/d/picture") && !there("public/d/text.txt") && !there("public/d/run.txt"));
    // Of what comes from a pipe the length is not known before its end.
    for (length, code) in [(1_000_001, 9), (1_000_000, 0)] {
        let pipe = office.run(ALICE, &["send", "-"]).arg(office.gateway.url("incoming/pipe"));
        let done = pipe.input(data::noise(1, length)).expect(code);
        assert_eq!((there("incoming/pipe"), done.text().contains("policy short")), (code == 0, code != 0));
    }
    // What waits at the gate is decided by the policies of that moment.
    office.change(OFFICE);
    office.run(ALICE, &["send"]).arg(bed.path("d")).arg(office.gateway.url("incoming/")).expect(0);
    assert!(there("incoming/d/run.txt"));
    let has = |parts: &[&str]| {
        let text = fs::read_to_string(&trail).unwrap_or_default();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    };
    wait_until("its records", || {
        has(&["incoming/d/run.txt", "{\"name\":\"no-programs\"", "\"alice\"", "\"size\":10}"])
            && has(&["public/d/text.txt", "{\"name\":\"default\"", "\"bob\""])
    });
    assert!(!fs::read_to_string(&trail).unwrap().contains("#!/bin/sh"));
}

fn check_and_test_and_explain(bed: &Bed) {
    let policies = bed.write("office.cedar", OFFICE);
    let checked = bed.metra(["policy", "check"]).arg(&policies).expect(0);
    assert_eq!(checked.text(), "4 policies\n");
    let wrong = bed
        .write("wrong.cedar", "permit(principal, action, resource);\n\npermit(principal action, resource);");
    let told = bed.metra(["policy", "check"]).arg(&policies).arg(&wrong).expect(2);
    assert!(told.stderr.contains("wrong.cedar:3:"), "{told}");
    // What is wrong with others is said, too, and what is hardly meant.
    let other = bed.write("other.cedar", "permit(principal, action, resource)\n  when { context.colour };");
    let told = bed.metra(["policy", "check"]).arg(&wrong).arg(&other).expect(2);
    assert!(told.stderr.contains("wrong.cedar:3:") && told.stderr.contains("other.cedar:2:10: "), "{told}");
    let never = bed.write("never.cedar", "\n permit(principal, action, resource) when { false };");
    let told = bed.metra(["policy", "check"]).arg(&never).expect(0);
    assert_eq!(told.text(), "1 policy\n");
    assert!(told.stderr.contains("never.cedar:2:2: ") && told.stderr.contains("warning: "), "{told}");

    let explain = |words: &[&str]| bed.metra(["policy", "explain", "--policy"]).arg(&policies).args(words);
    let done = explain(&["--user", "alice", "--group", "staff", "--action", "send", "--path", "/incoming/a"])
        .expect(0);
    assert!(
        done.text().contains("alice, send, /incoming/a: allowed by staff (")
            && done.text().contains("office.cedar:3)"),
        "{done}"
    );
    let done =
        explain(&["--user", "bob", "--action", "get", "--path", "/public/secret/x", "--json"]).expect(12);
    assert!(done.text().contains("\"allowed\":false") && done.text().contains("\"id\":\"secret\""), "{done}");
    let done = explain(&["--user", "bob", "--action", "fly"]).expect(2);
    assert!(done.stderr.contains("is none of openSession"), "{done}");

    let case = "[[case]]\nname = \"secrets stay\"\nuser = \"bob\"\naction = \"get\"\npath = \"/public/secret/x\"\nexpect = ";
    let cases = bed.write("cases.toml", format!("{case}\"deny\"\npolicies = [\"secret\"]\n"));
    let test = |cases: &PathBuf| bed.metra(["policy", "test", "--policy"]).arg(&policies).arg(cases);
    assert_eq!(test(&cases).expect(0).text(), "1 case, all as expected\n");
    let cases = bed.write("cases.toml", format!("{case}\"allow\"\n"));
    let done = test(&cases).expect(1);
    assert!(done.text().contains("secrets stay: denied by secret ("), "{done}");
}
