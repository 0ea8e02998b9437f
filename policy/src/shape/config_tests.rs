#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::config::*;
use metra_core::priority::Priority;

use super::shaper::DEFAULT_BURST;
use super::{QuotaLimits, Rate, Zone};

/// As the gateway has it in its own form.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    shaping: RawShaping,
    tenants: BTreeMap<String, RawTenant>,
}

/// The mistakes as `KEY: MESSAGE`, and what came of the rest.
fn check(text: &str) -> (Shaping, Vec<String>) {
    let file: File = toml::from_str(text).unwrap();
    let mut errors = Vec::new();
    let is_user = |name: &str| ["alice", "bob", "carol@example.org"].contains(&name);
    let shaping = Shaping::check(&file.shaping, &file.tenants, &is_user, &mut |key, message| {
        errors.push(format!("{key}: {message}"));
    });
    (shaping, errors)
}

#[test]
fn nothing_written_is_no_limit() {
    let (shaping, errors) = check("");
    assert_eq!(errors, [""; 0]);
    assert_eq!(shaping.gateway.share.ceiling, None);
    assert_eq!(shaping.tenant_of("alice"), DEFAULT_TENANT);
    let tenant = &shaping.tenants[DEFAULT_TENANT];
    assert_eq!((tenant.jobs, tenant.queue), (1000, 1000));
    assert_eq!(tenant.quota, QuotaLimits::default());
}

#[test]
fn everything_written() {
    let (shaping, errors) = check(
        r#"
        [shaping]
        ceiling_mbit = 10000
        time_zone = "Europe/Berlin"
        calendar = ["Mon-Fri 08:00-19:00: 2G", "Sat 10:00-12:00 UTC: 1G"]
        [tenants.acme]
        floor_mbit = 300
        ceiling_mbit = 8000
        burst_mib = 16
        weight = 3
        priority = 2
        time_zone = "America/New_York"
        calendar = ["daily 09:00-17:00: 500M"]
        quota_day_gib = 100
        quota_day_files = 5000
        quota_month_gib = 1000
        quota_month_files = 50000
        jobs = 4
        queue = 20
        [tenants.acme.users.alice]
        floor_mbit = 50
        weight = 2
        priority = 4
        [tenants.acme.users."carol@example.org"]
        ceiling_mbit = 100
        quota_day_gib = 1
        "#,
    );
    assert_eq!(errors, [""; 0]);
    assert_eq!(shaping.gateway.share.burst, 62_500_000, "50 ms");
    let acme = &shaping.tenants["acme"];
    let share = acme.rates.share;
    assert_eq!((share.floor, share.ceiling), (Rate::from_mbit(300), Some(Rate::from_mbit(8000))));
    assert_eq!((share.burst, share.weight), (16 << 20, 3));
    assert_eq!((acme.best_lane, acme.jobs, acme.queue), (Priority::new(2).unwrap(), 4, 20));
    assert_eq!(acme.quota.day_bytes, Some(100 << 30));
    assert_eq!(acme.quota.month_files, Some(50_000));
    assert_eq!(acme.zone, Zone::parse("America/New_York").unwrap());
    assert_eq!(acme.users["alice"].rates.share.weight, 2);
    assert_eq!(acme.users["carol@example.org"].rates.share.burst, DEFAULT_BURST);
    let of = ["alice", "bob", "carol@example.org"].map(|user| shaping.tenant_of(user));
    assert_eq!(of, ["acme", "default", "acme"]);
    // Each calendar is in its own zone. It is a Monday in June.
    let time = |text: &str| super::zone::system_time(text.parse().unwrap());
    let cap = |rates: &Rates, at| rates.share_at(time(at)).ceiling.map(Rate::bits);
    assert_eq!(cap(&shaping.gateway, "2026-06-01T06:00:00Z"), Some(2_000_000_000));
    assert_eq!(cap(&acme.rates, "2026-06-01T06:00:00Z"), Some(8_000_000_000));
    assert_eq!(cap(&acme.rates, "2026-06-01T13:00:00Z"), Some(500_000_000));
}

