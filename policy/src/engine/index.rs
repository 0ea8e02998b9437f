//! Which policies can hold for a request at all, and the request as Cedar wants it.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use cedar_policy::{
    ActionConstraint, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy,
    PrincipalConstraint, Request, ResourceConstraint, RestrictedExpression,
};

use time::OffsetDateTime;

use super::request::{self, Action, Resource};
use crate::Host;

/// Policies by their scope.
pub(super) struct Index {
    policies: Vec<Policy>,
    /// For each action, by principal and resource: entities that the request's must be, or be in. `None`: any.
    by_scope: HashMap<Action, HashMap<Option<EntityUid>, HashMap<Option<EntityUid>, Vec<u32>>>>,
}

impl Index {
    /// The policies, in the order of their numbers.
    pub(super) fn new(policies: Vec<Policy>) -> Self {
        let mut by_scope: HashMap<Action, HashMap<_, HashMap<_, Vec<u32>>>> = HashMap::new();
        for (number, policy) in (0..).zip(&policies) {
            let principal = match policy.principal_constraint() {
                PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
                PrincipalConstraint::In(one)
                | PrincipalConstraint::Eq(one)
                | PrincipalConstraint::IsIn(_, one) => Some(one),
            };
            let resource = match policy.resource_constraint() {
                ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
                ResourceConstraint::In(one)
                | ResourceConstraint::Eq(one)
                | ResourceConstraint::IsIn(_, one) => Some(one),
            };
            let named = |uids: &[EntityUid]| -> Vec<Action> {
                let is_named = |action: &Action| uids.iter().any(|uid| uid.id().unescaped() == action.name());
                Action::ALL.into_iter().filter(is_named).collect()
            };
            let actions = match policy.action_constraint() {
                ActionConstraint::Any => Action::ALL.to_vec(),
                ActionConstraint::In(uids) => named(&uids),
                ActionConstraint::Eq(uid) => named(&[uid]),
            };
            for action in actions {
                let of_action = by_scope.entry(action).or_default();
                let of_principal = of_action.entry(principal.clone()).or_default();
                of_principal.entry(resource.clone()).or_default().push(number);
            }
        }
        Self { policies, by_scope }
    }

    /// Policies in whose scope the request can be.
    pub(super) fn candidates(&self, question: &Question) -> Vec<Policy> {
        let mut numbers = Vec::new();
        let Some(of_action) = self.by_scope.get(&question.action) else { return Vec::new() };
        for principal in std::iter::once(&None).chain(&question.principals) {
            let Some(of_principal) = of_action.get(principal) else { continue };
            for resource in std::iter::once(&None).chain(&question.resources) {
                numbers.extend(of_principal.get(resource).into_iter().flatten());
            }
        }
        let policy = |number: u32| self.policies.get(number as usize).cloned();
        numbers.into_iter().filter_map(policy).collect()
    }
}

/// A request as Cedar wants it.
pub(super) struct Question {
    pub(super) action: Action,
    /// The principal and all that it is in; likewise the resource. Each is `Some`, as the index has them.
    pub(super) principals: Vec<Option<EntityUid>>,
    pub(super) resources: Vec<Option<EntityUid>>,
    pub(super) request: Request,
    pub(super) entities: Entities,
}

/// The names of types and actions, and what of a request any policy looks at: the rest need not be made for each request.
pub(super) struct Vocabulary {
    user: EntityTypeName,
    group: EntityTypeName,
    tenant: EntityTypeName,
    path: EntityTypeName,
    target: EntityTypeName,
    domain: EntityTypeName,
    gateway: EntityUid,
    actions: HashMap<Action, EntityUid>,
    mentioned: HashSet<&'static str>,
}

/// What entities and contexts have.
const ATTRIBUTES: [&str; 15] = [
    "name",
    "extension",
    "host",
    "port",
    "source",
    "way",
    "inspected",
    "time",
    "weekday",
    "minute",
    "size",
    "fileType",
    "address",
    "rate",
    "mbit",
];

