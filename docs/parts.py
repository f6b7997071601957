"""Draws docs/parts.svg of docs/parts.txt, which says how its lines look: python3 docs/parts.py > docs/parts.svg"""

import re
import sys
from html import escape
from pathlib import Path

# Light, and dark. The picture has its own background, so it can be read on any page.
STYLE = """
text { font: 15px sans-serif; fill: #1b2733; text-anchor: middle }
.small { font-size: 12px; fill: #4a5a6a }
.page { fill: #ffffff }
.group { fill: #eef3f8; stroke: #9fb3c8 }
.box { fill: #ffffff; stroke: #38618c; stroke-width: 1.5 }
.arrow { fill: none; stroke: #38618c; stroke-width: 1.5 }
.dashed { stroke-dasharray: 5 4 }
.head { fill: #38618c }
.label { font-size: 12px; stroke: #ffffff; stroke-width: 4; stroke-linejoin: round; paint-order: stroke }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #b1bfcc }
  .page { fill: #12181f }
  .group { fill: #1b2530; stroke: #4d6580 }
  .box { fill: #243240; stroke: #8ab4e0 }
  .arrow { stroke: #8ab4e0 }
  .head { fill: #8ab4e0 }
  .label { stroke: #12181f }
}
"""

AREA = re.compile(r"(group|box) (\w+) (\d+) (\d+) (\d+) (\d+): (.+)")
ARROW = re.compile(r"arrow (\w+) (left|right|top|bottom)(?: (\d+))? (\w+) (left|right|top|bottom)(?: (\d+))?( dashed)?:(?: ~ (-?\d+) (-?\d+))?(.*)")
SIZE = re.compile(r"size (\d+) (\d+): (.+)")


def text(kind, x, y, words):
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def area(kind, x, y, width, height, words):
    """A group has its title at its foot. The lines of a box are in its middle."""
    drawn = [f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>']
    middle = x + width / 2
    if kind == "group":
        return [*drawn, text("title", middle, y + height - 13, words)]
    title, *more = words.split(" | ")
    first = y + height / 2 + 5 - 9 * len(more)
    drawn.append(text("title", middle, first, title))
    return drawn + [text("small", middle, first + 18 * at, line) for at, line in enumerate(more, 1)]


def point(x, y, width, height, side, percent):
    part = int(percent or 50) / 100
    across, down = {"left": (0, part), "right": (1, part), "top": (part, 0), "bottom": (part, 1)}[side]
    return x + width * across, y + height * down


def arrow(start, end, dashed, shift, words):
    (x1, y1), (x2, y2) = start, end
    kind = "arrow dashed" if dashed else "arrow"
    drawn = [f'<path class="{kind}" d="M{x1:g} {y1:g} L{x2:g} {y2:g}" marker-end="url(#head)"/>']
    if words:
        drawn.append(text("label", (x1 + x2) / 2 + shift[0], (y1 + y2) / 2 + 4 + shift[1], words))
    return drawn


def draw(source):
    """The lines of the picture. Areas come first, so that an arrow is over them."""
    areas, below, above, size = {}, [], [], None
    for number, line in enumerate(source.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if found := SIZE.fullmatch(line):
            size = found.groups()
        elif found := AREA.fullmatch(line):
            kind, name, *place, words = found.groups()
            areas[name] = [int(number) for number in place]
            drawn = area(kind, *areas[name], words)
            below = drawn + below if kind == "group" else below + drawn
        elif (found := ARROW.fullmatch(line)) and {found[1], found[4]} <= areas.keys():
            start, end = point(*areas[found[1]], found[2], found[3]), point(*areas[found[4]], found[5], found[6])
            above += arrow(start, end, found[7], (int(found[8] or 0), int(found[9] or 0)), found[10].strip())
        else:
            sys.exit(f"parts.txt:{number}: is not a line of a picture, or names a part that no line above has: {line}")
    width, height, about = size or sys.exit("parts.txt: has no line `size`")
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"<title>{escape(about)}</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        f'<rect class="page" width="{width}" height="{height}" rx="12"/>',
        *below,
        *above,
        "</svg>",
    ]


if __name__ == "__main__":
    print("\n".join(draw(Path(__file__).with_name("parts.txt").read_text(encoding="utf-8"))))
