#![allow(clippy::unwrap_used)]
//! `[content]` and `[icap.NAME]`.

use std::fs;

use metra_policy::Host;
use metra_policy::content::{Action, Otherwise, Scan, TunnelAction};
use tempfile::TempDir;

use super::*;

fn load(text: &str) -> (TempDir, Result<Config, ConfigErrors>) {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("root")).unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    let file = place.path().join("gateway.toml");
    fs::write(&file, format!("root = 'root'\n{text}")).unwrap();
    let config = RawConfig::load(&file).and_then(|raw| raw.validate(&place.path().join("state")));
    (place, config)
}

const SERVICE: &str = "[icap.av]\nurl = 'icap://127.0.0.1/s'\n";

#[test]
fn without_rules_everything_is_kept() {
    let (place, config) = load("");
    let content = config.unwrap().content;
    assert!(content.rules.is_empty() && content.services.is_empty());
    assert_eq!((content.quarantine, content.at_once), (place.path().join("state/quarantine"), 4));
}

#[test]
fn everything_can_be_set() {
    let (place, config) = load(
        "[content]
        quarantine = 'aside'
        scans_at_once = 9
        [[content.rules]]
        id = 'iso-size'
        name = ['*.iso', '/in/**']
        min_bytes = 5
        max_bytes = 10
        action = 'refuse'
        reason = 'too much'
        [[content.rules]]
        type = 'executable'
        action = 'quarantine'
        [[content.rules]]
        name = 'ok*'
        action = 'allow'
        [[content.rules]]
        action = 'scan'
        service = 'b'
        on_found = 'refuse'
        on_failure = 'allow'
        scan_max_mib = 2
        [[content.tunnels]]
        target = ['ok.example:*', '192.0.2.0/24:443']
        action = 'tunnel'
        [[content.tunnels]]
        target = '*:443'
        action = 'terminate'
        [icap.a]
        url = 'icap://127.0.0.1/s'
        [icap.b]
        url = 'icap://[::1]:99/t'
        connect_seconds = 1
        silence_seconds = 2
        file_seconds = 3
        connections = 4",
    );
    let content = config.unwrap().content;
    assert_eq!((content.quarantine, content.at_once), (place.path().join("aside"), 9));
    let (name, settings) = &content.services[1];
    assert_eq!((name.as_str(), settings.url.to_string().as_str()), ("b", "icap://[::1]:99/t"));
    let seconds = [settings.connect, settings.silence, settings.total].map(|d| d.as_secs());
    assert_eq!((seconds, settings.connections), ([1, 2, 3], 4));
    let decide = |path, size, head: &[u8]| content.rules.decide(path, size, head);
    assert_eq!(
        (decide("a.iso", 10, b"x").action, decide("in/x", 5, b"x").reason),
        (Action::Refuse, "too much".into())
    );
    assert_eq!(decide("a.iso", 10, b"x").rule.as_deref(), Some("iso-size"));
    let aside = decide("a.iso", 11, b"MZ");
    assert_eq!((aside.action, aside.rule.as_deref()), (Action::Quarantine, Some("2")));
    assert_eq!(decide("okay", 11, b"text").action, Action::Allow);
    let scan = Scan { service: 1, found: Otherwise::Refuse, allow_on_failure: true, limit: 2 << 20 };
    assert_eq!(decide("other", 11, b"text").action, Action::Scan(scan));
    let action = |host| content.tunnels.action(&Host::parse(host).unwrap(), 443);
    assert_eq!((action("ok.example"), action("192.0.2.1")), (TunnelAction::Tunnel, TunnelAction::Tunnel));
    assert_eq!(action("example.net"), TunnelAction::Terminate);
}

