//! `metra` through Envoy: QUIC inside CONNECT-UDP, with a proxy that none of us wrote before our gateway.

use std::time::Duration;

use crate::harness::data::{KIB, MIB, bytes_below, noise_file};
use crate::harness::run::Run;
use crate::harness::{Bed, Gateway, wait_until};
use crate::peers::{Envoy, Over};

tests![sends_over_http3, sends_over_http2, gets, a_proxy_that_goes_away];

/// The `metra` command that reaches the gateway through this proxy, and no other way.
fn metra(bed: &Bed, gateway: &Gateway, envoy: &Envoy, over: Over, verb: &str) -> Run {
    let proxy = format!(
        "https://localhost:{}/.well-known/masque/udp/{{target_host}}/{{target_port}}/",
        envoy.address(over).port()
    );
    // Over TCP there is nothing but HTTP/2, over UDP nothing but HTTP/3: the client finds out.
    bed.client(gateway, [verb]).args(["--via", "masque", "--masque-proxy", &proxy, "--ca"]).arg(envoy.ca())
}

/// Sends a file, which must come through the proxy and be the same.
fn send(bed: &Bed, over: Over) {
    let (gateway, envoy) = (bed.gateway(), Envoy::start(bed));
    let file = noise_file(&bed.path("file"), 7, 8 * MIB + 3 * KIB);
    let direct = bed.client(&gateway, ["send"]).arg(&file).arg(gateway.url("direct/")).expect(0);
    let before = envoy.tunnels();
    let done = metra(bed, &gateway, &envoy, over, "send").arg(&file).arg(gateway.url("tunnelled/")).expect(0);
    assert_eq!(done.root(), direct.root());
    assert_eq!(done.summary()["links"], serde_json::json!(["masque"]), "{done}");
    assert_eq!(std::fs::read(gateway.at("tunnelled/file")).unwrap(), std::fs::read(&file).unwrap());
    assert!(envoy.tunnels() > before, "it has not come through the proxy");
    println!("Envoy has used {:?} of processors for 8 MiB over {over:?}", envoy.cpu());
}

fn sends_over_http3(bed: &Bed) {
    send(bed, Over::H3);
}

fn sends_over_http2(bed: &Bed) {
    send(bed, Over::H2);
}

fn gets(bed: &Bed) {
    let (gateway, envoy) = (bed.gateway(), Envoy::start(bed));
    let file = noise_file(&gateway.at("file"), 8, 4 * MIB);
    let to = bed.folder("to");
    let direct = bed.client(&gateway, ["get"]).arg(gateway.url("file")).arg(bed.folder("direct")).expect(0);
    for over in [Over::H3, Over::H2] {
        let (before, to) = (envoy.tunnels(), to.join(format!("{over:?}")));
        std::fs::create_dir(&to).unwrap();
        let done = metra(bed, &gateway, &envoy, over, "get").arg(gateway.url("file")).arg(&to).expect(0);
        assert_eq!(std::fs::read(to.join("file")).unwrap(), std::fs::read(&file).unwrap());
        assert_eq!(done.root(), direct.root());
        assert_eq!(done.summary()["links"], serde_json::json!(["masque"]), "{done}");
        assert!(envoy.tunnels() > before);
    }
}

fn a_proxy_that_goes_away(bed: &Bed) {
    // A link that is silent for so long is given up by both sides.
    let (gateway, envoy) = (bed.gateway_with("[limits]\nidle_seconds = 5\n"), Envoy::start(bed));
    let file = noise_file(&bed.path("file"), 9, 64 * MIB);
    let running = metra(bed, &gateway, &envoy, Over::H3, "send")
        .args(["--rate", "100mbit", "--timeout", "2"])
        .arg(&file)
        .arg(gateway.url(""))
        .start();
    wait_until("some of it", || bytes_below(gateway.root()) > MIB);
    drop(envoy);
    // No way is left: as when the gateway is not there.
    let done = running.finish().expect(5);
    assert!(done.elapsed < Duration::from_secs(15), "{:?}", done.elapsed);
    assert!(!gateway.at("file").exists());
}
