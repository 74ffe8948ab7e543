"""The networks that come with diffx: safetensors in weights/, and record.json, which says what each was made from.

`python -m diffx.embedded` makes them anew.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from diffx.errors import DiffxError
from diffx.store.digest import digest

FOLDER = Path(__file__).parent / "weights"


def find(name: str, facts: dict[str, Any]) -> Path | None:
    """The file of the network called `name`, where one of exactly these facts is shipped.

    Raises:
        DiffxError: the file is absent, or not the one that record.json describes.
    """
    entry = records().get(name)
    if entry is None or entry["facts"] != digest(facts):
        return None
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file() or sha256(path) != entry["sha256"]:
        raise DiffxError(f"{path} is not the file that came with diffx, and distances would mislead. Reinstall diffx.")
    return path


def records() -> dict[str, Any]:
    """What record.json says of each network: its data, seed and steps, what trained it, its quality and its digests."""
    return json.loads((FOLDER / "record.json").read_text())


def sha256(path: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
