"""Draws ``rooms.svg``: the rooms of the project in their layers, and who imports whom.

    python docs/draw_rooms.py

Rooms and layers are those of import-linter's contract in ``pyproject.toml``, arrows are the imports that stand in the
code. What several rooms import runs together on its way down, like water into a river: one river for each room.
"""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import fmean as mean

import grimp

HERE = Path(__file__).parent
PICTURE = HERE / "rooms.svg"

WORDS = {
    "cli": "verbs of the command line",
    "screen": "progress in the terminal",
    "report": "one file a section",
    "study": "which stages, in order",
    "proposal": "the first recipe",
    "masks": "finds lesions",
    "preview": "filters, seen",
    "image_folders": "anyone's images",
    "finished": "after a run",
    "engines": "where stages run",
    "collect": "stages to results",
    "conclusions": "results to an answer",
    "stages": "the work, one file each",
    "arm": "what is compared",
    "openings": "who opened the test part",
    "registration": "said beforehand",
    "results": "what a study found, typed",
    "preprocessing": "filters",
    "sources": "layouts of data",
    "generators": "draw images",
    "selection": "rules",
    "balance": "treat imbalance",
    "classifiers": "tell classes apart",
    "evaluation": "arrays to numbers",
    "data": "catalog, pixels, split",
    "treatment": "how an arm trains",
    "features": "frozen networks",
    "backbones": "timm networks",
    "losses": "of masks",
    "epochs": "what they change",
    "devices": "",
    "randomness": "",
    "optimisers": "",
    "monitoring": "",
    "checkpoints": "",
    "sheets": "",
    "contracts": "what plug-ins promise",
    "recipe": "typed, checked",
    "recipe_tables": "its tables",
    "use": "of added images",
    "runs": "folders, locks, ids",
    "plugins": "found by file name",
    "errors": "what is wrong, where, what to do next",
}
"""A few words for each room; a room without any is an error."""
GROUND = 4
"""So many layers at the foot are drawn without arrows: nearly every room stands on them."""
PLUGINS = {"preprocessing", "sources", "generators", "selection", "balance", "classifiers"}
COLOURS = ("sea", "leaf", "clay", "plum")
"""Of the rivers that most rooms run into; the others are grey. ``HEAD`` has their shades on light and dark pages."""

WIDTH, ROW, BOX, GAP = 1100, 98, 48, 12
"""Pixels: of the picture, from row to row, height of a box, between boxes."""
MARGIN, TOP = 20, 24


@dataclass
class Node:
    """A room, or the place where the river to ``target`` passes a row; ``x`` is its middle, ``row`` counts from 0."""

    name: str
    row: int
    width: float
    target: str = ""
    x: float = 0.0
    above: list[tuple["Node", int]] = field(default_factory=list)
    below: list[tuple["Node", int]] = field(default_factory=list)


def layers() -> list[list[str]]:
    """The rooms from the top layer to the lowest, as in ``pyproject.toml``."""
    settings = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    assert contract["type"] == "layers"
    return [[name.removeprefix("moulage.") for name in re.split(r"\s*[|:]\s*", line)] for line in contract["layers"]]


def imports(rooms: Iterable[str]) -> Counter[tuple[str, str]]:
    """(room, another) -> how many imports of modules of the other stand in modules of the room."""
    graph = grimp.build_graph("moulage", exclude_type_checking_imports=True, cache_dir=None)
    room_of = {module: [*module.split("."), ""][1] for module in graph.modules}
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            pair = room_of[module], room_of[other]
            found[pair] += len(graph.get_import_details(importer=module, imported=other)) * (pair[0] != pair[1])
    known = set(rooms)
    return Counter({pair: number for pair, number in sorted(found.items()) if number and known.issuperset(pair)})


def rows_of(upper: Sequence[Sequence[str]], found: Counter[tuple[str, str]]) -> list[list[str]]:
    """The layers as rows; rooms of one layer that import each other stand in rows of their own."""
    rows: list[list[str]] = []
    for layer in upper:
        left = list(layer)
        while left:
            free = [room for room in left if not any((other, room) in found for other in left)]
            rows.append(free)
            left = [room for room in left if room not in free]
    return rows


