//! Beginning and end: exit codes, signals, and that nothing is left over.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::harness::{Bed, Said};

tests!(
    exit_codes,
    signals_reach_the_command,
    who_does_not_listen_is_killed,
    background_commands_end_with_it,
    nothing_is_left_after_kill_9,
    mistakes_are_told,
    root_is_needed,
);

/// How long anything may take before the test fails. Long, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Marks processes of a test in their environment.
const MARK: &str = "NETPATH_TEST_MARK";

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads the line that says that the command runs.
fn await_start(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "running\n");
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status().unwrap();
    assert!(sent.success());
}

fn exit_codes(bed: &Bed) {
    for (command, code) in [("true", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        assert_eq!(bed.netpath(&[]).run(command).code, Some(code), "{command}");
    }
    let said = bed.netpath(&["nonexistent-program"]).run("");
    assert!(said.code == Some(127) && said.err.contains("nonexistent-program"), "{said:?}");
    bed.write("no-program", "");
    assert_eq!(bed.netpath(&["./no-program"]).run("").code, Some(126));
}

/// Whether this process was told to ignore the signal, as a shell does with INT for what runs in its background. Children
/// inherit that, and a shell cannot trap what it was told to ignore.
fn is_ignored(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (number - 1)) != 0
}

fn signals_reach_the_command(bed: &Bed) {
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        if is_ignored(number) {
            continue;
        }
        let command =
            format!("trap 'echo trapped; exit 5' {signal}; echo running; while :; do sleep 0.02; done");
        let mut child = bed.netpath(&[]).start(&command);
        await_start(&mut child);
        send(&child, signal);
        let said = Said::of(&child.wait_with_output().unwrap());
        assert_eq!((said.code, said.out.as_str()), (Some(5), "trapped\n"), "{signal}: {said:?}");
    }
    let mut child = bed.netpath(&[]).start("echo running; exec sleep 60");
    await_start(&mut child);
    send(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

fn who_does_not_listen_is_killed(bed: &Bed) {
    let mut child = bed.netpath(&[]).start("trap '' TERM; echo running; while :; do sleep 0.1; done");
    await_start(&mut child);
    send(&child, "TERM");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(child.try_wait().unwrap(), None, "it has time to end");
    send(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

fn background_commands_end_with_it(bed: &Bed) {
    let server = "trap 'echo ended > ended; exit' TERM; echo output; touch up; while :; do sleep 0.02; done";
    let said = bed
        .netpath(&["--at", "server", server, "--at", "client", "exit 3"])
        .run("until [ -e up ]; do sleep 0.02; done; sleep 0.1; echo done");
    assert_eq!(fs::read_to_string(bed.path("ended")).unwrap(), "ended\n");
    assert_eq!(said.out, "done\n", "the others write to stderr");
    assert!(said.err.contains("output") && said.err.contains("ended with exit code 3"), "{said:?}");
}

fn nothing_is_left_after_kill_9(bed: &Bed) {
    let mark = format!("{}-{:?}", std::process::id(), Instant::now());
    let interfaces = || fs::read_dir("/sys/class/net").unwrap().count();
    let before = (interfaces(), namespaces());
    let mut child = bed
        .netpath(&["--at", "server", "setsid sleep 60 & sleep 60"])
        .env(MARK, &mark)
        .start("setsid sleep 60 & trap '' TERM INT HUP; echo running; sleep 60");
    await_start(&mut child);
    wait_until("all processes", || marked(&mark).len() >= 7);
    let inside = namespaces().difference(&before.1).count();
    assert!(inside >= 2, "{inside} namespaces");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the end of all processes", || marked(&mark).is_empty());
    assert_eq!(interfaces(), before.0);
}

/// Processes with this mark in their environment.
fn marked(mark: &str) -> Vec<String> {
    let mark = format!("{MARK}={mark}");
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let environment = |path: &std::path::Path| fs::read(path.join("environ")).unwrap_or_default();
    let marked =
        processes.filter(|path| environment(path).split(|byte| *byte == 0).any(|v| v == mark.as_bytes()));
    marked.map(|path| path.display().to_string()).collect()
}

/// Network namespaces that have processes.
fn namespaces() -> std::collections::HashSet<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let links = processes.filter_map(|path| fs::read_link(path.join("ns/net")).ok());
    links.map(|link| link.display().to_string()).collect()
}

fn mistakes_are_told(bed: &Bed) {
    let file = bed.write("bad.toml", "[[host]]\nname = 'a'\n[[link]]\na = 'a'\nb = 'c'\n");
    let said = bed.netpath(&["--topology", file.to_str().unwrap()]).run("true");
    assert!(said.code == Some(2) && said.err.contains("bad.toml") && said.err.contains("\"c\""), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
    let said = bed.netpath(&["--stats", "no/such/folder"]).run("echo no");
    assert!(said.code == Some(2) && said.out.is_empty() && said.err.contains("no/such/folder"), "{said:?}");
}

fn root_is_needed(bed: &Bed) {
    // A copy where anyone can run it.
    fs::set_permissions(bed.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let program = bed.path("netpath");
    fs::copy(env!("CARGO_BIN_EXE_netpath"), &program).unwrap();
    let mut command = Command::new(program);
    command.args(["--", "true"]);
    if is_root() {
        command.uid(65_534).gid(65_534);
    }
    let said = Said::of(&command.output().unwrap());
    assert!(said.code == Some(2) && said.err.contains("needs root"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1);
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}
