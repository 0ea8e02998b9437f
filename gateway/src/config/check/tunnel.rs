//! The `[tunnel]` table.

use std::time::Duration;

use metra_policy::{Cidr, TargetRule, classify};

use super::{Bound, Check, MBIT};
use crate::config::{RawTunnel, Tunnel};

impl Check {
    pub(super) fn tunnel(&mut self, raw: &RawTunnel) -> Tunnel {
        let dangerous: Vec<Cidr> = self.each("tunnel.dangerous_ranges", &raw.dangerous_ranges);
        let allow: Vec<TargetRule> = self.each("tunnel.allow", &raw.allow);
        for range in allow.iter().filter_map(TargetRule::range) {
            self.reachable(range, &dangerous);
        }
        let tunnels = self.number(&TUNNELS, raw.tunnels);
        // At most `tunnels`, which must not make the default wrong.
        let per_address =
            Bound { max: tunnels, default: TUNNELS_PER_ADDRESS.default.min(tunnels), ..TUNNELS_PER_ADDRESS };
        let per_user =
            Bound { max: tunnels, default: TUNNELS_PER_USER.default.min(tunnels), ..TUNNELS_PER_USER };
        Tunnel {
            allow,
            dangerous,
            tunnels: tunnels as usize,
            tunnels_per_address: self.number(&per_address, raw.tunnels_per_address) as usize,
            tunnels_per_user: self.number(&per_user, raw.tunnels_per_user) as usize,
            idle: Duration::from_secs(self.number(&IDLE_SECONDS, raw.idle_seconds)),
            lifetime: Duration::from_secs(self.number(&LIFETIME_SECONDS, raw.lifetime_seconds)),
            rate: self.number(&RATE_MBIT, raw.rate_mbit) * MBIT,
            peer_rate: self.number(&PEER_RATE_MBIT, raw.peer_rate_mbit) * MBIT,
            peer_datagrams: self.number(&PEER_DATAGRAMS, raw.peer_datagrams),
        }
    }

    /// Every text of a list; each one that is wrong is an error of its own.
    pub(super) fn each<T: std::str::FromStr<Err: ToString>>(
        &mut self,
        key: &str,
        texts: &[String],
    ) -> Vec<T> {
        let parse = |text: &String| text.parse().map_err(|e: T::Err| self.error(key, e.to_string())).ok();
        texts.iter().filter_map(parse).collect()
    }

    /// A rule for a range that is special from its first to its last address, and not opened, would never allow
    /// anything: whoever wrote it expects something else.
    fn reachable(&mut self, range: Cidr, dangerous: &[Cidr]) {
        let opened =
            dangerous.iter().any(|open| open.contains(range.first()) || range.contains(open.first()));
        if let Some(special) = classify(range.first())
            && classify(range.last()) == Some(special)
            && !opened
            && !self.is_broken("tunnel.dangerous_ranges")
        {
            let message =
                format!("{range} is {special}, and so refused unless tunnel.dangerous_ranges opens it");
            self.error("tunnel.allow", message);
        }
    }
}

pub(super) const TUNNELS: Bound = Bound::new("tunnel.tunnels", 1, 100_000, 4096);
pub(super) const TUNNELS_PER_ADDRESS: Bound =
    Bound::new("tunnel.tunnels_per_address", 1, TUNNELS.default, 256);
pub(super) const TUNNELS_PER_USER: Bound = Bound::new("tunnel.tunnels_per_user", 1, TUNNELS.default, 1024);
/// RFC 9298 section 3.1: UDP mappings SHOULD NOT expire in less than two minutes.
pub(super) const IDLE_SECONDS: Bound = Bound::new("tunnel.idle_seconds", 120, 86_400, 120);
pub(super) const LIFETIME_SECONDS: Bound = Bound::new("tunnel.lifetime_seconds", 60, 604_800, 86_400);
pub(super) const RATE_MBIT: Bound = Bound::new("tunnel.rate_mbit", 0, 1_000_000, 0);
pub(super) const PEER_RATE_MBIT: Bound = Bound::new("tunnel.peer_rate_mbit", 0, 1_000_000, 0);
pub(super) const PEER_DATAGRAMS: Bound = Bound::new("tunnel.peer_datagrams", 0, 100_000_000, 0);
