#![allow(clippy::unwrap_used)]

use cedar_policy::{Authorizer, PolicySet};
use proptest::prelude::*;

use super::*;
use crate::Host;
use crate::content::Kind;

/// A Saturday, at noon.
const TIME: u64 = 1_795_867_200;

fn engine(text: &str) -> Engine {
    Engine::parse(&[("office.cedar", text)]).unwrap_or_else(|e| panic!("{e}"))
}

fn errors(files: &[(&str, &str)]) -> String {
    Engine::parse(files).unwrap_err().to_string()
}

fn alice(action: Action, resource: Resource) -> Request {
    let principal = Principal {
        user: "alice".into(),
        groups: vec!["staff".into(), "ops".into()],
        tenant: Some("acme".into()),
    };
    Request { principal, action, resource, context: Context::new("10.1.2.3".parse().unwrap(), "quic", TIME) }
}

fn target(text: &str, port: u16) -> Resource {
    Resource::Target { host: Host::parse(text).unwrap(), port }
}

fn allows(text: &str, request: &Request) -> bool {
    engine(text).decide(request).allowed
}

#[test]
fn nothing_is_permitted_by_nothing() {
    let none = Engine::parse::<&str, &str>(&[]).unwrap();
    assert!(none.is_empty());
    for action in Action::ALL {
        for resource in [Resource::path("a"), target("example.org", 53), Resource::Gateway] {
            let decision = none.decide(&alice(action, resource));
            assert_eq!(decision, Decision { allowed: false, policies: vec![], errors: vec![] });
        }
    }
}

#[test]
fn who_is_who() {
    let send = alice(Action::Send, Resource::path("/incoming/a.bin"));
    for (scope, expected) in [
        ("principal", true),
        ("principal is Metra::User", true),
        ("principal == Metra::User::\"alice\"", true),
        ("principal == Metra::User::\"bob\"", false),
        ("principal in Metra::Group::\"ops\"", true),
        ("principal in Metra::Group::\"acme\"", false),
        ("principal in Metra::Tenant::\"acme\"", true),
        ("principal is Metra::User in Metra::Group::\"staff\"", true),
    ] {
        assert_eq!(allows(&format!("permit({scope}, action, resource);"), &send), expected, "{scope}");
    }
}

#[test]
fn paths_are_in_their_folders() {
    let policy = |scope: &str| format!("permit(principal, action == Metra::Action::\"get\", {scope});");
    for (scope, inside, outside) in [
        ("resource in Metra::Path::\"/\"", vec!["", "a", "a/b"], vec![]),
        ("resource in Metra::Path::\"/a\"", vec!["a", "/a/", "a/b", "a//b/c"], vec!["", "ab", "b/a", "A"]),
        ("resource == Metra::Path::\"/a\"", vec!["a"], vec!["a/b", ""]),
    ] {
        for path in &inside {
            assert!(allows(&policy(scope), &alice(Action::Get, Resource::path(path))), "{path} {scope}");
        }
        for path in &outside {
            assert!(!allows(&policy(scope), &alice(Action::Get, Resource::path(path))), "{path} {scope}");
        }
    }
    let named = "permit(principal, action == Metra::Action::\"get\", resource) when { resource.extension == \"zip\" && resource.name like \"r*\" };";
    assert!(allows(named, &alice(Action::Get, Resource::path("x/report.ZIP"))));
    for path in ["x/report.zip.txt", "report", "x/.zip/report", "zip"] {
        assert!(!allows(named, &alice(Action::Get, Resource::path(path))), "{path}");
    }
}

#[test]
fn targets_are_in_their_domains() {
    let policy = "permit(principal, action == Metra::Action::\"openTunnel\", resource in Metra::Domain::\"example.org\") when { resource.port == 443 };";
    for host in ["example.org", "www.Example.org", "a.b.example.org"] {
        assert!(allows(policy, &alice(Action::OpenTunnel, target(host, 443))), "{host}");
        assert!(!allows(policy, &alice(Action::OpenTunnel, target(host, 80))), "{host}");
    }
    for host in ["example.com", "badexample.org", "org", "example.org.evil.net", "192.0.2.1", "2001:db8::1"] {
        assert!(!allows(policy, &alice(Action::OpenTunnel, target(host, 443))), "{host}");
    }
    let address = "forbid(principal, action, resource) when { context has address && context.address.isInRange(ip(\"192.0.2.0/24\")) };\npermit(principal, action, resource);";
    let mut request = alice(Action::OpenTunnel, target("example.org", 443));
    assert!(allows(address, &request));
    request.context.address = Some("::ffff:192.0.2.9".parse().unwrap());
    assert!(!allows(address, &request));
}

