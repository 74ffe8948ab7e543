"""Captions of a source's images: .txt or .json beside an image in a folder or a tar, or a column of a parquet file."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffx.errors import DiffxError
from diffx.pixels.decode import Refused, read_file
from diffx.prepare.parquet import CAPTIONS, open_table
from diffx.prepare.source import files_of

LONGEST = 1 << 20  # bytes of a caption's file


def read_captions(source: str) -> dict[str, str]:
    """Captions by key, which is the image's: its path in `source` without the ending. What a caption lacks, or cannot
    be read, is not there.

    Raises:
        DiffxError: nothing there, or a file that cannot be listed.
    """
    found: dict[str, str] = {}
    for file, prefix in files_of(source):
        if file.is_dir():
            pairs = _of_folder(file)
        elif file.suffix == ".tar":
            pairs = _of_tar(file, prefix)
        else:
            pairs = _of_parquet(file)
        found |= {key: words for key, words in pairs if words}
    if not found:
        raise DiffxError(
            f'{source} holds no captions; put a .txt or a .json with "caption" beside each image, or a column '
            "`caption` into the parquet files."
        )
    return found


def _of_folder(root: Path) -> Iterator[tuple[str, str]]:
    # .txt comes last, and counts where there are both.
    for suffix in (".json", ".txt"):
        for file in sorted(root.rglob(f"*{suffix}")):
            try:
                yield file.relative_to(root).with_suffix("").as_posix(), _words(read_file(str(file), LONGEST), suffix)
            except Refused:
                continue


def _of_tar(file: Path, prefix: str) -> Iterator[tuple[str, str]]:
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                suffix = Path(member.name).suffix
                if member.isfile() and suffix in (".json", ".txt") and member.size <= LONGEST:
                    opened = archive.extractfile(member)
                    key = prefix + member.name.removeprefix("./").rsplit(".", 1)[0]
                    yield key, _words(opened.read() if opened else b"", suffix)
    except (tarfile.TarError, OSError) as error:
        raise DiffxError(f"{file} cannot be listed ({error}); it has to be an uncompressed tar.") from error


def _of_parquet(file: Path) -> Iterator[tuple[str, str]]:
    column = next((key for key in CAPTIONS if key in open_table(file).schema_arrow.names), None)
    if column is None:
        return
    for row, words in enumerate(open_table(file).read(columns=[column]).column(column).to_pylist()):
        yield f"{file.stem}/{row:08d}", _one(words)


def _words(raw: bytes, suffix: str) -> str:
    """The caption that a file holds, "" if none."""
    try:
        text = raw.decode("utf-8")
        if suffix == ".txt":
            return _one(text)
        found: Any = json.loads(text)
    except ValueError:
        return ""
    if isinstance(found, dict):
        found = next((found[key] for key in CAPTIONS if key in found), "")
    return _one(found)


def _one(words: Any) -> str:
    """A caption on one line; of a list of several the first."""
    if isinstance(words, list):
        words = words[0] if words else ""
    return " ".join(words.split()) if isinstance(words, str) else ""
