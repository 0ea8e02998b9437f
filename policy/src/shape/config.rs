//! The configuration of tenants: as it is written, and as it is when it has been checked.
//!
//! ```text
//! [shaping] + [tenants.NAME] --check--> Shaping, and every mistake with its key
//! ```

use std::collections::BTreeMap;
use std::time::SystemTime;

use metra_core::priority::Priority;
use serde::Deserialize;

use super::calendar::Calendar;
use super::shaper::{DEFAULT_BURST, Share};
use super::{QuotaLimits, Rate, Zone};

/// The gateway as a whole. All rates are for each direction.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawShaping {
    /// Mbit/s that all jobs together have at most. 1 to 1000000. Default: no limit. Without it nothing is ever divided, and floors of
    /// tenants mean nothing.
    pub ceiling_mbit: Option<u64>,
    /// MiB that may be moved at once after a pause, beyond the ceiling. 1 to 1024. Default 8, or what the ceiling allows in
    /// 50 ms if that is more.
    pub burst_mib: Option<u64>,
    /// Lower ceilings by the clock, each `DAYS HH:MM-HH:MM ZONE: RATE`, as in `Mon-Fri 08:00-19:00 Europe/Berlin: 200M`. The zone
    /// may be left out. Where several hold, the lowest one does. Default: none.
    pub calendar: Vec<String>,
    /// The time zone of calendars and of quotas that name none, of the IANA database. Default `UTC`.
    pub time_zone: Option<String>,
}

/// A tenant: users who share rates, quotas and places for jobs. The tenant `default` has all users whom no tenant names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTenant {
    /// Mbit/s that it has whenever it wants them. 0 to 1000000, at most its ceiling. Default 0. All floors together are
    /// at most `shaping.ceiling_mbit`.
    pub floor_mbit: Option<u64>,
    /// Mbit/s that it has at most. 1 to 1000000. Default: what the gateway has.
    pub ceiling_mbit: Option<u64>,
    /// As `shaping.burst_mib`.
    pub burst_mib: Option<u64>,
    /// Its part of what is above the floors, against the other tenants. 1 to 1000, default 1.
    pub weight: Option<u64>,
    /// The most urgent priority that its jobs can have, 0 (urgent) to 7 (background). Default 0. What asks for more gets this.
    pub priority: Option<u64>,
    /// As `shaping.calendar`.
    pub calendar: Vec<String>,
    /// The time zone of its calendar and of its days and months. Default: `shaping.time_zone`.
    pub time_zone: Option<String>,
    /// GiB a day, both directions together. 1 to 1000000000. Default: no limit.
    pub quota_day_gib: Option<u64>,
    /// Files a day. 1 to 1000000000000. Default: no limit.
    pub quota_day_files: Option<u64>,
    /// GiB a month. 1 to 1000000000. Default: no limit.
    pub quota_month_gib: Option<u64>,
    /// Files a month. 1 to 1000000000000. Default: no limit.
    pub quota_month_files: Option<u64>,
    /// Jobs that run at once. 1 to 10000, default 1000. One more waits.
    pub jobs: Option<u64>,
    /// Jobs that wait. 0 to 10000, default 1000. One more is told to come again later.
    pub queue: Option<u64>,
    /// The users of the tenant. Each is in one tenant at most.
    pub users: BTreeMap<String, RawTenantUser>,
}

/// A user of a tenant. An empty table will do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTenantUser {
    /// As for tenants. All floors together are at most the tenant's ceiling; they add up to a floor of the tenant, too, if that
    /// is more than its own.
    pub floor_mbit: Option<u64>,
    /// As for tenants. Default: what the tenant has.
    pub ceiling_mbit: Option<u64>,
    /// As `shaping.burst_mib`.
    pub burst_mib: Option<u64>,
    /// As for tenants, against the other users of the tenant.
    pub weight: Option<u64>,
    /// As for tenants; of both the less urgent one holds.
    pub priority: Option<u64>,
    /// As `shaping.calendar`.
    pub calendar: Vec<String>,
    /// As for tenants, besides the tenant's.
    pub quota_day_gib: Option<u64>,
    /// As for tenants, besides the tenant's.
    pub quota_day_files: Option<u64>,
    /// As for tenants, besides the tenant's.
    pub quota_month_gib: Option<u64>,
    /// As for tenants, besides the tenant's.
    pub quota_month_files: Option<u64>,
}

