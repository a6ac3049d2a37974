# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader sees of an evaluation: a table for the terminal and a small HTML page."""

import base64
import html
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import markupsafe

from parti.data.storage import records
from parti.pipelines.evaluation import reconstruction_report
from parti.pipelines.html import templates

FILE_NAME = "report.html"
_NUM_EXAMPLES = 6

# Comparison -> its column heading; see `evaluation_metrics`.
COLUMNS = {
    "best": "best of N",
    "random": "any sample",
    "shuffled": "other prompts",
    "oracle": "most aligned",
    "best_minus_random": "best - any",
    "best_minus_shuffled": "best - other",
}

Table = list[list[str]]


def tables(metrics: Mapping[str, Any], narrow: bool = False) -> list[tuple[str, Table]]:
    """Returns (title, rows of cells, the first is the heading) of what was measured.

    Args:
      metrics: the content of `metrics.json`.
      narrow: give half the width of each interval instead of its ends.
    """

    def cell(value: Mapping[str, float], interval: bool = True) -> str:
        return templates.estimate(value, narrow=narrow) if interval else f"{value['mean']:.3f}"

    found = []
    if "alignment" in metrics:
        title = (
            f"Agreement with the scenes of {metrics['num_prompts_with_scene']} prompts, in [0, 1]"
        )
        found.append((title, _alignment_table("score", metrics["alignment"], cell)))
        rows = metrics["alignment_by_challenge"]
        found.append(("Overall agreement by challenge", _alignment_table("challenge", rows, cell)))
    if "rerank_correlation" in metrics:
        value = cell(metrics["rerank_correlation"])
        rows = [["measure", "mean and 95% interval"], ["rank correlation with agreement", value]]
        found.append(("Reranker", rows))
    return found + reconstruction_report.tables(metrics, narrow)


def table(metrics: Mapping[str, Any]) -> str:
    """Returns the tables and notes as text for a terminal."""
    blocks = []
    for title, rows in tables(metrics, narrow=True):
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        blocks.append("\n".join([title, *(f"  {line}" for line in lines)]))
    if blocks:
        blocks.append("±: half of the 95% interval, by bootstrap over prompts or pictures")
    blocks += [f"note: {note}" for note in metrics["notes"]]
    return "\n\n".join(blocks)


def write(
    directory: pathlib.Path,
    metrics: Mapping[str, Any],
    groups: Sequence[Sequence[records.Generation]],
    generations_dir: pathlib.Path,
    overall: Mapping[str, float] | None = None,
) -> None:
    """Writes `report.html`.

    Args:
      directory: where to.
      metrics: the content of `metrics.json`.
      groups: prompts with a scene, images in rank order.
      generations_dir: what the paths of the images are relative to.
      overall: path of a best picture -> its agreement, to show the highest and lowest.
    """
    parts = [f"<p>{metrics['num_images']} pictures of {metrics['num_prompts']} prompts.</p>"]
    if "reference" in metrics:
        page = reconstruction_report.FILE_NAME
        parts.append(f'<p>How the models reconstruct pictures: <a href="{page}">{page}</a></p>')
    for note in metrics["notes"]:
        parts.append(f'<p class="note">{html.escape(note)}</p>')
    for title, rows in tables(metrics):
        parts.append(f"<h2>{html.escape(title)}</h2>{_html_table(rows)}")
    if overall:
        order = sorted(groups, key=lambda group: (-overall[group[0].image], group[0].image))
        half = min(_NUM_EXAMPLES, len(order) // 2)
        for title, chosen in (("Highest", order[:half]), ("Lowest", order[len(order) - half :])):
            if chosen:
                figures = "".join(
                    _figure(group[0], generations_dir, overall[group[0].image]) for group in chosen
                )
                parts.append(f"<h2>{title} agreement of a best picture</h2>")
                parts.append(f'<div class="pictures">{figures}</div>')
    page = templates.render(
        "evaluation_report.html",
        title="Parti evaluation",
        legend=markupsafe.Markup(_legend(metrics)),
        body=markupsafe.Markup("\n".join(parts)),
    )
    (directory / FILE_NAME).write_text(page, encoding="utf-8")


def _alignment_table(
    what: str, rows: Mapping[str, Mapping[str, Any]], cell: Callable[..., str]
) -> Table:
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    cells = [
        [name, str(row["best"]["count"])]
        + [cell(row[column], interval=column != "oracle") for column in columns]
        for name, row in rows.items()
    ]
    return [[what, "prompts", *(COLUMNS[name] for name in columns)], *cells]


def _html_table(rows: Table) -> str:
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[1:]
    )
    return (
        f'<div class="panel scroll"><table><thead><tr>{heading}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(item: records.Generation, generations_dir: pathlib.Path, value: float) -> str:
    data = base64.b64encode((generations_dir / item.image).read_bytes()).decode("ascii")
    text = html.escape(item.prompt)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
        f"<figcaption>{text}<br><b>{value:.2f}</b></figcaption></figure>"
    )


def _legend(metrics: Mapping[str, Any]) -> str:
    if "alignment" not in metrics:
        return ""
    return (
        "<p>Each picture is read back (shapes, colours, places) and held against the scene that "
        "its prompt describes. <b>Best of N</b> is the picture ranked first; <b>any sample</b> the "
        "mean over a prompt's samples; <b>other prompts</b> best pictures that were drawn for "
        "other prompts, which is the level of chance; <b>most aligned</b> what a perfect reranker "
        "would choose. Differences are paired by prompt; intervals are 95%, by bootstrap over "
        "prompts.</p>"
    )
