"""The cache folder: files that diffx can always make again, each with a JSON beside it that proves it is whole."""

import json
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from diffx.errors import DiffxError

CHUNK = 1 << 24


def home() -> Path:
    """The cache folder: $DIFFX_HOME, or ~/.cache/diffx. It may not exist yet."""
    return Path(os.environ.get("DIFFX_HOME") or Path.home() / ".cache" / "diffx").expanduser()


def entry(path: Path, facts: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Make sure that `path` holds what `facts` describe, and return the notes stored beside it.

    An absent file is made; a truncated or altered one (size, CRC-32 and facts are compared) is made again, with one
    printed line. Processes that want the same entry at once wait for the first of them, so all read the same bytes.

    Args:
        path: the cached file; `path` + ".json" holds its facts, size, checksum and notes.
        facts: everything that determines the content, as JSON values.
        make: writes the content to the path it is given and returns notes (JSON values; an accuracy, say).

    Raises:
        DiffxError: the cache folder cannot be written.
    """
    if (notes := _notes_of_a_whole_entry(path, facts)) is not None:
        return notes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if (notes := _notes_of_a_whole_entry(path, facts)) is not None:
                return notes
            if path.exists():
                print(f"The cached file {path} is damaged or of another version; making it again.")
            return _make(path, facts, make)
    except OSError as error:
        raise DiffxError(
            f"The cache folder {home()} cannot be written ({error.strerror or error}). "
            "Set DIFFX_HOME to a folder that can."
        ) from error


def _make(path: Path, facts: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
        fresh, beside = Path(folder, path.name), Path(folder, "facts.json")
        notes = make(fresh)
        record = {"facts": facts, "bytes": fresh.stat().st_size, "crc32": _crc32(fresh), "notes": notes}
        beside.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(fresh, path)
        os.replace(beside, f"{path}.json")
    return notes


def _notes_of_a_whole_entry(path: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    try:
        record = json.loads(Path(f"{path}.json").read_text())
        whole = (
            record["facts"] == json.loads(json.dumps(facts))
            and record["bytes"] == path.stat().st_size
            and record["crc32"] == _crc32(path)
        )
        return record["notes"] if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
