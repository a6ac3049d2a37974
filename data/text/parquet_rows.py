# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a small Parquet table as JSON values: what a prompt file holds.

Columns of text, numbers and booleans, and lists and structs of them, at any depth, are JSON. Others
(bytes, so images; dates, decimals, maps) are left out, and never read.
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from parti.data.text import text_files

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 1024


def read(data: bytes) -> tuple[dict[str, bool], Iterator[dict[str, Any]]]:
    """Returns {column: whether it is JSON}, and the rows, of the columns that are.

    A row has no null cells.

    Raises:
      BrokenFileError: not Parquet, damaged, or two columns of one name; reading rows raises it too.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        columns = {field.name: _is_json(field.type) for field in file.schema_arrow}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken(error) from error
    if len(columns) < len(file.schema_arrow):
        raise text_files.BrokenFileError("the schema: it has two columns of one name")

    def rows() -> Iterator[dict[str, Any]]:
        names = [name for name, is_json in columns.items() if is_json]
        try:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names):
                for row in batch.to_pylist():
                    yield {name: cell for name, cell in row.items() if cell is not None}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _broken(error) from error

    return columns, rows()


def _broken(error: Exception) -> text_files.BrokenFileError:
    reason = " ".join(str(error).split())
    return text_files.BrokenFileError(f"read whole: not Parquet, or damaged ({reason})")


def _is_json(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_json(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    if types.is_struct(kind):
        return all(_is_json(kind.field(index).type) for index in range(kind.num_fields))
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    is_number = types.is_integer(kind) or types.is_floating(kind)
    return is_text or is_number or types.is_boolean(kind) or types.is_null(kind)
