#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::cef::shown;
use super::text::{self, clip, is_unsafe};
use super::*;

const DOCS: &str = include_str!("../../../docs/audit.md");

/// The end of a push, as `docs/audit.md` shows it.
fn example() -> Record {
    Record {
        sequence: 41,
        user: Some("alice".to_owned()),
        groups: vec!["film".to_owned()],
        tenant: Some("studio".to_owned()),
        rule: Some("user.write".to_owned()),
        resource: Resource::Path("rushes/day 12.mov".to_owned()),
        bytes: Some(53_687_091_200),
        files: Some(1),
        failed: Some(0),
        root: Some([0xab; 32]),
        session: Some("5f0c2d9f4e6b7a8190a1b2c3d4e5f607".to_owned()),
        job: Some(1),
        links: Some(2),
        duration: Some(Duration::from_millis(61_250)),
        ..Record::new(
            1_767_225_600_123,
            Event::TransferEnd,
            Action::Push,
            Way::Quic,
            "198.51.100.7:50312".parse().unwrap(),
        )
    }
}

fn tunnel() -> Record {
    Record {
        user: Some("bob".to_owned()),
        verdict: Some(Verdict::Refused),
        code: "denied",
        reason: "no rule allows it".to_owned(),
        rule: Some("tunnel.allow".to_owned()),
        resource: Resource::Target {
            host: "example.org".to_owned(),
            port: 443,
            address: Some("[2001:db8::1]:443".parse().unwrap()),
        },
        traffic: Some(Traffic { received: 10, sent: 20 }),
        ..Record::new(1, Event::Decision, Action::Tunnel, Way::Http, "[2001:db8::7]:9".parse().unwrap())
    }
}

fn parsed(record: &Record) -> Value {
    serde_json::from_str(&record.json()).unwrap()
}

/// The extension of a line of CEF as others read it: a key begins after a space and ends with a `=` that is not escaped.
fn cef(line: &str) -> (Vec<String>, BTreeMap<String, String>) {
    let mut header = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => header.last_mut().unwrap().push(chars.next().unwrap()),
            '|' if header.len() == 7 => break,
            '|' => header.push(String::new()),
            c => header.last_mut().unwrap().push(c),
        }
    }
    let mut fields = BTreeMap::new();
    let (mut key, mut text) = (String::new(), String::new());
    let mut end = |key: &str, value: &str| {
        assert_eq!(fields.insert(key.to_owned(), value.to_owned()), None, "{key} twice");
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(match chars.next().unwrap() {
                'n' => '\n',
                'r' => '\r',
                c => {
                    assert!("\\=".contains(c), "{c} is not to be escaped");
                    c
                }
            }),
            '=' if key.is_empty() => key = std::mem::take(&mut text),
            '=' => {
                let (value, next) = text.rsplit_once(' ').unwrap();
                end(&key, value);
                key = next.to_owned();
                text.clear();
            }
            c => text.push(c),
        }
    }
    end(&key, &text);
    (header, fields)
}

#[test]
fn the_document_has_these_lines() {
    for line in [example().json(), example().cef()] {
        assert!(DOCS.contains(&format!("\n{line}\n")), "docs/audit.md has no line\n{line}");
    }
}

#[test]
fn the_document_has_every_name() {
    use Action::*;
    let names = [Session, Push, Pull, List, Remove, Rate, Tunnel].map(Action::name).into_iter();
    let events =
        [Event::Decision, Event::TransferStart, Event::TransferEnd, Event::TunnelStart, Event::TunnelEnd];
    let ways = [Way::Quic, Way::Masque, Way::Tls, Way::Ws, Way::Http];
    for name in names.chain(events.map(Event::name)).chain(ways.map(Way::name)) {
        assert!(DOCS.contains(&format!("`{name}`")), "{name}");
    }
    for line in [example(), tunnel()] {
        let (_, fields) = cef(&line.cef());
        for key in fields.keys() {
            assert!(DOCS.contains(&format!("`{key}`")) || key.ends_with("Label"), "{key}");
        }
        for key in parsed(&line).as_object().unwrap().keys() {
            assert!(DOCS.contains(&format!("`{key}")), "{key}");
        }
    }
    assert!(DOCS.contains(OCSF_VERSION));
}