#[test]
fn every_mistake_is_named_with_its_key() {
    let (_, errors) = check(
        r#"
        [shaping]
        ceiling_mbit = 100
        burst_mib = 0
        time_zone = "Berlin"
        calendar = ["Mon 08:00-09:00: 1M", "Mo 08:00-09:00: 1M"]
        [tenants."a b"]
        weight = 0
        [tenants.acme]
        floor_mbit = 60
        ceiling_mbit = 50
        priority = 8
        quota_day_gib = 10
        quota_month_gib = 9
        jobs = 0
        [tenants.acme.users.alice]
        floor_mbit = 30
        [tenants.acme.users.bob]
        floor_mbit = 30
        [tenants.beta]
        floor_mbit = 41
        queue = 10001
        [tenants.beta.users.bob]
        [tenants.beta.users."no.body"]
        ceiling_mbit = 1000001
        "#,
    );
    let beginnings = [
        r#"shaping.time_zone: "Berlin" is no time zone"#,
        "shaping.burst_mib: is 0, and must be 1 to 1024",
        r#"shaping.calendar: line 2, column 1: "Mo" is no day"#,
        r#"tenants."a b": a tenant's name is 1 to 64"#,
        r#"tenants."a b".weight: is 0, and must be 1 to 1000"#,
        "tenants.acme.floor_mbit: is more than ceiling_mbit",
        "tenants.acme.priority: is 8, and must be 0 to 7",
        "tenants.acme.quota_day_gib: is more than quota_month_gib",
        "tenants.acme.jobs: is 0, and must be 1 to 10000",
        "tenants.acme.users: the floors of its users are 60M together, more than its ceiling of 50M",
        "tenants.beta.queue: is 10001, and must be 0 to 10000",
        "tenants.beta.users.bob: is in tenants.acme already",
        r#"tenants.beta.users."no.body": is no user of the gateway"#,
        r#"tenants.beta.users."no.body".ceiling_mbit: is 1000001, and must be 1 to 1000000"#,
        "shaping.ceiling_mbit: is 100M, less than the floors of the tenants together, 101M",
    ];
    for (error, beginning) in errors.iter().zip(beginnings) {
        assert!(error.starts_with(beginning), "{error}\n{beginning}");
    }
    assert_eq!(errors.len(), beginnings.len(), "{errors:#?}");
}

#[test]
fn floors_of_users_count_for_their_tenant() {
    let text = |ceiling| {
        format!(
            "[shaping]\nceiling_mbit = {ceiling}\n[tenants.acme]\nfloor_mbit = 10\n\
             [tenants.acme.users.alice]\nfloor_mbit = 30\n[tenants.acme.users.bob]\nfloor_mbit = 40\n"
        )
    };
    assert_eq!(check(&text(70)).1, [""; 0]);
    assert_eq!(check(&text(69)).1.len(), 1);
    let (_, errors) = check("[tenants.acme]\nfloor_mbit = 10");
    assert_eq!(
        errors,
        ["tenants.acme.floor_mbit: needs shaping.ceiling_mbit: without it nothing is divided"]
    );
}

#[test]
fn the_ends_of_every_range_are_in_it() {
    let (_, errors) = check(
        "[shaping]\nceiling_mbit = 1000000\nburst_mib = 1024\n\
         [tenants.a]\nfloor_mbit = 0\nceiling_mbit = 1\nburst_mib = 1\nweight = 1\npriority = 7\njobs = 1\nqueue = 0\n\
         [tenants.b]\nfloor_mbit = 1000000\nweight = 1000\nquota_month_gib = 1000000000\n\
         quota_day_files = 1000000000000\njobs = 10000\nqueue = 10000\n",
    );
    assert_eq!(errors, [""; 0]);
}

/// The examples of the documentation are right.
#[test]
fn what_the_documentation_shows() {
    let document = include_str!("../../../docs/policy-shaping.md");
    let blocks: Vec<_> =
        document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let file: File = toml::from_str(block).unwrap();
        let shaping = Shaping::check(&file.shaping, &file.tenants, &|_| true, &mut |key, message| {
            panic!("{key}: {message}");
        });
        assert!(shaping.gateway.share.ceiling.is_some());
    }
    let lines = document.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(super::calendar::Calendar::parse(lines, &Zone::UTC).map(|c| c.is_empty()), Ok(false));
}
