"""The machine: what is installed, what is built, what there is to say about it."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")

# Program, Debian package.
PACKAGES = {
    "sshd": "openssh-server", "ssh": "openssh-client", "scp": "openssh-client", "ssh-keygen": "openssh-client",
    "rsync": "rsync", "nginx": "nginx-light", "curl": "curl", "openssl": "openssl", "rclone": "rclone",
    "iperf3": "iperf3", "ip": "iproute2",
}


def program(name):
    """Where a program is, or None."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def install(programs, say):
    """Installs what is missing, where that is possible and allowed."""
    packages = sorted({PACKAGES[name] for name in programs if not program(name)})
    if not packages or os.geteuid() or os.environ.get("METRA_NO_INSTALL") or not program("apt-get"):
        return
    say("installing " + " ".join(packages))
    # Not started by the package: only what netpath starts shall listen.
    policy = Path("/usr/sbin/policy-rc.d")
    made = not policy.exists()
    if made:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        # One at a time: a package that does not exist here must not keep the others away.
        for package in packages:
            subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
                           capture_output=True, check=False, env=environment)
    finally:
        if made:
            policy.unlink()


def binaries(build):
    """Paths of metra and netpath, built if so told."""
    if build:
        environment = dict(os.environ)
        environment["PATH"] += ":" + str(Path(environment.get("CARGO_HOME", Path.home() / ".cargo")) / "bin")
        command = ["cargo", "build", "--release", "-p", "metra", "-p", "metra-netpath"]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    return TARGET / "release/metra", TARGET / "release/netpath"


def facts(metra, built, used):
    """What the report says of this machine and of the programs that were used: name to text."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    said = {
        "machine": f"{os.cpu_count()} cores of {cpu.group(1) if cpu else platform.machine()}, "
                   f"{memory_gib():.0f} GiB of memory",
        "kernel": f"{platform.system()} {platform.release()}",
        "socket buffers": f"UDP at most {setting('core/rmem_max')} bytes to receive, {setting('core/wmem_max')} to send "
                          "(net.core.rmem_max, wmem_max)",
        "load": f"{os.getloadavg()[0]:.2f} in the minute before the start",
        "metra": f"{first_line([metra, '--version'])}, "
                 + (f"commit {commit()}" if built else f"as it was, not built anew; the repository is at {commit()}"),
    }
    versions = {
        "ssh": (["ssh", "-V"], r"OpenSSH_\S+"), "rsync": (["rsync", "--version"], r"version (\S+)"),
        "nginx": (["nginx", "-v"], r"nginx/(\S+)"), "curl": (["curl", "--version"], r"curl (\S+)"),
        "rclone": (["rclone", "version"], r"rclone (\S+)"), "iperf3": (["iperf3", "--version"], r"iperf (\S+)"),
    }
    for name in used:
        if name in versions:
            command, pattern = versions[name]
            found = re.search(pattern, output([program(command[0]), *command[1:]]))
            said[name] = found.group(found.lastindex or 0) if found else "of an unknown version"
    return said


def congestion_controls():
    """What kernel TCP can do here."""
    return setting("ipv4/tcp_available_congestion_control").split()


def free_mib(folder):
    """Room in a file system, and in memory if that is what it is made of."""
    free = shutil.disk_usage(folder).free >> 20
    in_memory = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False).stdout
    return min(free, memory("MemAvailable") >> 10) if in_memory.strip() == "tmpfs" else free


def memory(what):
    found = re.search(rf"^{what}:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found.group(1)) if found else 0


def memory_gib():
    return memory("MemTotal") / (1 << 20)


def setting(name):
    try:
        return Path("/proc/sys/net", name).read_text().strip()
    except OSError:
        return "unknown"


def commit():
    head = output(["git", "-C", REPOSITORY, "rev-parse", "--short", "HEAD"]).strip() or "unknown"
    # What is measured is the program: a change of a document does not make it another one.
    changed = output(["git", "-C", REPOSITORY, "status", "--porcelain", "--", "*.rs", "*.toml", "Cargo.lock"]).strip()
    return head + (" with changes" if changed else "")


def first_line(command):
    return (output(command).splitlines() or ["unknown"])[0]


def output(command):
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout + done.stderr