#[test]
fn ids_are_those_of_the_schema() {
    let of = |action, event, verdict| {
        let record = Record { verdict, ..Record::new(1, event, action, Way::Tls, example().peer) };
        let value = parsed(&record);
        let number = |key: &str| value[key].as_u64().unwrap();
        assert_eq!(number("type_uid"), number("class_uid") * 100 + number("activity_id"));
        assert_eq!(number("category_uid"), number("class_uid") / 1000);
        assert_eq!(value["metadata"]["version"], "1.4.0");
        assert_eq!(value["action_id"], value["disposition_id"]);
        (number("type_uid"), value["action_id"].as_u64())
    };
    let (yes, no) = (Some(Verdict::Permitted), Some(Verdict::Refused));
    assert_eq!(of(Action::Session, Event::Decision, yes), (300_201, Some(1)));
    assert_eq!(of(Action::Session, Event::Decision, no), (300_201, Some(2)));
    assert_eq!(of(Action::Rate, Event::Decision, yes), (300_301, Some(1)));
    assert_eq!(of(Action::Push, Event::Decision, no), (600_617, Some(2)));
    assert_eq!(of(Action::Push, Event::TransferStart, None), (600_699, None));
    assert_eq!(of(Action::Push, Event::TransferEnd, None), (600_601, None));
    assert_eq!(of(Action::Pull, Event::TransferEnd, None), (600_602, None));
    assert_eq!(of(Action::List, Event::Decision, yes), (600_699, Some(1)));
    assert_eq!(of(Action::Remove, Event::Decision, yes), (600_604, Some(1)));
    assert_eq!(of(Action::Tunnel, Event::Decision, yes), (400_199, Some(1)));
    assert_eq!(of(Action::Tunnel, Event::Decision, no), (400_105, Some(2)));
    assert_eq!(of(Action::Tunnel, Event::TunnelStart, None), (400_101, None));
    assert_eq!(of(Action::Tunnel, Event::TunnelEnd, None), (400_102, None));
}

#[test]
fn a_transfer_has_what_its_receipt_has() {
    let value = parsed(&example());
    assert_eq!((&value["status_id"], &value["severity_id"]), (&1.into(), &1.into()));
    assert_eq!(value["file"]["size"], 53_687_091_200u64);
    assert_eq!(
        (&value["file"]["name"], &value["file"]["path"]),
        (&"day 12.mov".into(), &"rushes/day 12.mov".into())
    );
    assert_eq!(value["file"]["hashes"][0]["value"], "ab".repeat(32));
    assert_eq!(
        (&value["actor"]["user"]["name"], &value["actor"]["user"]["type_id"]),
        (&"alice".into(), &1.into())
    );
    assert_eq!(value["duration"], 61_250);
    let (header, fields) = cef(&example().cef());
    assert_eq!(header[..3], ["CEF:0", "Metra", "Metra gateway"]);
    assert_eq!(header[4..], ["push.transfer-end", "push ended", "2"]);
    assert_eq!((fields["cs4"].as_str(), fields["cs4Label"].as_str()), (&*"ab".repeat(32), "root"));
    assert_eq!((fields["in"].as_str(), fields["outcome"].as_str()), ("53687091200", "success"));
}

#[test]
fn a_tunnel_has_its_target() {
    let value = parsed(&tunnel());
    let target = &value["dst_endpoint"];
    assert_eq!(
        (&target["hostname"], &target["ip"], &target["port"]),
        (&"example.org".into(), &"2001:db8::1".into(), &443.into())
    );
    assert_eq!((&value["traffic"]["bytes_in"], &value["traffic"]["bytes"]), (&10.into(), &30.into()));
    assert_eq!((&value["status_code"], &value["status_id"]), (&"denied".into(), &2.into()));
    assert_eq!(value["policy"]["name"], "tunnel.allow");
    let (_, fields) = cef(&tunnel().cef());
    assert_eq!((fields["c6a3"].as_str(), fields["c6a2"].as_str()), ("2001:db8::1", "2001:db8::7"));
    assert_eq!(
        (fields["reason"].as_str(), fields["outcome"].as_str()),
        ("denied: no rule allows it", "refused")
    );
    assert_eq!((fields["in"].as_str(), fields["out"].as_str()), ("10", "20"));
}

#[test]
fn an_unknown_user_is_not_one_of_that_name() {
    let record = Record { user: None, ..example() };
    assert_eq!(parsed(&record)["actor"]["user"]["type_id"], 0);
    assert!(!cef(&record.cef()).1.contains_key("suser"));
}

#[test]
fn a_text_has_its_room_and_no_more() {
    assert_eq!(clip("abcdef", 6), "abcdef");
    assert_eq!(clip("abcdefg", 6), "abc…");
    assert_eq!(clip("\n\n", 12), "\n\n");
    assert_eq!(clip("\n\n", 11), "\n…");
    assert_eq!(clip("ééé", 5), "é…");
    assert_eq!(clip("", 0), "");
}

