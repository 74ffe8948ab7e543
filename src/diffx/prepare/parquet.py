"""Images in parquet files: columns `image` (bytes, or a struct of bytes and path) and `label`."""

import importlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffx.errors import DiffxError
from diffx.pixels.decode import Refused
from diffx.prepare.listing import Place, Sample

CAPTIONS = ("caption", "text", "prompt")
"""Columns that hold a caption; the first that is there."""


def list_parquet(file: Path) -> Iterator[Sample]:
    """Its rows; the label of a file that has captions alone is 0.

    Raises:
        DiffxError: other columns, damaged, or no parquet file.
    """
    try:
        table = open_table(file)
        names = table.schema_arrow.names
        labels = [0] * table.metadata.num_rows
        if "label" in names:
            labels = table.read(columns=["label"]).column("label").to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own are of these
        raise DiffxError(f"{file} cannot be listed ({str(error).splitlines()[0]}); copy it anew.") from error
    if "image" not in names or not {"label", *CAPTIONS} & set(names):
        raise DiffxError(f"{file} has columns {', '.join(names)}; `image` and `label` (or `caption`) are expected.")
    for row, label in enumerate(labels):
        yield Sample(f"{file.stem}/{row:08d}", label, Place(str(file), row=row))


def open_table(file: Path) -> Any:
    """A parquet file. Raises DiffxError without pyarrow, and what pyarrow raises for a damaged one."""
    return _pyarrow().ParquetFile(file)


def parquet_image(path: str, row: int) -> bytes:
    """The encoded image of a row. Raises Refused where it holds none."""
    starts = _open_parquet(path)[1]
    group = next(i for i in reversed(range(len(starts))) if starts[i] <= row)
    image = _row_group(path, group)[row - starts[group]].as_py()
    encoded = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(encoded, bytes):
        raise Refused("its column `image` holds no bytes")
    return encoded


@lru_cache(maxsize=2)
def _open_parquet(path: str) -> tuple[Any, list[int]]:
    """The file, and the first row of each of its row groups."""
    table = _pyarrow().ParquetFile(path)
    counts = [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]
    return table, [sum(counts[:i]) for i in range(len(counts))]


@lru_cache(maxsize=2)
def _row_group(path: str, group: int) -> Any:
    return _open_parquet(path)[0].read_row_group(group, columns=["image"]).column("image")


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DiffxError("Parquet files need pyarrow; type `pip install pyarrow`.") from error
