"""What is compared: how each program is started as a server and as a client."""

import secrets
import subprocess
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Callable, List

from machine import congestion_controls, program

# The address of `server` on the only link (sim/netpath/README.md).
SERVER = "10.77.0.2"
METRA_PORT, SSH_PORT, HTTPS_PORT, IPERF_PORT = 4443, 2222, 8443, 5201
SMALL_BYTES = 10240


@dataclass
class Tool:
    """One line of the plots."""

    name: str
    says: str
    # What it is compared in: "large", "small".
    kinds: tuple
    # Programs that must be there.
    needs: tuple
    port: int
    # Bench -> what `sh` runs at the server.
    server: Callable
    # Bench, Work -> the words of the client's command.
    client: Callable
    # Whether the content goes from the server to the client.
    down: bool = False
    # The kernel's controller that it needs.
    congestion: str = ""
    # Whether it tells itself what arrived, as JSON, when it is ended with SIGTERM.
    tells: bool = False

    def missing(self):
        """Why it cannot run here, or an empty text."""
        gone = [name for name in self.needs if not program(name)]
        if gone:
            return " and ".join(gone) + (" is" if len(gone) == 1 else " are") + " not here"
        if self.congestion and self.congestion not in congestion_controls():
            return f"this kernel has no tcp_{self.congestion}"
        return ""


@dataclass
class Work:
    """What is to be transferred: `source` is below the folder `a`, and so is what servers serve."""

    kind: str
    source: str
    size: int
    # Names below `source`, if it is a folder.
    names: List[str] = field(default_factory=list)