#[test]
fn how_things_stand() {
    let send = alice(Action::Send, Resource::path("a"));
    for (condition, expected) in [
        ("context.source.isInRange(ip(\"10.0.0.0/8\"))", true),
        ("context.source.isInRange(ip(\"10.2.0.0/16\"))", false),
        ("context.source.isIpv6()", false),
        ("context.way == \"quic\"", true),
        ("context.inspected", false),
        ("context.weekday == 6 && context.minute == 720", true),
        ("context.time < datetime(\"2026-11-28T12:00:01Z\")", true),
        ("context.time >= datetime(\"2026-11-28T12:00:01Z\")", false),
        ("context has size && context.size > 5", false),
    ] {
        let text =
            format!("permit(principal, action == Metra::Action::\"send\", resource) when {{ {condition} }};");
        assert_eq!(allows(&text, &send), expected, "{condition}");
    }
    let mut mapped = send.clone();
    mapped.context.source = "::ffff:10.1.1.1".parse().unwrap();
    mapped.context.size = Some(u64::MAX);
    let text = "permit(principal, action == Metra::Action::\"send\", resource) when { context.source.isIpv4() && context has size && context.size > 5 };";
    assert!(allows(text, &mapped));
    let mut rate = alice(Action::UseRate, Resource::Gateway);
    (rate.context.rate, rate.context.mbit) = (Some("fixed"), Some(500));
    let text = "permit(principal, action == Metra::Action::\"useRate\", resource) when { context.rate == \"fixed\" && context has mbit && context.mbit <= 500 };";
    assert!(allows(text, &rate));
}

#[test]
fn the_type_of_a_file_is_known_when_it_is_whole() {
    let text = "permit(principal, action == Metra::Action::\"send\", resource);\nforbid(principal, action == Metra::Action::\"send\", resource) when { context has fileType && [\"elf\", \"pe\"].contains(context.fileType) };";
    let mut send = alice(Action::Send, Resource::path("a"));
    assert!(allows(text, &send));
    for (head, expected) in [(&b"MZ"[..], false), (b"\x7fELF", false), (b"PK\x03\x04", true), (b"", true)] {
        send.context.file_type = Some(Kind::of(head));
        assert_eq!(allows(text, &send), expected, "{head:?}");
    }
    assert!(engine(text).looks_at_whole_files());
    assert!(engine("permit(principal, action, resource) when { context has size };").looks_at_whole_files());
    assert!(
        !engine("permit(principal, action, resource) when { context.minute > 5 };").looks_at_whole_files()
    );
    // Nobody may forget that it is not always there, and of what is fetched it never is.
    let forgotten = |action: &str, condition: &str| {
        format!("permit(principal, action == Metra::Action::\"{action}\", resource) when {{ {condition} }};")
    };
    errors(&[("p", &forgotten("send", "context.fileType == \"pe\""))]);
    errors(&[("p", &forgotten("get", "!(context has size) || context.fileType == \"pe\""))]);
}

#[test]
fn who_decided_is_said() {
    let text = "// Everybody.\n@id(\"all\")\npermit(principal, action, resource);\n\npermit(principal,\n  action, resource) when { true };\n@id(\"not there; \\\" never\") forbid(principal, action, resource in Metra::Path::\"/secret\");";
    let engine = engine(text);
    assert_eq!(engine.len(), 3);
    let named = |decision: Decision| decision.policies.iter().map(ToString::to_string).collect::<Vec<_>>();
    let open = engine.decide(&alice(Action::Get, Resource::path("a")));
    assert!(open.allowed);
    assert_eq!(named(open), ["all (office.cedar:2)", "office.cedar:5"]);
    let shut = engine.decide(&alice(Action::Get, Resource::path("secret/a")));
    assert!(!shut.allowed);
    assert_eq!(named(shut), ["not there; \" never (office.cedar:7)"]);
}

