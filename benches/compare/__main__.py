"""Compares metra with what a user would pick instead, over emulated paths (see benches/README.md).

Every tool in turn over the same path, cell after cell, round after round. A path has a rate, a round-trip time and a
loss; its queue is one bandwidth-delay product long. Results are added to paths.csv as they come; tables and plots are made
from that file at the end. Needs root, TUN, python3 and what is compared, which is installed where that is possible.
"""

import argparse
import fnmatch
import itertools
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import machine
import plot
import report
from measure import measure
from results import Cell, Results
from tools import SMALL_BYTES, Bench, Work, tools

RATES, RTTS, LOSSES = (100, 1000), (10, 50, 120, 200), (0, 0.1, 0.5, 1, 2, 5)
SMALL_FILES = 10_000
QUICK_CELLS = ["100/50/0", "100/50/0.5", "100/50/2", "100/120/0", "100/120/0.5", "100/120/2", "1000/50/0", "1000/50/0.5"]
# What a run takes besides: the network, the server, comparing.
AROUND = 2


def main():
    options = arguments()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "paths.csv"
    if not options.report:
        plan = list(planned(options))
        at_most = int(sum((options.limit + AROUND) / at_once(options, cell) for _, cell, _, _ in plan))
        say(f"{len(plan)} runs, at most {at_most // 3600} h {at_most % 3600 // 60} min")
        if options.plan:
            return
        run(options, plan, path)
    results = Results(path)
    if not results.rows:
        sys.exit(f"{path} has no results")
    plots = plot.write(results, tools(), out)
    report.write(results, tools(), plots, out)
    say(f"written: {out}/paths.md, {', '.join(plot.name for plot in plots)}")


def arguments():
    names = [tool.name for tool in tools()]
    parser = argparse.ArgumentParser(prog="benches/paths", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__)
    add = parser.add_argument
    grid = " x ".join(",".join(map(str, list_)) for list_ in (RATES, RTTS, LOSSES))
    add("--cells", action="append", metavar="CELL,...", help="which paths, as RATE/RTT/LOSS in Mbit/s, ms and %%; each may "
        f"be *, as in 100/*/0.5 (default: {grid})")
    add("--what", metavar="KIND,...", help="large, small (default: both)")
    add("--tools", metavar="TOOL,...", help=f"of: {', '.join(names)} (default: all)")
    add("--rounds", type=int, metavar="N", help="of everything; the medians are reported (default 3)")
    add("--seconds", type=int, metavar="N", help="how long the large file takes at the link's rate (default 10)")
    add("--files", type=int, metavar="N", help=f"small files, of {SMALL_BYTES} bytes (default {SMALL_FILES})")
    add("--limit", type=int, metavar="SECONDS", help="after which a run is stopped; what has arrived by then counts "
        "(default 60)")
    add("--at-once", type=int, default=0, metavar="MBIT", help="try several paths at the same time, as long as their rates "
        "add up to no more than this (default: one after the other)")
    add("--again", type=int, default=1, metavar="N", help="how often a run is tried again that failed, or for which the "
        "emulator was too slow (default %(default)s)")
    add("--tcp", default="cubic", metavar="NAME", help="congestion control of all that uses kernel TCP, but iperf3 "
        "(default %(default)s, Linux's own default)")
    add("--quick", action="store_true", help=f"--cells {','.join(QUICK_CELLS)} --what large --rounds 1 --seconds 5 "
        "--limit 12, where nothing else is said; under 20 minutes")
    add("--resume", action="store_true", help="go on with the paths.csv that is there; give the same options again")
    add("--report", action="store_true", help="only make tables and plots from the paths.csv that is there")
    add("--plan", action="store_true", help="only say how long it would take")
    add("--out", default="docs/benchmarks", metavar="DIR", help="where paths.csv, paths.md and paths-*.svg are "
        "(default %(default)s)")
    add("--dir", metavar="DIR", help="where the data is while it runs (default: /dev/shm, which is memory, if there is "
        "room)")
    add("--no-build", dest="build", action="store_false", help="take metra and netpath from target/release as they are")
    options = parser.parse_args()

    quick = options.quick
    defaults = (("rounds", 3, 1), ("seconds", 10, 5), ("files", SMALL_FILES, SMALL_FILES), ("limit", 60, 12))
    for name, usual, short in defaults:
        if getattr(options, name) is None:
            setattr(options, name, short if quick else usual)
        if getattr(options, name) < 1:
            parser.error(f"--{name} is at least 1")
    options.kinds = words(options.what) or (["large"] if quick else ["large", "small"])
    chosen = words(options.tools) or names
    for name, known in [(kind, ("large", "small")) for kind in options.kinds] + [(tool, names) for tool in chosen]:
        if name not in known:
            parser.error(f"{name} is not one of {', '.join(known)}")
    options.compared = [tool for tool in tools() if tool.name in chosen]
    patterns = [cell for list_ in options.cells or [] for cell in words(list_)] or (QUICK_CELLS if quick else ["*/*/*"])
    try:
        options.paths = cells(patterns)
    except ValueError as error:
        parser.error(str(error))
    return options


