"""Where images come from: a folder of class folders, tar files, or parquet files. Listing reads no image."""

import glob
import importlib
import itertools
import os
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from diffx.data.shards import read_json
from diffx.errors import DiffxError

IMAGES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


class Place(NamedTuple):
    """`size` bytes at `offset` of file `path`; size 0 means the whole file, or row `offset` of a parquet file."""

    path: str
    offset: int = 0
    size: int = 0


class Sample(NamedTuple):
    """An encoded image. `label` is a class number; while listing it may be a class name."""

    key: str
    label: int | str
    place: Place


def list_source(source: str) -> tuple[list[Sample], list[str]]:
    """The samples of `source`, sorted by key, with labels as numbers; and the class names, where it has names.

    `source` is a folder, a .tar or .parquet file, or a quoted pattern of such files. The class of a sample is its
    first folder, in a tar as well; for one tar per class (ImageNet's archive, tars within a tar included) the name of
    that tar; a .cls file beside it in the tar; a parquet's `label`; what dataset.json in the folder says. Labels count
    the sorted names, and numbers stay what they are. A key is the path without its ending.

    Raises:
        DiffxError: nothing there, two samples with one key, or a file that cannot be listed.
    """
    found = sorted(_find(source), key=lambda sample: sample.key)
    if not found:
        raise DiffxError(f"{source} holds no images; name a folder of class folders, or .tar or .parquet files.")
    for before, after in itertools.pairwise(found):
        if before.key == after.key:
            raise DiffxError(f"{before.place.path} and {after.place.path} both have a sample {after.key}; rename one.")
    names = sorted({sample.label for sample in found if isinstance(sample.label, str)})
    number: dict[int | str, int] = {name: label for label, name in enumerate(names)}
    return [s._replace(label=number.get(s.label, s.label)) for s in found], names


def read_bytes(place: Place) -> bytes:
    """The encoded image at `place`."""
    if place.path.endswith(".parquet"):
        return _parquet_image(place)
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        return file.read(place.size or -1)


def _find(source: str) -> Iterator[Sample]:
    path = Path(source).expanduser()
    files = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    if path.is_dir():
        archives = sorted(p for p in path.iterdir() if p.suffix in (".tar", ".parquet"))
        files = archives or [path]
    tars = [file for file in files if file.suffix == ".tar"]
    for file in files:
        if file.is_dir():
            yield from _folder(file)
        elif file.suffix == ".tar":
            yield from _tar(file, prefix=f"{file.stem}/" if len(tars) > 1 else "")
        elif file.suffix == ".parquet":
            yield from _parquet(file)
        else:
            raise DiffxError(f"{file} is neither a folder nor a .tar or .parquet file; unpack it first.")


def _folder(root: Path) -> Iterator[Sample]:
    """Images below `root`, by their path."""
    listed = root / "dataset.json"
    labels = dict(read_json(listed).get("labels") or []) if listed.exists() else {}
    for folder, _, files in os.walk(root, followlinks=True):
        for file in files:
            if file.lower().endswith(IMAGES):
                path = os.path.join(folder, file)
                name = Path(path).relative_to(root).as_posix()
                yield Sample(_stem(name), labels.get(name, _first_folder(name, "")), Place(path))


def _tar(file: Path, prefix: str) -> Iterator[Sample]:
    try:
        with tarfile.open(file, "r:") as archive:
            yield from _members(archive, file, 0, prefix, file.stem)
    except tarfile.TarError as error:
        raise DiffxError(f"{file} cannot be listed ({error}); it has to be an uncompressed tar.") from error


def _members(archive: tarfile.TarFile, file: Path, start: int, prefix: str, name: str) -> Iterator[Sample]:
    """Images of a tar that begins at byte `start` of `file`. `name`: the class of members that are in no folder."""
    images, classes = [], {}
    for member in archive:
        stem, place = _stem(member.name), Place(str(file), start + member.offset_data, member.size)
        if member.isfile() and member.name.lower().endswith(IMAGES):
            images.append(Sample(prefix + stem, _first_folder(member.name, name), place))
        elif member.isfile() and member.name.endswith(".cls"):
            classes[prefix + stem] = int(read_bytes(place))
        elif member.isfile() and member.name.endswith(".tar"):
            inner = Path(member.name).stem
            with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as nested:
                yield from _members(nested, file, place.offset, f"{prefix}{inner}/", inner)
    for sample in images:
        yield sample._replace(label=classes.get(sample.key, sample.label))


def _parquet(file: Path) -> Iterator[Sample]:
    """Rows of a parquet file with columns `image` (bytes, or a struct of bytes and path) and `label`."""
    table = _pyarrow().ParquetFile(file)
    if not {"image", "label"} <= set(table.schema_arrow.names):
        raise DiffxError(f"{file} has columns {', '.join(table.schema_arrow.names)}; `image` and `label` are expected.")
    labels = table.read(columns=["label"]).column("label").to_pylist()
    for row, label in enumerate(labels):
        yield Sample(f"{file.stem}/{row:08d}", label, Place(str(file), row))


def _parquet_image(place: Place) -> bytes:
    starts = _open_parquet(place.path)[1]
    group = next(i for i in reversed(range(len(starts))) if starts[i] <= place.offset)
    image = _row_group(place.path, group)[place.offset - starts[group]].as_py()
    return image["bytes"] if isinstance(image, dict) else image


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


def _stem(name: str) -> str:
    return name.removeprefix("./").rsplit(".", 1)[0]


def _first_folder(name: str, otherwise: str) -> str:
    folder, inside, _ = name.removeprefix("./").partition("/")
    return folder if inside else otherwise
