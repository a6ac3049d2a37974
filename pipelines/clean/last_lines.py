# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `parti clean` says at the end: its last lines, or why there is nothing to publish."""

from collections.abc import Mapping, Sequence
from typing import Any

from parti.pipelines import readers
from parti.pipelines.clean import statistics
from parti.pipelines.html import templates

# What to do where all pairs are dropped and most of them for this; else rules are to be loosened.
_REMEDIES = {
    "split_test": "no training is to see them; --drop_test_split=false puts them into validation",
    "image_unsupported": "save the pictures as JPEG, PNG or WebP",
    "members_far_apart": "unpack the tar, or pack picture and caption side by side",
}
_MAX_COLUMNS = 5  # that were left out, in the last lines
_MAX_MEASURE = 80  # characters that the last line shows of one
_MAX_BROKEN = 3  # broken files that it names
_MAX_LEFT_OUT = 2  # files that are left out for a reason


def check_kept(report: Mapping[str, Any], patterns: Sequence[str], page: str) -> None:
    """Raises ValueError if there is nothing to publish; `page` shows what was dropped."""
    where = " ".join(patterns)
    if not report["read"]:
        raise ValueError(
            f"no pairs in {where}; a tar holds key.jpg (or png, webp) and key.txt for each pair, "
            "a table a row for each below the names of its columns"
            + "".join(f"; {text}" for text in _all_left_out(report))
        )
    if not report["kept"]:
        dropped = [rule for rule in report["rules"] if rule["dropped"]]
        most = sorted(dropped, key=lambda rule: -rule["dropped"])[:4]
        reasons = ", ".join(map(_dropped, most))
        raise ValueError(
            f"no pair of {report['read']} in {where} was kept: {reasons}; "
            f"{_remedy(most)}; {page} shows them"
        )
    if not report["splits"]["train"]:
        raise ValueError(
            f"all {report['kept']} kept pairs of {where} fell to validation; "
            "lower --validation_fraction or give more pairs"
        )


def _remedy(dropped: Sequence[Mapping[str, Any]]) -> str:
    """Returns what to do where these rules have dropped all, the most first."""
    names = {rule["name"] for rule in dropped}
    if "missing_caption" in names and names <= {"missing_caption", "missing_image"}:
        return (
            "give each picture its caption in a .txt of its name, in the same folder: "
            "dog.jpg and dog.txt (or webdataset's dog.image.jpg and dog.text.txt); or name a "
            "table of pictures and captions"
        )
    unread = all(name in readers.REASONS for name in names)
    what = "check the files" if unread else "check the files, or loosen the rules (see --help)"
    return _REMEDIES.get(dropped[0]["name"], what)


def broken(report: Mapping[str, Any]) -> tuple[int, str]:
    """Returns how many files of the input are broken, and a text with some of them."""
    counts = report.get("broken_files", {})
    count = sum(found if path.endswith("/") else 1 for path, found in counts.items())
    some = [*list(counts)[:_MAX_BROKEN], *(["..."] if len(counts) > _MAX_BROKEN else [])]
    return count, f"{count:,} broken files ({', '.join(some)})"


def check_broken(report: Mapping[str, Any], limit: int | None) -> None:
    """Raises ValueError if more files are broken than `limit`, if there is one."""
    count, text = broken(report)
    if limit is not None and count > limit:
        raise ValueError(
            f"{text}, more than --max_broken_files={limit}; report.html says why. Mend or remove "
            "them; or allow more, and the same command goes on"
        )


def _dropped(rule: Mapping[str, Any]) -> str:
    """Returns how many a rule has dropped, with what it had to say of one of them."""
    measure = next((row["measure"] for row in rule["dropped_samples"] if row["measure"]), "")
    shown = measure if len(measure) <= _MAX_MEASURE else f"{measure[:_MAX_MEASURE]}..."
    return f"{rule['dropped']:,} {rule['name']}" + (f" ({shown})" if shown else "")


def _all_left_out(report: Mapping[str, Any]) -> list[str]:
    """Returns a line about the files that are no part of a pair, if there are any."""
    rows = report.get("left_out", [])
    number = sum(row["count"] for row in rows)
    what = "file" if number == 1 else "files"
    return [f"left out {number:,} {what}: {', '.join(map(_left_out, rows))}"] if rows else []


def _left_out(row: Mapping[str, Any]) -> str:
    """Returns how many files a reason has left out, with the names of some."""
    names = [
        name if len(name) <= _MAX_MEASURE else f"...{name[-_MAX_MEASURE:]}" for name in row["files"]
    ]
    some = [*names[:_MAX_LEFT_OUT], *(["..."] if row["count"] > _MAX_LEFT_OUT else [])]
    return f"{row['count']:,} {row['name']} ({', '.join(some)})"


def _dropped_in_short(rule: Mapping[str, Any]) -> str:
    """Returns how many a rule has dropped; why, if the form of table or pictures is at fault."""
    of_form = ("broken_row", "broken_caption", "missing_image", "image_unsupported")
    is_of_form = rule["name"] in of_form
    return _dropped(rule) if is_of_form else f"{rule['dropped']:,} {rule['name']}"


def urls_line(counts: Mapping[statistics.Count, int], originals_dir: str) -> str:
    """Returns what became of the URLs of the input; empty if it has none."""
    urls = {name: counts.get(statistics.Count("url", name), 0) for name in statistics.URLS}
    if not any(urls.values()):
        return ""
    kept = f"{urls['kept']:,} read from {originals_dir}, " if originals_dir else ""
    why = " (the row fell to a rule for captions or scores)" if urls["not_needed"] else ""
    return (
        f"pictures by URL: {kept}{urls['fetched']:,} fetched, "
        f"{urls['not_needed']:,} not asked for{why}"
    )


def summary(report: Mapping[str, Any], output: str, urls: str) -> str:
    """Returns the last lines of a run that has published; `urls` is that of `urls_line`."""
    kept, read, splits = report["kept"], report["read"], report["splits"]
    lines = [
        f"kept {kept:,} of {read:,} pairs ({kept / read:.1%}): "
        f"{splits['train']:,} train, {splits['validation']:,} validation"
    ]
    dropped = [rule for rule in report["rules"] if rule["dropped"]]
    if dropped:
        reasons = ", ".join(map(_dropped_in_short, dropped))
        lines.append(f"dropped {read - kept:,}: {reasons}")
    lines += report.get("notes", [])
    lines += _all_left_out(report)
    num_broken, names = broken(report)
    lines += [names] if num_broken else []
    columns = report.get("left_out_columns", {})
    some = [f"{name} of {count:,} pairs" for name, count in columns.items()][:_MAX_COLUMNS]
    more = [f"and {len(columns) - len(some):,} more"] if len(columns) > len(some) else []
    lines += [f"left out of the metadata: {', '.join([*some, *more])}"] if some else []
    lines += [urls] if urls else []
    size = templates.size(report["num_bytes"])
    return "\n".join([*lines, f"wrote {size} to {output}; see report.html there"])
