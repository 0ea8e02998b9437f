//! How many jobs each user has, and each address, over all sessions.
//!
//! A session bounds its own jobs, and a tenant how many run; without this, whoever opens many sessions would have as many times
//! more that wait and are held in memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use metra_core::code::Code;

use crate::places::network_of;

/// Counts the jobs of users and addresses. Nothing is kept of those that have none.
#[derive(Debug)]
pub(crate) struct OpenJobs {
    per_user: usize,
    per_address: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    users: HashMap<String, usize>,
    networks: HashMap<IpAddr, usize>,
}

/// A job that counts; dropped, it does no more.
#[derive(Debug)]
pub(crate) struct OpenJob {
    jobs: Arc<OpenJobs>,
    user: String,
    network: IpAddr,
}

impl OpenJobs {
    /// None yet. So many of one user, and so many from one address (IPv6: one /64).
    pub(crate) fn new(per_user: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { per_user, per_address, held: Mutex::default() })
    }

    /// One more job of `user`, opened over a link from there.
    ///
    /// # Errors
    /// [`Code::Busy`]: the user has as many as one may have, or the address. Fault: neither.
    pub(crate) fn open(self: &Arc<Self>, user: &str, from: IpAddr) -> Result<OpenJob, (Code, String)> {
        let network = network_of(from.to_canonical());
        let mut held = self.lock();
        if held.users.get(user).is_some_and(|n| *n >= self.per_user) {
            return Err((Code::Busy, format!("too many jobs of user {user}; try again later")));
        }
        if held.networks.get(&network).is_some_and(|n| *n >= self.per_address) {
            return Err((Code::Busy, "too many jobs from this address; try again later".to_owned()));
        }
        *held.users.entry(user.to_owned()).or_default() += 1;
        *held.networks.entry(network).or_default() += 1;
        Ok(OpenJob { jobs: self.clone(), user: user.to_owned(), network })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no panic while held")
    }
}

impl Drop for OpenJob {
    fn drop(&mut self) {
        let mut held = self.jobs.lock();
        one_less(&mut held.users, &self.user);
        one_less(&mut held.networks, &self.network);
    }
}

/// What is at zero is forgotten.
fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn refused(jobs: &Arc<OpenJobs>, user: &str, from: IpAddr) -> String {
        let (code, reason) = jobs.open(user, from).unwrap_err();
        assert_eq!(code, Code::Busy);
        reason
    }

    #[test]
    fn a_user_has_so_many_jobs_wherever_they_are_opened() {
        let jobs = OpenJobs::new(2, 9);
        let mut held = vec![jobs.open("alice", at(1)).unwrap(), jobs.open("alice", at(2)).unwrap()];
        assert_eq!(refused(&jobs, "alice", at(3)), "too many jobs of user alice; try again later");
        held.push(jobs.open("bob", at(1)).unwrap());
        held.remove(0);
        held.push(jobs.open("alice", at(1)).unwrap());
        refused(&jobs, "alice", at(1));
    }

    #[test]
    fn an_address_has_so_many_jobs_whoever_they_belong_to() {
        let jobs = OpenJobs::new(9, 2);
        let mut held = vec![jobs.open("alice", at(1)).unwrap(), jobs.open("bob", at(1)).unwrap()];
        assert_eq!(refused(&jobs, "carol", at(1)), "too many jobs from this address; try again later");
        refused(&jobs, "carol", "::ffff:192.0.2.1".parse().unwrap());
        held.push(jobs.open("carol", at(2)).unwrap());
        held.remove(0);
        held.push(jobs.open("carol", at(1)).unwrap());
        let v6 = |text: &str| text.parse().unwrap();
        held.push(jobs.open("dave", v6("2001:db8::1")).unwrap());
        held.push(jobs.open("dave", v6("2001:db8::2")).unwrap());
        refused(&jobs, "dave", v6("2001:db8::ffff:3"));
        held.push(jobs.open("dave", v6("2001:db8:0:1::1")).unwrap());
    }

    #[test]
    fn nothing_is_kept_of_those_that_have_none() {
        let jobs = OpenJobs::new(2, 2);
        for n in 0..10_000_u32 {
            drop(jobs.open(&format!("{n}"), IpAddr::from(n.to_be_bytes())).unwrap());
        }
        // One that is refused does not count, either: not for the user when it is for the address.
        let held = [jobs.open("alice", at(1)).unwrap(), jobs.open("bob", at(1)).unwrap()];
        refused(&jobs, "carol", at(1));
        let kept = || {
            let held = jobs.lock();
            (held.users.len(), held.networks.len())
        };
        assert_eq!(kept(), (2, 1));
        drop(held);
        assert_eq!(kept(), (0, 0));
    }
}
