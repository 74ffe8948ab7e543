"""Where images come from: a folder of class folders, tar files, or parquet files. Listing reads no image."""

import glob
import itertools
from collections.abc import Iterator
from pathlib import Path

from diffx.errors import DiffxError
from diffx.pixels.decode import Refused, check_bytes, read_file
from diffx.prepare.limits import Limits, class_number
from diffx.prepare.listing import Place, Sample, list_folder, list_tar
from diffx.prepare.parquet import list_parquet, parquet_image


def list_source(source: str, limits: Limits | None = None) -> tuple[list[Sample], list[str]]:
    """The samples of `source`, sorted by key, with labels as numbers; and the class names, where it has names.

    `source` is a folder, a .tar or .parquet file, or a quoted pattern of such files. The class of a sample is what a
    .cls file beside it in the tar says; its first folder, in a tar as well; for one tar per class (ImageNet's archive,
    tars within a tar included) the name of that tar; a parquet's `label`; what dataset.json in the folder says. Labels
    count the sorted names, and numbers stay what they are. A key is the path without its ending. A sample whose label
    or name cannot be has its `fault`, and the label -1.

    Raises:
        DiffxError: nothing there, two samples with one key, names beside numbers, or a file that cannot be listed.
    """
    limits = limits or Limits()
    found = sorted((_checked(sample, limits.classes) for sample in _find(source)), key=lambda sample: sample.key)
    if not found:
        raise DiffxError(f"{source} holds no images; name a folder of class folders, or .tar or .parquet files.")
    for before, after in itertools.pairwise(found):
        if before.key == after.key:
            raise DiffxError(f"{before.place.path} and {after.place.path} both have a sample {after.key}; rename one.")
    whole = [sample for sample in found if not sample.fault]
    named = next((sample for sample in whole if isinstance(sample.label, str)), None)
    numbered = next((sample for sample in whole if isinstance(sample.label, int)), None)
    if named and numbered:
        raise DiffxError(
            f"{source} gives sample {named.key} the class name {named.label} and sample {numbered.key} the class "
            f"number {numbered.label}, which cannot be told apart; give all of them one or the other."
        )
    names = sorted({sample.label for sample in whole if isinstance(sample.label, str)})
    number: dict[int | str, int] = {name: label for label, name in enumerate(names)}
    return [s if s.fault else s._replace(label=number.get(s.label, s.label)) for s in found], names


def read_bytes(place: Place, most: int = Limits.bytes) -> bytes:
    """The encoded image at `place`.

    Raises:
        Refused: it is empty, has more than `most` bytes, or is no regular file.
    """
    if place.row is None:
        return read_file(place.path, most, place.offset, place.size)
    encoded = parquet_image(place.path, place.row)
    check_bytes(len(encoded), most)
    return encoded


def _checked(sample: Sample, classes: int) -> Sample:
    """The sample, with its fault if its name or its label cannot be stored."""
    try:
        sample.key.encode()
        if sample.fault:
            return sample._replace(label=-1)
        return sample if isinstance(sample.label, str) else sample._replace(label=class_number(sample.label, classes))
    except UnicodeEncodeError:  # the bytes of its name are not UTF-8, and are shown instead
        key = sample.key.encode("utf-8", "backslashreplace").decode()
        return sample._replace(key=key, label=-1, fault="its name is not UTF-8")
    except Refused as reason:
        return sample._replace(label=-1, fault=str(reason))


def _find(source: str) -> Iterator[Sample]:
    for file, prefix in files_of(source):
        if file.is_dir():
            yield from list_folder(file)
        elif file.suffix == ".tar":
            yield from list_tar(file, prefix)
        else:
            yield from list_parquet(file)


def files_of(source: str) -> Iterator[tuple[Path, str]]:
    """The folder, or the .tar and .parquet files, that a source consists of, and what the keys in each begin with.

    Raises:
        DiffxError: there is nothing, or a file of another kind.
    """
    path = Path(source).expanduser()
    files = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not files:
        raise DiffxError(
            f"{source} does not exist; type a folder, a .tar or .parquet file, or a quoted pattern of such."
        )
    if path.is_dir():
        archives = sorted(p for p in path.iterdir() if p.suffix in (".tar", ".parquet"))
        files = archives or [path]
    tars = [file for file in files if file.suffix == ".tar"]
    for file in files:
        if not file.is_dir() and (file.suffix not in (".tar", ".parquet") or not file.is_file()):
            raise DiffxError(f"{file} is neither a folder nor a .tar or .parquet file; unpack it first.")
        yield file, f"{file.stem}/" if file.suffix == ".tar" and len(tars) > 1 else ""
