//! What is granted of the rates that clients ask for, and to whom.
//!
//! Fair, and any ceiling, is everybody's. The rest is what the configuration says; of `fixed`, all links together have no more
//! than it says, so that nobody gets more by opening more of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use metra_core::rate::{Policy, RatePolicy};
use metra_core::wire::Frame;
use metra_policy::engine::{Action, Resource};
use metra_session::LinkHandle;
use metra_transport::LinkId;

use crate::authority::{Asker, policies_in};
use crate::config;
use crate::open::Refused;
use crate::sessions::{Live, Sessions};

/// What has been granted.
#[derive(Debug)]
pub(crate) struct Rates {
    rules: config::Rates,
    /// Links that have, or had, a fixed rate. Bits per second.
    fixed: Mutex<HashMap<LinkId, u64>>,
}

impl Rates {
    /// Nothing yet.
    pub(crate) fn new(rules: config::Rates) -> Self {
        Self { rules, fixed: Mutex::default() }
    }

    /// What a link may use of what it asks for, in place of what it had; `locked`: it has low in any case. The flag: it must be released when the link is gone.
    fn grant(&self, link: LinkId, asked: RatePolicy, locked: bool) -> (RatePolicy, bool) {
        let mut fixed = self.fixed.lock().expect("no panic while held");
        if let Some(had) = fixed.get_mut(&link) {
            *had = 0;
        }
        let granted = match asked.policy() {
            Policy::Fixed => self.fixed(&fixed, asked),
            Policy::High if self.rules.high => Some(asked),
            Policy::Low if self.rules.low || locked => Some(asked),
            Policy::Fair | Policy::High | Policy::Low => None,
        };
        let granted = granted.unwrap_or(asked.as_fair());
        let rate = granted.rate().filter(|_| granted.policy() == Policy::Fixed);
        let is_new = rate.is_some_and(|rate| fixed.insert(link, rate).is_none());
        (granted, is_new)
    }

    /// The target, or the highest that there is; nothing if others have too much of it.
    fn fixed(&self, others: &HashMap<LinkId, u64>, asked: RatePolicy) -> Option<RatePolicy> {
        let rate = asked.rate()?.min(self.rules.fixed);
        let used = others.values().fold(0u64, |sum, rate| sum.saturating_add(*rate));
        let granted = RatePolicy::new(Policy::Fixed, Some(rate))?;
        (used.saturating_add(rate) <= self.rules.fixed).then_some(granted)
    }

    fn release(&self, link: LinkId) {
        self.fixed.lock().expect("no panic while held").remove(&link);
    }
}

/// The policies that let this user share the path so, if there are any. Fair is everybody's.
fn permitted(
    sessions: &Sessions,
    live: &Live,
    link: &LinkHandle,
    asked: RatePolicy,
) -> Result<Option<String>, Refused> {
    let name = match asked.policy() {
        Policy::Fair => return Ok(None),
        Policy::Fixed => "fixed",
        Policy::High => "high",
        Policy::Low => "low",
    };
    let mut request =
        Asker::over(live.account(), link.link().as_ref()).asks(Action::UseRate, Resource::Gateway);
    request.context.rate = Some(name);
    request.context.mbit = asked.rate().map(|rate| rate / 1_000_000);
    sessions.authority().permit(&request)
}

/// The policy by which this link shares its path in one way only, taking what others leave; `None`: there is none.
fn locked(sessions: &Sessions, live: &Live, link: &LinkHandle) -> Option<String> {
    let opening =
        Asker::over(live.account(), link.link().as_ref()).asks(Action::OpenSession, Resource::Gateway);
    sessions.authority().locked_to_low(&opening)
}

/// What policies say to what a link asks for.
struct Ruling {
    /// What it may have, if the configuration allows that.
    may: RatePolicy,
    /// It has that in any case.
    is_locked: bool,
    /// The policies that decided, if any did.
    by: Option<String>,
}

/// A link has joined: if its rate is locked, it is so from here on, and the client is told for what it sends itself.
pub(crate) fn lock(sessions: &Arc<Sessions>, live: &Arc<Live>, link: LinkHandle) {
    let by = locked(sessions, live, &link);
    if by.is_none() {
        return;
    }
    let (sessions, live, asked) = (sessions.clone(), live.clone(), RatePolicy::default());
    let ruling = Ruling { may: asked.as_low(), is_locked: true, by };
    sessions.rt().clone().spawn(async move { answer(&sessions, &live, &link, asked, ruling).await });
}