/// The tenant of users whom no tenant names.
pub const DEFAULT_TENANT: &str = "default";

/// A configuration that has been checked. The documentation of each value is at the raw field that it comes from.
#[derive(Clone, Debug)]
pub struct Shaping {
    /// The gateway, for each direction.
    pub gateway: Rates,
    /// By name; [`DEFAULT_TENANT`] is always there.
    pub tenants: BTreeMap<String, Tenant>,
    by_user: BTreeMap<String, String>,
}

/// What a node may have, and when.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Without the calendar.
    pub share: Share,
    /// When the ceiling is lower.
    pub calendar: Calendar,
}

/// A tenant.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// For each direction.
    pub rates: Rates,
    /// No job of it is in a lane before this one.
    pub best_lane: Priority,
    /// Both directions together.
    pub quota: QuotaLimits,
    /// Where its days begin.
    pub zone: Zone,
    /// Jobs that run.
    pub jobs: usize,
    /// Jobs that wait.
    pub queue: usize,
    /// Those that it names.
    pub users: BTreeMap<String, TenantUser>,
}

/// A user of a tenant.
#[derive(Clone, Debug)]
pub struct TenantUser {
    /// For each direction.
    pub rates: Rates,
    /// No job of it is in a lane before this one, nor before the tenant's.
    pub best_lane: Priority,
    /// Both directions together, besides the tenant's.
    pub quota: QuotaLimits,
}

impl Shaping {
    /// Checks everything. Each mistake goes to `report` with its key, as in `tenants.acme.floor_mbit`, with quotes where TOML
    /// needs them; if there was any, the result is of no use. `is_user` says who is a user of the gateway.
    pub fn check(
        shaping: &RawShaping,
        tenants: &BTreeMap<String, RawTenant>,
        is_user: &dyn Fn(&str) -> bool,
        report: &mut dyn FnMut(&str, String),
    ) -> Self {
        let mut check = Check { is_user, report, by_user: BTreeMap::new() };
        let zone = check.zone("shaping", shaping.time_zone.as_deref(), &Zone::UTC);
        let node = RawRates {
            floor_mbit: None,
            ceiling_mbit: shaping.ceiling_mbit,
            burst_mib: shaping.burst_mib,
            weight: None,
            calendar: &shaping.calendar,
        };
        let gateway = check.rates("shaping", &node, &zone);
        let mut checked: BTreeMap<_, _> =
            tenants.iter().map(|(name, tenant)| (name.clone(), check.tenant(name, tenant, &zone))).collect();
        check.floors(&gateway, &checked);
        let by_user = check.by_user;
        checked.entry(DEFAULT_TENANT.to_owned()).or_insert_with(|| Tenant::unlimited(zone));
        Self { gateway, tenants: checked, by_user }
    }

    /// The tenant of a user: its name. [`DEFAULT_TENANT`] for those whom none names.
    pub fn tenant_of(&self, user: &str) -> &str {
        self.by_user.get(user).map_or(DEFAULT_TENANT, String::as_str)
    }
}

impl Rates {
    /// What the node may have at a time.
    pub fn share_at(&self, at: SystemTime) -> Share {
        self.share.capped(self.calendar.cap_at(at))
    }
}

impl Tenant {
    fn unlimited(zone: Zone) -> Self {
        Self {
            rates: Rates::default(),
            best_lane: Priority::URGENT,
            quota: QuotaLimits::default(),
            zone,
            jobs: JOBS.2 as usize,
            queue: QUEUE.2 as usize,
            users: BTreeMap::new(),
        }
    }

    /// The floor that it has with those of its users.
    fn floor(&self) -> Rate {
        let users = self.users.values().map(|user| user.rates.share.floor.bytes()).sum();
        self.rates.share.floor.max(Rate::from_bytes(users))
    }
}

/// What all nodes have, as it is written.
struct RawRates<'a> {
    floor_mbit: Option<u64>,
    ceiling_mbit: Option<u64>,
    burst_mib: Option<u64>,
    weight: Option<u64>,
    calendar: &'a [String],
}