impl Vocabulary {
    /// Of policies with these texts. What is not mentioned in any of them, in whatever sense, no policy can look at.
    pub(super) fn new<'t>(texts: impl Iterator<Item = &'t str>) -> Self {
        let kind = |name: &str| {
            EntityTypeName::from_str(&format!("Metra::{name}")).expect("invariant: the name of a type")
        };
        let action = |action: Action| uid(&kind("Action"), action.name());
        let mut mentioned = HashSet::new();
        for text in texts {
            // A name can be written with escapes within quotes.
            let all = text.contains('\\');
            mentioned.extend(ATTRIBUTES.iter().copied().filter(|name| all || text.contains(name)));
        }
        Self {
            user: kind("User"),
            group: kind("Group"),
            tenant: kind("Tenant"),
            path: kind("Path"),
            target: kind("Target"),
            domain: kind("Domain"),
            gateway: uid(&kind("Gateway"), "gateway"),
            actions: Action::ALL.into_iter().map(|one| (one, action(one))).collect(),
            mentioned,
        }
    }

    /// `None`: the resource does not go with the action, or the request says what Cedar has no words for.
    pub(super) fn question(&self, request: &request::Request) -> Option<Question> {
        let goes = match &request.resource {
            Resource::Path(_) => {
                matches!(request.action, Action::Send | Action::Get | Action::List | Action::Delete)
            }
            Resource::Target { .. } => request.action == Action::OpenTunnel,
            Resource::Gateway => {
                matches!(request.action, Action::OpenSession | Action::UseRate | Action::Administer)
            }
        };
        if !goes {
            return None;
        }
        let mut entities = Vec::new();
        let who = &request.principal;
        let user = uid(&self.user, &who.user);
        let mut above: Vec<EntityUid> = who.groups.iter().map(|group| uid(&self.group, group)).collect();
        above.extend(who.tenant.iter().map(|tenant| uid(&self.tenant, tenant)));
        entities.push(Entity::new_no_attrs(user.clone(), above.iter().cloned().collect()));
        let principals = std::iter::once(user.clone()).chain(above).map(Some).collect();

        let (resource, above) = match &request.resource {
            Resource::Path(path) => self.path(path, &mut entities)?,
            Resource::Target { host, port } => self.target(host, *port, &mut entities)?,
            Resource::Gateway => {
                entities.push(Entity::with_uid(self.gateway.clone()));
                (self.gateway.clone(), Vec::new())
            }
        };
        let resources = std::iter::once(resource.clone()).chain(above).map(Some).collect();
        let action = self.actions.get(&request.action)?.clone();
        let context = Context::from_pairs(self.context(&request.context)).ok()?;
        Some(Question {
            action: request.action,
            principals,
            resources,
            request: Request::new(user, action, resource, context, None).ok()?,
            entities: Entities::from_entities(entities, None).ok()?,
        })
    }

    fn path(&self, path: &str, entities: &mut Vec<Entity>) -> Option<(EntityUid, Vec<EntityUid>)> {
        let full = format!("/{path}");
        // Every folder that it is in, the root last.
        let mut above: Vec<EntityUid> =
            path.rmatch_indices('/').map(|(at, _)| uid(&self.path, &full[..=at])).collect();
        if !path.is_empty() {
            above.push(uid(&self.path, "/"));
        }
        let name = path.rsplit('/').next().unwrap_or("");
        let extension = name.rsplit_once('.').map_or(String::new(), |(_, last)| last.to_lowercase());
        let attributes = [
            ("name", RestrictedExpression::new_string(name.to_owned())),
            ("extension", RestrictedExpression::new_string(extension)),
        ];
        let own = uid(&self.path, &full);
        entities.push(self.entity(own.clone(), attributes, &above)?);
        Some((own, above))
    }

    fn target(
        &self,
        host: &Host,
        port: u16,
        entities: &mut Vec<Entity>,
    ) -> Option<(EntityUid, Vec<EntityUid>)> {
        let text = host.to_string();
        let above: Vec<EntityUid> = match host {
            Host::Name(name) => {
                let parts = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
                std::iter::once(name.as_str()).chain(parts).map(|part| uid(&self.domain, part)).collect()
            }
            Host::Ip(_) => Vec::new(),
        };
        let own = uid(&self.target, &Resource::Target { host: host.clone(), port }.to_string());
        let attributes = [
            ("host", RestrictedExpression::new_string(text)),
            ("port", RestrictedExpression::new_long(port.into())),
        ];
        entities.push(self.entity(own.clone(), attributes, &above)?);
        Some((own, above))
    }

    fn entity<const N: usize>(
        &self,
        own: EntityUid,
        attributes: [(&'static str, RestrictedExpression); N],
        above: &[EntityUid],
    ) -> Option<Entity> {
        let above = above.iter().cloned().collect();
        let looked_at = attributes.into_iter().filter(|(name, _)| self.mentioned.contains(name));
        let attributes: HashMap<_, _> = looked_at.map(|(name, value)| (name.to_owned(), value)).collect();
        Entity::new(own, attributes, above).ok()
    }

    fn context(&self, context: &request::Context) -> Vec<(String, RestrictedExpression)> {
        let mut pairs = Vec::new();
        let mut add = |name: &str, value: &dyn Fn() -> Option<RestrictedExpression>| {
            if self.mentioned.contains(name)
                && let Some(value) = value()
            {
                pairs.push((name.to_owned(), value));
            }
        };
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let long = |number: u64| RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX));
        let days = context.time / DAY;
        add("source", &|| Some(RestrictedExpression::new_ip(context.source.to_canonical().to_string())));
        add("way", &|| Some(text(context.way)));
        add("inspected", &|| Some(RestrictedExpression::new_bool(context.inspected)));
        add("time", &|| Some(RestrictedExpression::new_datetime(moment(context.time))));
        // 1970-01-01 was a Thursday.
        add("weekday", &|| Some(long((days + 3) % 7 + 1)));
        add("minute", &|| Some(long(context.time % DAY / 60)));
        add("size", &|| context.size.map(long));
        add("fileType", &|| context.file_type.as_deref().map(text));
        add("address", &|| {
            context.address.map(|address| RestrictedExpression::new_ip(address.to_canonical().to_string()))
        });
        add("rate", &|| context.rate.map(text));
        add("mbit", &|| context.mbit.map(long));
        pairs
    }
}

const DAY: u64 = 86_400;

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// As Cedar reads it: `2026-11-28T09:00:00Z`. Seconds since the epoch; those after the year 9999 are its last.
fn moment(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).min(253_402_300_799);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
}
