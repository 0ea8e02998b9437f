"""The plots: one SVG file for each kind of content and rate; a panel a round-trip time, a line a tool."""

import math
from xml.sax.saxutils import escape

# Colour and dashes of a tool; those of one family share a colour (Okabe and Ito's, which everybody can tell apart).
STYLES = {
    "metra": ("#000000", ""), "metra-cubic": ("#000000", "2 3"), "metra-bbr": ("#000000", "8 4"),
    "scp": ("#e69f00", ""), "rsync": ("#d55e00", ""), "rclone": ("#cc79a7", ""),
    "curl-h1": ("#009e73", ""), "curl-h2": ("#009e73", "8 4"),
    "tcp-cubic": ("#0072b2", ""), "tcp-bbr": ("#0072b2", "8 4"),
}
WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP, LEGEND = 960, 260, 56, 56, 44, 72
# The axis of the fraction: logarithmic, so that equal distances are equal ratios.
LOWEST, HIGHEST = 0.001, 1.0


def write(results, tools, out):
    """Draws what there are results for. The paths of the files."""
    medians = results.medians()
    for old in out.glob("paths-*.svg"):
        old.unlink()
    written = []
    for what in ("large", "small"):
        for rate in sorted({cell.rate for cell, kind, _ in medians if kind == what}):
            path = out / f"paths-{what}-{rate:g}.svg"
            found = {(cell.rtt, cell.loss, tool): fraction for (cell, kind, tool), (fraction, _) in medians.items()
                     if kind == what and cell.rate == rate}
            content = "one large file" if what == "large" else "many small files"
            path.write_text(draw(f"{rate:g} Mbit/s, {content}", found, [tool.name for tool in tools]))
            written.append(path)
    return written


def draw(title, found, names):
    rtts, losses = (sorted({key[i] for key in found}) for i in (0, 1))
    names = [name for name in names if any(key[2] == name for key in found)]
    columns = min(2, len(rtts))
    rows = math.ceil(len(rtts) / columns)
    height = TOP + rows * (PANEL_HEIGHT + GAP) + LEGEND
    width = (WIDTH - LEFT - 16 - GAP * (columns - 1)) / columns
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        text(LEFT, 22, f"{title}: goodput as a fraction of the link's rate (logarithmic), by loss", size=15),
    ]
    for i, rtt in enumerate(rtts):
        left, top = LEFT + i % columns * (width + GAP), TOP + i // columns * (PANEL_HEIGHT + GAP)
        shapes += panel(left, top, width, f"round trip {rtt:g} ms", losses,
                        {name: [(loss, found.get((rtt, loss, name))) for loss in losses] for name in names})
    shapes += legend(names, height - LEGEND + 16)
    return "\n".join([*shapes, "</svg>"]) + "\n"


def panel(left, top, width, title, losses, lines):
    def x(loss):
        # One place each, evenly: there is a zero among them.
        return left + width * (losses.index(loss) + 0.5) / len(losses)

    def y(fraction):
        share = math.log(max(fraction, LOWEST) / LOWEST) / math.log(HIGHEST / LOWEST)
        return top + PANEL_HEIGHT * (1 - min(share, 1.0))

    shapes = [text(left, top - 8, title, weight="bold"),
              f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{PANEL_HEIGHT}" fill="none" stroke="#999999"/>']
    for fraction in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        place = y(fraction)
        shapes.append(f'<line x1="{left:.1f}" x2="{left + width:.1f}" y1="{place:.1f}" y2="{place:.1f}" stroke="#e4e4e4"/>')
        shapes.append(text(left - 6, place + 4, f"{fraction * 100:g} %", anchor="end", size=10))
    for loss in losses:
        shapes.append(text(x(loss), top + PANEL_HEIGHT + 16, f"{loss:g} %", anchor="middle", size=11))
    # The first ones last: on top.
    for name, points in reversed(list(lines.items())):
        colour, dashes = STYLES.get(name, ("#777777", ""))
        places = [(x(loss), y(fraction)) for loss, fraction in points if fraction is not None]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        thick = 2.6 if name == "metra" else 1.6
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}" '
                      f'stroke-dasharray="{dashes or "none"}"><title>{escape(name)}</title></polyline>')
        shapes += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{thick + 0.8:.1f}" fill="{"#ffffff" if dashes else colour}" '
                   f'stroke="{colour}"/>' for a, b in places]
    return shapes


def legend(names, top):
    shapes = []
    for i, name in enumerate(names):
        colour, dashes = STYLES.get(name, ("#777777", ""))
        left, place = LEFT + i % 5 * 178, top + i // 5 * 24
        shapes.append(f'<line x1="{left}" x2="{left + 34}" y1="{place}" y2="{place}" stroke="{colour}" '
                      f'stroke-width="{2.6 if name == "metra" else 1.6}" stroke-dasharray="{dashes or "none"}"/>')
        shapes.append(f'<circle cx="{left + 17}" cy="{place}" r="2.8" fill="{"#ffffff" if dashes else colour}" '
                      f'stroke="{colour}"/>')
        shapes.append(text(left + 42, place + 4, name))
    return shapes


def text(x, y, content, anchor="start", size=12, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
            f'fill="#222222">{escape(content)}</text>')
