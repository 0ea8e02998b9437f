//! What is to be run.

use metra_core::priority::Priority;
use metra_core::rate::{self, RatePolicy};
use metra_sim_model::Direction;
use serde::{Deserialize, Serialize};

/// One run: a gateway, clients that all reach it over one link, and what they transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Decides over all randomness of the network.
    #[serde(default = "one")]
    pub seed: u64,
    /// From the clients to the gateway.
    #[serde(default)]
    pub up: Direction,
    /// From the gateway to the clients.
    #[serde(default)]
    pub down: Direction,
    /// What is transferred.
    pub flows: Vec<Flow>,
    /// The gateway's configuration of rates and tenants, as in its file (`[shaping]`, `[tenants.NAME]`); absent: none.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Readers are woken so late on average, as on a real machine. us.
    #[serde(default = "wake_delay")]
    pub wake_delay_us: f64,
    /// How finely the timer fires that paces what hosts send; all others fire at whole milliseconds. us.
    #[serde(default = "pacing_timer")]
    pub pacing_timer_us: f64,
    /// From this time on it is looked at how sources space what they send; absent: never. s.
    #[serde(default)]
    pub bursts_from_s: Option<f64>,
    /// The state of everything is noted so often; absent: never. ms.
    #[serde(default)]
    pub sample_ms: Option<f64>,
    /// After so much virtual time a run counts as stuck. s.
    #[serde(default = "limit")]
    pub limit_s: f64,
    /// The run ends at this virtual time, on purpose, if it is not done before; then `limit_s` does not matter. s.
    #[serde(default)]
    pub stop_s: Option<f64>,
}

/// One client with one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Push or pull.
    #[serde(default)]
    pub way: Way,
    /// Whose it is, for the gateway's rates.
    #[serde(default = "user")]
    pub user: String,
    /// How urgent it is, 0 to 7.
    #[serde(default = "priority")]
    pub priority: u8,
    /// Content.
    pub bytes: u64,
    /// When it begins. s.
    #[serde(default)]
    pub start_s: f64,
    /// Connections.
    #[serde(default = "one_link")]
    pub links: usize,
    /// They are within tunnels of HTTP/3 to the gateway itself (CONNECT-UDP), rather than native.
    #[serde(default)]
    pub tunnelled: bool,
    /// Congestion controller of the client. The gateway, which sends in a pull, has that of the first flow.
    #[serde(default)]
    pub controller: Controller,
    /// Who sends remembers the path, with so many times the rate that it has; 0: it is unknown.
    #[serde(default)]
    pub remembered: f64,
    /// How it shares the path; the gateway grants everything.
    #[serde(default)]
    pub policy: Policy,
    /// The target of the policy `fixed`, and a ceiling with the others. Mbit/s.
    #[serde(default)]
    pub target_mbit: Option<f64>,
    /// A link of its own before the one that is shared.
    #[serde(default)]
    pub access: Option<Access>,
    /// What happens to the client.
    #[serde(default)]
    pub events: Vec<HostEvent>,
}

/// A link of one client alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// From the client.
    pub up: Direction,
    /// To the client.
    pub down: Direction,
}

/// Which side has the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The client sends.
    #[default]
    Push,
    /// The client fetches.
    Pull,
}

/// A congestion controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// CUBIC.
    #[default]
    Cubic,
    /// Our BBRv2.
    Bbr2,
    /// quinn's BBR.
    Bbr,
}

/// A rate policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// As much as others.
    #[default]
    Fair,
    /// A rate that is held.
    Fixed,
    /// More than others.
    High,
    /// What others leave.
    Low,
}

impl Policy {
    /// As in plans.
    pub fn name(self) -> &'static str {
        self.of_core().name()
    }

    fn of_core(self) -> rate::Policy {
        match self {
            Policy::Fair => rate::Policy::Fair,
            Policy::Fixed => rate::Policy::Fixed,
            Policy::High => rate::Policy::High,
            Policy::Low => rate::Policy::Low,
        }
    }
}

impl Flow {
    /// What its client asks for.
    ///
    /// # Errors
    /// A target is missing, or makes no sense.
    pub fn rate(&self) -> Result<Option<RatePolicy>, String> {
        let bits = self.target_mbit.map(|mbit| (mbit * 1e6) as u64);
        let rate = RatePolicy::new(self.policy.of_core(), bits);
        let rate = rate.ok_or("target_mbit is missing for the policy fixed, or is no rate")?;
        Ok((rate != RatePolicy::default()).then_some(rate))
    }
}

impl Way {
    /// As in plans.
    pub fn name(self) -> &'static str {
        match self {
            Way::Push => "push",
            Way::Pull => "pull",
        }
    }
}

impl Controller {
    /// As in plans.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Cubic => "cubic",
            Controller::Bbr2 => "bbr2",
            Controller::Bbr => "bbr",
        }
    }
}

/// Something happens to a client.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostEvent {
    /// When. s.
    pub at_s: f64,
    /// Whether its address changes; otherwise the NAT before it forgets its port.
    #[serde(default)]
    pub change_address: bool,
}

pub(crate) fn user() -> String {
    "sim".to_owned()
}

pub(crate) fn priority() -> u8 {
    Priority::NORMAL.number()
}

fn one() -> u64 {
    1
}

fn one_link() -> usize {
    1
}

fn wake_delay() -> f64 {
    100.0
}

fn pacing_timer() -> f64 {
    1000.0
}

fn limit() -> f64 {
    3600.0
}
