"""Sets of images on disk: ADM's .npz (arr_0, uint8, N×H×W×3) and folders of pictures, read and written in pieces."""

import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from diffx.errors import DiffxError
from diffx.pixels.decode import Refused, decode, read_file

KEY = "arr_0"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm")


class NpzImages:
    """The images of an .npz file, never all in memory. `key`: the array in it.

    Raises:
        DiffxError: no .npz, or its array is not uint8 images N×H×W×3 (or ×1).
    """

    def __init__(self, path: Path, key: str = KEY) -> None:
        self.path, self._member = path, f"{key}.npy"
        with self._open() as archive:
            if self._member not in archive.namelist():
                names = ", ".join(name.removesuffix(".npy") for name in archive.namelist()) or "nothing"
                raise DiffxError(f"{path} has no array {key} but {names}; samples are uint8, NxHxWx3, as {key}.")
            with archive.open(self._member) as file:
                shape, fortran, dtype = _header(file, path)
        if len(shape) != 4 or shape[3] not in (1, 3) or dtype != np.uint8 or fortran:
            raise DiffxError(f"{path}: {key} is {dtype} {shape}; samples are uint8, NxHxWx3.")
        if shape[0] == 0:
            raise DiffxError(f"{path} holds no images.")
        self.shape: tuple[int, int, int, int] = shape

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Height in pixels."""
        return self.shape[1]

    def batches(self, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
        """uint8 (b, C, H, W): images rank, rank + world, ... in the file's order.

        Raises:
            DiffxError: the file is cut off or damaged.
        """
        count, *shape = self.shape
        row = int(np.prod(shape))
        with self._open() as archive, archive.open(self._member) as file:
            _header(file, self.path)
            for start in range(0, count, batch_size * world):
                many = min(batch_size * world, count - start)
                try:
                    raw = file.read(many * row)
                except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
                    raise DiffxError(f"{self.path} is damaged near image {start} ({error}).") from error
                if len(raw) < many * row:
                    raise DiffxError(f"{self.path} ends after {start + len(raw) // row} of its {count} images.")
                images = np.frombuffer(raw, np.uint8).reshape(many, *shape)[rank::world]
                if len(images):
                    yield torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DiffxError(f"{self.path} cannot be read as an .npz file ({error}).") from error


class FolderImages:
    """The picture files of a folder in the order of their names, all of one size.

    Raises:
        DiffxError: no pictures there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURES) if path.is_dir() else []
        if not self._files:
            raise DiffxError(f"{path} holds no pictures ({', '.join(PICTURES)}).")
        self.size = _picture(self._files[0]).shape[1]

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
        """uint8 (b, 3, H, W): pictures rank, rank + world, ...

        Raises:
            DiffxError: names the first picture that cannot be read or is of another size.
        """
        expected = _picture(self._files[0]).shape
        mine = self._files[rank::world]
        for start in range(0, len(mine), batch_size):
            files = mine[start : start + batch_size]
            images = [_picture(file) for file in files]
            for file, image in zip(files, images, strict=True):
                if image.shape != expected:
                    raise DiffxError(
                        f"{file} has {image.shape[2]}x{image.shape[1]} pixels and {self._files[0].name} has "
                        f"{expected[2]}x{expected[1]}; all pictures of a set have one size."
                    )
            yield torch.stack(images)


def open_images(path: Path) -> NpzImages | FolderImages:
    """An .npz file, or a folder of pictures. Raises DiffxError for anything else."""
    if path.is_dir():
        return FolderImages(path)
    if not path.exists():
        raise DiffxError(f"{path} does not exist; type a run, an .npz file or a folder of pictures.")
    return NpzImages(path)


def write_npz(path: Path, count: int, batches: Iterable[Tensor]) -> None:
    """Write uint8 images (b, C, H, W), `count` in all, as `arr_0` (N, H, W, C), one batch in memory at a time.

    Raises:
        DiffxError: fewer or more images, or the disk is full; an earlier file of that name is kept.
    """
    partial = path.with_name(f".{path.name}.partial")
    written = 0
    try:
        with zipfile.ZipFile(partial, "w") as archive, archive.open(f"{KEY}.npy", "w", force_zip64=True) as file:
            for images in batches:
                rows = images.permute(0, 2, 3, 1).contiguous().numpy()
                if not written:
                    shape = (count, *rows.shape[1:])
                    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                file.write(rows.tobytes())
                written += len(rows)
        if written != count:
            raise DiffxError(f"{written} images where {count} were expected: {path} is not written.")
        os.replace(partial, path)
    except OSError as error:
        raise DiffxError(f"{path} cannot be written ({error.strerror or error}).") from error
    finally:
        partial.unlink(missing_ok=True)


def _header(file: Any, path: Path) -> tuple[Any, bool, Any]:
    """Shape, order and type of the array that begins here."""
    try:
        version = npy.read_magic(file)
        return npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DiffxError(f"{path} is damaged ({error}).") from error


def _picture(file: Path) -> Tensor:
    """uint8 (3, H, W)."""
    try:
        return torch.from_numpy(np.array(decode(read_file(file)))).permute(2, 0, 1)
    except (OSError, Refused) as error:
        raise DiffxError(f"{file} cannot be read as a picture ({error}).") from error
