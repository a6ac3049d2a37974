# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a row of raw data may be: its bounds, and why it is rejected."""

import base64
import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from parti.data.storage import records
from parti.data.text import text_files
from parti.stages import files, json_text, manifests

# Nothing larger is held in memory, whatever a file claims.
MAX_IMAGE_BYTES = 64 * 2**20
MAX_CAPTION_BYTES = 64 * 2**10
MAX_METADATA_BYTES = 2**20
MAX_KEY_BYTES = 1024
MAX_RECORD_BYTES = MAX_IMAGE_BYTES + 2 * MAX_METADATA_BYTES

# Key of the metadata under which columns are that are not in it, and why.
LEFT_OUT = "left_out"

SHOWN_URL = 200  # characters of a URL or path in a rejected row
_SHOWN_CHARACTERS = 400  # of a caption there

REASONS = {
    "broken_file": (
        "Broken file",
        "It cannot be opened, ends early or is damaged. Pairs before the damage were read.",
    ),
    "unsafe_name": (
        "Unsafe name",
        "The name is absolute or climbs out with “..”, is over 1,024 bytes, or has a NUL in it.",
    ),
    "not_a_file": ("Not a file", "A link, a device or a pipe where a picture or text should be."),
    "image_unsupported": (
        "Another image format",
        "A picture of a format that is not read; save it as JPEG or PNG.",
    ),
    "members_far_apart": (
        "Picture and text far apart",
        "Picture and caption are too far apart in a compressed tar; unpack it, or pack them side "
        "by side.",
    ),
    "member_too_large": ("Too large a file", "A picture of over 64 MiB."),
    "missing_image": ("No picture", "A caption without a picture."),
    "missing_caption": ("No caption", "A picture without a caption."),
    "broken_caption": ("Caption not text", "The caption is not UTF-8, or has a NUL in it."),
    "caption_too_long": ("Caption far too long", "The caption has over 64 KiB."),
    "broken_metadata": ("Broken metadata", "The metadata is not a JSON object."),
    "metadata_too_large": ("Too much metadata", "The metadata of the pair has over 1 MiB."),
    "not_a_pair": ("Not a pair", "A record that is not an image-text pair."),
    "broken_row": ("Broken row", "A row of a table that does not fit its columns."),
    "row_too_large": ("Too large a row", "A row of a table is over the limit of its format."),
    "fetch_timeout": ("Server too slow", "The picture did not come in the time allowed."),
    "fetch_connection": ("No connection", "The connection failed or broke."),
    "fetch_no_host": ("No such host", "The host of the URL has no address."),
    "fetch_tls": ("Not secure", "The server's certificate is not valid."),
    "fetch_refused": (
        "URL refused",
        "Not an http address, or one of a private network, which only --fetch_private asks.",
    ),
    "fetch_redirects": ("Too many redirects", "The server sends from one address to the next."),
    "fetch_opt_out": ("Opted out", "The server's headers say: not for machine learning."),
    "fetch_not_image": ("Not a picture", "The server sent something else, as it says itself."),
    "fetch_too_large": ("Download too large", "The picture is larger than is fetched."),
    "fetch_truncated": ("Download cut off", "Fewer bytes came than the server said."),
    "fetch_http_403": ("Forbidden", "The server answered with HTTP status 403."),
    "fetch_http_404": ("Not found", "The server answered with HTTP status 404."),
    "fetch_http_410": ("Gone", "The server answered with HTTP status 410."),
    "fetch_http_429": ("Too many requests", "The server answered with HTTP status 429."),
    "fetch_http_other": ("Server error", "The server answered with another HTTP status."),
    "fetch_failed": ("Download failed", "The server's answer was not understood."),
}


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row that was dropped; also a file, cell or answer that its pair is dropped for."""

    key: str  # the pair's key, or the file's name if the file is at fault; empty until `of`
    reason: str  # a short name, counted and reported; those of readers are in `REASONS`
    measure: str = ""  # the value that decided, as text
    text: str = ""  # the caption, when known; only its beginning if it is long
    source: str = ""
    group: str = ""  # of a copy, the key of the pair that stays
    # Of a row that `parti clean` dropped for itself, the address of its file; as written,
    # relative to the folder that all input is in
    address: str = ""
    # Its number in that file, from 0; of a damaged file, the number where the damage begins
    row: int = -1

    def of(self, key: str, text: str | bytes | None = "", source: str = "") -> "Rejected":
        """Returns the row that is dropped for this part of it."""
        return reject(key, self.reason, self.measure, text=text or "", source=source)

    def to_json(self) -> str:
        """Returns one line of JSON."""
        return manifests.json_bytes(dataclasses.asdict(self)).decode()


Row = records.ImageTextPair | Rejected


def make_pair(
    key: str, image: bytes | None, text: str | bytes | None, source: str, metadata: dict[str, Any]
) -> Row:
    """Returns the pair, or why there is none."""
    if text is not None:
        checked = check_caption(text)
        if isinstance(checked, Rejected):
            return checked.of(key, text, source)
        text = checked
    if (size := len(key.encode("utf-8", "replace"))) > MAX_KEY_BYTES:
        return reject(key, "unsafe_name", f"{size:,} bytes", text or "", source)
    if "\0" in key:
        return reject(key, "unsafe_name", "a NUL", text or "", source)
    if image is None:
        return reject(key, "missing_image", text=text or "", source=source)
    if text is None:
        return reject(key, "missing_caption", source=source)
    metadata = _tidy_captions(metadata)
    return records.ImageTextPair(key, image, text, source=source, metadata=metadata)


def reject(
    key: str, reason: str, measure: str = "", text: str | bytes = "", source: str = ""
) -> Rejected:
    """Returns a rejected row whose texts are short and can be written as UTF-8."""
    if isinstance(text, bytes):
        text = text[: 4 * _SHOWN_CHARACTERS].decode("utf-8", "replace")
    # The whole of a key that a pair can have: by it the row is found again.
    key, text = key[:MAX_KEY_BYTES], text[:_SHOWN_CHARACTERS]
    key, text = (json_text.utf8(value).replace("\0", "?") for value in (key, text))
    return Rejected(key, reason, json_text.utf8(measure), text, source)


def refuse(reason: str, measure: str = "") -> Rejected:
    """Returns why a file, cell or answer is not taken; `Rejected.of` adds the pair's key."""
    return Rejected("", reason, measure)


