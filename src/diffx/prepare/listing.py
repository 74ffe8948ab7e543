"""The samples of a folder and of a tar file: where the bytes of each are, and what class it is said to be of."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diffx.data.shards import read_json
from diffx.errors import DiffxError
from diffx.pixels.decode import Refused, read_file

IMAGES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
LONGEST_CLASS = 64  # bytes of a .cls file
DEEPEST = 4  # tars within tars


class Place(NamedTuple):
    """`size` bytes at `offset` of file `path`, None for the whole file; or row `row` of a parquet file."""

    path: str
    offset: int = 0
    size: int | None = None
    row: int | None = None


class Sample(NamedTuple):
    """An encoded image. `label` is a class number; while listing it may be a class name, or what a file has for one.
    `fault`: why it is left out, if that is known before it is read."""

    key: str
    label: Any
    place: Place
    fault: str = ""


def list_folder(root: Path) -> Iterator[Sample]:
    """Images below `root`, by their path; what dataset.json does not name has a fault, if there is one."""
    listed = root / "dataset.json"
    labels = read_labels(listed) if listed.exists() else {}
    for folder, files in _folders(root):
        for file in files:
            if file.lower().endswith(IMAGES):
                path = os.path.join(folder, file)
                name = Path(path).relative_to(root).as_posix()
                fault = f"{listed.name} gives it no label" if labels and name not in labels else ""
                yield Sample(_stem(name), labels.get(name, _first_folder(name, "")), Place(path), fault)


def read_labels(file: Path) -> dict[str, Any]:
    """What a dataset.json says, by the file's name; {} where its labels are null.

    Raises:
        DiffxError: it is not {"labels": [[NAME, LABEL], ...]}.
    """
    try:
        return {str(name): label for name, label in read_json(file)["labels"] or []}
    except (KeyError, TypeError, ValueError) as error:
        raise DiffxError(f'{file} is not {{"labels": [[NAME, LABEL], ...]}}; mend it, or move it away.') from error


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder once, under its own path before any link to it: a loop of links has no end, and a second name for a
    folder would be a second class for its images."""
    seen: set[tuple[int, int]] = set()
    waiting = [str(root)]
    while waiting:
        links: list[str] = []
        for start in waiting:
            for folder, inside, files in os.walk(start):
                if _met(folder, seen):
                    inside.clear()
                    continue
                inside.sort()
                links += [path for name in inside if os.path.islink(path := os.path.join(folder, name))]
                yield folder, files
        waiting = sorted(links)


def _met(folder: str, seen: set[tuple[int, int]]) -> bool:
    facts = os.stat(folder)
    known = (facts.st_dev, facts.st_ino) in seen
    seen.add((facts.st_dev, facts.st_ino))
    return known


def list_tar(file: Path, prefix: str) -> Iterator[Sample]:
    """Images of a tar, and of the tars in it. `prefix`: what their keys begin with.

    Raises:
        DiffxError: compressed, damaged, or not a tar.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            yield from _members(archive, file, 0, prefix, file.stem, DEEPEST)
    except (tarfile.TarError, OSError) as error:
        raise DiffxError(f"{file} cannot be listed ({error}); it has to be an uncompressed tar.") from error


def _members(archive: tarfile.TarFile, file: Path, start: int, prefix: str, name: str, deeper: int) -> Iterator[Sample]:
    """Images of a tar that begins at byte `start` of `file`. `name`: the class of members that are in no folder."""
    images, classes = [], dict[str, Any]()
    for member in archive:
        stem, place = _stem(member.name), Place(str(file), start + member.offset_data, member.size)
        if member.isfile() and member.name.lower().endswith(IMAGES):
            images.append(Sample(prefix + stem, _first_folder(member.name, name), place))
        elif member.isfile() and member.name.endswith(".cls"):
            classes[prefix + stem] = _read_class(place)
        elif member.isfile() and member.name.endswith(".tar"):
            if not deeper:
                raise DiffxError(f"{file} holds tars within tars more than {DEEPEST} deep; unpack it first.")
            inner = Path(member.name).stem
            with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as nested:
                yield from _members(nested, file, place.offset, f"{prefix}{inner}/", inner, deeper - 1)
    for sample in images:
        if classes and sample.key not in classes:
            yield sample._replace(label=-1, fault="no .cls file is beside it")
        else:
            yield sample._replace(label=classes.get(sample.key, sample.label))


def _read_class(place: Place) -> int | str | None:
    """The number that a .cls file holds; None for one that holds none."""
    try:
        return int(read_file(place.path, LONGEST_CLASS, place.offset, place.size))
    except (Refused, ValueError):
        return None


def _stem(name: str) -> str:
    return name.removeprefix("./").rsplit(".", 1)[0]


def _first_folder(name: str, otherwise: str) -> str:
    folder, inside, _ = name.removeprefix("./").partition("/")
    return folder if inside else otherwise