/// The keys of quotas, with what they are written as.
type RawQuota = [(&'static str, Option<u64>); 4];

/// Collects what is wrong. A check that fails goes on with any value, which nobody will see.
struct Check<'a> {
    is_user: &'a dyn Fn(&str) -> bool,
    report: &'a mut dyn FnMut(&str, String),
    by_user: BTreeMap<String, String>,
}

/// The least, the most, and what holds where nothing is written.
type Bounds = (u64, u64, u64);

const FLOOR: Bounds = (0, 1_000_000, 0);
const CEILING: Bounds = (1, 1_000_000, 1_000_000);
const BURST: Bounds = (1, 1024, 8);
const WEIGHT: Bounds = (1, 1000, 1);
const PRIORITY: Bounds = (0, 7, 0);
const GIB: Bounds = (1, 1_000_000_000, 1);
const FILES: Bounds = (1, 1_000_000_000_000, 1);
const JOBS: Bounds = (1, 10_000, 1000);
const QUEUE: Bounds = (0, 10_000, 1000);

/// The longest name of a tenant.
const NAME_MAX: usize = 64;

impl Check<'_> {
    fn error(&mut self, key: &str, message: impl Into<String>) {
        (self.report)(key, message.into());
    }

    fn number(&mut self, table: &str, name: &str, value: Option<u64>, (min, max, default): Bounds) -> u64 {
        match value {
            Some(n) if !(min..=max).contains(&n) => {
                self.error(&format!("{table}.{name}"), format!("is {n}, and must be {min} to {max}"));
                default
            }
            Some(n) => n,
            None => default,
        }
    }

    fn zone(&mut self, table: &str, name: Option<&str>, default: &Zone) -> Zone {
        let Some(name) = name else { return default.clone() };
        Zone::parse(name).unwrap_or_else(|e| {
            self.error(&format!("{table}.time_zone"), format!("{name:?} {e}"));
            default.clone()
        })
    }

    fn rates(&mut self, table: &str, raw: &RawRates<'_>, zone: &Zone) -> Rates {
        let floor = Rate::from_mbit(self.number(table, "floor_mbit", raw.floor_mbit, FLOOR));
        let ceiling =
            raw.ceiling_mbit.map(|n| Rate::from_mbit(self.number(table, "ceiling_mbit", Some(n), CEILING)));
        if ceiling.is_some_and(|ceiling| floor > ceiling) {
            self.error(&format!("{table}.floor_mbit"), "is more than ceiling_mbit beside it");
        }
        let burst = match raw.burst_mib {
            Some(_) => self.number(table, "burst_mib", raw.burst_mib, BURST) << 20,
            None => DEFAULT_BURST.max(ceiling.map_or(0, |ceiling| ceiling.bytes() / 20)),
        };
        let weight = self.number(table, "weight", raw.weight, WEIGHT) as u32;
        let calendar = Calendar::parse(&raw.calendar.join("\n"), zone).unwrap_or_else(|e| {
            self.error(&format!("{table}.calendar"), e.to_string());
            Calendar::default()
        });
        Rates { share: Share { floor, ceiling, burst, weight }, calendar }
    }

    fn quota(&mut self, table: &str, raw: RawQuota) -> QuotaLimits {
        let [day_bytes, day_files, month_bytes, month_files] = raw.map(|(name, value)| {
            let bytes = name.ends_with("gib");
            let n = self.number(table, name, Some(value?), if bytes { GIB } else { FILES });
            Some(if bytes { n << 30 } else { n })
        });
        for (n, (day, month)) in [(day_bytes, month_bytes), (day_files, month_files)].into_iter().enumerate()
        {
            if day.zip(month).is_some_and(|(day, month)| day > month) {
                let (day, month) = (raw[n].0, raw[n + 2].0);
                self.error(&format!("{table}.{day}"), format!("is more than {month} beside it"));
            }
        }
        QuotaLimits { day_bytes, day_files, month_bytes, month_files }
    }

    fn lane(&mut self, table: &str, priority: Option<u64>) -> Priority {
        let number = self.number(table, "priority", priority, PRIORITY);
        u8::try_from(number).ok().and_then(Priority::new).unwrap_or(Priority::URGENT)
    }

    fn tenant(&mut self, name: &str, raw: &RawTenant, zone: &Zone) -> Tenant {
        let table = format!("tenants.{}", quoted(name));
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
            self.error(&table, format!("a tenant's name is 1 to {NAME_MAX} letters, digits and _ -"));
        }
        let zone = self.zone(&table, raw.time_zone.as_deref(), zone);
        let node = RawRates {
            floor_mbit: raw.floor_mbit,
            ceiling_mbit: raw.ceiling_mbit,
            burst_mib: raw.burst_mib,
            weight: raw.weight,
            calendar: &raw.calendar,
        };
        let quota = [
            ("quota_day_gib", raw.quota_day_gib),
            ("quota_day_files", raw.quota_day_files),
            ("quota_month_gib", raw.quota_month_gib),
            ("quota_month_files", raw.quota_month_files),
        ];
        let tenant = Tenant {
            rates: self.rates(&table, &node, &zone),
            best_lane: self.lane(&table, raw.priority),
            quota: self.quota(&table, quota),
            jobs: self.number(&table, "jobs", raw.jobs, JOBS) as usize,
            queue: self.number(&table, "queue", raw.queue, QUEUE) as usize,
            users: raw
                .users
                .iter()
                .map(|(user, raw)| (user.clone(), self.user(name, user, raw, &zone)))
                .collect(),
            zone,
        };
        let users: u64 = tenant.users.values().map(|user| user.rates.share.floor.bytes()).sum();
        if let Some(ceiling) = tenant.rates.share.ceiling.filter(|ceiling| users > ceiling.bytes()) {
            let message = format!(
                "the floors of its users are {} together, more than its ceiling of {ceiling}",
                Rate::from_bytes(users)
            );
            self.error(&format!("{table}.users"), message);
        }
        tenant
    }

    fn user(&mut self, tenant: &str, name: &str, raw: &RawTenantUser, zone: &Zone) -> TenantUser {
        let table = format!("tenants.{}.users.{}", quoted(tenant), quoted(name));
        if !(self.is_user)(name) {
            self.error(&table, "is no user of the gateway; the users are under [users]");
        }
        match self.by_user.get(name).cloned() {
            Some(other) => {
                self.error(&table, format!("is in tenants.{} already; a user has one tenant", quoted(&other)))
            }
            None => _ = self.by_user.insert(name.to_owned(), tenant.to_owned()),
        }
        let node = RawRates {
            floor_mbit: raw.floor_mbit,
            ceiling_mbit: raw.ceiling_mbit,
            burst_mib: raw.burst_mib,
            weight: raw.weight,
            calendar: &raw.calendar,
        };
        let quota = [
            ("quota_day_gib", raw.quota_day_gib),
            ("quota_day_files", raw.quota_day_files),
            ("quota_month_gib", raw.quota_month_gib),
            ("quota_month_files", raw.quota_month_files),
        ];
        TenantUser {
            rates: self.rates(&table, &node, zone),
            best_lane: self.lane(&table, raw.priority),
            quota: self.quota(&table, quota),
        }
    }

    /// Floors that the gateway cannot honour are a mistake, though the shaper would scale them.
    fn floors(&mut self, gateway: &Rates, tenants: &BTreeMap<String, Tenant>) {
        let sum: u64 = tenants.values().map(|tenant| tenant.floor().bytes()).sum();
        match gateway.share.ceiling {
            None => {
                for (name, tenant) in tenants {
                    if tenant.rates.share.floor > Rate::ZERO {
                        let key = format!("tenants.{}.floor_mbit", quoted(name));
                        self.error(&key, "needs shaping.ceiling_mbit: without it nothing is divided");
                    }
                }
            }
            Some(ceiling) if sum > ceiling.bytes() => {
                let message = format!(
                    "is {ceiling}, less than the floors of the tenants together, {}",
                    Rate::from_bytes(sum)
                );
                self.error("shaping.ceiling_mbit", message);
            }
            Some(_) => {}
        }
    }
}

/// One part of a key, in quotes where TOML needs them.
fn quoted(part: &str) -> String {
    let bare = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { part.to_owned() } else { format!("{part:?}") }
}
