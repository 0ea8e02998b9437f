"""One run: a network, a server, a client that is timed, and what came of it."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from results import Row
from tools import SMALL_BYTES

CLIENT = Path(__file__).resolve().parent / "client.sh"
# A program that is stopped may hold what it has not written yet: whole chunks only, for example. So at least this share
# of what the link delivered counts as arrived; no more, because headers and what was sent twice are in it.
CONTENT = 0.9
# More than this is too late: netpath complains itself from there on.
LATE_MS = 10


def measure(bench, netpath, cell, tool, work, options, number):
    """Runs one tool once over one path."""
    for folder in (bench.b, bench.run):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    # By route, not by sysctl: a kernel may keep that to its first network namespace. It overrides what a program asks for.
    settings = ("set -e; ip route show | while read -r route; do ip route change $route congctl "
                f"{tool.congestion or options.tcp}; done; ")
    watched = [CLIENT, bench.run, options.limit, "TERM" if tool.tells else "KILL", bench.b]
    client = shlex.join(str(word) for word in ["bash", *watched, *tool.client(bench, work)])
    command = [
        netpath, "--rate", cell.rate, "--rtt", cell.rtt, "--loss", cell.loss, "--queue-bdp", 1, "--seed", number,
        "--stats", bench.run / "stats.json",
        "--at", "server", f"{settings} {{ {tool.server(bench)}; }} >{bench.run}/server.log 2>&1",
        "--wait-for", f"server:{tool.port}", "--", "bash", "-c", f"{settings} exec {client}",
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env=environment(bench))
    row = Row(*cell, work.kind, tool.name, number)
    counters(row, bench.run / "stats.json", tool.down)
    try:
        outcome(row, bench, tool, work)
    except (OSError, ValueError, LookupError) as error:
        row.outcome, row.note = "failed", f"{type(error).__name__}: {error}"
    if row.outcome == "failed":
        row.note = " / ".join(filter(None, [row.note, last_line(bench.run / "client.err"),
                                            last_line(bench.run / "server.log"), done.stderr.strip()[-200:]]))
    return row


def environment(bench):
    """Of clients and servers."""
    return {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "HOME": str(bench.home), "LC_ALL": "C"}


def outcome(row, bench, tool, work):
    """How it ended, how long it took, and how much arrived."""
    begin, end, code, arrived = (bench.run / "times").read_text().split()
    row.seconds, row.bytes = float(end) - float(begin), work.size
    row.outcome = "done" if arrived == "-" else "stopped"
    if tool.tells:
        told(row, json.loads((bench.run / "client.out").read_text()))
    elif row.outcome == "stopped":
        row.bytes = min(max(int(arrived), int(row.wire_bytes * CONTENT)), work.size)
    elif code != "0":
        row.outcome, row.note = "failed", f"exit code {code}"
    elif not same(bench, work):
        row.outcome, row.note = "failed", "what arrived is not what was sent"


def told(row, report):
    """What iperf3 says: connecting and what came after the end do not count."""
    received = report.get("end", {}).get("sum_received")
    if row.outcome == "done" and ("error" in report or not received):
        row.outcome, row.note = "failed", report.get("error", "iperf3 says nothing")
    elif received and received["seconds"] > 0:
        row.bytes, row.seconds = received["bytes"], received["seconds"]
    else:
        row.bytes = 0


def same(bench, work):
    """Whether everything is there. It was random, so equal sizes and ends mean something; the file is compared."""
    source, copy = bench.a / work.source, bench.destination
    if not work.names:
        return subprocess.run(["cmp", "-s", source, copy], check=False).returncode == 0
    return all((copy / name).stat().st_size == SMALL_BYTES for name in work.names) and \
        (copy / work.names[-1]).read_bytes() == (source / work.names[-1]).read_bytes()


def counters(row, path, down):
    """What netpath counted, in the direction of the content."""
    try:
        lanes = json.loads(path.read_text())["lanes"]
    except (OSError, ValueError, LookupError):
        row.note = (row.note + " netpath has no figures").strip()
        return
    content = next(lane for lane in lanes if lane["from"] == ("server" if down else "client"))
    row.lost, row.queue_drops = content["model"]["lost"], content["model"]["queue"]
    row.wire_bytes = content["delivered_bytes"]
    row.overruns = sum(lane["overruns"] + lane["undelivered"] for lane in lanes)
    row.late_ms = max(lane["latest_us"] for lane in lanes) / 1000
    row.slow = row.overruns > 0 or row.late_ms > LATE_MS


def last_line(path):
    try:
        return (path.read_text(errors="replace").strip().splitlines() or [""])[-1][:200]
    except OSError:
        return ""
