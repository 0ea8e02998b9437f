//! What one address and one user may take of what is there for all, and what they cannot make others pay for.
//!
//! As in `abuse`, an honest transfer runs beside and must not notice.

use std::net::{SocketAddr, UdpSocket};

use metra_core::code::Code;
use metra_core::id::JobId;
use metra_core::wire::{Auth, Frame, Hello, Welcome};

use crate::abuse::{beside, is_alive, wait_for_want};
use crate::harness::raw::{Manifest, Raw};
use crate::harness::run::Run;
use crate::harness::users::user;
use crate::harness::{Bed, Gateway, PATIENCE, wait_until};

tests![
    too_many_sessions_from_an_address,
    too_many_jobs_of_a_user,
    too_many_jobs_from_an_address,
    forged_tickets,
    early_data_with_somebody_elses_address,
];

const JOB: JobId = JobId(1);
const MALLORY: &str = "mallorys-token-0123456789";

/// Not where the honest one is.
const ELSEWHERE: &str = "127.0.0.2";

fn mallorys(gateway: &Gateway) -> Raw {
    let mut raw = Raw::connect_from(gateway, ELSEWHERE);
    raw.hello(Auth::Bearer(MALLORY.into())).unwrap();
    raw
}

/// A small transfer by a command that does not wait; `send` or `get`.
fn impatient(bed: &Bed, gateway: &Gateway, verb: &str, name: &str) -> Run {
    let file = bed.write(name, "content");
    let run = bed.client(gateway, [verb]).args(["--timeout", "1"]);
    match verb {
        "get" => run.arg(gateway.url("there")).arg(bed.path("got")),
        _ => run.arg(file).arg(gateway.url(name)),
    }
}

fn too_many_sessions_from_an_address(bed: &Bed) {
    let config = format!(
        "anonymous = \"loopback\"\n{}[limits]\nsessions_per_address = 3\n",
        user("mallory", MALLORY, "")
    );
    beside(bed, &config, |gateway| {
        let open = |from, auth| {
            let mut raw = Raw::connect_from(gateway, from);
            raw.hello(auth).map(|_| raw)
        };
        let mallory = || Auth::Bearer(MALLORY.into());
        let (first, mut second) = (open(ELSEWHERE, mallory()).unwrap(), open(ELSEWHERE, Auth::None).unwrap());
        let _third = open(ELSEWHERE, mallory()).unwrap();
        for auth in [Auth::None, mallory()] {
            assert_eq!(open(ELSEWHERE, auth).err(), Some(Code::Busy), "whoever it is");
        }
        is_alive(&mut second);
        drop(first);
        wait_until("a session to end", || open(ELSEWHERE, mallory()).is_ok());
        // A command says why. The honest one has a session here until it is done.
        let mut here = Vec::new();
        wait_until("all sessions of this address", || {
            here.extend(open("127.0.0.1", mallory()));
            here.len() == 3
        });
        let refused = impatient(bed, gateway, "send", "refused").expect(5);
        assert!(refused.stderr.contains("too many sessions from this address"), "{refused}");
        drop(here);
        wait_until("sessions to end", || open("127.0.0.1", mallory()).is_ok());
        impatient(bed, gateway, "send", "afterwards").expect(0);
    });
}

fn too_many_jobs_of_a_user(bed: &Bed) {
    let config = format!(
        "anonymous = \"loopback\"\n{}[tenants.trudy]\njobs = 2\n[tenants.trudy.users.mallory]\n[limits]\njobs_per_user = 3\n",
        user("mallory", MALLORY, "")
    );
    beside(bed, &config, |gateway| {
        std::fs::write(gateway.at("there"), "content").unwrap();
        let (mut first, mut second) = (mallorys(gateway), mallorys(gateway));
        for number in 1..=2 {
            let answer = first.open(JobId(number), &format!("first {number}"), "x");
            assert!(matches!(answer, Frame::Ready { .. }), "{answer:?}");
        }
        // One that waits counts as well, and one more does not come to wait.
        let answer = second.open(JobId(1), "second 1", "x");
        assert!(matches!(answer, Frame::Queued { position: 1, .. }), "{answer:?}");
        match second.open(JobId(2), "second 2", "x") {
            Frame::Fail { code: Code::Busy, reason, .. } => {
                assert_eq!(reason, "too many jobs of user mallory; try again later");
            }
            frame => panic!("{frame:?}"),
        }
        for verb in ["send", "get"] {
            let refused = impatient(bed, gateway, verb, "refused").env("METRA_TOKEN", MALLORY).expect(5);
            assert!(refused.stderr.contains("too many jobs of user mallory"), "{refused}");
            // Other users have their own.
            impatient(bed, gateway, verb, verb).expect(0);
        }
        is_alive(&mut first);
        drop(first);
        loop {
            match second.next() {
                Ok(Frame::Ready { job: JobId(1), .. }) => break,
                Ok(_) => {}
                Err(code) => panic!("{code}"),
            }
        }
        for verb in ["send", "get"] {
            impatient(bed, gateway, verb, "afterwards").env("METRA_TOKEN", MALLORY).expect(0);
        }
    });
}

