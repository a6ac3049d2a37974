# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Words for the reasons that no rule of a preset gives: reading, fetching, copies, evaluation sets.

`parti clean` always looks for these; the rules that a preset can change have their own table.
"""

import dataclasses

READING, FETCHING, PICTURE = "Readable", "Fetched", "Good picture"
COPIES, EVALUATION = "Only one of its kind", "Not in an evaluation set"


@dataclasses.dataclass(frozen=True)
class Reason:
    """A reason in words: the stage of the funnel, a short title, a sentence."""

    stage: str
    title: str
    explanation: str


def _stage(stage: str, reasons: dict[str, tuple[str, str]]) -> dict[str, Reason]:
    return {name: Reason(stage, *words) for name, words in reasons.items()}


REASONS = {
    **_stage(
        READING,
        {
            "broken_file": (
                "Broken file",
                "The file ends early or is damaged. Pairs before the damage were read.",
            ),
            "unsafe_name": ("Unsafe name", "The name is absolute or climbs out with “..”."),
            "not_a_file": ("Not a file", "A link or a device in an archive; only files are read."),
            "member_too_large": ("Too large a member", "One file in an archive is over its bound."),
            "row_too_large": ("Too large a row", "One row of a table is over its bound."),
            "missing_image": ("No picture", "A caption without a picture."),
            "missing_caption": ("No caption", "A picture without a caption."),
            "broken_caption": ("Caption not text", "The caption is not UTF-8."),
            "caption_too_large": ("Caption too large", "The text is over 64 KiB."),
            "broken_metadata": ("Broken metadata", "The .json file is not a JSON object."),
            "metadata_too_large": (
                "Metadata too large",
                "The facts of a row are too many.",
            ),
            "broken_row": ("Broken row", "A row of a table that cannot be read."),
            "not_a_pair": ("Not a pair", "A record that is not an image-text pair."),
            "duplicate_key": ("Same key", "Two pairs have one key; one of them stays."),
        },
    ),
    **_stage(
        FETCHING,
        {
            "fetch_timeout": ("Too slow", "The server did not send the picture in time."),
            "fetch_opt_out": (
                "Owner opted out",
                "The server's X-Robots-Tag says that the picture is not for training.",
            ),
            "fetch_too_large": ("Too large a file", "The server sent more bytes than allowed."),
            "fetch_truncated": ("Cut off", "The connection ended before the picture was whole."),
            "fetch_not_image": ("Not a picture", "The server sent something else, a page mostly."),
            "fetch_redirects": ("Sent around", "Too many redirects, or a circle of them."),
            "fetch_refused": (
                "Address not allowed",
                "The address is private, not of the web, or refused the connection.",
            ),
            "fetch_failed": ("Could not be fetched", "The connection failed."),
        },
    ),
    **_stage(
        PICTURE,
        {"image_undecodable": ("Picture does not open", "Broken, or of an unknown format.")},
    ),
    **_stage(
        COPIES,
        {
            "image_with_too_many_captions": (
                "Picture with many captions",
                "A picture that many texts were put to is a logo or a placeholder.",
            ),
            "caption_on_too_many_images": (
                "Caption on many pictures",
                "A text that many pictures carry says little about any of them.",
            ),
            "duplicate_pair": ("Same picture, same caption", "Another pair is equal to it."),
            "duplicate_image": (
                "Same picture, other caption",
                "The best copy stays, with its own caption.",
            ),
            "near_duplicate": (
                "Nearly the same picture",
                "The same picture saved again, in another size or quality. The best copy stays.",
            ),
            "near_caption": ("Nearly the same caption", "Another pair says it in the same words."),
        },
    ),
    **_stage(
        EVALUATION,
        {
            "contaminated_caption": (
                "Caption of an evaluation set",
                "It shares a run of words with a prompt or caption that models are measured on.",
            ),
            "contaminated_image": (
                "Picture of an evaluation set",
                "It is, or nearly is, a picture that models are measured on.",
            ),
        },
    ),
}


def find(name: str) -> Reason:
    """Returns a reason in words; one that has none is put into words from its name."""
    if name in REASONS:
        return REASONS[name]
    words = name.replace("_", " ").capitalize()
    if name.startswith("fetch_http_"):
        status = name.removeprefix("fetch_http_")
        return Reason(FETCHING, f"Answer {status}", f"The server answered with HTTP {status}.")
    for prefix, stage in (("fetch_", FETCHING), ("image_", PICTURE), ("caption_", "Good caption")):
        if name.startswith(prefix):
            return Reason(stage, words, "")
    return Reason("Other", words, "")
