//! A host of the network.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace that netpath has made, and where it can be reached.
pub(crate) struct Host {
    namespace: File,
    /// The file of the namespace, for programs.
    pub(crate) path: String,
    pub(crate) address: Ipv4Addr,
}

impl Host {
    /// The host with this name in the topology.
    pub(super) fn named(name: &str) -> Self {
        let variable = |end: &str| {
            let name = format!("NETPATH_{}{end}", name.to_uppercase());
            std::env::var(&name).unwrap_or_else(|_| panic!("netpath sets no {name}"))
        };
        let path = variable("_NS");
        let namespace = File::open(&path).unwrap();
        Self { namespace, path, address: variable("").parse().unwrap() }
    }

    /// Does something there: on another thread, so that this one stays where it is. What it starts is there, too.
    pub(crate) fn enter<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.namespace.as_fd(), network).unwrap();
                job()
            });
            there.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs a command there, which must succeed.
    pub(crate) fn run(&self, command: &mut Command) -> String {
        let output = self.enter(|| command.output()).unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Bytes that its interface of a link has received and sent.
    pub(crate) fn carried(&self, link: usize) -> u64 {
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let name = format!("link{link}:");
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&name)).expect("its link");
        let words: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        words[0] + words[8]
    }
}
