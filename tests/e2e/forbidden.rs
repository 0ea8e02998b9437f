//! Tunnels that lead to nobody: every spelling in `tests/vectors/forbidden.toml`, whatever is allowed and whoever permits it. What
//! needs a network of its own is in `tests/net`.

use std::net::Ipv4Addr;
use std::time::Duration;

use metra_core::id::Digest;

use crate::harness::forbidden::{Listeners, ask_for, rows};
use crate::harness::raw::runtime;
use crate::harness::tunnels::{Over, Tunnels};
use crate::harness::{Bed, wait_until};

tests![spellings_of_forbidden_targets, what_dangerous_ranges_open];

const TOKEN: &str = "alices-token-0123456789";

/// Everything is allowed, by the configuration and by policies.
fn everything(bed: &Bed, rest: &str) -> String {
    let policies = bed.write("all.cedar", "permit(principal, action, resource);");
    format!(
        "[users.alice]\ntoken_hash = \"blake3:{}\"\n[policy]\nfiles = [{policies:?}]\n\
         [audit.file]\npath = {:?}\nsync_seconds = 0\n[tunnel]\nallow = [\"*:*\"]\n{rest}",
        Digest::of(TOKEN.as_bytes()),
        bed.path("audit.log")
    )
}

fn spellings_of_forbidden_targets(bed: &Bed) {
    let gateway = bed.gateway_with(&everything(bed, ""));
    let listeners = Listeners::new(0);
    let tunnels = Tunnels::new(&runtime(), &gateway);
    let rows: Vec<_> = rows().into_iter().filter(|row| !row.needs_a_network()).collect();
    let ports = [listeners.port(), gateway.address().port()];
    let asked = ask_for(&rows, &tunnels, TOKEN, &bed.path("audit.log"), ports);
    assert_eq!(listeners.heard(), 0);
    println!("{asked} requests for {} targets", rows.len());
    assert!(rows.len() >= 200, "{}", rows.len());
}

fn what_dangerous_ranges_open(bed: &Bed) {
    let open = "dangerous_ranges = [\"127.0.0.0/8\", \"::1/128\"]\n";
    let gateway = bed.gateway_with(&everything(bed, open));
    let listeners = Listeners::new(0);
    let tunnels = Tunnels::new(&runtime(), &gateway);
    let (port, own) = (listeners.port(), gateway.address().port());
    for over in Over::ALL {
        // The same that is refused elsewhere, so that those who listen there would have heard.
        for host in ["127.0.0.1", "127.8.7.6", "%3A%3A1", "%3A%3Affff%3A127.0.0.1", "localhost"] {
            let answer = tunnels.ask(over, TOKEN, Ipv4Addr::LOCALHOST, &format!("{host}/{port}"));
            let tunnel = answer.tunnel.unwrap_or_else(|| panic!("{over:?} {host}: {}", answer.error));
            tunnels.send(&tunnel);
            wait_until("a datagram", || listeners.heard() == 1);
        }
        // Ranges that are not opened, and the gateway's own socket by whatever name.
        for (target, why) in [
            (format!("10.0.0.1/{port}"), "the address is private"),
            (format!("0.0.0.0/{port}"), "the address is unspecified"),
            (format!("64%3Aff9b%3A%3A7f00%3A1/{port}"), "the address is nat64"),
            (format!("localhost/{own}"), "the address is the gateway's own"),
            (format!("127.0.0.1./{own}"), "the address is the gateway's own"),
        ] {
            let answer = tunnels.ask(over, TOKEN, Ipv4Addr::LOCALHOST, &target);
            assert!(
                answer.tunnel.is_none() && answer.error.contains(why),
                "{over:?} {target}: {}",
                answer.error
            );
        }
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(listeners.heard(), 0);
}
