//! Addresses and routes of a topology.
//!
//! Link `i` is the network 10.77.i.0/24: its end `a` is 10.77.i.1, its end `b` 10.77.i.2, and the interfaces at both ends
//! are called `link<i>`. Every host has a route to every address that can be reached over routers.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use super::topology::Topology;

/// One host's end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The number of the link.
    pub(crate) link: usize,
    /// The host that it belongs to.
    pub(crate) host: usize,
    /// The host at the other end.
    pub(crate) peer: usize,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The address of the other end.
    pub(crate) via: Ipv4Addr,
}

/// To `to` by way of the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Ipv4Addr,
    pub(crate) via: Ipv4Addr,
    pub(crate) link: usize,
}

/// All ends of all links: two for each, `a` first.
pub(crate) fn ends(topology: &Topology) -> Vec<End> {
    let host = |name: &str| topology.host(name).expect("checked when it was read");
    let links = topology.links.iter().enumerate();
    links
        .flat_map(|(link, spec)| {
            let (a, b) = (host(&spec.a), host(&spec.b));
            let [first, second] = [1, 2].map(|end| Ipv4Addr::new(10, 77, link as u8, end));
            [
                End { link, host: a, peer: b, address: first, via: second },
                End { link, host: b, peer: a, address: second, via: first },
            ]
        })
        .collect()
}

/// The addresses of a host, in the order of its links.
pub(crate) fn of(ends: &[End], host: usize) -> impl Iterator<Item = End> + '_ {
    ends.iter().copied().filter(move |end| end.host == host)
}

/// The routes of a host to the addresses that are not at the other end of one of its links: shortest first, and if
/// possible so that a packet arrives over the link whose address it is for.
pub(crate) fn routes(topology: &Topology, ends: &[End], from: usize) -> Vec<Route> {
    let first = first_ends(topology, ends, from);
    let distant = ends.iter().filter(|end| end.host != from && end.peer != from);
    distant
        .filter_map(|end| {
            let over_its_link = topology.hosts[end.peer].router.then_some(end.peer);
            let hop = over_its_link.and_then(|peer| first[peer]).or(first[end.host])?;
            Some(Route { to: end.address, via: hop.via, link: hop.link })
        })
        .collect()
}

/// For every other host that can be reached, the first end on the shortest way there.
fn first_ends(topology: &Topology, ends: &[End], from: usize) -> Vec<Option<End>> {
    let mut first: Vec<Option<End>> = vec![None; topology.hosts.len()];
    let mut waiting = VecDeque::from([from]);
    while let Some(host) = waiting.pop_front() {
        if host != from && !topology.hosts[host].router {
            continue;
        }
        for end in of(ends, host) {
            if end.peer != from && first[end.peer].is_none() {
                first[end.peer] = first[host].or(Some(end));
                waiting.push_back(end.peer);
            }
        }
    }
    first
}

/// What the commands are told: `NETPATH_<HOST>` is a host's address on its first link, `NETPATH_<HOST>_LINK<i>` that on
/// each.
pub(crate) fn variables(topology: &Topology, ends: &[End]) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for (i, host) in topology.hosts.iter().enumerate() {
        let name = variable(&host.name);
        for (nth, end) in of(ends, i).enumerate() {
            if nth == 0 {
                variables.push((name.clone(), end.address.to_string()));
            }
            variables.push((format!("{name}_LINK{}", end.link), end.address.to_string()));
        }
    }
    variables
}

/// The first part of the names of all variables about a host.
pub(crate) fn variable(host: &str) -> String {
    format!("NETPATH_{}", host.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn topology(hosts: &[(&str, bool)], links: &[(&str, &str)]) -> Topology {
        let mut text = String::new();
        for (name, router) in hosts {
            text += &format!("[[host]]\nname = '{name}'\nrouter = {router}\n");
        }
        for (a, b) in links {
            text += &format!("[[link]]\na = '{a}'\nb = '{b}'\n");
        }
        Topology::parse(&text).unwrap()
    }

    fn route(to: [u8; 2], via: [u8; 2], link: usize) -> Route {
        let address = |[net, host]: [u8; 2]| Ipv4Addr::new(10, 77, net, host);
        Route { to: address(to), via: address(via), link }
    }

    #[test]
    fn clients_reach_the_server_over_the_bottleneck() {
        let hosts = [("one", false), ("two", false), ("near", true), ("far", true), ("server", false)];
        let links = [("one", "near"), ("two", "near"), ("near", "far"), ("far", "server")];
        let topology = topology(&hosts, &links);
        let ends = ends(&topology);
        assert_eq!(
            routes(&topology, &ends, 0),
            [
                route([1, 1], [0, 2], 0),
                route([1, 2], [0, 2], 0),
                route([2, 1], [0, 2], 0),
                route([2, 2], [0, 2], 0),
                route([3, 1], [0, 2], 0),
                route([3, 2], [0, 2], 0),
            ]
        );
        assert_eq!(routes(&topology, &ends, 2), [route([3, 1], [2, 2], 2), route([3, 2], [2, 2], 2)]);
    }

    #[test]
    fn only_routers_are_on_the_way() {
        let topology = topology(
            &[("one", false), ("middle", false), ("two", false)],
            &[("one", "middle"), ("middle", "two")],
        );
        let ends = ends(&topology);
        // The far address of the middle can be reached, what is behind it cannot.
        assert_eq!(routes(&topology, &ends, 0), [route([1, 1], [0, 2], 0)]);
    }

    #[test]
    fn packets_arrive_over_the_link_whose_address_they_are_for() {
        let topology = topology(
            &[("client", false), ("west", true), ("east", true), ("server", false)],
            &[("client", "west"), ("client", "east"), ("west", "server"), ("east", "server")],
        );
        let ends = ends(&topology);
        let routes = routes(&topology, &ends, 0);
        assert!(routes.contains(&route([2, 2], [0, 2], 0)));
        assert!(routes.contains(&route([3, 2], [1, 2], 1)));
    }

    #[test]
    fn commands_are_told_the_addresses() {
        let topology = topology(&[("a-b", false), ("c", false)], &[("a-b", "c"), ("c", "a-b")]);
        let variables = variables(&topology, &ends(&topology));
        let expected = [
            ("NETPATH_A_B", "10.77.0.1"),
            ("NETPATH_A_B_LINK0", "10.77.0.1"),
            ("NETPATH_A_B_LINK1", "10.77.1.2"),
            ("NETPATH_C", "10.77.0.2"),
            ("NETPATH_C_LINK0", "10.77.0.2"),
            ("NETPATH_C_LINK1", "10.77.1.1"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