def words(list_):
    return [word for word in (list_ or "").split(",") if word]


def cells(patterns):
    """The paths that match; one without * need not be in the grid."""
    grid = [Cell(*map(float, cell)) for cell in itertools.product(RATES, RTTS, LOSSES)]
    found = set()
    for pattern in patterns:
        matching = [cell for cell in grid if fnmatch.fnmatch("/".join(f"{part:g}" for part in cell), pattern)]
        if not matching:
            try:
                matching = [Cell(*map(float, pattern.split("/")))]
            except (TypeError, ValueError):
                raise ValueError(f"{pattern} is no RATE/RTT/LOSS, and matches none") from None
        found.update(matching)
    return sorted(found)


def at_once(options, cell):
    """How many paths like this one are tried at the same time."""
    return max(1, int(options.at_once / cell.rate))


def planned(options):
    """What is to be run, in order. In each round another tool is first: none is always after the same one."""
    for number in range(1, options.rounds + 1):
        for cell, kind in itertools.product(options.paths, options.kinds):
            compared = [tool for tool in options.compared if kind in tool.kinds]
            start = (number - 1) * 3 % max(len(compared), 1)
            for tool in compared[start:] + compared[:start]:
                yield number, cell, kind, tool


def run(options, plan, path):
    if machine.os.geteuid():
        sys.exit("benches/paths: netpath needs root")
    needs = {name for tool in options.compared for name in tool.needs} | {"ip"}
    machine.install(sorted(needs), say)
    try:
        metra, netpath = machine.binaries(options.build)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"benches/paths: {error}")
    for binary in (metra, netpath):
        if not binary.exists():
            sys.exit(f"benches/paths: {binary} is not there")

    if path.exists() and not options.resume:
        # A run may have taken hours: it is set aside, not overwritten.
        aside = machine.REPOSITORY / "target/bench"
        aside.mkdir(parents=True, exist_ok=True)
        shutil.move(path, aside / f"paths-until-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}.csv")
    buffers = tcp_buffers(netpath)
    results = Results(path)
    results.say("command", shlex.join(["benches/paths", *sys.argv[1:]]))
    for name, text in machine.facts(metra, options.build, used(options)).items():
        results.say(name, text)
    results.say("settings", f"large file of {options.seconds} s at the link's rate; {options.files} small files of "
                f"{SMALL_BYTES} bytes; stopped after {options.limit} s; what uses kernel TCP: "
                f"{options.tcp}, {buffers}; queue: one bandwidth-delay product, at least 100 packets")
    skipped = {tool.name: tool.missing() for tool in options.compared if tool.missing()}
    for name, why in skipped.items():
        say(f"SKIP {name}: {why}")
        results.say("skipped", f"{name}: {why}")

    tries = {}
    for row in results.rows:
        tries[row.key] = options.again + 1 if row.counts else tries.get(row.key, 0) + 1
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="metra-paths.", dir=place(options)) as folder:
        Path(folder).chmod(0o755)
        data = Path(folder, "data")
        works = make_data(data, options)
        benches = [Bench(Path(folder, str(i)), metra, data)
                   for i in range(max(at_once(options, cell) for cell in options.paths))]
        stop, adding, count = threading.Event(), threading.Lock(), itertools.count(1)

        def one_path(runs):
            """All tools in turn, in a bench that nobody else uses meanwhile."""
            with adding:
                bench = benches.pop()
            for number, cell, kind, tool in runs:
                work = works["small" if kind == "small" else cell.rate]
                key = (*cell, kind, tool.name, number)
                done = next(count)
                while tool.name not in skipped and tries.get(key, 0) <= options.again and not stop.is_set():
                    row = measure(bench, netpath, cell, tool, work, options, number)
                    slow = f"the emulator was too slow ({row.overruns} lost, {row.late_ms:.0f} ms late)" if row.slow else ""
                    with adding:
                        results.add(row)
                    tries[key] = options.again + 1 if row.counts else tries.get(key, 0) + 1
                    figures = f"{row.outcome}, {row.seconds:.2f} s, {row.goodput_mbit:.1f} Mbit/s"
                    say(f"[{done}/{len(plan)}] {cell.rate:g}/{cell.rtt:g}/{cell.loss:g} {kind} {tool.name}: "
                        + " - ".join(filter(None, [figures, slow, row.note])))
            with adding:
                benches.append(bench)

        for _, same in itertools.groupby(plan, lambda run: (run[0], run[1].rate)):
            same = list(same)
            paths = [list(runs) for _, runs in itertools.groupby(same, lambda run: run[:3])]
            with ThreadPoolExecutor(at_once(options, same[0][1])) as workers:
                try:
                    list(workers.map(one_path, paths))
                except BaseException:
                    stop.set()
                    raise