/// Acts on a `Rate`.
pub(crate) async fn serve(sessions: &Arc<Sessions>, live: &Live, link: &LinkHandle, asked: RatePolicy) {
    let permitted = permitted(sessions, live, link, asked);
    let by = locked(sessions, live, link);
    let ruling = match (by, permitted) {
        (by @ Some(_), _) => Ruling { may: asked.as_low(), is_locked: true, by },
        (None, Ok(by)) => Ruling { may: asked, is_locked: false, by },
        (None, Err(refused)) => {
            let by = policies_in(&refused.reason).map(ToOwned::to_owned);
            Ruling { may: asked.as_fair(), is_locked: false, by }
        }
    };
    answer(sessions, live, link, asked, ruling).await;
}

/// Uses what is granted for what goes to the client, and says so.
async fn answer(
    sessions: &Arc<Sessions>,
    live: &Live,
    link: &LinkHandle,
    asked: RatePolicy,
    Ruling { may, is_locked, by }: Ruling,
) {
    let (mut granted, is_new) = sessions.rates().grant(link.id(), may, is_locked);
    if is_new {
        let (sessions, lost) = (sessions.clone(), link.link().clone());
        sessions.rt().clone().spawn(async move {
            lost.closed().await;
            sessions.rates().release(lost.id());
        });
    }
    if !link.link().set_rate(granted) {
        // Its congestion controller has no rates.
        granted = sessions.rates().grant(link.id(), RatePolicy::default(), false).0;
    }
    // What policies permit, the configuration or the link may still refuse.
    let by = by.filter(|_| is_locked || granted.policy() == may.policy());
    sessions.audit().rate(live, link, asked, granted, by);
    let user = &live.account().name;
    tracing::info!(user, link = %link.id(), ?asked, ?granted, "rate policy");
    link.send(&Frame::Granted(granted)).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MBIT: u64 = 1_000_000;

    fn of(policy: Policy, mbit: u64) -> RatePolicy {
        RatePolicy::new(policy, (mbit > 0).then_some(mbit * MBIT)).unwrap()
    }

    fn rates(low: bool, high: bool, mbit: u64) -> Rates {
        Rates::new(config::Rates { low, high, fixed: mbit * MBIT })
    }

    #[test]
    fn what_is_not_allowed_is_fair_with_a_ceiling() {
        let none = rates(false, false, 0);
        let some = rates(true, true, 0);
        let link = LinkId(1);
        for policy in Policy::ALL {
            assert_eq!(none.grant(link, of(policy, 50), false), (of(Policy::Fair, 50), false), "{policy:?}");
        }
        assert_eq!(none.grant(link, of(Policy::High, 0), false), (of(Policy::Fair, 0), false));
        assert_eq!(some.grant(link, of(Policy::High, 0), false), (of(Policy::High, 0), false));
        assert_eq!(some.grant(link, of(Policy::Low, 7), false), (of(Policy::Low, 7), false));
        assert_eq!(some.grant(link, of(Policy::Fixed, 7), false), (of(Policy::Fair, 7), false));
        assert_eq!(none.grant(link, of(Policy::Low, 7), true), (of(Policy::Low, 7), false), "locked");
    }

    #[test]
    fn fixed_rates_share_what_there_is() {
        let rates = rates(true, false, 1000);
        let [first, second, third] = [1, 2, 3].map(LinkId);
        assert_eq!(rates.grant(first, of(Policy::Fixed, 600), false), (of(Policy::Fixed, 600), true));
        assert_eq!(
            rates.grant(second, of(Policy::Fixed, 500), false),
            (of(Policy::Fair, 500), false),
            "too much"
        );
        assert_eq!(rates.grant(second, of(Policy::Fixed, 400), false), (of(Policy::Fixed, 400), true));
        assert_eq!(rates.grant(third, of(Policy::Fixed, 1), false), (of(Policy::Fair, 1), false));
        // Another rate in place of the first; a link is watched once.
        assert_eq!(rates.grant(first, of(Policy::Fixed, 500), false), (of(Policy::Fixed, 500), false));
        assert_eq!(rates.grant(third, of(Policy::Fixed, 100), false), (of(Policy::Fixed, 100), true));
        assert_eq!(rates.grant(first, of(Policy::Low, 0), false), (of(Policy::Low, 0), false));
        rates.release(second);
        rates.release(third);
        // The highest in place of more than there ever is.
        assert_eq!(rates.grant(second, of(Policy::Fixed, 5000), false), (of(Policy::Fixed, 1000), true));
        let most = RatePolicy::new(Policy::Fixed, Some(RatePolicy::RATE_MAX)).unwrap();
        assert_eq!(rates.grant(third, most, false), (most.as_fair(), false));
    }
}
