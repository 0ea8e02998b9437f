//! The virtual network: hosts, the pipes between them, and what happens to hosts on the way.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use metra_sim_model::{Counts, Direction, Packet, Passage, Pipe, SpecError};
use quinn::udp::EcnCodepoint;

use crate::bursts::{Bursts, Watch};
use crate::clock::{Clock, lock};
use crate::socket::Mailbox;

/// Bytes of an IPv4 and a UDP header, which links carry as well.
pub(crate) const HEADERS: usize = 28;
/// The longest IP packet on Ethernet. Bytes.
pub(crate) const ETHERNET: u32 = 1500;

/// A host, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostId(usize);

/// A pipe, by number. Flows whose routes name the same pipe share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PipeId(usize);

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) payload: Bytes,
}

/// Hosts and pipes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Net {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hosts: Vec<Host>,
    pipes: Vec<Pipe>,
    routes: HashMap<(HostId, HostId), Arc<[PipeId]>>,
    watched: HashMap<(HostId, HostId), Watch>,
    random: fastrand::Rng,
    /// Mean time from a packet's arrival until whoever waits for it is woken. ns.
    wake_delay: f64,
}

struct Host {
    inside: IpAddr,
    /// What others see: behind a NAT that has changed its mind it is another address, and other ports.
    outside: IpAddr,
    port_shift: u16,
    next_port: u16,
    /// Bytes of UDP payload that have come from each host, by its number.
    reached: Vec<u64>,
    sockets: BTreeMap<u16, Weak<Mailbox>>,
}