#[test]
fn the_longest_record_fits() {
    for worst in ["\u{1}", "\"", "\\", "=", "é", "\u{10ffff}", "\u{2028}", "a"] {
        let text = worst.repeat(70_000);
        let record = Record {
            user: Some(text.clone()),
            groups: vec![text.clone(); 40],
            tenant: Some(text.clone()),
            rule: Some(text.clone()),
            resource: Resource::Path(text.clone()),
            reason: text.clone(),
            session: Some(text.clone()),
            time: u64::MAX,
            sequence: u64::MAX,
            bytes: Some(u64::MAX),
            files: Some(u64::MAX),
            failed: Some(u64::MAX),
            job: Some(u64::MAX),
            links: Some(u32::MAX),
            duration: Some(Duration::MAX),
            ..example()
        };
        let rate = Resource::Rate { asked: text.clone(), granted: text.clone() };
        let target = Resource::Target { host: text.clone(), port: 1, address: Some(record.peer) };
        for resource in [record.resource.clone(), rate, target] {
            for action in [record.action, Action::Rate, Action::Tunnel] {
                let record = Record { resource: resource.clone(), action, ..record.clone() };
                for line in [record.json(), record.cef()] {
                    assert!(line.len() <= LINE_MAX, "{worst:?}: {} bytes", line.len());
                    assert!(!line.is_empty());
                }
            }
        }
    }
}

fn any_text() -> impl Strategy<Value = String> {
    // Whatever Unicode has, with what is special in one of the formats made frequent.
    let special = prop::sample::select(
        "\n\r\\|=\"\u{0}\u{1b}\u{7f}\u{85}\u{2028}\u{2029}\u{202e}\u{feff} {}[],:#n\tu0"
            .chars()
            .collect::<Vec<_>>(),
    );
    prop::collection::vec(prop_oneof![special, any::<char>()], 0..40).prop_map(String::from_iter)
}

/// What of a text is there again after CEF.
fn pictured(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\r') { c } else { shown(c) }).collect()
}

proptest! {
    /// Any texts in, exactly one line out, which gives the same texts back.
    #[test]
    fn no_text_forges_a_record(
        user in any_text(), group in any_text(), tenant in any_text(), rule in any_text(), path in any_text(),
        host in any_text(), reason in any_text(),
    ) {
        let record = Record {
            user: Some(user.clone()),
            groups: vec![group.clone()],
            tenant: Some(tenant.clone()),
            rule: Some(rule.clone()),
            reason: reason.clone(),
            resource: Resource::Path(path.clone()),
            code: "denied",
            ..example()
        };
        let to_host = Record {
            resource: Resource::Target { host: host.clone(), port: 1, address: None },
            action: Action::Tunnel,
            ..record.clone()
        };
        for line in [record.json(), record.cef(), to_host.json(), to_host.cef()] {
            prop_assert!(!line.contains(is_unsafe), "{line:?}");
            prop_assert!(line.len() <= LINE_MAX);
        }
        let value = parsed(&record);
        let same = |value: &Value, text: &str, room| value.as_str() == Some(&*clip(text, room));
        prop_assert!(same(&value["actor"]["user"]["name"], &user, text::NAME));
        prop_assert!(same(&value["actor"]["user"]["groups"][0]["name"], &group, text::GROUP));
        prop_assert!(same(&value["metadata"]["tenant_uid"], &tenant, text::NAME));
        prop_assert!(same(&value["policy"]["name"], &rule, text::WORD));
        prop_assert!(same(&value["file"]["path"], &path, text::PATH));
        prop_assert!(reason.is_empty() || same(&value["status_detail"], &reason, text::REASON));
        prop_assert!(same(&parsed(&to_host)["dst_endpoint"]["hostname"], &host, text::HOST));
        prop_assert_eq!(&value["status_code"], "denied");

        let (header, fields) = cef(&record.cef());
        prop_assert_eq!(header.len(), 7);
        for (key, text, room) in [
            ("suser", &user, text::NAME), ("cs1", &rule, text::WORD), ("cs2", &tenant, text::NAME),
            ("filePath", &path, text::PATH), ("cs5", &group, text::GROUP),
        ] {
            prop_assert_eq!(&fields[key], &pictured(&clip(text, room)));
        }
        prop_assert_eq!(&fields["cs4"], &"ab".repeat(32));
        let (_, fields) = cef(&to_host.cef());
        prop_assert_eq!(&fields["dhost"], &pictured(&clip(&host, text::HOST)));
    }
}