class Bench:
    """Folders and secrets of one tool at a time; `data` is what all of them transfer."""

    def __init__(self, folder, metra, data):
        self.folder, self.metra = folder, metra
        self.a, self.b, self.run = self.folder / "a", self.folder / "b", self.folder / "run"
        # Of clients, servers and what sshd starts: nothing of the user's own settings and start files.
        self.home = self.folder / "home"
        self.token = secrets.token_hex(16)
        self.destination = self.b / "dest"
        for place in (self.folder, self.b, self.run, self.home):
            place.mkdir()
        self.a.symlink_to(data)
        for configure in (self._ssh, self._rclone, self._https, self._metra):
            configure()

    def _ssh(self):
        if not program("ssh-keygen"):
            return
        for key in ("host_key", "user_key"):
            quiet("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key)
        self._write("sshd_config", f"""
            ListenAddress {SERVER}
            Port {SSH_PORT}
            HostKey {self.folder}/host_key
            PidFile none
            UsePAM no
            StrictModes no
            PermitRootLogin prohibit-password
            PasswordAuthentication no
            AuthorizedKeysFile {self.folder}/user_key.pub
            Subsystem sftp internal-sftp
            SetEnv HOME={self.home}
        """)
        self._write("ssh_config", f"""
            Host *
            IdentityFile {self.folder}/user_key
            IdentitiesOnly yes
            Port {SSH_PORT}
            StrictHostKeyChecking no
            UserKnownHostsFile /dev/null
            LogLevel ERROR
            BatchMode yes
        """)

    def _rclone(self):
        self._write("rclone.conf", f"""
            [server]
            type = sftp
            host = {SERVER}
            port = {SSH_PORT}
            user = root
            key_file = {self.folder}/user_key
            shell_type = unix
        """)

    def _https(self):
        if not program("openssl"):
            return
        quiet("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
              "30", "-subj", "/CN=server", "-addext", f"subjectAltName=IP:{SERVER}",
              "-keyout", self.folder / "tls.key", "-out", self.folder / "tls.pem")
        temporary = "".join(f"{name}_temp_path {self.run}/{name};" for name in
                            ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        self._write("nginx.conf", f"""
            daemon off;
            worker_processes 1;
            error_log {self.run}/nginx.log;
            pid {self.run}/nginx.pid;
            user root;
            events {{ worker_connections 256; }}
            http {{
              access_log off;
              {temporary}
              sendfile on;
              server {{
                listen {SERVER}:{HTTPS_PORT} ssl http2;
                ssl_certificate {self.folder}/tls.pem; ssl_certificate_key {self.folder}/tls.key;
                ssl_protocols TLSv1.3;
                root {self.a};
              }}
            }}
        """)

    def _metra(self):
        self._write("gateway.toml", f"""
            listen = "{SERVER}:{METRA_PORT}"
            root = "{self.b}"
            state = "{self.run}/gateway"
            [users.bench]
            token_hash = "sha256:{sha256(self.token.encode()).hexdigest()}"
            [log]
            level = "warn"
        """)

    def _write(self, name, text):
        (self.folder / name).write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")


def tools():
    """All of them, in the order of tables and plots."""
    ssh = ("sshd", "ssh", "ssh-keygen")
    https = ("nginx", "curl", "openssl")
    both = ("large", "small")
    return [
        Tool("metra", "metra send --via quic", both, (), METRA_PORT, metra_server, metra_client()),
        Tool("metra-cubic", "metra send --congestion cubic: quinn's CUBIC", both, (), METRA_PORT, metra_server,
             metra_client("cubic")),
        Tool("metra-bbr", "metra send --congestion bbr: quinn's BBR", both, (), METRA_PORT, metra_server,
             metra_client("bbr")),
        Tool("metra-tls", "metra send --via tls: TLS over TCP, with kernel BBR where it is to be had", both, (), METRA_PORT,
             metra_server, metra_client(via="tls")),
        Tool("metra-ws", "metra send --via ws: WebSocket over HTTPS, likewise", both, (), METRA_PORT, metra_server,
             metra_client(via="ws")),
        Tool("scp", "scp -r", both, ("scp", *ssh), SSH_PORT, sshd, scp),
        Tool("rsync", "rsync -a over ssh", both, ("rsync", *ssh), SSH_PORT, sshd, rsync),
        Tool("rclone", "rclone copy over SFTP", both, ("rclone", *ssh), SSH_PORT, sshd, rclone),
        Tool("curl-h1", "curl --http1.1 from nginx over TLS; small files with --parallel", both, https, HTTPS_PORT, nginx,
             curl("--http1.1"), down=True),
        Tool("curl-h2", "curl --http2 from nginx over TLS; small files with --parallel", both, https, HTTPS_PORT, nginx,
             curl("--http2"), down=True),
        Tool("tcp-cubic", "iperf3 -C cubic: kernel TCP alone, nothing read, encrypted or written", ("large",), ("iperf3",),
             IPERF_PORT, iperf_server, iperf("cubic"), down=True, congestion="cubic", tells=True),
        Tool("tcp-bbr", "iperf3 -C bbr: the same", ("large",), ("iperf3",), IPERF_PORT, iperf_server, iperf("bbr"),
             down=True, congestion="bbr", tells=True),
    ]


def metra_server(bench):
    return f"exec {bench.metra} serve --config {bench.folder}/gateway.toml"


def metra_client(congestion=None, via="quic"):
    chosen = ["--via", via, *(["--congestion", congestion] if congestion else [])]

    def client(bench, work):
        return ["env", f"METRA_TOKEN={bench.token}", bench.metra, "send", "--quiet", "--no-path-memory", *chosen,
                "--ca", bench.run / "gateway/dev-ca.pem", "--state", bench.run / "client", bench.a / work.source,
                f"mtp://{SERVER}:{METRA_PORT}/{bench.destination.name}"]
    return client


def sshd(bench):
    return f"mkdir -p /run/sshd; exec {program('sshd')} -D -e -f {bench.folder}/sshd_config"


def scp(bench, work):
    return ["scp", "-q", "-r", "-F", bench.folder / "ssh_config", bench.a / work.source, f"{SERVER}:{bench.destination}"]


def rsync(bench, work):
    slash = "/" if work.names else ""
    return ["rsync", "-a", "-e", f"ssh -F {bench.folder}/ssh_config", f"{bench.a / work.source}{slash}",
            f"{SERVER}:{bench.destination}"]


def rclone(bench, work):
    verb = "copy" if work.names else "copyto"
    return ["rclone", "--config", bench.folder / "rclone.conf", verb, bench.a / work.source, f"server:{bench.destination}"]


def nginx(bench):
    return f"exec {program('nginx')} -e {bench.run}/nginx.log -c {bench.folder}/nginx.conf"


def curl(version):
    def client(bench, work):
        base = f"https://{SERVER}:{HTTPS_PORT}/{work.source}"
        words = ["curl", "-sS", "--fail", version, "--cacert", bench.folder / "tls.pem"]
        if not work.names:
            return [*words, "-o", bench.destination, base]
        lines = (f'url = "{base}/{name}"\noutput = "{bench.destination}/{name}"\n' for name in work.names)
        (bench.run / "urls").write_text("".join(lines))
        return [*words, "--parallel", "--create-dirs", "--config", bench.run / "urls"]
    return client


def iperf_server(_):
    return f"exec {program('iperf3')} -s"


def iperf(congestion):
    # -R: the client receives, so that it can tell what arrived when it is stopped.
    def client(_, work):
        return ["iperf3", "-c", SERVER, "-C", congestion, "-R", "-n", work.size, "--json"]
    return client


def quiet(*words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
