# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A picture of a workflow's stages: drawn here as SVG, by Graphviz in its other formats."""

import html
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from parti.workflow import scheduler

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 132, 34, 24, 40, 16


def write(path: pathlib.Path, dot: str) -> None:
    """Writes the graph that `snakemake --rulegraph` gave.

    Args:
      path: ends in .svg, .dot, or (with Graphviz installed) .png or .pdf.
      dot: the graph in Graphviz's language.

    Raises:
      ValueError: another ending, or Graphviz is needed and missing.
    """
    suffix = path.suffix.lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".dot":
        path.write_text(dot, encoding="utf-8")
    elif suffix == ".svg":
        path.write_text(svg(*scheduler.parse_graph(dot)), encoding="utf-8")
    elif suffix in (".png", ".pdf"):
        program = shutil.which("dot")
        if program is None:
            raise ValueError(f"{path}: {suffix} needs Graphviz (`dot`); install it, or write .svg")
        command = [program, f"-T{suffix[1:]}", "-o", str(path)]
        subprocess.run(command, input=dot, text=True, check=True)
    else:
        raise ValueError(f"{path}: cannot draw {suffix or 'that'}; use .svg, .dot, .png or .pdf")


def svg(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> str:
    """Returns an SVG picture: a box per stage, each below all that it needs.

    Args:
      names: the stages.
      edges: pairs (stage, a stage that needs it); no cycles.
    """
    places, columns, rows = _places(names, edges)
    width = 2 * _MARGIN + columns * (_WIDTH + _ACROSS) - _ACROSS
    height = 2 * _MARGIN + rows * (_HEIGHT + _DOWN) - _DOWN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#667"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for start, end in edges:
        (x1, y1), (x2, y2) = places[start], places[end]
        y1, middle = y1 + _HEIGHT, (y1 + _HEIGHT + y2) / 2
        lines.append(
            f'<path d="M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"'
            ' fill="none" stroke="#99a" stroke-width="1.5" marker-end="url(#a)"/>'
        )
    for name in names:
        x, y = places[name]
        lines.append(
            f'<rect x="{x - _WIDTH / 2:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="8"'
            ' fill="#eef3fb" stroke="#4a72b0"/>'
            f'<text x="{x:g}" y="{y + _HEIGHT / 2 + 4:g}" text-anchor="middle">'
            f"{html.escape(name)}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


def _places(
    names: Sequence[str], edges: Sequence[tuple[str, str]]
) -> tuple[dict[str, tuple[float, float]], int, int]:
    """Returns ({stage: (middle, top) in pixels}, boxes in the widest row, rows)."""
    needs = {name: [start for start, end in edges if end == name] for name in names}
    depth: dict[str, int] = {}

    def depth_of(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((depth_of(need) for need in needs[name]), default=-1)
        return depth[name]

    rows: dict[int, list[str]] = {}
    for name in names:
        rows.setdefault(depth_of(name), []).append(name)
    columns = max(len(row) for row in rows.values())
    places: dict[str, tuple[float, float]] = {}
    for level, row in sorted(rows.items()):
        # Left to right as the boxes above them lie, so that few lines cross.
        row.sort(key=lambda n: sum(places[m][0] for m in needs[n]) / max(len(needs[n]), 1))
        free = (columns - len(row)) * (_WIDTH + _ACROSS) / 2
        for index, name in enumerate(row):
            x = _MARGIN + free + index * (_WIDTH + _ACROSS) + _WIDTH / 2
            places[name] = x, _MARGIN + level * (_HEIGHT + _DOWN)
    return places, columns, len(rows)
