//! Where tunnels may not lead because nobody can look into them.

use crate::{Host, TargetRule};

/// Rules in order: the first that matches decides, and what none matches may be tunnelled to, if the rules for tunnels
/// allow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelContent(Vec<TunnelContentRule>);

/// What is done about some targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelContentRule {
    /// The targets. A name is matched as it was asked for, and not by the addresses it has.
    pub target: TargetRule,
    /// What is done.
    pub action: TunnelAction,
}

/// What is done about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelAction {
    /// A tunnel may lead there; its content is not seen.
    Tunnel,
    /// No tunnel leads there: content has to be scanned, and so has to come as files to this gateway.
    Terminate,
}

impl TunnelContent {
    /// The first rule that matches decides.
    pub fn new(rules: Vec<TunnelContentRule>) -> Self {
        Self(rules)
    }

    /// What is done about this target.
    pub fn action(&self, host: &Host, port: u16) -> TunnelAction {
        let rule = self.0.iter().find(|rule| rule.target.matches(host, port));
        rule.map_or(TunnelAction::Tunnel, |rule| rule.action)
    }
}
