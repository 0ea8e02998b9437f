//! dnsmasq as a resolver, and a question for it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Server;
use crate::harness::{Bed, skip, wait_until};

/// A dnsmasq that knows one name, [`Resolver::NAME`], and asks nobody else.
pub(crate) struct Resolver {
    address: SocketAddr,
    _server: Server,
}

impl Resolver {
    pub(crate) const NAME: &str = "behind.example";
    pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    pub(crate) fn start(bed: &Bed) -> Self {
        let found = ["/usr/sbin/dnsmasq", "/usr/bin/dnsmasq", "/usr/local/sbin/dnsmasq"];
        let Some(program) = found.into_iter().find(|path| Path::new(path).is_file()) else {
            skip("dnsmasq is not installed")
        };
        // It cannot be told to take a free port. Nobody else takes this one at once.
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = Command::new(program);
        command.args(["--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file="]);
        command.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1"]);
        command.arg(format!("--port={}", address.port()));
        command.arg(format!("--address=/{}/{}", Self::NAME, Self::ADDRESS));
        if rustix::process::getuid().is_root() {
            command.arg("--user=root");
        }
        let mut server = Server::start(bed, "dnsmasq", &mut command);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        wait_until("dnsmasq to answer", || {
            server.must_run();
            let mut answer = [0; 512];
            socket.send_to(&Self::question(1), address).unwrap();
            socket.recv(&mut answer).is_ok_and(|len| Self::is_answer(&answer[..len], 1))
        });
        Self { address, _server: server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks for the address of the name (RFC 1035 section 4).
    pub(crate) fn question(id: u16) -> Vec<u8> {
        let mut question = id.to_be_bytes().to_vec();
        question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in Self::NAME.split('.') {
            question.push(label.len() as u8);
            question.extend_from_slice(label.as_bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        question
    }

    /// Whether this is the answer: the same id, no error, and the address at the end.
    pub(crate) fn is_answer(bytes: &[u8], id: u16) -> bool {
        bytes.starts_with(&id.to_be_bytes())
            && bytes.len() > 12
            && bytes[2] & 0x80 != 0
            && bytes[3] & 0x0f == 0
            && bytes.ends_with(&Self::ADDRESS.octets())
    }
}