def tcp_buffers(netpath):
    """What TCP may use in the hosts that netpath makes; and whether it can make them."""
    files = ["/proc/sys/net/ipv4/tcp_rmem", "/proc/sys/net/ipv4/tcp_wmem"]
    done = subprocess.run([str(netpath), "--", "cat", *files], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"benches/paths: {done.stderr.strip()}")
    receive, send = (int(line.split()[-1]) >> 20 for line in done.stdout.splitlines())
    return f"with buffers up to {receive} MiB to receive and {send} MiB to send"


def used(options):
    ssh = ["ssh"] if any("ssh" in tool.needs for tool in options.compared) else []
    return ssh + sorted({name for tool in options.compared for name in tool.needs} - {"ssh"})


def needed_mib(options):
    """The sources, one copy, and what a program may use itself."""
    large = [cell.rate * options.seconds / 8 for cell in options.paths]
    small = options.files * SMALL_BYTES / 1e6
    return int(sum(set(large)) + small + max(*large, small) + 1024)


def place(options):
    needed = needed_mib(options)
    for folder in [options.dir] if options.dir else ["/dev/shm", tempfile.gettempdir()]:
        if Path(folder).is_dir() and machine.free_mib(folder) > needed:
            return folder
        say(f"{folder}: no room for {needed} MiB")
    return sys.exit("benches/paths: no room for the data; --dir says where else it may be")


def make_data(folder, options):
    """Random content: nothing can be compressed, or is there already."""
    say(f"making data in {folder}")
    folder.mkdir()
    works = {}
    with open("/dev/urandom", "rb") as noise:
        for rate in sorted({cell.rate for cell in options.paths}) if "large" in options.kinds else []:
            size, name = int(rate * 125_000 * options.seconds), f"large-{rate:g}"
            with open(folder / name, "wb") as file:
                for offset in range(0, size, 1 << 20):
                    file.write(noise.read(min(1 << 20, size - offset)))
            works[rate] = Work("large", name, size)
        if "small" in options.kinds:
            names = [f"{i // 1000:04}/{i % 1000:03}" for i in range(options.files)]
            for name in names:
                file = folder / "small" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(noise.read(SMALL_BYTES))
            works["small"] = Work("small", "small", options.files * SMALL_BYTES, names)
    return works


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
