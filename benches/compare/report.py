"""The report: what was measured where, where metra loses, ratios, and the tables."""

import statistics

TITLES = {"large": "One large file", "small": "Many small files"}
# Closer than this is no difference: runs of the same thing differ by as much.
ALIKE = 0.05


def write(results, tools, plots, out):
    medians = results.medians()
    present = {tool for _, _, tool in medians}
    shown = [tool for tool in tools if tool.name in present]
    lines = ["# metra and others over the same paths", "",
             "Written by `benches/paths` from [paths.csv](paths.csv), never by hand; [how to read it]"
             "(../../benches/README.md#paths).", ""]
    lines += [*head(results, shown), *losses(medians, shown), *ratios(medians, shown)]
    for what in ("large", "small"):
        if any(kind == what for _, kind, _ in medians):
            lines += section(what, medians, shown, [plot for plot in plots if f"-{what}-" in plot.name])
    lines += remarks(results)
    (out / "paths.md").write_text("\n".join(lines).rstrip() + "\n")


def head(results, shown):
    dates = sorted(row.date for row in results.rows)
    rounds = max(row.round for row in results.rows)
    lines = ["| | |", "|---|---|", f"| date | {' to '.join(dict.fromkeys((dates[0], dates[-1])))} (UTC) |"]
    for name, text in results.facts:
        if name != "skipped":
            lines.append(f"| {name} | {f'`{text}`' if name == 'command' else text} |")
    lines += [f"| rounds | {rounds} |", "",
              "**Absolute figures are those of this one machine**, which runs both programs and the emulated path. Only "
              "ratios are worth comparing, and only within this report: everything in it went over the same paths, one tool "
              "after the other.", "", "| Name | What it is |", "|---|---|"]
    return [*lines, *(f"| {tool.name} | {tool.says} |" for tool in shown), ""]


def compared(medians, tool):
    """(what, cell) to metra's median by that of the tool."""
    pairs = {}
    for (cell, what, name), (fraction, _) in medians.items():
        ours = medians.get((cell, what, "metra"))
        if name == tool and ours and fraction > 0:
            pairs[(what, cell)] = ours[0] / fraction
    return pairs


def losses(medians, shown):
    """Where metra is slower, said first."""
    lines = ["## Where metra is slower", ""]
    found = []
    for tool in shown:
        if tool.name == "metra":
            continue
        for (what, cell), ratio in compared(medians, tool.name).items():
            if ratio < 1 - ALIKE:
                found.append((what, cell, tool.name, ratio))
    if "metra" not in {tool.name for tool in shown}:
        return [*lines, "metra was not among what was run.", ""]
    if not found:
        return [*lines, f"Nowhere in what was run, by more than {ALIKE:.0%}.", ""]
    lines += [f"By more than {ALIKE:.0%}; in brackets, metra's goodput by that of the other.", ""]
    for what, cell in sorted({(what, cell) for what, cell, _, _ in found}):
        faster = sorted((ratio, name) for w, c, name, ratio in found if (w, c) == (what, cell))
        lines.append(f"- {TITLES[what]}, {path(cell)}: " + ", ".join(f"{name} ({times(ratio)})" for ratio, name in faster))
    return [*lines, ""]


def ratios(medians, shown):
    lines = ["## Ratios", "", "metra's goodput by that of the other, over all paths that were run with both.", "",
             "| | paths | metra faster | alike | metra slower | smallest | median | largest |",
             "|---|---|---|---|---|---|---|---|"]
    for tool in shown:
        for what in ("large", "small"):
            pairs = [ratio for (w, _), ratio in compared(medians, tool.name).items() if w == what]
            if tool.name == "metra" or not pairs:
                continue
            faster, slower = (sum(ratio > 1 + ALIKE for ratio in pairs), sum(ratio < 1 - ALIKE for ratio in pairs))
            lines.append(f"| {tool.name}, {what} | {len(pairs)} | {faster} | {len(pairs) - faster - slower} | {slower} | "
                         f"{times(min(pairs))} | {times(statistics.median(pairs))} | {times(max(pairs))} |")
    return [*lines, ""]


def section(what, medians, shown, plots):
    shown = [tool for tool in shown if any((kind, name) == (what, tool.name) for _, kind, name in medians)]
    cells = sorted({cell for cell, kind, _ in medians if kind == what})
    lines = [f"## {TITLES[what]}", ""]
    lines += [f"![goodput by loss]({plot.name})" for plot in plots]
    lines += ["", "Medians of the goodput, in % of the link's rate. *: stopped at the time limit; what had arrived by then "
              "counts, written or not. The rate is that of IP packets: headers keep some 4 % of it from everybody.", ""]
    lines += table(cells, shown, lambda cell, tool: percent(medians.get((cell, what, tool.name))))
    others = [tool for tool in shown if tool.name != "metra"]
    if len(others) < len(shown):
        lines += ["", "metra's goodput by that of the other:", ""]
        pairs = {tool.name: compared(medians, tool.name) for tool in others}
        lines += table(cells, others, lambda cell, tool: times(pairs[tool.name].get((what, cell))))
    return [*lines, ""]


def table(cells, tools, content):
    lines = ["| Mbit/s | RTT | loss | " + " | ".join(tool.name for tool in tools) + " |", "|---" * (len(tools) + 3) + "|"]
    for cell in cells:
        row = " | ".join(content(cell, tool) for tool in tools)
        lines.append(f"| {cell.rate:g} | {cell.rtt:g} ms | {cell.loss:g} % | {row} |")
    return lines


def remarks(results):
    lines = ["## What does not count", ""]
    skipped = [text for name, text in results.facts if name == "skipped"]
    slow = [row for row in results.rows if row.slow and row.outcome != "failed"]
    failed = [row for row in results.rows if row.outcome == "failed"]
    lines += [f"- Skipped: {text}" for text in skipped]
    if slow:
        lines.append(f"- {len(slow)} of {len(results.rows)} runs are not in the medians, because the emulator was too slow: "
                     "it lost packets itself, or was late by more than 10 ms. They are marked `slow` in paths.csv: "
                     + where(slow) + ".")
    if failed:
        lines.append(f"- {len(failed)} runs failed: " + where(failed) + ". The reasons are in paths.csv.")
    medians = results.medians()
    empty = sorted({(row.cell, row.what, row.tool) for row in results.rows} - set(medians))
    lines += [f"- No figure at all: {TITLES[what]}, {path(cell)}, {tool}" for cell, what, tool in empty]
    return lines if len(lines) > 2 else [*lines, "Nothing was skipped, failed or left out."]


def where(rows):
    counted = {}
    for row in rows:
        key = f"{row.tool} ({row.what}, {path(row.cell)})"
        counted[key] = counted.get(key, 0) + 1
    return ", ".join(f"{key}{f' {count} times' if count > 1 else ''}" for key, count in counted.items())


def path(cell):
    return f"{cell.rate:g} Mbit/s, {cell.rtt:g} ms, {cell.loss:g} %"


def percent(found):
    if found is None:
        return "-"
    fraction, stopped = found
    return f"{fraction * 100:.{0 if fraction >= 0.1 else 1 if fraction >= 0.01 else 2}f}{'*' if stopped else ''}"


def times(ratio):
    if ratio is None:
        return "-"
    return f"{ratio:.{0 if ratio >= 20 else 1 if ratio >= 5 else 2}f}"
