//! Decisions by policies: the Cedar language, with the schema of `policy/schema.cedarschema`.
//!
//! ```text
//! files --Engine::parse--> parsed, checked against the schema as a whole, indexed --decide(request)--> Decision
//! ```
//!
//! What no policy permits is denied, and what one forbids is denied whatever others permit. Cedar passes over a policy that cannot
//! be evaluated; of one that forbids, that would let in what it was written against, so here its error denies.
//!
//! Cedar evaluates every policy for every request. Here a policy is only looked at if its scope (principal, action, resource) can
//! hold for the request at all, which an index finds; what is decided is the same.
//!
//! An engine never changes: a gateway that reads its policies again makes another one and swaps them.

pub mod cases;
mod index;
mod request;
mod source;
#[cfg(test)]
mod tests;

pub use request::{Action, Context, Principal, Request, Resource, WAYS};
pub use source::{PolicyError, PolicyErrors};

use std::fmt;

use cedar_policy::{Authorizer, Effect, Schema};

use index::Index;
use source::Source;

/// Policies in force.
pub struct Engine {
    index: Index,
    /// By the number of each policy.
    sources: Vec<Source>,
    warnings: Vec<PolicyError>,
    vocabulary: index::Vocabulary,
    authorizer: Authorizer,
}

/// What was decided, and by which policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is permitted.
    pub allowed: bool,
    /// The policies that decided: those that permit, or those that forbid; none, if nothing permits. In the order of the files.
    pub policies: Vec<PolicyRef>,
    /// Policies that could not be evaluated for this request, and why.
    pub errors: Vec<(PolicyRef, String)>,
}

/// A policy, by its name and by where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRef {
    /// Its `@id`, or file and line without one.
    pub id: String,
    /// File and line, as in `office.cedar:12`.
    pub place: String,
    /// It says `@rate("low")`: whoever comes in by it has that rate policy and no other, whatever is asked for.
    pub low: bool,
}

impl Decision {
    /// Of the policies that permit it, the first that locks the rate policy to low: its name.
    pub fn locked_to_low(&self) -> Option<&str> {
        let locks = self.policies.iter().find(|policy| policy.low);
        locks.filter(|_| self.allowed).map(|policy| policy.id.as_str())
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.id == self.place { f.write_str(&self.id) } else { write!(f, "{} ({})", self.id, self.place) }
    }
}

/// The schema that policies are checked against, in Cedar's own syntax.
pub const SCHEMA: &str = include_str!("../../schema.cedarschema");

impl Engine {
    /// Policies of files, each a name and its text. An engine of no files denies everything.
    ///
    /// # Errors
    /// All that is wrong with them: text that is not Cedar, what the schema does not know, two policies of one name, templates. Fault:
    /// whoever wrote them.
    ///
    /// # Panics
    /// If the schema of this crate is none, which a test excludes.
    pub fn parse<N: AsRef<str>, T: AsRef<str>>(files: &[(N, T)]) -> Result<Self, PolicyErrors> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("invariant: the schema of this crate");
        let source::Read { sources, policies, warnings } = source::read(files, schema)?;
        let texts = files.iter().map(|(_, text)| text.as_ref());
        Ok(Self {
            vocabulary: index::Vocabulary::new(texts, &policies),
            index: Index::new(policies),
            sources,
            warnings,
            authorizer: Authorizer::new(),
        })
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are none, and everything is denied.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether any policy may look at what is known of a file only when it is whole: its type, and the length of a stream.
    pub fn looks_at_whole_files(&self) -> bool {
        self.vocabulary.mentions("fileType") || self.vocabulary.mentions("size")
    }

    /// What is no error and is hardly meant: a policy that can never apply, say.
    pub fn warnings(&self) -> &[PolicyError] {
        &self.warnings
    }

    /// Decides. Takes some microseconds, and longer the more policies have the request in their scope.
    pub fn decide(&self, request: &Request) -> Decision {
        let none = Decision { allowed: false, policies: Vec::new(), errors: Vec::new() };
        let Some(scope) = self.vocabulary.scope(request) else { return none };
        let Some(policies) = self.index.candidates(&scope) else { return none };
        let Some(question) = self.vocabulary.question(scope, request) else { return none };
        let response = self.authorizer.is_authorized(&question.request, &policies, &question.entities);
        let diagnostics = response.diagnostics();
        let mut failed = Vec::new();
        for error in diagnostics.errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            failed.push((source::number(error.policy_id()), error.inner().to_string()));
        }
        failed.sort();
        let forbids = |number: usize| self.sources.get(number).is_some_and(|s| s.effect == Effect::Forbid);
        let closed: Vec<usize> = failed.iter().map(|(number, _)| *number).filter(|n| forbids(*n)).collect();
        let permitted = response.decision() == cedar_policy::Decision::Allow;
        let mut deciding: Vec<usize> = diagnostics.reason().map(source::number).collect();
        if permitted && !closed.is_empty() {
            deciding = closed;
            return Decision { allowed: false, policies: self.named(deciding), errors: self.told(failed) };
        }
        deciding.sort_unstable();
        Decision { allowed: permitted, policies: self.named(deciding), errors: self.told(failed) }
    }

    fn named(&self, numbers: Vec<usize>) -> Vec<PolicyRef> {
        numbers.into_iter().filter_map(|number| self.sources.get(number)).map(Source::named).collect()
    }

    fn told(&self, failed: Vec<(usize, String)>) -> Vec<(PolicyRef, String)> {
        let named = |(number, why): (usize, String)| Some((self.sources.get(number)?.named(), why));
        failed.into_iter().filter_map(named).collect()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({} policies)", self.len())
    }
}