def graph_of(rows: Sequence[Sequence[str]], found: Counter[tuple[str, str]]) -> list[list[Node]]:
    """Boxes and rivers, row by row, joined with what is above and below them."""
    row_of = {room: number for number, rooms in enumerate(rows) for room in rooms}
    grid = [[Node(room, number, box_width(room)) for room in rooms] for number, rooms in enumerate(rows)]
    boxes = {node.name: node for nodes in grid for node in nodes}
    for target, end in row_of.items():
        sources = [(room, n) for (room, to), n in found.items() if to == target and room in row_of]
        if not sources:
            continue
        first = min(row_of[room] for room, _ in sources)
        flow = {end: boxes[target]}
        for row in range(first + 1, end):
            flow[row] = Node("", row, 8, target)
            grid[row].append(flow[row])
        amount = 0
        for row in range(first, end):
            if row in flow:
                join(flow[row], flow[row + 1], amount)
            for room, number in sources:
                if row_of[room] == row:
                    join(boxes[room], flow[row + 1], number)
                    amount += number
    return grid


def join(upper: Node, lower: Node, number: int) -> None:
    """An arrow of so many imports from a row to the next."""
    upper.below.append((lower, number))
    lower.above.append((upper, number))


def box_width(room: str) -> float:
    """Pixels that the words of a room take, as far as one can tell without the font."""
    return max(90.0, 9.0 * len(room) + 22, 6.4 * len(WORDS[room]) + 22)


def arrange(grid: list[list[Node]]) -> None:
    """Order each row so that few arrows cross, then move what is joined together near each other."""
    for nodes in grid:
        spread(nodes, [WIDTH * (place + 0.5) / len(nodes) for place in range(len(nodes))])
    best, kept = math.inf, [list(nodes) for nodes in grid]
    for sweep in range(40):
        down = sweep % 2 == 0
        for nodes in grid if down else reversed(grid):
            wanted = {id(node): middle(node.above if down else node.below, node) for node in nodes}
            nodes.sort(key=lambda node: (wanted[id(node)], node.name, node.target))
            spread(nodes, [wanted[id(node)] for node in nodes])
        if (number := crossings(grid)) < best:
            best, kept = number, [list(nodes) for nodes in grid]
    for nodes, order in zip(grid, kept, strict=True):
        nodes[:] = order
        spread(nodes, [WIDTH * (place + 0.5) / len(nodes) for place in range(len(nodes))])
    for _ in range(60):
        for nodes in grid:
            spread(nodes, [middle(node.above + node.below, node) for node in nodes])


def middle(joined: Sequence[tuple[Node, int]], of: Node) -> float:
    """Where the arrows of a node come from, or go to; a river counts more for a river, so that it runs straight.

    How many imports an arrow stands for does not count: one more of them is to leave the picture as it is.
    """
    pull = [(1 if node.name or of.name else 8, node.x) for node, _ in joined]
    total = sum(force for force, _ in pull)
    return sum(force * x for force, x in pull) / total if pull else of.x


def spread(nodes: Sequence[Node], wanted: Sequence[float]) -> None:
    """Place a row as near as can be to where its nodes want to be, in order and without touching.

    Least squares: without the widths before them, places may not fall; neighbours that would share their mean.
    """
    before = [0.0]
    for left, right in pairwise(nodes):
        before.append(before[-1] + (left.width + right.width) / 2 + GAP)
    shared: list[list[float]] = []
    for x, offset in zip(wanted, before, strict=True):
        shared.append([x - offset])
        while len(shared) > 1 and mean(shared[-2]) > mean(shared[-1]):
            shared[-2:] = [shared[-2] + shared[-1]]
    low, high = MARGIN + nodes[0].width / 2, WIDTH - MARGIN - nodes[-1].width / 2 - before[-1]
    assert low <= high, f"{[node.name for node in nodes]} do not go into {WIDTH} pixels"
    placed = [min(max(mean(values), low), high) for values in shared for _ in values]
    for node, x, offset in zip(nodes, placed, before, strict=True):
        node.x = x + offset


def crossings(grid: Sequence[Sequence[Node]]) -> int:
    """How often arrows cross each other."""
    number = 0
    for nodes, lower in pairwise(grid):
        place = {id(node): index for index, node in enumerate(lower)}
        ends = [(index, place[id(to)]) for index, node in enumerate(nodes) for to, _ in node.below]
        number += sum(a < c and b > d for a, b in ends for c, d in ends)
    return number


def draw() -> str:
    """The picture as SVG."""
    every = layers()
    found = imports(room for layer in every for room in layer)
    upper, ground = every[:-GROUND], every[-GROUND:]
    grid = graph_of(rows_of(upper, found), found)
    arrange(grid)
    reached = Counter(to for _, to in found if to not in {room for layer in ground for room in layer})
    most = sorted(reached, key=lambda room: (-reached[room], room))[: len(COLOURS)]
    colour = dict(zip(most, COLOURS, strict=True))
    body = sorted((path for nodes in grid for node in nodes for path in arrows(node, colour)), key=is_coloured)
    body += [box(node, colour.get(node.name, "")) for nodes in grid for node in nodes if node.name]
    foot = TOP + len(grid) * ROW - 6
    body += [floor(ground, foot)]
    height = foot + GROUND * 40 + 44
    shades = "\n".join(
        f"path.{name}, rect.{name} {{ stroke: var(--{name}); }} path.head.{name} {{ fill: var(--{name}); }}"
        for name in (*COLOURS, "grey")
    )
    return "\n".join([HEAD.format(width=WIDTH, height=height, colours=shades), *body, "</svg>\n"])