def check_caption(text: str | bytes) -> str | Rejected:
    """Returns the caption as text, or why it cannot be one."""
    if len(text) > MAX_CAPTION_BYTES:
        unit = "bytes" if isinstance(text, bytes) else "letters"
        return refuse("caption_too_long", f"{len(text):,} {unit}")
    try:
        if isinstance(text, bytes):
            text = text.decode(text_files.marked_encoding(text) or "utf-8")
        size = len(text.encode("utf-8"))
    except UnicodeDecodeError as error:
        advice = "save it as UTF-8 (from Windows: iconv -f CP1252 -t UTF-8)"
        return refuse("broken_caption", f"byte {error.start} is not {error.encoding}; {advice}")
    except UnicodeError as error:
        return refuse("broken_caption", one_line(error))
    if size > MAX_CAPTION_BYTES:
        return refuse("caption_too_long", f"{size:,} bytes")
    index = text.find("\0")
    return text if index < 0 else refuse("broken_caption", f"a NUL at character {index}")


def parse_metadata(data: bytes) -> dict[str, Any]:
    """Returns a JSON object, made `json_safe`.

    Raises:
      ValueError: not a JSON object.
    """
    value = parse_json(data)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is wanted, this is {type(value).__name__}")
    return value


def parse_json(data: bytes) -> Any:
    """Returns any JSON value, made `json_safe`; ValueError: not JSON."""
    try:
        return json_safe(json.loads(data.decode(text_files.marked_encoding(data) or "utf-8")))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def json_safe(value: Any) -> Any:
    """Returns a value such as UTF-8 and strict JSON can write, by the rule of `stages.json_text`.

    Times become ISO 8601, bytes their text or else base64, what JSON lacks its `str`.

    Raises:
      RecursionError: nested too deeply.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return json_text.utf8(value)
    if isinstance(value, float):
        return json_text.finite(value)
    if isinstance(value, Mapping):
        return {json_text.utf8(str(name)): json_safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    return json_text.utf8(str(value))


def _tidy_captions(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns the metadata with `captions` a list of texts, as the record wants it, or without."""
    if records.CAPTIONS not in metadata:
        return metadata
    rest = dict(metadata)
    value = rest.pop(records.CAPTIONS)
    given = value if isinstance(value, list) else [value]
    texts = [text for text in given if isinstance(text, str) and check_caption(text) == text]
    return {**rest, records.CAPTIONS: texts} if texts else rest


def left_out(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Returns the columns that are not in the metadata of a pair, with the reasons."""
    value = metadata.get(LEFT_OUT)
    found = value.items() if isinstance(value, dict) else ()
    return {name: why for name, why in found if isinstance(why, str)}


def raise_if_of_store(error: BaseException) -> None:
    """Raises an error that is a store's fault: the data may be whole, and may not be rejected."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, files.StoreError | files.AccessError):
            raise error
        cause = cause.__cause__


def one_line(error: BaseException) -> str:
    """Returns what an error says, in one short line; not where on this machine.

    Raises the error if it is of a store; see `raise_if_of_store`.
    """
    raise_if_of_store(error)
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return json_text.utf8(" ".join(said.split())[:200]) or type(error).__name__
