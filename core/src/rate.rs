//! [`RatePolicy`]: how a link shares its path with others, and how fast it may be at most.

/// How a link shares its path with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Takes as much as others of its kind.
    #[default]
    Fair,
    /// Sends at a target, and does not mind queues, others, or loss up to 30 %: for paths that are provisioned for it.
    Fixed,
    /// Takes more than others, but still backs off.
    High,
    /// Takes what others leave.
    Low,
}

impl Policy {
    /// All of them; the position is the number on the wire.
    pub const ALL: [Self; 4] = [Self::Fair, Self::Fixed, Self::High, Self::Low];

    /// The name in options, configuration, JSON and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fair => "fair",
            Self::Fixed => "fixed",
            Self::High => "high",
            Self::Low => "low",
        }
    }
}

/// A [`Policy`] and a rate: the target of [`Policy::Fixed`], which has one always, and a ceiling for the others.
///
/// Rates are bits per second of what the transport sends, its headers included, those of UDP and IP not. The default is
/// fair, without a ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RatePolicy {
    policy: Policy,
    rate: Option<u64>,
}

impl RatePolicy {
    /// The largest rate. Bits per second; the largest number that QUIC can write.
    pub const RATE_MAX: u64 = (1 << 62) - 1;

    /// `None` if it makes no sense: a target is missing, or a rate is 0 or above [`RatePolicy::RATE_MAX`].
    pub fn new(policy: Policy, rate: Option<u64>) -> Option<Self> {
        let possible = match rate {
            Some(rate) => (1..=Self::RATE_MAX).contains(&rate),
            None => policy != Policy::Fixed,
        };
        possible.then_some(Self { policy, rate })
    }

    /// How the path is shared.
    pub fn policy(self) -> Policy {
        self.policy
    }

    /// Target or ceiling. Bits per second.
    pub fn rate(self) -> Option<u64> {
        self.rate
    }

    /// What needs nobody's leave: fair, with the target as a ceiling.
    pub fn as_fair(self) -> Self {
        Self { policy: Policy::Fair, ..self }
    }

    /// What others leave, with the target as a ceiling.
    pub fn as_low(self) -> Self {
        Self { policy: Policy::Low, ..self }
    }

    /// What may be used of a grant where `self` was asked for: nothing that takes more than what was asked for, and no higher rate.
    pub fn accept(self, granted: Self) -> Self {
        let policy = match granted.policy {
            Policy::Low => Policy::Low,
            policy if policy == self.policy => policy,
            _ => Policy::Fair,
        };
        Self { policy, rate: [self.rate, granted.rate].into_iter().flatten().min() }
    }

    /// The part of one of so many links.
    pub fn shared_by(self, links: usize) -> Self {
        Self { rate: self.rate.map(|rate| (rate / links.max(1) as u64).max(1)), ..self }
    }

    /// What so many links with this part of it have together.
    pub fn of_links(self, links: usize) -> Self {
        let all = |rate: u64| rate.saturating_mul(links as u64).clamp(1, Self::RATE_MAX);
        Self { rate: self.rate.map(all), ..self }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(policy: Policy, rate: u64) -> RatePolicy {
        RatePolicy::new(policy, (rate > 0).then_some(rate)).unwrap()
    }

    #[test]
    fn a_target_is_needed_where_it_is_held() {
        assert_eq!(RatePolicy::new(Policy::Fixed, None), None);
        for policy in Policy::ALL {
            assert_eq!(RatePolicy::new(policy, Some(0)), None);
            assert!(RatePolicy::new(policy, Some(1)).is_some());
            assert!(RatePolicy::new(policy, Some(RatePolicy::RATE_MAX)).is_some());
            assert_eq!(RatePolicy::new(policy, Some(RatePolicy::RATE_MAX + 1)), None);
        }
        assert_eq!(RatePolicy::new(Policy::Fair, None), Some(RatePolicy::default()));
    }

    #[test]
    fn no_grant_gives_more_than_was_asked_for() {
        let asked = of(Policy::Fixed, 100);
        assert_eq!(asked.accept(of(Policy::Fixed, 100)), asked);
        assert_eq!(asked.accept(of(Policy::Fixed, 60)), of(Policy::Fixed, 60));
        assert_eq!(asked.accept(of(Policy::Fixed, 200)), asked);
        assert_eq!(asked.accept(of(Policy::High, 0)), of(Policy::Fair, 100));
        assert_eq!(of(Policy::Low, 0).accept(of(Policy::High, 0)), RatePolicy::default());
        assert_eq!(of(Policy::Fixed, 100).accept(of(Policy::Low, 100)), of(Policy::Low, 100));
        assert_eq!(RatePolicy::default().accept(of(Policy::Low, 0)), of(Policy::Low, 0));
        assert_eq!(of(Policy::Low, 0).accept(of(Policy::Low, 50)), of(Policy::Low, 50));
    }

    #[test]
    fn links_share_a_rate() {
        let all = of(Policy::Fixed, 100);
        assert_eq!(all.shared_by(4), of(Policy::Fixed, 25));
        assert_eq!(all.shared_by(0), all);
        assert_eq!(all.shared_by(4).of_links(4), all);
        assert_eq!(of(Policy::Fixed, 1).shared_by(4), of(Policy::Fixed, 1));
        assert_eq!(of(Policy::Low, 0).shared_by(4).of_links(4), of(Policy::Low, 0));
        assert_eq!(
            of(Policy::Fair, RatePolicy::RATE_MAX).of_links(16),
            of(Policy::Fair, RatePolicy::RATE_MAX)
        );
    }
}