def arrows(node: Node, colour: dict[str, str]) -> list[str]:
    """The arrows that leave a node for the next row, rivers down to the foot of it."""
    found = []
    for to, number in sorted(node.below, key=lambda joined: joined[0].x):
        start, end = TOP + node.row * ROW + BOX, TOP + to.row * ROW - 6 * bool(to.name)
        half, further = (start + end) / 2, "" if to.name else f"v{BOX}"
        shade, width = colour.get(to.name or to.target, "grey"), 1.2 + math.ceil(math.log2(number))
        found.append(
            f'<path class="{shade}" stroke-width="{width:.1f}" '
            f'd="M{node.x:.0f} {start}C{node.x:.0f} {half:.0f} {to.x:.0f} {half:.0f} {to.x:.0f} {end}{further}"/>'
        )
    return found


def is_coloured(path: str) -> bool:
    """Whether an arrow is drawn above the grey ones."""
    return 'class="grey"' not in path


def box(node: Node, colour: str) -> str:
    """A room."""
    left, top = node.x - node.width / 2, TOP + node.row * ROW
    kind = "plug" if node.name in PLUGINS else f"room {colour}".strip()
    head = f'<path class="head {colour or "grey"}" d="M{node.x - 6:.0f} {top - 9}h12l-6 9z"/>' if node.above else ""
    return (
        f'<g>{head}<rect class="{kind}" x="{left:.0f}" y="{top}" width="{node.width:.0f}" height="{BOX}" rx="7"/>'
        f'<text class="name" x="{node.x:.0f}" y="{top + 20}">{node.name}</text>'
        f'<text class="words" x="{node.x:.0f}" y="{top + 38}">{escape(WORDS[node.name])}</text></g>'
    )


def floor(ground: Sequence[Sequence[str]], top: int) -> str:
    """The layers that everything stands on."""
    inner, step = WIDTH - 2 * MARGIN, 40
    lines = [f'<rect class="floor" x="{MARGIN}" y="{top}" width="{inner}" height="{len(ground) * step}" rx="9"/>']
    for row, rooms in enumerate(ground):
        if row:
            lines.append(f'<path class="grey" stroke-width="0.6" d="M{MARGIN} {top + row * step}h{inner}"/>')
        for place, room in enumerate(rooms):
            words = f'<tspan class="words" dx="8">{escape(WORDS[room])}</tspan>' if WORDS[room] else ""
            x, y = MARGIN + (place + 0.5) * inner / len(rooms), top + row * step + 25
            lines.append(f'<text class="name" x="{x:.0f}" y="{y}">{room}{words}</text>')
    y = top + len(ground) * step + 26
    lines.append(f'<text class="words" x="{WIDTH / 2:.0f}" y="{y}">{LEGEND}</text>')
    return "\n".join(lines)


LEGEND = (
    "An arrow is imports, the more the wider; nothing points upward. Dashed: plug-ins, found by file name. "
    "Everything may stand on the four layers at the foot."
)
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" \
role="img" aria-label="The rooms of moulage in their layers; imports run downward only">
<style>
:root {{ --paper: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #afb8c1; --floor: #f3f5f7;
  --grey: #c5cbd2; --sea: #639dd3; --leaf: #65ae7f; --clay: #e19a58; --plum: #ae7fc4; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #161b22; --ink: #e6edf3; --soft: #9198a1; --line: #444c56;
  --floor: #12171d; --grey: #4b545e; --sea: #4b86bd; --leaf: #4b9b68; --clay: #b97f43; --plum: #9a73ae; }} }}
text {{ text-anchor: middle; }}
.name {{ font: 600 15px ui-monospace, "DejaVu Sans Mono", monospace; fill: var(--ink); }}
.words {{ font: 400 12.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft); }}
rect {{ fill: var(--paper); stroke: var(--line); stroke-width: 1.2; }}
rect.floor {{ fill: var(--floor); }}
rect.plug {{ stroke-dasharray: 5 3; }}
path {{ fill: none; stroke-linecap: round; }}
path.head {{ stroke: none; }}
{colours}
</style>"""

if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
