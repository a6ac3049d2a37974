# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws metrics of a training over its steps as one SVG; needs no plotting library.

    python benchmarks/training_curves.py --run runs/tokenizer --metric psnr codebook_perplexity \
        --output docs/tokenizer_curves.svg
"""

import argparse
import json
import pathlib
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 200, 48, 28, 26  # of one metric's plot, in pixels
COLOURS = {"train": "#4477aa", "validation": "#cc6677"}


def read(run: str, metric: str) -> dict[str, list[tuple[int, float]]]:
    """Returns {split: [(step, value)]} of `metrics.jsonl`."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in pathlib.Path(run, "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if metric in row:
            curves.setdefault(row["split"], []).append((row["step"], row[metric]))
    if not curves:
        raise SystemExit(f"{run}/metrics.jsonl has no {metric}")
    return curves


def plot(title: str, curves: dict[str, list[tuple[int, float]]], left: int) -> str:
    """Returns one plot, its left edge at `left` pixels."""
    points = [point for curve in curves.values() for point in curve]
    last = max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    high = high if high > low else low + 1.0

    def at(step: float, value: float) -> str:
        x = left + LEFT + (WIDTH - LEFT - 16) * step / last
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<text x="{left + LEFT}" y="16" font-weight="bold">{title}</text>']
    for share in (0.0, 0.5, 1.0):
        value, step = low + share * (high - low), share * last
        (x, y), edge = at(0, value).split(","), at(last, value).split(",")[0]
        parts.append(f'<line x1="{x}" y1="{y}" x2="{edge}" y2="{y}" stroke="#8884"/>')
        parts.append(
            f'<text x="{float(x) - 5}" y="{float(y) + 4}" text-anchor="end">{value:.4g}</text>'
        )
        x = at(step, low).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="middle">{step:,.0f}</text>')
    for split, curve in curves.items():
        line = " ".join(at(*point) for point in curve)
        colour = COLOURS[split]
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
    return "\n".join(parts)


def main() -> int:
    """Draws; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="a training's directory")
    parser.add_argument("--metric", nargs="+", required=True)
    parser.add_argument("--output", required=True, help="the SVG to write")
    flags = parser.parse_args()
    plots = [
        plot(metric, read(flags.run, metric), WIDTH * i) for i, metric in enumerate(flags.metric)
    ]
    width = WIDTH * len(plots)
    legend = "".join(
        f'<text x="{width - 150 + 60 * i}" y="16" fill="{colour}">{split}</text>'
        for i, (split, colour) in enumerate(COLOURS.items())
    )
    style = f'viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}"'
    font = 'font-family="sans-serif" font-size="11" fill="#666"'
    content = f'<svg xmlns="http://www.w3.org/2000/svg" {style} {font}>\n'
    content += '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join([*plots, legend])
    pathlib.Path(flags.output).write_text(content + "\n</svg>\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
