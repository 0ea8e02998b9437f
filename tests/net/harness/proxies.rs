//! Proxies as an office has them, on the proxy's host: Debian's programs, each with a configuration that is not the
//! mildest. Those with users know one, [`USER`].

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bed::{OUTSIDE_SERVER, PROXY, replace};
use super::certs::{Authority, Issued};
use super::{Bed, Daemon, program, skip};

pub(crate) const USER: &str = "alice";
/// With letters that mean something in a URL.
pub(crate) const PASSWORD: &str = "se cret:/@";
pub(crate) const PASSWORD_IN_URL: &str = "se%20cret%3A%2F%40";
/// tinyproxy takes none of those.
pub(crate) const PLAIN_PASSWORD: &str = "se.cret";

pub(crate) const SQUID: u16 = 3128;
/// Where squid takes TLS, if it does.
pub(crate) const SQUID_TLS: u16 = 3129;
pub(crate) const TINYPROXY: u16 = 8888;
pub(crate) const DANTE: u16 = 1080;

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

/// squid, which lets clients connect to these ports.
pub(crate) fn squid(bed: &Bed, auth: Auth, ports: &str) -> Proxy {
    let address = bed.proxy.address;
    Squid::default().start(bed, &format!("http_port {address}:{SQUID}\n"), auth, ports, "http", SQUID)
}

/// squid that is reached over TLS, with this certificate.
pub(crate) fn squid_over_tls(bed: &Bed, auth: Auth, ports: &str, cert: &Issued) -> Proxy {
    needs_openssl();
    let listen = format!(
        "https_port {}:{SQUID_TLS} tls-cert={} tls-key={}\n",
        bed.proxy.address,
        public(&cert.cert).display(),
        public(&cert.key).display()
    );
    Squid::default().start(bed, &listen, auth, ports, "https", SQUID_TLS)
}

/// squid that looks into TLS: it shows certificates of `own`, and trusts servers with certificates of `servers`.
/// WebSockets pass if squid is told so; on its own it takes the Upgrade away.
pub(crate) fn inspecting(bed: &Bed, own: &Authority, servers: &Path, ports: &str, websockets: bool) -> Proxy {
    needs_openssl();
    let [cert, key] = [("ca.pem", &own.cert_pem), ("ca.key", &own.key_pem)].map(|(name, text)| {
        let path = folder().join(name);
        fs::write(&path, text).unwrap();
        path
    });
    let certgen = "/usr/lib/squid/security_file_certgen";
    let listen = format!(
        "http_port {}:{SQUID} ssl-bump tls-cert={} tls-key={} generate-host-certificates=on \
         dynamic_cert_mem_cache_size=1MB\n\
         sslcrtd_program {certgen} -s {}/certs -M 4MB\n\
         sslcrtd_children 2 startup=1 idle=1\n\
         acl step1 at_step SslBump1\nssl_bump peek step1\nssl_bump bump all\n\
         tls_outgoing_options cafile={}\n{}",
        bed.proxy.address,
        cert.display(),
        key.display(),
        folder().display(),
        public(servers).display(),
        if websockets { "http_upgrade_request_protocols websocket allow all\n" } else { "" },
    );
    let _ = fs::remove_dir_all(folder().join("certs"));
    let mut make = program(certgen);
    make.args(["-c", "-s"]).arg(folder().join("certs")).args(["-M", "4MB"]);
    Squid { before: Some(make) }.start(bed, &listen, Auth::Anyone, ports, "http", SQUID)
}

/// Debian has two squids. The one with GnuTLS neither looks into TLS nor answers over it.
fn needs_openssl() {
    let output = program("squid").arg("-v").output().unwrap();
    if !String::from_utf8_lossy(&output.stdout).contains("--with-openssl") {
        skip("this squid is built without OpenSSL (squid-openssl)");
    }
}

/// What differs between the squids.
#[derive(Default)]
struct Squid {
    before: Option<Command>,
}

impl Squid {
    fn start(
        self,
        bed: &Bed,
        listen: &str,
        auth: Auth,
        ports: &str,
        scheme: &'static str,
        port: u16,
    ) -> Proxy {
        let users = folder().join("users");
        fs::write(&users, format!("{USER}:{}\n", hash("-apr1"))).unwrap();
        let known = match auth {
            Auth::Anyone => String::new(),
            Auth::Password => format!(
                "auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
                 auth_param basic children 2 startup=1 idle=1\n\
                 auth_param basic realm office\n\
                 acl known proxy_auth REQUIRED\nhttp_access deny !known\n",
                users.display()
            ),
        };
        let logs = ["access", "cache"].map(|name| folder().join(format!("{name}-{port}.log")));
        let [access, cache] = logs.each_ref().map(|path| path.display());
        let config = format!(
            "{listen}visible_hostname {PROXY}\n\
             acl allowed port {ports}\nhttp_access deny CONNECT !allowed\n{known}http_access allow all\n\
             cache deny all\ncache_mem 1 MB\nmax_filedescriptors 1024\n\
             access_log stdio:{access}\ncache_log {cache}\nlogfile_rotate 0\n\
             pid_filename none\ncoredump_dir none\npinger_enable off\nshutdown_lifetime 0 seconds\n"
        );
        let config = bed.write("squid.conf", config);
        if let Some(mut before) = self.before {
            bed.proxy.run(&mut before);
        }
        own(&folder());
        let mut squid = outward("squid");
        squid.args(["-N", "-f"]).arg(config);
        let daemon = Daemon::start(bed, &bed.proxy, &mut squid, port).logs_to(logs);
        Proxy { daemon, scheme, port, who: auth.who(PASSWORD_IN_URL) }
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

/// dante, a SOCKS5 server. Its users are those of its machine, so it is shown other ones.
pub(crate) fn dante(bed: &Bed, auth: Auth) -> Proxy {
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
         socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: connect\nlog: connect error }}\n"
    );
    let config = bed.write("danted.conf", config);
    let mut dante = outward("danted");
    dante.arg("-f").arg(config);
    let daemon = Daemon::start(bed, &bed.proxy, &mut dante, DANTE);
    Proxy { daemon, scheme: "socks5", port: DANTE, who: auth.who(PASSWORD_IN_URL) }
}

/// A program that knows the names of the world outside.
fn outward(name: &str) -> Command {
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
fn hash(method: &str) -> String {
    let output = program("openssl").args(["passwd", method, PASSWORD]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Where squid, which gives up being root, may read and write. Of this test alone.
fn folder() -> PathBuf {
    let folder = PathBuf::from("/run/squid");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A copy of a file there.
fn public(file: &Path) -> PathBuf {
    let copy = folder().join(file.file_name().expect("a file"));
    fs::copy(file, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    copy
}

/// Gives a folder and all in it to squid's user.
fn own(folder: &Path) {
    let status = Command::new("chown").args(["-R", "proxy:proxy"]).arg(folder).status();
    assert!(status.is_ok_and(|status| status.success()), "the user proxy owns nothing");
}
