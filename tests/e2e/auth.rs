//! Who may come, and what they may do.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use crate::harness::users::{Issued, issue, user};
use crate::harness::{Bed, Gateway, run, skip};

tests![
    tokens,
    client_certificates,
    anonymous_on_loopback_only,
    authorities_and_pins,
    may_only_read,
    may_only_write,
    homes,
    guessing_is_slowed_down,
];

const ALICE: &str = "alices-token-0123456789";
const BOB: &str = "bobs-token-0123456789ab";

fn put(bed: &Bed, gateway: &Gateway, path: &str) -> run::Run {
    let file = bed.write("file", "content");
    bed.client(gateway, ["send"]).arg(file).arg(gateway.url(path))
}

fn tokens(bed: &Bed) {
    let gateway = bed.gateway_with(&(user("alice", ALICE, "") + &user("bob", BOB, "")));
    put(bed, &gateway, "by-environment").env("METRA_TOKEN", ALICE).expect(0);
    let file = bed.write("token", format!("{BOB}\n"));
    put(bed, &gateway, "by-file").arg("--token-file").arg(&file).expect(0);
    let wrong = put(bed, &gateway, "wrong").env("METRA_TOKEN", "no-such-token-0123456789").expect(10);
    assert!(!wrong.stderr.contains("no-such-token"), "a token is shown\n{wrong}");
    // With users, nobody comes without credentials unless the configuration says so.
    put(bed, &gateway, "none").expect(10);
    assert!(!gateway.at("wrong").exists() && !gateway.at("none").exists());
    let log = gateway.log();
    assert!(
        !log.contains(ALICE) && !log.contains(BOB) && !log.contains("no-such-token"),
        "a token is in the log"
    );
    // A wrong token is refused at once, not tried again and again.
    assert!(wrong.elapsed.as_secs() < 10, "{wrong}");
}

fn client_certificates(bed: &Bed) {
    let carol = issue(bed, "carol", "carol.example.org");
    let stranger = issue(bed, "stranger", "carol.example.org");
    let tls = format!("[tls]\nclient_ca = {:?}\n", carol.authority);
    let users =
        "[users.carol]\ncert_names = [\"carol.example.org\"]\n".to_owned() + &user("alice", ALICE, "");
    let gateway = bed.gateway_with(&(tls + &users));
    let with = |issued: &Issued, path: &str| {
        put(bed, &gateway, path).arg("--cert").arg(&issued.cert).arg("--key").arg(&issued.key)
    };
    with(&carol, "a").expect(0);
    assert_eq!(fs::read(gateway.at("a")).unwrap(), b"content");
    // Of another authority, with the same name.
    let refused = with(&stranger, "b").run();
    assert!([6, 10].contains(&refused.code()), "{refused}");
    assert!(!gateway.at("b").exists());
    // Tokens go on to work, and nothing at all does not.
    put(bed, &gateway, "c").env("METRA_TOKEN", ALICE).expect(0);
    put(bed, &gateway, "d").expect(10);
    // A certificate without a user.
    let dave = issue(bed, "dave", "dave.example.org");
    let both = fs::read_to_string(&carol.authority).unwrap() + &fs::read_to_string(&dave.authority).unwrap();
    fs::write(&carol.authority, both).unwrap();
    drop(gateway);
    let tls = format!("[tls]\nclient_ca = {:?}\n", carol.authority);
    let gateway = bed.gateway_with(&(tls + &users));
    let run = put(bed, &gateway, "e").arg("--cert").arg(&dave.cert).arg("--key").arg(&dave.key);
    run.expect(10);
    assert!(!gateway.at("e").exists());
}

/// An address of this machine that is not loopback.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn anonymous_on_loopback_only(bed: &Bed) {
    let Some(address) = other_address() else { skip("this machine has no address but loopback") };
    let gateway =
        bed.gateway_on("0.0.0.0:0", &format!("anonymous = \"loopback\"\n{}", user("alice", ALICE, "")));
    let port = gateway.address().port();
    let file = bed.write("file", "content");
    let send = |host: String, path: &str| {
        let run = bed.metra(["send", "--json", "--pin"]).arg(gateway.pin()).arg(&file);
        run.arg(format!("mtp://{host}:{port}/{path}"))
    };
    send("127.0.0.1".into(), "near").expect(0);
    send(address.to_string(), "far").expect(10);
    send(address.to_string(), "known").env("METRA_TOKEN", ALICE).expect(0);
    assert!(gateway.at("near").exists() && !gateway.at("far").exists() && gateway.at("known").exists());
}

fn authorities_and_pins(bed: &Bed) {
    let gateway = bed.gateway();
    let file = bed.write("file", "content");
    let send = |flags: &[&str]| {
        bed.metra(["send", "--overwrite", "always"]).args(flags).arg(&file).arg(gateway.url("x")).run()
    };
    let (ca, pin) = (gateway.ca().display().to_string(), gateway.pin());
    let wrong_pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let other = issue(bed, "other", "other.example.org").authority.display().to_string();
    assert_eq!(send(&["--ca", &ca]).code(), 0);
    assert_eq!(send(&["--pin", &pin]).code(), 0);
    assert_eq!(send(&["--ca", &ca, "--pin", &pin]).code(), 0);
    assert_eq!(send(&["--pin", wrong_pin, "--pin", &pin]).code(), 0);
    for flags in [
        &["--pin", wrong_pin][..],
        &["--ca", &other],
        &["--ca", &ca, "--pin", wrong_pin],
        &["--ca", &other, "--pin", &pin],
        &[],
    ] {
        let done = send(flags);
        assert!([6, 10].contains(&done.code()), "{flags:?}\n{done}");
        assert!(done.stderr.contains("not trusted"), "{done}");
        assert!(done.elapsed.as_secs() < 10, "{done}");
    }
    // What cannot be a pin or a file of certificates is wrong use.
    for flags in [&["--pin", "sha256/short"][..], &["--ca", "/does/not/exist"]] {
        let done = send(flags);
        assert!(done.code() != 0 && done.code() != 130, "{done}");
        assert!(done.stderr.contains(flags[1]), "{done}");
    }
}

