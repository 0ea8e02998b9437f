//! A name server that answers as it is told, and otherwise the second time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bed::replace;

/// It runs at 127.0.0.1 of the host on which it was made, which everybody asks from then on. It ends when this is dropped.
pub(crate) struct Names {
    known: Arc<Mutex<Known>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Known {
    /// Of each name, what is answered to the first, the second ... question of a type; and so on from the first.
    rounds: HashMap<String, Vec<Vec<Record>>>,
    /// How often it was asked for a name, by type.
    asked: HashMap<(String, u16), usize>,
}

/// What is known of a name; all of it may be forgotten at once.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    Address(IpAddr),
    /// The name is another. What follows is of that one.
    Alias(&'static str),
}

impl Names {
    /// Starts it, on the host that this thread is on.
    pub(crate) fn start() -> Self {
        replace(Path::new("/etc/resolv.conf"), "nameserver 127.0.0.1\noptions timeout:5 attempts:1\n");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (known, ended) = (Arc::<Mutex<Known>>::default(), Arc::new(AtomicBool::new(false)));
        let (told, end) = (known.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            let mut room = [0; 1024];
            while !end.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut room) else { continue };
                if let Some(answer) = told.lock().unwrap().answer(&room[..len]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { known, ended, thread: Some(thread) }
    }

    /// Answers so from now on, to each question of a type with the next of these.
    pub(crate) fn set(&self, name: &str, rounds: &[Vec<Record>]) {
        self.known.lock().unwrap().rounds.insert(name.to_owned(), rounds.to_vec());
    }

    /// How often it was asked for addresses of IPv4, and of IPv6.
    pub(crate) fn asked(&self, name: &str) -> [usize; 2] {
        let known = self.known.lock().unwrap();
        [A, AAAA].map(|kind| known.asked.get(&(name.to_owned(), kind)).copied().unwrap_or(0))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Known {
    /// RFC 1035 section 4.
    fn answer(&mut self, question: &[u8]) -> Option<Vec<u8>> {
        let (mut labels, mut at) = (Vec::new(), 12);
        loop {
            let len = usize::from(*question.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(question.get(at..at + len)?).to_ascii_lowercase());
            at += len;
        }
        let kind = u16::from_be_bytes(question.get(at..at + 2)?.try_into().ok()?);
        let end = at + 4;
        let name = labels.join(".");
        let count = self.asked.entry((name.clone(), kind)).or_default();
        let round = *count;
        *count += 1;
        let rounds = self.rounds.get(&name);
        let records = rounds.map(|rounds| rounds[round % rounds.len()].as_slice());
        // Of the name that was asked for: a pointer to it.
        let (mut owner, mut body, mut answers) = (vec![0xc0, 12], Vec::new(), 0u16);
        for record in records.unwrap_or_default() {
            let (of, data) = match record {
                Record::Address(IpAddr::V4(v4)) => (A, v4.octets().to_vec()),
                Record::Address(IpAddr::V6(v6)) => (AAAA, v6.octets().to_vec()),
                Record::Alias(other) => (CNAME, encoded(other)),
            };
            if of != kind && of != CNAME {
                continue;
            }
            answers += 1;
            body.extend_from_slice(&owner);
            // Class IN, and no time to live.
            body.extend([of.to_be_bytes(), [0, 1], [0, 0], [0, 0]].concat());
            body.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            body.extend_from_slice(&data);
            if of == CNAME {
                owner = data;
            }
        }
        // An answer, recursive; what is not known is not there.
        let code = if records.is_some() { 0 } else { 3 };
        let mut answer = question.get(..2)?.to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1]);
        answer.extend(answers.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend_from_slice(question.get(12..end)?);
        answer.extend(body);
        Some(answer)
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
    name.split('.').flat_map(label).chain([0]).collect()
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
