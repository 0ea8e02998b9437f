//! Proxies as an office has them, on the proxy's host: Debian's programs, each with a configuration that is not the
//! mildest. Those with users know one, [`USER`].

use std::fs;
use std::path::Path;
use std::process::Command;

use metra_core::id::Digest;

use super::bed::{OUTSIDE_SERVER, PROXY, SERVER, replace};
use super::certs::Authority;
use super::run::metra;
use super::{Bed, Daemon, program};

pub(crate) const USER: &str = "alice";
/// With letters that mean something in a URL.
pub(crate) const PASSWORD: &str = "se cret:/@";
pub(crate) const PASSWORD_IN_URL: &str = "se%20cret%3A%2F%40";
/// tinyproxy takes none of those.
pub(crate) const PLAIN_PASSWORD: &str = "se.cret";

const TINYPROXY: u16 = 8888;
const DANTE: u16 = 1080;
const MASQUE: u16 = 8443;

/// Whether a proxy asks who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    Anyone,
    Password,
}

impl Auth {
    /// What stands before the host in a URL.
    fn who(self, password: &str) -> String {
        match self {
            Self::Anyone => String::new(),
            Self::Password => format!("{USER}:{password}@"),
        }
    }
}

/// A proxy that runs.
pub(crate) struct Proxy {
    daemon: Daemon,
    scheme: &'static str,
    port: u16,
    /// Name and password in its URL.
    who: String,
}

impl Proxy {
    pub(super) fn new(daemon: Daemon, scheme: &'static str, port: u16, auth: Auth) -> Self {
        Self { daemon, scheme, port, who: auth.who(PASSWORD_IN_URL) }
    }

    /// Its URL, with name and password if it wants them.
    pub(crate) fn url(&self) -> String {
        self.url_as(&self.who)
    }

    /// Its URL with something before the host.
    pub(crate) fn url_as(&self, who: &str) -> String {
        format!("{}://{who}{}:{}", self.scheme, PROXY, self.port)
    }

    /// What it has said, the requests among it.
    pub(crate) fn log(&self) -> String {
        self.daemon.log()
    }
}

/// tinyproxy, which lets clients connect to these ports.
pub(crate) fn tinyproxy(bed: &Bed, auth: Auth, ports: &[u16]) -> Proxy {
    let mut config = format!(
        "Port {TINYPROXY}\nListen {}\nTimeout 600\nMaxClients 50\nLogLevel Connect\n",
        bed.proxy.address
    );
    for port in ports {
        config += &format!("ConnectPort {port}\n");
    }
    if auth == Auth::Password {
        config += &format!("BasicAuth {USER} {PLAIN_PASSWORD}\n");
    }
    let config = bed.write("tinyproxy.conf", config);
    let mut tinyproxy = outward("tinyproxy");
    tinyproxy.args(["-d", "-c"]).arg(config);
    let daemon = Daemon::start(bed, &bed.proxy, &mut tinyproxy, TINYPROXY);
    Proxy { daemon, scheme: "http", port: TINYPROXY, who: auth.who(PLAIN_PASSWORD) }
}

/// dante, a SOCKS5 server.
pub(crate) fn dante(bed: &Bed, auth: Auth) -> Proxy {
    dante_that(bed, auth, "")
}

/// dante that lets nobody go to a host.
pub(crate) fn dante_without(bed: &Bed, host: &str) -> Proxy {
    dante_that(bed, Auth::Anyone, &format!("socks block {{ from: 0.0.0.0/0 to: {host} }}\n"))
}

/// dante with some more rules. Its users are those of its machine, so it is shown other ones.
fn dante_that(bed: &Bed, auth: Auth, rules: &str) -> Proxy {
    let method = match auth {
        Auth::Anyone => "none",
        Auth::Password => {
            let passwd = fs::read_to_string("/etc/passwd").unwrap();
            replace("/etc/passwd".as_ref(), &(passwd + &format!("{USER}:x:54321:54321::/:/bin/false\n")));
            replace("/etc/shadow".as_ref(), &format!("{USER}:{}:19000:0:99999:7:::\n", hash("-6")));
            "username"
        }
    };
    let address = bed.proxy.address;
    let config = format!(
        "logoutput: stderr\ninternal: {address} port = {DANTE}\nexternal: {address}\n\
         clientmethod: none\nsocksmethod: {method}\n\
         user.privileged: root\nuser.unprivileged: nobody\n\
         client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 log: error }}\n\
         {rules}socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: connect\nlog: connect error }}\n"
    );
    let config = bed.write("danted.conf", config);
    let mut dante = outward("danted");
    dante.arg("-f").arg(config);
    let daemon = Daemon::start(bed, &bed.proxy, &mut dante, DANTE);
    Proxy::new(daemon, "socks5", DANTE, auth)
}

/// A MASQUE proxy for one who says who they are, which is a gateway that leads to this port of the server and to nothing
/// else. Clients trust it as they trust the gateway.
pub(crate) fn masque(bed: &Bed, authority: &Authority, port: u16) -> Proxy {
    let cert = authority.issue(bed, &[PROXY]);
    let [root, state] = ["proxy-root", "proxy-state"].map(|name| bed.folder(name));
    let (listen, token) = (format!("{}:{MASQUE}", bed.proxy.address), Digest::of(PASSWORD.as_bytes()));
    let config = format!(
        "listen = {listen:?}\nroot = {root:?}\nstate = {state:?}\n[tls]\ncert = {:?}\nkey = {:?}\n\
         [users.{USER}]\ntoken_hash = \"blake3:{token}\"\ntunnel = true\n\
         [tunnel]\nallow = [\"{SERVER}:{port}\"]\ndangerous_ranges = [\"{}/32\"]\n",
        cert.cert, cert.key, bed.server.address
    );
    let config = bed.write("proxy.toml", config);
    let mut serve = metra(None);
    serve.arg("serve").arg("--config").arg(config);
    let daemon = Daemon::start(bed, &bed.proxy, &mut serve, MASQUE);
    Proxy::new(daemon, "https", MASQUE, Auth::Password)
}

/// A program that knows the names of the world outside.
pub(super) fn outward(name: &str) -> Command {
    let hosts = Path::new("/run/hosts.outside");
    let address = std::env::var("NETPATH_SERVER").unwrap();
    let known = fs::read_to_string("/etc/hosts").unwrap();
    fs::write(hosts, format!("{known}{address} {OUTSIDE_SERVER}\n")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
    command.arg("mount --bind /run/hosts.outside /etc/hosts && exec \"$0\" \"$@\"");
    command.arg(program(name).get_program());
    command
}

/// The password, hashed as crypt(5) says.
pub(super) fn hash(method: &str) -> String {
    let output = program("openssl").args(["passwd", method, PASSWORD]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
