//! For whom there is room.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::account::ANONYMOUS;

const LIMITS: Limits = Limits {
    sessions: 8,
    sessions_per_user: 3,
    sessions_per_address: 4,
    jobs_per_session: 1,
    jobs_per_user: 1,
    jobs_per_address: 1,
    handshake: Duration::from_secs(1),
    idle: Duration::from_secs(1),
    links_per_session: 1,
    manifest_memory: 0,
    receive_memory: 0,
    entries: 0,
    chunks: 0,
};

impl State {
    /// One more session, if there is room for it: its name.
    fn open(&mut self, user: &str, from: &str) -> Result<SessionId, String> {
        let (account, from) = (Arc::new(Account::of_test(user)), from.parse().unwrap());
        self.room(&LIMITS, &account, from).map_err(|refused| {
            assert_eq!(refused.code, Code::Busy);
            refused.reason
        })?;
        let id = SessionId(random().unwrap());
        let session = Session::new(Rt::tokio(), SessionConfig::default(), mpsc::channel(1).0);
        let live = Arc::new(Live::new(id, &account, from, session));
        self.live.insert(id, live);
        Ok(id)
    }
}

const OF_ALL: &str = "too many sessions; try again later";
const OF_ADDRESS: &str = "too many sessions from this address; try again later";

#[test]
fn an_address_has_so_many_sessions_whoever_they_belong_to() {
    let mut state = State::default();
    let first = state.open("alice", "192.0.2.1").unwrap();
    for user in ["alice", "bob", ANONYMOUS] {
        state.open(user, "192.0.2.1").unwrap();
    }
    assert_eq!(state.open("carol", "192.0.2.1").unwrap_err(), OF_ADDRESS);
    assert_eq!(state.open("carol", "::ffff:192.0.2.1").unwrap_err(), OF_ADDRESS, "another spelling");
    state.open("carol", "192.0.2.2").unwrap();
    state.live.remove(&first);
    state.open("carol", "192.0.2.1").unwrap();
    assert_eq!(state.open("carol", "192.0.2.1").unwrap_err(), OF_ADDRESS);
}

#[test]
fn a_network_of_ipv6_is_one_address() {
    let mut state = State::default();
    for user in 0..4 {
        state.open(&format!("{user}"), &format!("2001:db8:0:1::{user}")).unwrap();
    }
    assert_eq!(state.open("alice", "2001:db8:0:1:ffff::1").unwrap_err(), OF_ADDRESS);
    state.open("alice", "2001:db8:0:2::1").unwrap();
}

#[test]
fn a_user_has_so_many_sessions_wherever_they_come_from_and_all_have_so_many() {
    let mut state = State::default();
    for n in 0..3 {
        state.open("alice", &format!("192.0.2.{n}")).unwrap();
    }
    assert_eq!(state.open("alice", "192.0.2.9").unwrap_err(), OF_ALL);
    for n in 0..5 {
        state.open(&format!("{n}"), &format!("192.0.2.{n}")).unwrap();
    }
    assert_eq!(state.open("bob", "192.0.2.9").unwrap_err(), OF_ALL);
}
