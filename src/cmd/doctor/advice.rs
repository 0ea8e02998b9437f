//! From [`Readings`] to [`Check`]s: what is too little, for what, and what to do.
//!
//! Buffers of sockets hold what comes while the process does not run, so what they need depends on the rate, and not on
//! the length of the path: 8 MiB are 6.7 ms at 10 Gbit/s. What is on its way (250 MB at 10 Gbit/s over 200 ms) is in QUIC's
//! windows, in the memory of the processes.

use std::time::Duration;

use super::readings::Readings;
use crate::output;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// For scripts; never changes.
    pub(super) name: &'static str,
    /// What there is, for people.
    pub(super) found: String,
    /// The same as a number: bytes, datagrams, files, nanoseconds. `None`: not known, or no number.
    pub(super) value: Option<u64>,
    /// What is wanted, in the same unit: at least, of a timer at most. `None`: nothing.
    pub(super) wanted: Option<u64>,
    /// `None`: all is well, or it is not known.
    pub(super) advice: Option<Advice>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// What it costs as it is; how to change it, if there is no command.
    pub(super) why: String,
    /// For a shell; those that change the kernel's settings need root.
    pub(super) command: Option<String>,
}

/// What a gateway with its default limits may need: 1024 sessions, for each a timer and some files of jobs.
const FILES: u64 = 8192;
/// What is advised: as many as in the unit file of docs/operations.md.
const FILES_ADVISED: u64 = 65_536;
/// Pacing holds batches for a quarter of a millisecond.
const TIMER: Duration = Duration::from_micros(250);
/// Longest IP packet of ordinary interfaces. Bytes.
const ETHERNET: u32 = 1500;

/// Everything that is looked at.
pub(super) fn checks(of: &Readings) -> Vec<Check> {
    let grants = of.grants;
    vec![
        buffer(
            "receive_buffer",
            grants.map(|grants| grants.receive_buffer as u64),
            of.receive_buffer_asked,
            ("net.core.rmem_max", of.rmem_max),
            "Packets that come while the process does not run are lost when it is full.",
        ),
        buffer(
            "send_buffer",
            grants.map(|grants| grants.send_buffer as u64),
            of.send_buffer_asked,
            ("net.core.wmem_max", of.wmem_max),
            "A fast sender waits for the kernel each time that it is full.",
        ),
        offload(
            "gso",
            grants.map(|grants| grants.gso_segments as u64),
            "There is no segmentation offload (UDP GSO, Linux 4.18): sending costs several times the processor time.",
        ),
        offload(
            "gro",
            grants.map(|grants| grants.gro_segments as u64),
            "There is no receive offload (UDP GRO, Linux 5.0): receiving costs several times the processor time.",
        ),
        files(of),
        timer(of),
        clock_source(of),
        mtu(of),
    ]
}

fn buffer(
    name: &'static str,
    granted: Option<u64>,
    asked: u64,
    (sysctl, limit): (&str, Option<u64>),
    cost: &str,
) -> Check {
    let advice = granted.filter(|granted| *granted < asked).map(|_| {
        if limit.is_some_and(|limit| limit >= asked) {
            let why =
                format!("{cost} {sysctl} would allow more: something else limits it, such as a sandbox.");
            return Advice { why, command: None };
        }
        Advice { why: cost.to_owned(), command: Some(format!("sysctl -w {sysctl}={asked}")) }
    });
    let found = match granted {
        Some(granted) if granted < asked => {
            format!("{} of the {} asked for", output::bytes(granted), output::bytes(asked))
        }
        Some(granted) => output::bytes(granted),
        None => unknown(),
    };
    Check { name, found, value: granted, wanted: Some(asked), advice }
}

fn offload(name: &'static str, segments: Option<u64>, missing: &str) -> Check {
    let advice =
        segments.filter(|segments| *segments < 2).map(|_| Advice { why: missing.to_owned(), command: None });
    let found = segments
        .map_or_else(unknown, |n| format!("{} with one call", output::count(n, "datagram", "datagrams")));
    Check { name, found, value: segments, wanted: Some(2), advice }
}

fn files(of: &Readings) -> Check {
    let advice = of.files.filter(|files| *files < FILES).map(|_| {
        let why = "A client can do with that; a gateway with many sessions needs more.";
        match of.files_hard {
            Some(hard) if hard >= FILES => Advice {
                why: format!("{why} For the shell that starts it (a service has LimitNOFILE=):"),
                command: Some(format!("ulimit -n {}", hard.min(FILES_ADVISED))),
            },
            _ => Advice {
                why: format!(
                    "{why} The hard limit forbids it: raise that in /etc/security/limits.conf, or with LimitNOFILE= of a service."
                ),
                command: None,
            },
        }
    });
    let found = match of.files {
        Some(u64::MAX) => "no limit".to_owned(),
        Some(files) => format!("{files} at a time"),
        None => unknown(),
    };
    Check { name: "open_files", found, value: of.files, wanted: Some(FILES), advice }
}

fn timer(of: &Readings) -> Check {
    let advice = of.timer.filter(|timer| *timer > TIMER).map(|timer| Advice {
        why: format!(
            "High-resolution timers are off (kernel parameters highres=off, nohz=off): packets leave in bursts of {} ms.",
            timer.as_millis().max(1)
        ),
        command: None,
    });
    let nanos = of.timer.map(|timer| timer.as_nanos() as u64);
    let found = nanos.map_or_else(unknown, |nanos| format!("fires to within {nanos} ns"));
    Check { name: "timer", found, value: nanos, wanted: Some(TIMER.as_nanos() as u64), advice }
}