#[test]
fn each_error_names_its_key() {
    let rule = |text: &str| format!("[[content.rules]]\naction = 'allow'\n[[content.rules]]\n{text}\n");
    let cases = [
        (rule(""), "4 content.rules[2].action: is required"),
        (rule("action = 'drop'"), "5 content.rules[2].action: unknown variant `drop`"),
        (rule("action = 'refuse'\nnames = 'x'"), "6 content.rules[2].names: unknown field `names`"),
        (rule("action = 'refuse'\nname = '[x'"), "6 content.rules[2].name: pattern \"[x\""),
        (rule("action = 'refuse'\nname = []"), "6 content.rules[2].name: is an empty list"),
        (rule("action = 'refuse'\nname = 3"), "6 content.rules[2].name: expected a text"),
        (rule("action = 'refuse'\ntype = 'exe'"), "6 content.rules[2].type: \"exe\" is no type"),
        (rule("action = 'refuse'\nmin_bytes = 5\nmax_bytes = 4"), "6 content.rules[2].min_bytes: is more"),
        (rule("action = 'refuse'\nmin_bytes = -1"), "6 content.rules[2].min_bytes: invalid value"),
        (rule("action = 'refuse'\nreason = \"a\\nb\""), "6 content.rules[2].reason: is at most 200"),
        (rule("action = 'refuse'\nid = '2'"), "6 content.rules[2].id: is 1 to 64 letters"),
        (rule("action = 'refuse'\nid = ''"), "6 content.rules[2].id: is 1 to 64 letters"),
        (rule("action = 'refuse'\nid = 'a.b'"), "6 content.rules[2].id: is 1 to 64 letters"),
        (
            "[[content.rules]]\nid = 'a'\naction = 'allow'\n[[content.rules]]\nid = 'a'\naction = 'allow'\n"
                .into(),
            "2 content.rules: there are two rules with the id a",
        ),
        (rule("action = 'refuse'\nservice = 'av'"), "6 content.rules[2].service: is for action"),
        (rule("action = 'scan'"), "4 content.rules[2].service: is required"),
        (rule("action = 'scan'\nservice = 'av'"), "6 content.rules[2].service: there is no [icap.av]"),
        (rule("action = 'scan'\nservice = 'av'\n[icap.av]"), "7 icap.av.url: is required"),
        (rule("action = 'scan'\nservice = 3"), "6 content.rules[2].service: invalid type"),
        (
            rule(&format!("action = 'scan'\nservice = 'av'\nscan_max_mib = 0\n{SERVICE}")),
            "7 content.rules[2].scan_max_mib: is 0, and must be 1 to 1048576",
        ),
        ("[content]\nrules = 3".into(), "3 content.rules: invalid type"),
        ("[content]\nrules = [3]".into(), "3 content.rules: invalid type"),
        ("[content]\nrule = 3".into(), "3 content.rule: unknown field `rule`"),
        ("[content]\nquarantine = 'root/x'".into(), "3 content.quarantine: "),
        ("[content]\nquarantine = 'file'".into(), "3 content.quarantine: "),
        ("[[content.tunnels]]\ntarget = 'a:1'".into(), "2 content.tunnels[1].action: is required"),
        ("[[content.tunnels]]\naction = 'tunnel'".into(), "2 content.tunnels[1].target: is required"),
        (
            "[[content.tunnels]]\naction = 'tunnel'\ntarget = 'a'".into(),
            "4 content.tunnels[1].target: \"a\" is not",
        ),
        ("[icap.av]\nurl = 'icaps://h/s'".into(), "3 icap.av.url: icaps is not supported"),
        ("[icap.av]\nurl = 'http://h/s'".into(), "3 icap.av.url: \"http://h/s\" is not icap://"),
        (format!("{SERVICE}connections = 0"), "4 icap.av.connections: is 0, and must be 1 to 256"),
        (format!("{SERVICE}file_seconds = 'x'"), "4 icap.av.file_seconds: invalid type"),
    ];
    for (text, start) in &cases {
        let errors = load(text).1.unwrap_err().errors;
        let line = |e: &ConfigError| e.line.map_or("-".to_owned(), |l| l.to_string());
        let errors: Vec<_> = errors.iter().map(|e| format!("{} {}: {}", line(e), e.key, e.message)).collect();
        assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
        assert!(errors[0].starts_with(start), "{text}\n{:?} should start with {start:?}", errors[0]);
    }
    let (_, both) =
        load("[[content.rules]]\naction = 'x'\nname = 3\n[[content.rules]]\ntype = 'x'\n[icap.a]\n");
    assert_eq!(both.unwrap_err().errors.len(), 5);
}
