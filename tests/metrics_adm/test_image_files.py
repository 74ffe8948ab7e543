"""Samples of others: .npz files and folders of pictures, and what is wrong with them in a sentence."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffx.errors import DiffxError
from diffx.pixels.files import FolderImages, NpzImages, open_images, write_npz


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (11, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, images: torch.Tensor) -> Path:
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:06d}.png")
    return tmp_path


def test_an_npz_is_what_numpy_reads(tmp_path: Path, images: torch.Tensor) -> None:
    write_npz(tmp_path / "s.npz", 11, images.split(4))
    with np.load(tmp_path / "s.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], images.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_of_numpy_is_read_in_batches(tmp_path: Path, images: torch.Tensor, save) -> None:
    save(tmp_path / "s.npz", images.permute(0, 2, 3, 1).numpy())
    found = open_images(tmp_path / "s.npz")
    assert (len(found), found.size) == (11, 6)
    assert torch.equal(torch.cat(list(found.batches(3))), images)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_read_every_image_once_in_turn(tmp_path: Path, images: torch.Tensor, folder: Path, world: int) -> None:
    write_npz(tmp_path / "s.npz", 11, [images])
    for found in (NpzImages(tmp_path / "s.npz"), FolderImages(folder)):
        for rank in range(world):
            assert torch.equal(torch.cat(list(found.batches(2, rank, world))), images[rank::world])


def test_a_folder_is_read_in_the_order_of_names(folder: Path, images: torch.Tensor) -> None:
    (folder / "notes.txt").write_text("not a picture")
    assert torch.equal(torch.cat(list(open_images(folder).batches(4))), images)


def test_a_wrong_number_of_images_writes_nothing_and_keeps_what_was_there(tmp_path: Path, images: torch.Tensor) -> None:
    (tmp_path / "s.npz").write_text("precious")
    with pytest.raises(DiffxError, match="11 images where 12"):
        write_npz(tmp_path / "s.npz", 12, [images])
    assert (tmp_path / "s.npz").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cut_off_file_is_said(tmp_path: Path, images: torch.Tensor) -> None:
    write_npz(tmp_path / "s.npz", 11, [images])
    raw = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(raw[:600])
    with pytest.raises(DiffxError, match=r"cut\.npz cannot be read as an \.npz"):
        open_images(tmp_path / "cut.npz")


def test_a_changed_byte_is_found_by_the_checksum(tmp_path: Path, images: torch.Tensor) -> None:
    write_npz(tmp_path / "s.npz", 11, [images])
    raw = bytearray((tmp_path / "s.npz").read_bytes())
    raw[700] ^= 1
    (tmp_path / "s.npz").write_bytes(raw)
    with pytest.raises(DiffxError, match="is damaged"):
        list(NpzImages(tmp_path / "s.npz").batches(4))


def test_a_header_that_promises_more_images_than_there_are_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive, archive.open("arr_0.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (9, 4, 4, 3)})
        file.write(bytes(5 * 48))
    with pytest.raises(DiffxError, match="ends after 5 of its 9 images"):
        list(NpzImages(tmp_path / "s.npz").batches(9))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "float32"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"\(2, 3, 4, 4\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no images"),
        (np.array([{"a": 1}], dtype=object), "object"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "s.npz", array)
    with pytest.raises(DiffxError, match=words):
        open_images(tmp_path / "s.npz")


def test_another_name_of_the_array_is_said_with_the_names_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", samples=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(DiffxError, match="no array arr_0 but samples"):
        open_images(tmp_path / "s.npz")


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DiffxError, match="holds no pictures"):
        open_images(tmp_path)


def test_a_corrupt_picture_is_named(folder: Path) -> None:
    file = folder / "000003.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DiffxError, match=r"000003\.png cannot be read"):
        list(open_images(folder).batches(4))


def test_a_picture_of_another_size_is_named(folder: Path) -> None:
    Image.new("RGB", (5, 6)).save(folder / "000007.png")
    with pytest.raises(DiffxError, match=r"000007\.png has 5x6 pixels and 000000\.png has 8x6"):
        list(open_images(folder).batches(4))


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DiffxError, match="does not exist"):
        open_images(tmp_path / "gone.npz")