fn clock_source(of: &Readings) -> Check {
    // Read over a bus; all others are read by the processor itself.
    let is_slow = |source: &&String| ["hpet", "acpi_pm", "jiffies"].contains(&source.as_str());
    let advice = of.clock_source.as_ref().filter(is_slow).map(|_| {
        let has_tsc = of.clock_sources.iter().any(|source| source == "tsc");
        let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        Advice {
            why: "It takes a microsecond or more to read the time from it, which is done for each packet."
                .to_owned(),
            command: has_tsc.then(|| format!("echo tsc > {file}")),
        }
    });
    let found = of.clock_source.as_ref().map_or_else(unknown, |source| output::name(source).into_owned());
    Check { name: "clock_source", found, value: None, wanted: None, advice }
}

fn mtu(of: &Readings) -> Check {
    let found = match of.interface_mtu {
        Some(mtu) if mtu > ETHERNET => format!("{mtu} bytes: jumbo frames, used where the path takes them"),
        Some(mtu) => format!("{mtu} bytes"),
        None => unknown(),
    };
    Check { name: "mtu", found, value: of.interface_mtu.map(u64::from), wanted: None, advice: None }
}

fn unknown() -> String {
    "not known".to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use metra_transport::Grants;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A machine on which all is well.
    fn well() -> Readings {
        let buffer = 8 << 20;
        Readings {
            receive_buffer_asked: 8 * MIB,
            send_buffer_asked: 8 * MIB,
            grants: Some(Grants {
                receive_buffer: buffer,
                send_buffer: buffer,
                gso_segments: 64,
                gro_segments: 64,
            }),
            rmem_max: Some(8 * MIB),
            wmem_max: Some(8 * MIB),
            files: Some(65_536),
            files_hard: Some(524_288),
            timer: Some(Duration::from_nanos(1)),
            clock_source: Some("tsc".to_owned()),
            clock_sources: vec!["tsc".to_owned(), "hpet".to_owned()],
            interface_mtu: Some(1500),
        }
    }

    /// Names and commands of what is advised.
    fn advised(of: &Readings) -> Vec<(&'static str, Option<String>)> {
        let each = checks(of).into_iter();
        each.filter_map(|check| Some((check.name, check.advice?.command))).collect()
    }

    fn with(change: impl FnOnce(&mut Readings)) -> Vec<(&'static str, Option<String>)> {
        let mut readings = well();
        change(&mut readings);
        advised(&readings)
    }

    #[test]
    fn a_good_machine_is_left_alone_and_so_is_one_that_says_nothing() {
        assert_eq!(advised(&well()), []);
        assert_eq!(advised(&Readings::default()), []);
        assert!(checks(&Readings::default()).iter().all(|check| check.found == "not known"));
    }

    #[test]
    fn stock_buffers_are_too_small_and_the_command_says_what_is_asked_for() {
        let stock = |of: &mut Readings| {
            let buffer = 212_992;
            (of.rmem_max, of.wmem_max) = (Some(buffer), Some(buffer));
            let grants = of.grants.as_mut().unwrap();
            (grants.receive_buffer, grants.send_buffer) = (buffer as usize, buffer as usize);
        };
        let expected = [
            ("receive_buffer", Some("sysctl -w net.core.rmem_max=8388608".to_owned())),
            ("send_buffer", Some("sysctl -w net.core.wmem_max=8388608".to_owned())),
        ];
        assert_eq!(with(stock), expected);
        let mut readings = well();
        stock(&mut readings);
        assert_eq!(checks(&readings)[0].found, "208.0 KiB of the 8.0 MiB asked for");
    }

    #[test]
    fn a_limit_that_is_not_the_kernels_has_no_command() {
        let small = |of: &mut Readings| of.grants.as_mut().unwrap().receive_buffer = 8 * MIB as usize - 1;
        assert_eq!(with(small), [("receive_buffer", None)]);
    }

    #[test]
    fn missing_offload_is_said() {
        let none = |of: &mut Readings| {
            let grants = of.grants.as_mut().unwrap();
            (grants.gso_segments, grants.gro_segments) = (1, 1);
        };
        assert_eq!(with(none), [("gso", None), ("gro", None)]);
    }

    #[test]
    fn files_are_raised_as_far_as_they_may_be() {
        let limits = |files, hard| with(move |of| (of.files, of.files_hard) = (Some(files), Some(hard)));
        let command = |n: u64| [("open_files", Some(format!("ulimit -n {n}")))];
        assert_eq!(limits(1024, 524_288), command(65_536));
        assert_eq!(limits(8191, 10_000), command(10_000));
        assert_eq!(limits(1024, 4096), [("open_files", None)]);
        assert_eq!(limits(8192, 8192), []);
        assert_eq!(limits(u64::MAX, u64::MAX), []);
    }

    #[test]
    fn coarse_timers_and_slow_clocks_are_said() {
        assert_eq!(with(|of| of.timer = Some(Duration::from_millis(4))), [("timer", None)]);
        assert_eq!(with(|of| of.timer = Some(Duration::from_micros(250))), []);
        let tsc = "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource";
        let slow = |of: &mut Readings| of.clock_source = Some("hpet".to_owned());
        assert_eq!(with(slow), [("clock_source", Some(tsc.to_owned()))]);
        let only = |of: &mut Readings| {
            of.clock_source = Some("acpi_pm".to_owned());
            of.clock_sources.clear();
        };
        assert_eq!(with(only), [("clock_source", None)]);
        assert_eq!(with(|of| of.clock_source = Some("kvm-clock".to_owned())), []);
    }

    #[test]
    fn jumbo_frames_are_seen() {
        let found = |mtu| checks(&Readings { interface_mtu: Some(mtu), ..well() }).pop().unwrap().found;
        assert_eq!(found(1500), "1500 bytes");
        assert!(found(9000).starts_with("9000 bytes: jumbo frames"));
    }
}
