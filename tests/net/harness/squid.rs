//! squid in its forms: plain, with users, over TLS, and looking into TLS as a proxy or in the way of who knows of none.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::bed::PROXY;
use super::certs::{Authority, Issued};
use super::proxies::{Auth, Proxy, USER, hash, outward};
use super::{Bed, Daemon, Host, program, skip};

/// A squid that is to come.
pub(crate) struct Squid<'a> {
    bed: &'a Bed,
    host: &'a Host,
    auth: Auth,
    scheme: &'static str,
    port: u16,
    /// How it listens, without the address.
    listen: String,
    /// The ports that it connects to.
    allowed: String,
    /// Lines of its configuration.
    more: String,
}

impl<'a> Squid<'a> {
    /// On the proxy's host, for these ports of servers.
    pub(crate) fn new(bed: &'a Bed, auth: Auth, allowed: impl ToString) -> Self {
        Self {
            bed,
            host: &bed.proxy,
            auth,
            scheme: "http",
            port: 3128,
            listen: String::new(),
            allowed: allowed.to_string(),
            more: String::new(),
        }
    }

    /// It is reached over TLS, and shows this certificate.
    pub(crate) fn over_tls(mut self, cert: &Issued) -> Self {
        needs_openssl();
        self.scheme = "https";
        self.port = 3129;
        let [cert, key] = [&cert.cert, &cert.key].map(|file| public(file));
        self.listen = format!("tls-cert={} tls-key={}", cert.display(), key.display());
        self
    }

    /// It looks into TLS: shows certificates of `own`, and trusts servers with certificates of `servers`.
    pub(crate) fn inspecting(mut self, own: &Authority, servers: &Path) -> Self {
        needs_openssl();
        let certs = folder().join("certs");
        let _ = fs::remove_dir_all(&certs);
        let certgen = "/usr/lib/squid/security_file_certgen";
        let made = program(certgen).args(["-c", "-s"]).arg(&certs).args(["-M", "4MB"]).output();
        assert!(made.unwrap().status.success(), "there is no room for certificates");
        self.listen = format!(
            "ssl-bump tls-cert={} tls-key={} generate-host-certificates=on dynamic_cert_mem_cache_size=1MB",
            public(&own.cert).display(),
            public(&own.key).display()
        );
        let (certs, servers) = (certs.display(), public(servers));
        let lines = format!(
            "sslcrtd_program {certgen} -s {certs} -M 4MB\nsslcrtd_children 2 startup=1 idle=1\n\
             acl hello at_step SslBump1\nssl_bump peek hello\nssl_bump bump all\n\
             tls_outgoing_options cafile={}\n",
            servers.display()
        );
        self.more += &lines;
        self
    }

    /// It looks into TLS as those do that are not of today.
    pub(crate) fn without_tls13(mut self) -> Self {
        self.listen += " options=NO_TLSv1_3";
        self
    }

    /// It lets WebSockets pass. On its own it takes the Upgrade away.
    pub(crate) fn with_websockets(mut self) -> Self {
        self.more += "http_upgrade_request_protocols websocket allow all\n";
        self
    }

    /// It stands at the edge and takes what is sent there (see `Firewall::divert`), unasked.
    pub(crate) fn in_the_way(mut self) -> Self {
        self.host = &self.bed.edge;
        self.port = DIVERTED;
        self.scheme = "https";
        self.listen.insert_str(0, "intercept ");
        // It wants to be a proxy, too.
        self.more += "http_port 127.0.0.1:3128\n";
        self
    }

    /// Starts it.
    pub(crate) fn start(self) -> Proxy {
        let Self { bed, host, auth, scheme, port, listen, allowed, more } = self;
        let kind = if scheme == "https" { "https_port" } else { "http_port" };
        let mut config = format!("{kind} {}:{port} {listen}\nvisible_hostname {PROXY}\n", host.address);
        config += &more;
        let _ = writeln!(config, "acl allowed port {allowed}\nhttp_access deny CONNECT !allowed");
        if auth == Auth::Password {
            let users = folder().join("users");
            fs::write(&users, format!("{USER}:{}\n", hash("-apr1"))).unwrap();
            let _ = writeln!(
                config,
                "auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
                 auth_param basic children 2 startup=1 idle=1\nauth_param basic realm office\n\
                 acl known proxy_auth REQUIRED\nhttp_access deny !known",
                users.display()
            );
        }
        let logs = ["access", "cache"].map(|name| folder().join(format!("{name}-{port}.log")));
        let [access, cache] = logs.each_ref().map(|path| path.display());
        let _ = writeln!(
            config,
            "http_access allow all\ncache deny all\ncache_mem 1 MB\nmax_filedescriptors 1024\n\
             access_log stdio:{access}\ncache_log {cache}\nlogfile_rotate 0\npid_filename none\n\
             coredump_dir none\npinger_enable off\nshutdown_lifetime 0 seconds"
        );
        let config = bed.write("squid.conf", config);
        let owned = program("chown").args(["-R", "proxy:proxy"]).arg(folder()).status();
        assert!(owned.is_ok_and(|status| status.success()), "there is no user proxy");
        let mut squid = outward("squid");
        squid.args(["-N", "-f"]).arg(config);
        let daemon = Daemon::start(bed, host, &mut squid, port).logs_to(logs);
        Proxy::new(daemon, scheme, port, auth)
    }
}

/// Where a squid in the way listens.
pub(crate) const DIVERTED: u16 = 3130;

/// Debian has two squids. The one with GnuTLS neither looks into TLS nor answers over it.
fn needs_openssl() {
    let output = program("squid").arg("-v").output().unwrap();
    if !String::from_utf8_lossy(&output.stdout).contains("--with-openssl") {
        skip("this squid is built without OpenSSL (squid-openssl)");
    }
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
