#![allow(clippy::unwrap_used)]

use super::*;
use crate::{Denied, Host, Own, TunnelRules};

fn rule(names: &[&str], kinds: &[&str], size: (u64, u64), action: Action) -> ContentRule {
    ContentRule {
        id: String::new(),
        names: names.iter().map(|n| n.parse().unwrap()).collect(),
        kinds: kinds.iter().map(|k| k.parse().unwrap()).collect(),
        size,
        action,
        reason: String::new(),
    }
}

const ANY: (u64, u64) = (0, u64::MAX);
const SCAN: Scan = Scan { service: 3, found: Otherwise::Quarantine, allow_on_failure: false, limit: 1000 };

fn decided(rules: &ContentRules, path: &str, size: u64, head: &[u8]) -> (Action, Option<usize>) {
    let decision = rules.decide(path, size, head);
    assert_eq!(decision.reason.is_empty(), decision.rule.is_none());
    (decision.action, decision.rule.map(|rule| rule.parse().unwrap()))
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = ContentRules::new(vec![
        rule(&["ok/**"], &[], ANY, Action::Allow),
        rule(&["*.exe", "*.scr"], &[], ANY, Action::Refuse),
        rule(&[], &["executable"], ANY, Action::Quarantine),
        rule(&[], &[], (10, 20), Action::Refuse),
        rule(&["*.dat"], &["unknown"], (21, u64::MAX), Action::Scan(SCAN)),
    ]);
    assert_eq!(decided(&rules, "ok/x/a.exe", 5, b"MZ"), (Action::Allow, Some(1)));
    assert_eq!(decided(&rules, "x/A.EXE", 5, b"text"), (Action::Refuse, Some(2)));
    assert_eq!(decided(&rules, "x/a.txt", 5, b"MZ"), (Action::Quarantine, Some(3)));
    for (size, number) in [(9, None), (10, Some(4)), (20, Some(4)), (21, None)] {
        assert_eq!(decided(&rules, "x/a.txt", size, b"text").1, number, "{size}");
    }
    assert_eq!(decided(&rules, "a.dat", 21, b"text"), (Action::Scan(SCAN), Some(5)));
    assert_eq!(decided(&rules, "a.dat", 21, b"%PDF-1"), (Action::Allow, None));
    assert_eq!(decided(&ContentRules::default(), "a.exe", 5, b"MZ"), (Action::Allow, None));
    assert!(ContentRules::default().is_empty() && !rules.is_empty());
}

#[test]
fn what_the_manifest_tells_is_decided_first() {
    let rules = ContentRules::new(vec![
        rule(&["*.iso"], &[], (0, 99), Action::Allow),
        rule(&["*.iso"], &[], ANY, Action::Refuse),
        rule(&["*.x"], &["elf"], ANY, Action::Refuse),
        rule(&["*.x"], &[], ANY, Action::Refuse),
        rule(&["*.q"], &[], ANY, Action::Quarantine),
        rule(&["*.s"], &[], ANY, Action::Scan(SCAN)),
        rule(&["*.o"], &[], ANY, Action::Scan(Scan { allow_on_failure: true, ..SCAN })),
    ]);
    let early = |path, size| rules.announced(path, size).map(|d| d.rule.unwrap().parse::<usize>().unwrap());
    assert_eq!(early("a.iso", Some(99)), None);
    assert_eq!(early("a.iso", Some(100)), Some(2));
    // Of a stream the size is not known: it may be allowed yet.
    assert_eq!(early("a.iso", None), None);
    // It may be of the type of the rule before; quarantine needs the bytes.
    assert_eq!((early("a.x", Some(1)), early("a.q", Some(1)), early("other", Some(1))), (None, None, None));
    assert_eq!(
        (early("a.s", Some(1000)), early("a.s", Some(1001)), early("a.s", None)),
        (None, Some(6), None)
    );
    assert_eq!(early("a.o", Some(1001)), None);
    let late = rules.announced("a.s", Some(1001)).unwrap().reason;
    assert_eq!(late, "content rule 6: it is larger than the 1000 bytes that are scanned");
    // Whatever is said early is said at the end, too, for every content.
    for path in ["a.iso", "a.x", "a.q", "a.s", "a.o", "b"] {
        for size in [0, 99, 100, 1000, 1001] {
            let early = rules.announced(path, Some(size));
            for head in [&b""[..], b"\x7fELF", b"text"] {
                if let Some(early) = &early {
                    assert_eq!(rules.decide(path, size, head).rule, early.rule);
                }
            }
        }
    }
}

#[test]
fn a_rule_is_called_by_its_id_or_its_number() {
    let mut named = rule(&["a"], &[], ANY, Action::Refuse);
    named.id = "no-a".into();
    let mut told = rule(&["c"], &[], ANY, Action::Refuse);
    told.reason = "no c, please".into();
    let rules = ContentRules::new(vec![named, rule(&["b"], &[], ANY, Action::Refuse), told]);
    for (path, id, reason) in [
        ("a", "no-a", "refused by content rule no-a"),
        ("b", "2", "refused by content rule 2"),
        ("c", "3", "no c, please"),
    ] {
        let decision = rules.decide(path, 1, b"x");
        assert_eq!((decision.rule.as_deref(), decision.reason.as_str()), (Some(id), reason));
        assert_eq!(rules.announced(path, Some(1)), Some(decision));
    }
}

#[test]
fn patterns() {
    let matches = |pattern: &str, path: &str| pattern.parse::<NamePattern>().unwrap().matches(path);
    assert!(matches("*.exe", "a/b/C.eXe") && !matches("*.exe", "a.exe/b"));
    assert!(
        matches("/a.*", "a.b")
            && !matches("/a.*", "x/a.b")
            && matches("in/**", "in/a/b")
            && !matches("in/*", "in/a/b")
    );
    assert!(matches("{a,b}.txt", "x/b.txt") && matches("[!a].txt", "b.txt"));
    for wrong in ["", "/", "a/", "[a", "{a", "a\\"] {
        assert!(wrong.parse::<NamePattern>().is_err(), "{wrong:?}");
    }
}

#[test]
fn tunnels_to_what_has_to_be_scanned_are_refused() {
    let rule = |target: &str, action| TunnelContentRule { target: target.parse().unwrap(), action };
    let content = TunnelContent::new(vec![
        rule("ok.example.org:*", TunnelAction::Tunnel),
        rule("*.example.org:443", TunnelAction::Terminate),
        rule("192.0.2.0/24:*", TunnelAction::Terminate),
    ]);
    let rules =
        TunnelRules::new(vec!["*:*".parse().unwrap()], Vec::new(), Own::default()).with_content(content);
    let named = |host: &str, port| rules.name(&Host::parse(host).unwrap(), port).map(|_| ());
    assert_eq!(named("ok.example.org", 443), Ok(()));
    assert_eq!(named("files.example.org", 443), Err(Denied::Content));
    assert_eq!(named("FILES.example.ORG.", 443), Err(Denied::Content));
    assert_eq!(named("files.example.org", 444), Ok(()));
    assert_eq!(named("192.0.2.9", 1), Err(Denied::Content));
    assert_eq!(named("example.net", 443), Ok(()));
    assert_eq!(Denied::Content.label(), "content");
    // What is not allowed at all is refused for that.
    let none = TunnelRules::default().with_content(TunnelContent::default());
    assert_eq!(none.name(&Host::parse("a.b").unwrap(), 1).map(|_| ()), Err(Denied::Rule));
}
