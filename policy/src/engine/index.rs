//! Which policies can hold for a request at all, and the request as Cedar wants it.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use cedar_policy::{
    ActionConstraint, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicySet,
    PrincipalConstraint, Request, ResourceConstraint, RestrictedExpression,
};

use time::OffsetDateTime;

use super::request::{self, Action, Resource};
use crate::Host;

/// By an entity that one of the request must be, or be in. `None`: any.
type ByEntity<T> = HashMap<Option<EntityUid>, T>;

/// Policies by their scope.
pub(super) struct Index {
    policies: Vec<Policy>,
    /// The numbers of policies by action, principal and resource.
    by_scope: HashMap<Action, ByEntity<ByEntity<Vec<u32>>>>,
    /// Sets that were put together before, by the numbers in them: few differ, and making one takes longer than evaluating it.
    sets: Mutex<HashMap<Vec<u32>, Arc<PolicySet>>>,
}

/// Sets that are kept.
const SETS_MAX: usize = 1024;

impl Index {
    /// The policies, in the order of their numbers.
    pub(super) fn new(policies: Vec<Policy>) -> Self {
        let mut by_scope: HashMap<Action, ByEntity<ByEntity<Vec<u32>>>> = HashMap::new();
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
        Self { policies, by_scope, sets: Mutex::default() }
    }

    /// Policies in whose scope the request can be. `None`: there is none.
    pub(super) fn candidates(&self, scope: &Scope) -> Option<Arc<PolicySet>> {
        let mut numbers = Vec::new();
        let of_action = self.by_scope.get(&scope.action)?;
        for principal in std::iter::once(&None).chain(&scope.principals) {
            let Some(of_principal) = of_action.get(principal) else { continue };
            for resource in std::iter::once(&None).chain(&scope.resources) {
                numbers.extend(of_principal.get(resource).into_iter().flatten());
            }
        }
        if numbers.is_empty() {
            return None;
        }
        let mut sets = self.sets.lock().expect("no panic while held");
        if let Some(set) = sets.get(&numbers) {
            return Some(set.clone());
        }
        let policies = numbers.iter().filter_map(|number| self.policies.get(*number as usize)).cloned();
        let set = PolicySet::from_policies(policies).expect("invariant: each policy has a number of its own");
        if sets.len() >= SETS_MAX {
            sets.clear();
        }
        let set = Arc::new(set);
        sets.insert(numbers, set.clone());
        Some(set)
    }
}

/// The entities of a request. Each is `Some`, as the index has them.
pub(super) struct Scope {
    action: Action,
    /// The principal, and after it all that it is in.
    principals: Vec<Option<EntityUid>>,
    /// The resource, and after it all that it is in.
    resources: Vec<Option<EntityUid>>,
}

/// A request as Cedar wants it.
pub(super) struct Question {
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
    /// The entities that policies name. In which others somebody or something is, nobody can ask.
    pub(super) named: HashSet<EntityUid>,
    /// Bytes of the longest path among them: folders with longer ones are looked at by nobody, however deep a path is.
    pub(super) longest: usize,
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
    pub(super) fn new<'t>(texts: impl Iterator<Item = &'t str>, policies: &[Policy]) -> Self {
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
        let named: HashSet<EntityUid> = policies.iter().flat_map(Policy::entity_literals).collect();
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
            longest: named.iter().map(|uid| uid.id().unescaped().len()).max().unwrap_or(0),
            named,
        }
    }

    /// Whether any policy may look at this.
    pub(super) fn mentions(&self, attribute: &str) -> bool {
        self.mentioned.contains(attribute)
    }

    /// `None`: the resource does not go with the action.
    pub(super) fn scope(&self, request: &request::Request) -> Option<Scope> {
        use Action::{Administer, Delete, Get, List, OpenSession, OpenTunnel, Send, UseRate};
        let who = &request.principal;
        let mut principals = vec![uid(&self.user, &who.user)];
        principals.extend(who.groups.iter().map(|group| uid(&self.group, group)));
        principals.extend(who.tenant.iter().map(|tenant| uid(&self.tenant, tenant)));
        let resources = match (&request.resource, request.action) {
            (Resource::Path(path), Send | Get | List | Delete) => {
                let full = format!("/{path}");
                // Every folder that it is in and that policies may name.
                let above = path.match_indices('/').map(|(at, _)| &full[..=at]);
                let above = above.take_while(|folder| folder.len() <= self.longest);
                let root = (!path.is_empty()).then_some("/");
                let all = std::iter::once(full.as_str()).chain(above).chain(root);
                all.map(|path| uid(&self.path, path)).collect()
            }
            (Resource::Target { host, .. }, OpenTunnel) => {
                let mut all = vec![uid(&self.target, &request.resource.to_string())];
                if let Host::Name(name) = host {
                    let parts = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
                    all.extend(
                        std::iter::once(name.as_str()).chain(parts).map(|part| uid(&self.domain, part)),
                    );
                }
                all
            }
            (Resource::Gateway, OpenSession | UseRate | Administer) => vec![self.gateway.clone()],
            _ => return None,
        };
        let some = |uids: Vec<EntityUid>| uids.into_iter().map(Some).collect();
        Some(Scope { action: request.action, principals: some(principals), resources: some(resources) })
    }

    /// `None`: the request says what Cedar has no words for.
    pub(super) fn question(&self, scope: Scope, request: &request::Request) -> Option<Question> {
        let (user, principal) = self.entity(scope.principals, HashMap::new())?;
        let (resource, of) = self.entity(scope.resources, self.attributes(&request.resource))?;
        let action = self.actions.get(&request.action)?.clone();
        let context = Context::from_pairs(self.context(&request.context)).ok()?;
        Some(Question {
            request: Request::new(user, action, resource, context, None).ok()?,
            entities: Entities::from_entities([principal, of], None).ok()?,
        })
    }

    /// The first of these, in all others.
    fn entity(
        &self,
        uids: Vec<Option<EntityUid>>,
        attributes: HashMap<String, RestrictedExpression>,
    ) -> Option<(EntityUid, Entity)> {
        let mut uids = uids.into_iter().flatten();
        let own = uids.next()?;
        let above = uids.filter(|uid| self.named.contains(uid)).collect();
        if attributes.is_empty() {
            return Some((own.clone(), Entity::new_no_attrs(own, above)));
        }
        Some((own.clone(), Entity::new(own, attributes, above).ok()?))
    }

    fn attributes(&self, resource: &Resource) -> HashMap<String, RestrictedExpression> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let mut all = HashMap::new();
        let mut add = |name: &str, value: &dyn Fn() -> RestrictedExpression| {
            if self.mentioned.contains(name) {
                all.insert(name.to_owned(), value());
            }
        };
        match resource {
            Resource::Path(path) => {
                let name = path.rsplit('/').next().unwrap_or("");
                let extension =
                    || name.rsplit_once('.').map_or(String::new(), |(_, last)| last.to_lowercase());
                add("name", &|| text(name));
                add("extension", &|| text(&extension()));
            }
            Resource::Target { host, port } => {
                add("host", &|| text(&host.to_string()));
                add("port", &|| RestrictedExpression::new_long((*port).into()));
            }
            Resource::Gateway => {}
        }
        all
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
        add("fileType", &|| context.file_type.map(|kind| text(kind.name())));
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