impl Net {
    /// No hosts yet. Readers are woken late by `wake_delay` on average (exponentially distributed), and find all that
    /// has come meanwhile: without that, arrivals are more regular than on any real machine.
    pub(crate) fn new(clock: Clock, seed: u64, wake_delay: Duration) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            wake_delay: wake_delay.as_nanos() as f64,
            ..State::default()
        };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// One more host, with an address of 10.0.0.0/16.
    pub(crate) fn add_host(&self) -> HostId {
        let mut state = lock(&self.state);
        let number = state.hosts.len();
        let address = address(0, number);
        state.hosts.push(Host {
            inside: address,
            outside: address,
            port_shift: 0,
            next_port: 40_000,
            reached: Vec::new(),
            sockets: BTreeMap::new(),
        });
        HostId(number)
    }

    pub(crate) fn address(&self, host: HostId) -> IpAddr {
        lock(&self.state).hosts[host.0].inside
    }

    /// One more pipe.
    ///
    /// # Errors
    /// What makes no sense in `spec`.
    pub(crate) fn add_pipe(&self, spec: &Direction, seed: u64) -> Result<PipeId, SpecError> {
        let pipe = Pipe::new(spec, seed)?;
        let mut state = lock(&self.state);
        state.pipes.push(pipe);
        Ok(PipeId(state.pipes.len() - 1))
    }

    /// What goes from one host to another goes through these pipes, in this order.
    pub(crate) fn route(&self, from: HostId, to: HostId, pipes: &[PipeId]) {
        lock(&self.state).routes.insert((from, to), pipes.into());
    }

    /// Looks at how one host spaces what it sends to another, from this time on.
    pub(crate) fn watch(&self, from: HostId, to: HostId, since: Duration) {
        lock(&self.state).watched.insert((from, to), Watch::new(since));
    }

    /// What was seen, if anybody looked.
    pub(crate) fn bursts(&self, from: HostId, to: HostId) -> Option<Bursts> {
        lock(&self.state).watched.get(&(from, to)).map(Watch::bursts)
    }

    /// The longest IP packet that leaves a host: its interface has the MTU of the first pipe, or that of Ethernet if the pipe
    /// has none. Of several the longest. Bytes.
    pub(crate) fn interface_mtu(&self, host: HostId) -> u32 {
        let state = lock(&self.state);
        let first =
            state.routes.iter().filter(|((from, _), _)| *from == host).filter_map(|(_, to)| to.first());
        first.map(|pipe| state.pipes[pipe.0].mtu().unwrap_or(ETHERNET)).max().unwrap_or(ETHERNET)
    }

    pub(crate) fn counts(&self, pipe: PipeId) -> Counts {
        lock(&self.state).pipes[pipe.0].counts()
    }

    /// Bytes that wait before a pipe now.
    pub(crate) fn backlog(&self, pipe: PipeId) -> u64 {
        lock(&self.state).pipes[pipe.0].backlog(self.clock.elapsed())
    }

    /// Bytes of UDP payload that have come from one host to another, as often as they came.
    pub(crate) fn reached(&self, from: HostId, to: HostId) -> u64 {
        lock(&self.state).hosts[to.0].reached.get(from.0).copied().unwrap_or(0)
    }

    /// The NAT before `host` forgets its mappings: from now on others see other ports, and what is sent to the old ones is
    /// lost.
    pub(crate) fn rebind_nat(&self, host: HostId) {
        let mut state = lock(&self.state);
        let host = &mut state.hosts[host.0];
        host.port_shift = host.port_shift.wrapping_add(1000) % 10_000;
    }

    /// Others see another address of `host` from now on; what is sent to the old one is lost.
    pub(crate) fn change_address(&self, host: HostId) {
        let mut state = lock(&self.state);
        let IpAddr::V4(old) = state.hosts[host.0].outside else { return };
        state.hosts[host.0].outside = address(usize::from(old.octets()[1]) + 1, host.0);
    }

    /// Opens a socket; port 0 takes a free one.
    pub(crate) fn bind(&self, host: HostId, port: u16, mailbox: &Arc<Mailbox>) -> io::Result<SocketAddr> {
        let mut state = lock(&self.state);
        let host = &mut state.hosts[host.0];
        host.sockets.retain(|_, socket| socket.strong_count() > 0);
        let port = if port == 0 {
            host.next_port += 1;
            host.next_port
        } else {
            port
        };
        if host.sockets.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        host.sockets.insert(port, Arc::downgrade(mailbox));
        Ok(SocketAddr::new(host.inside, port))
    }

    /// Sends what `host` sends.
    pub(crate) fn send(&self, host: HostId, mut datagram: Datagram) {
        let mut state = lock(&self.state);
        let sender = &state.hosts[host.0];
        datagram.from = SocketAddr::new(sender.outside, datagram.from.port().wrapping_add(sender.port_shift));
        let to = datagram.to.ip();
        // Nobody there, or nobody there any more: it goes nowhere.
        let Some(target) = state.hosts.iter().position(|h| h.outside == to).map(HostId) else { return };
        let Some(route) = state.routes.get(&(host, target)).cloned() else { return };
        if let Some(watch) = state.watched.get_mut(&(host, target)) {
            watch.leaves(self.clock.elapsed(), (datagram.payload.len() + HEADERS) as u64);
        }
        self.hop(&mut state, (host, target), route, 0, datagram);
    }

    /// The datagram is at the beginning of pipe number `at` of its route.
    fn hop(
        &self,
        state: &mut State,
        ends: (HostId, HostId),
        route: Arc<[PipeId]>,
        at: usize,
        datagram: Datagram,
    ) {
        let Some(pipe) = route.get(at) else { return self.deliver(state, ends, datagram) };
        let packet = Packet {
            len: (datagram.payload.len() + HEADERS) as u32,
            ecn: datagram.ecn.is_some_and(|ecn| ecn != EcnCodepoint::Ce),
            udp: true,
        };
        let Passage::Passes(first, second) = state.pipes[pipe.0].offer(self.clock.elapsed(), packet) else {
            return;
        };
        for arrival in std::iter::once(first).chain(second) {
            let mut datagram = datagram.clone();
            if arrival.marked {
                datagram.ecn = Some(EcnCodepoint::Ce);
            }
            if let Some(bit) = arrival.wrong_bit {
                datagram.payload = flip(&datagram.payload, bit);
            }
            let (net, route) = (self.clone(), route.clone());
            self.clock.call_at(arrival.at, move || {
                let mut state = lock(&net.state);
                net.hop(&mut state, ends, route, at + 1, datagram);
            });
        }
    }

    fn deliver(&self, state: &mut State, (from, to): (HostId, HostId), mut datagram: Datagram) {
        let host = &mut state.hosts[to.0];
        if host.outside != datagram.to.ip() {
            return;
        }
        if host.reached.len() <= from.0 {
            host.reached.resize(from.0 + 1, 0);
        }
        host.reached[from.0] += datagram.payload.len() as u64;
        let port = datagram.to.port().wrapping_sub(host.port_shift);
        let Some(mailbox) = host.sockets.get(&port).and_then(Weak::upgrade) else { return };
        datagram.to = SocketAddr::new(host.inside, port);
        if let Some(waker) = mailbox.put(datagram) {
            // 1 - f64() is never 0.
            let late = -(1.0 - state.random.f64()).ln() * state.wake_delay;
            let at = self.clock.elapsed() + Duration::from_nanos(late as u64);
            self.clock.call_at(at, move || {
                mailbox.woken();
                waker.wake();
            });
        }
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

fn address(net: usize, host: usize) -> IpAddr {
    let [high, low] = (host as u16 + 1).to_be_bytes();
    Ipv4Addr::new(10, net as u8, high, low).into()
}

fn flip(payload: &Bytes, bit: u64) -> Bytes {
    let mut bytes = payload.to_vec();
    if !bytes.is_empty() {
        let bit = bit % (bytes.len() as u64 * 8);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use metra_sim_model::Event;

    use super::*;
    use crate::clock::Stuck;

    /// Two hosts with a link each way, and the times at which what one sends arrives at the other.
    struct Wire {
        net: Net,
        hosts: [HostId; 2],
        pipe: PipeId,
        inbox: Arc<Mailbox>,
    }

    impl Wire {
        fn new(there: &Direction) -> Self {
            let net = Net::new(Clock::new(), 1, Duration::ZERO);
            let hosts = [net.add_host(), net.add_host()];
            let pipe = net.add_pipe(there, 1).unwrap();
            net.route(hosts[0], hosts[1], &[pipe]);
            let inbox = Mailbox::new(1 << 20);
            net.bind(hosts[1], 9, &inbox).unwrap();
            Self { net, hosts, pipe, inbox }
        }

        fn send_at(&self, at: Duration, len: usize, port: u16) {
            let (net, host) = (self.net.clone(), self.hosts[0]);
            let to = SocketAddr::new(self.net.address(self.hosts[1]), port);
            let from = SocketAddr::new(self.net.address(host), 8);
            let payload = Bytes::from(vec![7; len]);
            self.net.clock().call_at(at, move || net.send(host, Datagram { from, to, ecn: None, payload }));
        }

        /// Runs until nothing happens any more.
        fn settle(&self) {
            let ended = self.net.clock().run(Duration::MAX / 4, std::future::pending::<()>());
            assert!(matches!(ended, Err(Stuck::Forever)));
        }
    }

    #[test]
    fn a_packet_takes_its_time_on_the_link_and_its_delay() {
        let spec = Direction { rate_mbit: Some(12.0), delay_ms: 40.0, ..Direction::default() };
        let wire = Wire::new(&spec);
        // With its headers it is 1500 bytes long: 1 ms.
        wire.send_at(Duration::ZERO, 1500 - HEADERS, 9);
        wire.settle();
        assert_eq!(wire.net.clock().elapsed(), Duration::from_millis(41));
        assert_eq!(wire.inbox.waiting(), 1);
    }

    #[test]
    fn what_is_sent_to_nobody_goes_nowhere() {
        let wire = Wire::new(&Direction::default());
        wire.send_at(Duration::ZERO, 100, 10);
        wire.settle();
        assert_eq!(wire.inbox.waiting(), 0);
        assert_eq!(wire.net.counts(wire.pipe).passed, 1);
    }

    #[test]
    fn a_nat_that_forgets_and_an_address_that_changes_lose_what_comes_to_the_old_one() {
        let spec = Direction { delay_ms: 10.0, ..Direction::default() };
        let wire = Wire::new(&spec);
        let ms = Duration::from_millis;
        wire.send_at(ms(0), 100, 9);
        let (net, host) = (wire.net.clone(), wire.hosts[1]);
        wire.net.clock().call_at(ms(20), move || net.rebind_nat(host));
        wire.send_at(ms(30), 100, 9);
        wire.send_at(ms(31), 100, 1009);
        let (net, host) = (wire.net.clone(), wire.hosts[1]);
        wire.net.clock().call_at(ms(50), move || net.change_address(host));
        wire.send_at(ms(60), 100, 1009);
        wire.settle();
        assert_eq!(wire.inbox.waiting(), 2, "the first, and the one to the new port");
        // The host it reaches, though nobody there has the port: 300 bytes.
        assert_eq!(wire.net.reached(wire.hosts[0], wire.hosts[1]), 300);
        assert_eq!(wire.net.reached(wire.hosts[1], wire.hosts[0]), 0);
    }

    #[test]
    fn the_same_link_in_two_routes_is_shared() {
        let outage = Event { at_s: 0.0, outage_ms: Some(5.0), ..Event::default() };
        let wire =
            Wire::new(&Direction { rate_mbit: Some(12.0), events: vec![outage], ..Direction::default() });
        let third = wire.net.add_host();
        wire.net.route(third, wire.hosts[1], &[wire.pipe]);
        wire.send_at(Duration::from_millis(1), 1472, 9);
        for _ in 0..2 {
            wire.send_at(Duration::from_millis(6), 1472, 9);
        }
        wire.settle();
        assert_eq!(wire.net.counts(wire.pipe).blocked, 1);
        assert_eq!(wire.net.clock().elapsed(), Duration::from_millis(8), "one behind the other");
    }
}
