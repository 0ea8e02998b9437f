//! [`Readings`]: what the kernel says of this machine.

use std::fs;
use std::time::Duration;

use metra_transport::quic::Tuning;
use metra_transport::{Grants, grants, interface_mtu};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_getres};

/// What is known of a machine. `None`: it does not say.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    /// What sockets ask for. Bytes.
    pub(super) receive_buffer_asked: u64,
    pub(super) send_buffer_asked: u64,
    /// What they are granted.
    pub(super) grants: Option<Grants>,
    /// `net.core.rmem_max`, `net.core.wmem_max`: what they are granted at most. Bytes.
    pub(super) rmem_max: Option<u64>,
    pub(super) wmem_max: Option<u64>,
    /// Files that this process may have open, and that it may raise that to.
    pub(super) files: Option<u64>,
    pub(super) files_hard: Option<u64>,
    /// How finely timers fire.
    pub(super) timer: Option<Duration>,
    /// What the kernel reads the time from, and what it could.
    pub(super) clock_source: Option<String>,
    pub(super) clock_sources: Vec<String>,
    /// The longest IP packet of any interface. Bytes.
    pub(super) interface_mtu: Option<u32>,
}

impl Readings {
    /// Reads this machine.
    pub(super) fn take() -> Self {
        let tuning = Tuning::default();
        let files = getrlimit(Resource::Nofile);
        let timer = clock_getres(ClockId::Monotonic);
        let source = |which: &str| {
            fs::read_to_string(format!("/sys/devices/system/clocksource/clocksource0/{which}_clocksource"))
        };
        Self {
            receive_buffer_asked: tuning.socket_receive_buffer as u64,
            send_buffer_asked: tuning.socket_send_buffer as u64,
            grants: grants(&tuning).ok(),
            rmem_max: sysctl("net/core/rmem_max"),
            wmem_max: sysctl("net/core/wmem_max"),
            // No limit is a limit that is never reached.
            files: Some(files.current.unwrap_or(u64::MAX)),
            files_hard: Some(files.maximum.unwrap_or(u64::MAX)),
            timer: Some(Duration::new(
                timer.tv_sec.unsigned_abs(),
                u32::try_from(timer.tv_nsec).unwrap_or_default(),
            )),
            clock_source: source("current").ok().map(|text| text.trim().to_owned()),
            clock_sources: source("available")
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            interface_mtu: interface_mtu(),
        }
    }
}

fn sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}