fn may_only_read(bed: &Bed) {
    let gateway = bed.gateway_with(&user("alice", ALICE, "write = false"));
    fs::write(gateway.at("there"), "content").unwrap();
    let get = bed.client(&gateway, ["get"]).arg(gateway.url("there")).arg(bed.path("back"));
    get.env("METRA_TOKEN", ALICE).expect(0);
    put(bed, &gateway, "new").env("METRA_TOKEN", ALICE).expect(12);
    let ca = gateway.ca();
    bed.metra(["rm", "--ca"]).arg(&ca).arg(gateway.url("there")).env("METRA_TOKEN", ALICE).expect(12);
    bed.metra(["ls", "--ca"]).arg(&ca).arg(gateway.url("")).env("METRA_TOKEN", ALICE).expect(0);
    assert!(gateway.at("there").exists() && !gateway.at("new").exists());
}

fn may_only_write(bed: &Bed) {
    let gateway = bed.gateway_with(&user("alice", ALICE, "read = false"));
    put(bed, &gateway, "new").env("METRA_TOKEN", ALICE).expect(0);
    let get = bed.client(&gateway, ["get"]).arg(gateway.url("new")).arg(bed.path("back"));
    get.env("METRA_TOKEN", ALICE).expect(12);
    bed.metra(["ls", "--ca"]).arg(gateway.ca()).arg(gateway.url("")).env("METRA_TOKEN", ALICE).expect(12);
    assert!(!bed.path("back").exists());
}

fn homes(bed: &Bed) {
    for home in ["alice", "bob"] {
        bed.folder(&format!("root/{home}"));
    }
    let config = user("alice", ALICE, "home = \"alice\"") + &user("bob", BOB, "home = \"bob\"");
    let gateway = bed.gateway_with(&config);
    fs::write(gateway.at("bob/secret"), "secret").unwrap();
    put(bed, &gateway, "folder/x").env("METRA_TOKEN", ALICE).expect(0);
    assert_eq!(fs::read(gateway.at("alice/folder/x")).unwrap(), b"content");
    // Each sees the own home as /.
    let list = |token: &str, path: &str| {
        bed.metra(["ls", "-R", "--ca"])
            .arg(gateway.ca())
            .arg(gateway.url(path))
            .env("METRA_TOKEN", token)
            .run()
    };
    let seen = list(ALICE, "").text();
    assert!(seen.contains("folder/x") && !seen.contains("secret") && !seen.contains("bob"), "{seen}");
    assert!(list(BOB, "").text().contains("secret"));

    // Not with .., not by a link.
    std::os::unix::fs::symlink("../bob", gateway.at("alice/way-out")).unwrap();
    std::os::unix::fs::symlink("../bob/secret", gateway.at("alice/link")).unwrap();
    for path in ["../bob/secret", "bob/secret", "way-out/secret"] {
        for how in ["keep", "follow"] {
            let get =
                bed.client(&gateway, ["get", "--symlinks", how]).arg(gateway.url(path)).arg(bed.path("back"));
            let done = get.env("METRA_TOKEN", ALICE).run();
            assert_ne!(done.code(), 0, "{done}");
            assert!(!bed.path("back").exists(), "{path}");
        }
    }
    let get =
        bed.client(&gateway, ["get", "--symlinks", "follow"]).arg(gateway.url("link")).arg(bed.path("back"));
    let done = get.env("METRA_TOKEN", ALICE).run();
    assert_ne!(done.code(), 0, "{done}");
    assert!(!bed.path("back").exists());
    put(bed, &gateway, "way-out/evil").env("METRA_TOKEN", ALICE).run();
    assert!(!gateway.at("bob/evil").exists());
    // The link itself may be seen, what is behind it not.
    for path in ["way-out", "way-out/"] {
        let seen = list(ALICE, path);
        assert!(!seen.text().contains("secret"), "{seen}");
    }
    // The staging of one is not in the tree of the other, nor chunks of the one of use to the other.
    let mine = bed.write("mine", "secret");
    let run = bed.client(&gateway, ["send"]).arg(&mine).arg(gateway.url("mine")).env("METRA_TOKEN", ALICE);
    let done = run.expect(0);
    assert_eq!(done.number("chunks_sent"), 1, "that bob has these bytes is not told\n{done}");
}

/// After ten failures at an address, the next attempts there wait, whatever they show; who has a session does not.
fn guessing_is_slowed_down(bed: &Bed) {
    let gateway = bed.gateway_with(&user("alice", ALICE, ""));
    // One way, so that an attempt is one: by several it may be shown twice where the first no is heard late.
    let impatient = |token: &str| {
        put(bed, &gateway, "a").args(["--timeout", "1", "--via", "quic"]).env("METRA_TOKEN", token).run()
    };
    for number in 0..11 {
        let refused = impatient("no-such-token-0123456789");
        assert_eq!(refused.code(), 10, "attempt {number}: {refused}");
    }
    // A second, and two after one more failure that is looked at.
    sleep(Duration::from_millis(1100));
    assert_eq!(impatient("no-such-token-0123456789").code(), 10);
    sleep(Duration::from_millis(100));
    let put_off = impatient(ALICE);
    assert!(put_off.code() != 0 && put_off.stderr.contains("too many failed attempts"), "{put_off}");
    sleep(Duration::from_secs(2));
    impatient(ALICE).expect(0);
}