#[test]
fn a_policy_that_fails_does_not_let_in() {
    // An overflow: Cedar passes over a policy that fails.
    let fails = "when { 9223372036854775807 + context.minute > 0 }";
    let request = alice(Action::Get, Resource::path("a"));
    let permit = engine(&format!("permit(principal, action, resource) {fails};")).decide(&request);
    assert!(!permit.allowed && permit.policies.is_empty() && permit.errors.len() == 1, "{permit:?}");
    let text = format!(
        "permit(principal, action, resource);\n@id(\"f\") forbid(principal, action, resource) {fails};"
    );
    let forbid = engine(&text).decide(&request);
    assert!(!forbid.allowed, "{forbid:?}");
    assert_eq!((forbid.policies[0].id.as_str(), forbid.errors.len()), ("f", 1));
    // A permit that fails beside one that does not, changes nothing.
    let text = format!("permit(principal, action, resource);\npermit(principal, action, resource) {fails};");
    let both = engine(&text).decide(&request);
    assert!(both.allowed && both.errors.len() == 1, "{both:?}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let told =
        errors(&[("a.cedar", "permit(principal, action, resource);\npermit(principal, action resource);")]);
    assert!(told.starts_with("a.cedar:2:26: "), "{told}");
    let told = errors(&[
        (
            "a.cedar",
            "permit(principal, action, resource);\n\npermit(principal is Metra::Robot, action, resource);",
        ),
        (
            "b.cedar",
            "permit(principal, action == Metra::Action::\"fly\", resource);\npermit(principal, action == Metra::Action::\"get\", resource) when { context.colour == 1 };",
        ),
    ]);
    let lines: Vec<&str> = told.lines().collect();
    for (line, part) in [("a.cedar:3:21: ", "Robot"), ("b.cedar:1:", "fly"), ("b.cedar:2:68: ", "colour")] {
        assert!(lines.iter().any(|l| l.starts_with(line) && l.contains(part)), "{line}{part}: {told}");
    }
    let same = "@id(\"x\") permit(principal, action, resource);";
    let told = errors(&[("a.cedar", same), ("b.cedar", same)]);
    assert_eq!(told, "b.cedar:1:1: there is a policy with this id already: \"x\" at a.cedar:1");
    let told = errors(&[("a.cedar", "\npermit(principal == ?principal, action, resource);")]);
    assert!(told.starts_with("a.cedar:2:1: templates"), "{told}");
    // What is no Cedar in one file hides nothing of the others.
    let told = errors(&[
        ("a.cedar", "permit(principal action, resource);"),
        ("b.cedar", "  permit(principal, action, resource) when { context.colour };"),
        ("c.cedar", "@id(\"x\") permit(principal, action, resource);"),
        ("d.cedar", same),
    ]);
    for part in ["a.cedar:1:", "b.cedar:1:46: ", "d.cedar:1:1: there is a policy with this id already"] {
        assert!(told.lines().any(|line| line.starts_with(part)), "{part}: {told}");
    }
    // What no path or domain is ever written like.
    for scope in [
        "Path::\"/a/\"",
        "Path::\"a\"",
        "Path::\"\"",
        "Path::\"/a/../b\"",
        "Domain::\"Example.org\"",
        "Domain::\"*.example.org\"",
        "Gateway::\"x\"",
    ] {
        let told = errors(&[("a.cedar", &format!("forbid(principal, action, resource in Metra::{scope});"))]);
        assert!(told.starts_with("a.cedar:1:1: "), "{scope}: {told}");
    }
    // In conditions, too.
    for condition in
        ["resource in Metra::Path::\"/secret/\"", "resource == Metra::Target::\"Example.org:443\""]
    {
        let action = if condition.contains("Path") { "get" } else { "openTunnel" };
        let text = format!(
            "forbid(principal, action == Metra::Action::\"{action}\", resource) when {{ {condition} }};"
        );
        let told = errors(&[("a.cedar", &text)]);
        assert!(told.starts_with("a.cedar:1:1: no "), "{condition}: {told}");
    }
    // An attribute that may be missing has to be asked for.
    let told = errors(&[(
        "a.cedar",
        "permit(principal, action == Metra::Action::\"get\", resource) when { context.size > 5 };",
    )]);
    assert!(told.contains("size"), "{told}");
}

#[test]
fn what_is_hardly_meant_is_said_with_its_place() {
    let warned = |text: &str| {
        let all: Vec<String> = engine(text).warnings().iter().map(ToString::to_string).collect();
        all.join("\n")
    };
    assert_eq!(warned("permit(principal, action, resource);"), "");
    for text in [
        "permit(principal, action, resource) when { false };",
        "permit(principal, action == Metra::Action::\"get\", resource in Metra::Domain::\"example.org\");",
        "permit(principal, action, resource) when { context.inspected && false };",
    ] {
        let told = warned(&format!("permit(principal, action, resource);\n  {text}"));
        assert!(told.starts_with("office.cedar:2:3: ") && told.contains("impossible"), "{text}: {told}");
    }
}

#[test]
fn the_examples_of_the_documentation_hold() {
    let text = include_str!("../../../docs/policy.md");
    let blocks = |kind: &str| -> Vec<&str> {
        let begins = format!("```{kind}\n");
        text.split(&begins).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
    };
    let examples = blocks("cedar");
    assert!(examples.len() >= 10);
    for example in &examples {
        engine(example);
    }
    let together = engine(&examples[..2].join("\n"));
    let cases = blocks("toml").into_iter().find(|block| block.contains("[[case]]")).unwrap();
    for outcome in cases::run_cases(&together, cases, TIME).unwrap() {
        assert_eq!(outcome.failed, None, "{}", outcome.name);
    }
}

#[test]
fn what_does_not_go_with_the_action_is_denied() {
    let all = "permit(principal, action, resource);";
    for action in Action::ALL {
        let allowed: Vec<bool> = [Resource::path("a"), target("example.org", 53), Resource::Gateway]
            .into_iter()
            .map(|resource| allows(all, &alice(action, resource)))
            .collect();
        assert_eq!(allowed.iter().filter(|allowed| **allowed).count(), 1, "{action}: {allowed:?}");
    }
}

/// Scopes and conditions that random policies are made of.
fn policy() -> impl Strategy<Value = String> {
    let principals = prop::sample::select(vec![
        "principal",
        "principal is Metra::User",
        "principal == Metra::User::\"alice\"",
        "principal == Metra::User::\"bob\"",
        "principal in Metra::Group::\"staff\"",
        "principal is Metra::User in Metra::Group::\"none\"",
        "principal in Metra::Tenant::\"acme\"",
    ]);
    let actions = prop::sample::select(vec![
        "action",
        "action == Metra::Action::\"get\"",
        "action in [Metra::Action::\"get\", Metra::Action::\"send\"]",
        "action == Metra::Action::\"delete\"",
    ]);
    let resources = prop::sample::select(vec![
        "resource",
        "resource is Metra::Path",
        "resource in Metra::Path::\"/\"",
        "resource in Metra::Path::\"/a\"",
        "resource == Metra::Path::\"/a/b.zip\"",
        "resource is Metra::Path in Metra::Path::\"/a/c\"",
    ]);
    let conditions = prop::sample::select(vec![
        "",
        "when { context.way == \"quic\" }",
        "unless { context.source.isInRange(ip(\"10.0.0.0/8\")) }",
        "when { principal in Metra::Group::\"ops\" }",
        "when { 9223372036854775807 + context.minute > 0 }",
    ]);
    let effects = prop::sample::select(vec!["permit", "permit", "forbid"]);
    (effects, principals, actions, resources, conditions)
        .prop_map(|(effect, p, a, r, condition)| format!("{effect}({p}, {a}, {r}) {condition};"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// What the index leaves out changes nothing: Cedar decides the same over all policies, but for forbids that fail.
    #[test]
    fn the_index_leaves_out_nothing(
        policies in prop::collection::vec(policy(), 0..12),
        action in prop::sample::select(vec![Action::Get, Action::Send, Action::List]),
        path in prop::sample::select(vec!["", "a", "a/b.zip", "a/c/d", "b"]),
        way in prop::sample::select(vec!["quic", "tls"]),
    ) {
        let text = policies.join("\n");
        let Ok(engine) = Engine::parse(&[("p", &text)]) else { return Ok(()) };
        let mut request = alice(action, Resource::path(path));
        request.context.way = way;
        let ours = engine.decide(&request);

        let question = {
            let mut vocabulary = index::Vocabulary::new([text.as_str()].into_iter(), &[]);
            vocabulary.named = ["Metra::Group::\"staff\"", "Metra::Group::\"ops\"", "Metra::Tenant::\"acme\"", "Metra::Path::\"/\"", "Metra::Path::\"/a\"", "Metra::Path::\"/a/c\""].map(|uid| uid.parse().unwrap()).into();
            vocabulary.longest = usize::MAX;
            let scope = vocabulary.scope(&request).unwrap();
            vocabulary.question(scope, &request).unwrap()
        };
        let schema = Schema::from_cedarschema_str(SCHEMA).unwrap().0;
        let source::Read { sources, policies, .. } = source::read(&[("p", &text)], schema).unwrap();
        let all = PolicySet::from_policies(policies).unwrap();
        let response = Authorizer::new().is_authorized(&question.request, &all, &question.entities);
        let failed_forbid = response.diagnostics().errors().any(|error| {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            sources[source::number(error.policy_id())].effect == Effect::Forbid
        });
        let cedars = response.decision() == cedar_policy::Decision::Allow;
        prop_assert_eq!(ours.allowed, cedars && !failed_forbid);
        if !(cedars && failed_forbid) {
            let mut reason: Vec<usize> = response.diagnostics().reason().map(source::number).collect();
            reason.sort_unstable();
            let named: Vec<PolicyRef> = reason.into_iter().map(|number| sources[number].named()).collect();
            prop_assert_eq!(ours.policies, named);
        }
    }

    #[test]
    fn any_text_is_policies_or_an_error(text in "(permit|forbid|\\(|\\)|principal|action|resource|,|;|when|\\{|\\}|\"|@id|/|\n| |é){0,40}") {
        if let Err(errors) = Engine::parse(&[("p", &text)]) {
            prop_assert!(!errors.0.is_empty() && !errors.to_string().is_empty());
        }
    }
}

/// `cargo test --release -p metra-policy decision_cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: `tests/run --long` runs it, or the command at the top of this function"]
#[allow(clippy::disallowed_methods)]
fn decision_cost() {
    let mut text = String::from("permit(principal, action == Metra::Action::\"openSession\", resource);\n");
    for n in 0..333 {
        text += &format!(
            "permit(principal in Metra::Group::\"team{n}\", action in [Metra::Action::\"get\", Metra::Action::\"list\"], resource in Metra::Path::\"/projects/p{n}\") when {{ context.source.isInRange(ip(\"10.0.0.0/8\")) }};\n"
        );
        text += &format!(
            "permit(principal == Metra::User::\"user{n}\", action == Metra::Action::\"send\", resource in Metra::Path::\"/incoming/u{n}\") unless {{ context.inspected }};\n"
        );
        text += &format!(
            "forbid(principal in Metra::Group::\"team{n}\", action, resource in Metra::Path::\"/projects/p{n}/closed\");\n"
        );
    }
    let engine = engine(&text);
    let mut request = alice(Action::Get, Resource::path("projects/p7/deep/er/file.bin"));
    request.principal.groups = vec!["team7".into(), "staff".into(), "ops".into()];
    assert!(engine.decide(&request).allowed);
    let mut denied = request.clone();
    denied.resource = Resource::path("projects/p8/file.bin");
    assert!(!engine.decide(&denied).allowed);
    for (name, request) in [("permitted", request), ("denied", denied)] {
        let mut nanos: Vec<u128> = (0..20_000)
            .map(|_| {
                let start = std::time::Instant::now();
                std::hint::black_box(engine.decide(std::hint::black_box(&request)));
                start.elapsed().as_nanos()
            })
            .collect();
        nanos.sort_unstable();
        println!("{} policies, {name}: median {} ns, p99 {} ns", engine.len(), nanos[10_000], nanos[19_800]);
    }
}

#[test]
fn a_rate_is_locked_by_a_permit_to_come_in() {
    let opens = "action == Metra::Action::\"openSession\", resource);";
    let text = format!(
        "permit(principal, {opens}\n@id(\"slow\") @rate(\"low\") permit(principal in Metra::Group::\"ops\", {opens}"
    );
    let mut request = alice(Action::OpenSession, Resource::Gateway);
    assert_eq!(engine(&text).decide(&request).locked_to_low(), Some("slow"));
    request.principal.groups.clear();
    let decision = engine(&text).decide(&request);
    assert_eq!((decision.allowed, decision.locked_to_low()), (true, None));
    for wrong in [
        format!("@rate(\"high\") permit(principal, {opens}"),
        format!("@rate(\"low\") forbid(principal, {opens}"),
        "@rate(\"low\") permit(principal, action, resource);".to_owned(),
    ] {
        let error = errors(&[("a.cedar", &wrong)]);
        assert_eq!(error, "a.cedar:1:1: @rate is \"low\", on a permit for the action openSession alone");
    }
}
