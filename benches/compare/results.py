"""Results: one row a run in a CSV file that is written as the runs end, with what is to be known of them above."""

import csv
import dataclasses
import statistics
from collections import namedtuple
from dataclasses import dataclass, fields
from datetime import datetime, timezone

# Mbit/s, ms, %.
Cell = namedtuple("Cell", "rate rtt loss")


@dataclass
class Row:
    """One run. Rates are in Mbit/s, times in seconds unless their names say otherwise."""

    rate: float
    rtt: float
    loss: float
    what: str
    tool: str
    round: int
    # done, stopped (at the time limit) or failed.
    outcome: str = "failed"
    # The emulator was too slow: the figure is not that of the path.
    slow: bool = False
    seconds: float = 0.0
    bytes: int = 0
    # Packets, in the direction of the content.
    lost: int = 0
    queue_drops: int = 0
    # IP packets that the link delivered, headers and repetitions included.
    wire_bytes: int = 0
    # Packets that the emulator lost, and how late it was at most.
    overruns: int = 0
    late_ms: float = 0.0
    note: str = ""
    date: str = dataclasses.field(default_factory=lambda: f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}")
    goodput_mbit: float = 0.0

    @property
    def cell(self):
        return Cell(self.rate, self.rtt, self.loss)

    @property
    def key(self):
        return (*self.cell, self.what, self.tool, self.round)

    @property
    def counts(self):
        """Whether it is one of those of which the median is taken."""
        return self.outcome != "failed" and not self.slow


class Results:
    """What is in the file. Lines that begin with # are `name: text`."""

    def __init__(self, path):
        self.path, self.facts, self.rows = path, [], []
        if path.exists():
            self._read()

    def say(self, name, text):
        """Adds a fact, unless it is there."""
        if (name, text) not in self.facts:
            self.facts.append((name, text))
        # In any case: the last line may be half a one.
        self._write()

    def add(self, row):
        row.goodput_mbit = row.bytes * 8e-6 / row.seconds if row.seconds > 0 else 0.0
        self.rows.append(row)
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells(row))

    def medians(self):
        """(cell, what, tool) to (fraction of the link's rate, whether any was stopped)."""
        runs = {}
        for row in self.rows:
            if row.counts:
                runs.setdefault((row.cell, row.what, row.tool), []).append(row)
        return {key: (statistics.median(row.goodput_mbit / row.rate for row in rows),
                      any(row.outcome == "stopped" for row in rows)) for key, rows in runs.items()}

    def _read(self):
        with self.path.open(newline="") as file:
            lines = file.read().splitlines()
        said = [line[2:].split(": ", 1) for line in lines if line.startswith("# ")]
        self.facts = [tuple(fact) for fact in said if len(fact) == 2]
        for found in csv.DictReader(line for line in lines if not line.startswith("#")):
            try:
                self.rows.append(Row(**{field.name: value(field.type, found[field.name]) for field in fields(Row)}))
            except (TypeError, ValueError):
                # The last line of a run that was killed.
                continue

    def _write(self):
        """All of it anew."""
        new = self.path.with_suffix(".new")
        with new.open("w", newline="") as file:
            file.writelines(f"# {name}: {text}\n" for name, text in self.facts)
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(field.name for field in fields(Row))
            writer.writerows(cells(row) for row in self.rows)
        new.replace(self.path)


def cells(row):
    return [text(getattr(row, field.name)) for field in fields(Row)]


def text(content):
    if isinstance(content, bool):
        return int(content)
    if isinstance(content, float):
        return f"{content:.3f}".rstrip("0").rstrip(".")
    return " ".join(content.split()) if isinstance(content, str) else content


def value(kind, content):
    return bool(int(content)) if kind is bool else kind(content)