fn too_many_jobs_from_an_address(bed: &Bed) {
    let config =
        format!("anonymous = \"loopback\"\n{}[limits]\njobs_per_address = 2\n", user("mallory", MALLORY, ""));
    beside(bed, &config, |gateway| {
        let (mut first, mut second) = (mallorys(gateway), Raw::connect_from(gateway, ELSEWHERE));
        second.hello(Auth::None).unwrap();
        for (raw, job) in [(&mut first, JOB), (&mut second, JobId(2))] {
            let answer = raw.open(job, &format!("{job:?}"), "x");
            assert!(matches!(answer, Frame::Ready { .. }), "{answer:?}");
        }
        for raw in [&mut first, &mut second] {
            match raw.open(JobId(3), "one more", "x") {
                Frame::Fail { code: Code::Busy, reason, .. } => {
                    assert_eq!(reason, "too many jobs from this address; try again later");
                }
                frame => panic!("{frame:?}"),
            }
        }
        let mut other = Raw::connect_from(gateway, "127.0.0.3");
        other.hello(Auth::Bearer(MALLORY.into())).unwrap();
        let answer = other.open(JOB, "another address", "x");
        assert!(matches!(answer, Frame::Ready { .. }), "{answer:?}");
        // A job that is done makes room, without the end of its session.
        let manifest = Manifest::default().file("file", b"content");
        first.records(JOB, 0, &manifest.records);
        first.say(&Frame::ManifestEnd(manifest.end(JOB)));
        wait_for_want(&mut first);
        first.chunk(JOB, 0, b"content").unwrap();
        loop {
            match first.next() {
                Ok(Frame::Receipt { job: JOB, .. }) => break,
                Ok(Frame::Fail { code, reason, .. }) => panic!("{code}: {reason}"),
                Ok(_) => {}
                Err(code) => panic!("{code}"),
            }
        }
        let answer = first.open(JobId(4), "afterwards", "y");
        assert!(matches!(answer, Frame::Ready { .. }), "{answer:?}");
    });
}

/// With the number of the key that sealed it, and not sealed with that.
fn forged(ticket: &[u8]) -> Vec<u8> {
    let mut forged = ticket.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    forged
}

/// They count as wrong tokens do, at the address where they come from; others and those who have a ticket do not notice.
fn forged_tickets(bed: &Bed) {
    let config = format!("anonymous = \"loopback\"\n{}", user("mallory", MALLORY, ""));
    beside(bed, &config, |gateway| {
        let ticket = Raw::connect(gateway).hello(Auth::Bearer(MALLORY.into())).unwrap().ticket;
        let shown = |from: &str, ticket: &[u8]| {
            Raw::connect_from(gateway, from).hello(Auth::Ticket(ticket.to_vec())).map(|welcome| welcome.user)
        };
        let token = |from: &str| {
            let welcome = Raw::connect_from(gateway, from).hello(Auth::Bearer(MALLORY.into()));
            welcome.map(|welcome| welcome.user)
        };
        // Of other keys: nobody's fault, and more of them than wrong tokens are free.
        let mut others = ticket.clone();
        others[0] ^= 0x80;
        for _ in 0..12 {
            assert_eq!(shown("127.0.0.3", &others), Err(Code::Unauthenticated));
        }
        assert_eq!(token("127.0.0.3").as_deref(), Ok("mallory"));
        let (forged, mut shows) = (forged(&ticket), 0);
        wait_until("the address to be put off", || {
            assert_eq!(shown(ELSEWHERE, &forged), Err(Code::Unauthenticated));
            shows += 1;
            token(ELSEWHERE) == Err(Code::Busy)
        });
        assert!(shows > 10, "people mistype: {shows}");
        assert_eq!(shown(ELSEWHERE, &ticket).as_deref(), Ok("mallory"));
        assert_eq!(token("127.0.0.1").as_deref(), Ok("mallory"));
    });
}

/// Whoever comes by this address seems to be [`ELSEWHERE`], and hears nothing of what is sent there.
fn forged_address(gateway: &Gateway) -> SocketAddr {
    let (socket, gateway) = (UdpSocket::bind((ELSEWHERE, 0)).unwrap(), gateway.address());
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut datagram) {
            if from != gateway {
                socket.send_to(&datagram[..len], gateway).unwrap();
            }
        }
    });
    address
}

/// What is said in it counts for nobody: not for who seems to have said it.
fn early_data_with_somebody_elses_address(bed: &Bed) {
    let config = format!(
        "anonymous = \"loopback\"\n{}[limits]\nhandshake_seconds = 1\n",
        user("mallory", MALLORY, "")
    );
    beside(bed, &config, |gateway| {
        let address = forged_address(gateway);
        let refused = |gateway: &Gateway, code: &str| {
            let log = gateway.log();
            let lines = log.lines().filter(|line| line.contains(&format!("peer={ELSEWHERE}:")));
            lines.filter(|line| line.contains(&format!("code={code} "))).count()
        };
        let mut held = Vec::new();
        let mut say = |version, auth: fn(&Welcome) -> Auth| {
            // Each leaves a TLS ticket for one link more.
            let mut client = Raw::connect(gateway);
            let auth = auth(&client.hello(Auth::None).unwrap());
            let mut early = client.another(address);
            early.say(&Frame::Hello(Hello { version, auth, agent: String::new() }));
            held.push((early, client));
        };
        // It does get there.
        say(0, |_| Auth::None);
        wait_until("early data to be read", || refused(gateway, "version") == 1);
        for _ in 0..12 {
            say(1, |_| Auth::Bearer("the-wrong-token-of-mallory".into()));
            say(1, |welcome| Auth::Ticket(forged(&welcome.ticket)));
        }
        wait_until("all to be given up", || refused(gateway, "timeout") == 24);
        assert_eq!(refused(gateway, "unauthenticated"), 0);
        mallorys(gateway);
    });
}
