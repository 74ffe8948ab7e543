"""Sources that are damaged, malicious or endless: a bad sample is named and left out, whatever it is."""

import io
import json
import os
import struct
import tarfile
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from made_sources import picture

from diffx.commands.prepare import main
from diffx.errors import DiffxError
from diffx.pixels.decode import Refused, decode
from diffx.prepare.images import prepare_images
from diffx.prepare.limits import Limits
from diffx.prepare.published.repa import import_repa
from diffx.prepare.source import list_source, read_bytes


def encoded(kind: str = "PNG", size: tuple[int, int] = (20, 20)) -> bytes:
    file = io.BytesIO()
    picture(0, size).save(file, kind)
    return file.getvalue()


def tar(file: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return str(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good picture, a/good.png."""
    (tmp_path / "source" / "a").mkdir(parents=True)
    (tmp_path / "source" / "a" / "good.png").write_bytes(encoded())
    return tmp_path / "source"


def refused(source: str | Path, tmp_path: Path, resolution: int = 16, **limits: int) -> dict[str, str]:
    """What a preparation leaves out, and why; one sample is good."""
    manifest = prepare_images(str(source), tmp_path / "out", resolution, limits=Limits(**limits))
    assert manifest["samples"] == 1
    return dict(manifest["rejected"])


def test_an_image_that_a_crop_would_enlarge_beyond_memory_is_left_out(folder, tmp_path):
    (folder / "a" / "long.png").write_bytes(encoded(size=(65_000, 1)))
    assert "16640000x256 pixels, more than 100000000" in refused(folder, tmp_path, 256)["a/long"]


def test_an_image_of_too_many_pixels_is_left_out_before_it_is_decoded(folder, tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 15_000, 15_000, 8, 2, 0, 0, 0))
    (folder / "a" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert "pixels" in refused(folder, tmp_path)["a/bomb"]


def test_the_limits_are_settings(folder, tmp_path):
    (folder / "a" / "larger.png").write_bytes(encoded(size=(40, 20)))
    assert refused(folder, tmp_path / "one", 16, pixels=799)["a/larger"].endswith("more than 799")
    assert prepare_images(str(folder), tmp_path / "two", 16)["samples"] == 2
    (folder / "a" / "larger.png").write_bytes(b"x" * 10_000)
    assert refused(folder, tmp_path / "three", bytes=9_999)["a/larger"] == "has 10000 bytes, more than 9999"


def test_a_member_of_no_bytes_is_not_read_to_the_end_of_its_tar(tmp_path):
    source = tar(tmp_path / "a.tar", {"a/empty.png": b"", "a/good.png": encoded()})
    assert refused(source, tmp_path) == {"a/empty": "is empty"}
    empty = next(sample for sample in list_source(source)[0] if sample.key == "a/empty")
    with pytest.raises(Refused):
        read_bytes(empty.place)


def test_a_loop_of_links_yields_each_image_once_with_its_class(folder):
    (folder / "b").mkdir()
    (folder / "b" / "other.png").write_bytes(encoded())
    (folder / "a" / "up").symlink_to("..")
    (folder / "0").symlink_to("b")
    samples, classes = list_source(str(folder))
    assert [(sample.key, classes[sample.label]) for sample in samples] == [("a/good", "a"), ("b/other", "b")]


def test_class_folders_that_are_links_are_followed(folder, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(folder / "a")
    ((sample,), classes) = list_source(str(tmp_path / "links"))
    assert (sample.key, classes) == ("cat/good", ["cat"])


def test_a_pipe_is_not_waited_for(folder, tmp_path):
    os.mkfifo(folder / "a" / "pipe.png")
    (folder / "a" / "inside.png").mkdir()
    (folder / "a" / "gone.png").symlink_to("nowhere")
    found = refused(folder, tmp_path)
    assert found["a/pipe"] == "is no regular file"
    assert "FileNotFoundError" in found["a/gone"]


@pytest.mark.parametrize("label", ["-7", str(2**70), "1000000", "cat", "", "9" * 5000])
def test_a_label_that_numbers_no_class_leaves_its_sample_out(label, tmp_path):
    members = {"bad.png": encoded(), "bad.cls": label.encode(), "good.png": encoded(), "good.cls": b"3"}
    found = refused(tar(tmp_path / "a.tar", members), tmp_path)
    assert "class number" in found["bad"]


@pytest.mark.parametrize("label", [-7, 2**70, 1.5, True, None, [1]])
def test_a_label_in_dataset_json_that_numbers_no_class_leaves_its_sample_out(folder, label, tmp_path):
    (folder / "a" / "bad.png").write_bytes(encoded())
    (folder / "a" / "unnamed.png").write_bytes(encoded())
    (folder / "dataset.json").write_text(json.dumps({"labels": [["a/good.png", 1], ["a/bad.png", label]]}))
    found = refused(folder, tmp_path)
    assert "class number" in found["a/bad"]
    assert found["a/unnamed"] == "dataset.json gives it no label"


def test_class_names_beside_class_numbers_are_refused(tmp_path):
    tar(tmp_path / "a.tar", {"x/1.png": encoded()})
    tar(tmp_path / "b.tar", {"2.png": encoded(), "2.cls": b"0"})
    with pytest.raises(DiffxError, match=r"a/x/1 the class name x and sample b/2 the class number 0"):
        list_source(str(tmp_path / "*.tar"))


def test_a_dataset_json_of_another_form_is_one_sentence(folder, tmp_path, capsys):
    (folder / "dataset.json").write_text("[1, 2]")
    assert main(["images", str(folder), str(tmp_path / "out")]) == 2
    assert "mend it, or move it away" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG", "PNG", "BMP"])
def test_whatever_byte_of_an_image_is_damaged_it_is_decoded_or_refused(kind):
    whole = encoded(kind)
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        for content in (bytes(damaged), whole[:place]):
            with suppress(Refused):  # and nothing else
                decode(content)


def test_a_picture_whose_decoder_starts_a_program_is_refused(folder, tmp_path):
    (folder / "a" / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "is none of JPEG" in refused(folder, tmp_path)["a/script"]


def test_a_name_that_is_not_utf_8_is_left_out_and_can_be_printed(folder, tmp_path, capsys):
    (folder / "a" / os.fsdecode(b"\xe9\x1b[31m.png")).write_bytes(encoded())
    assert main(["images", str(folder), str(tmp_path / "out"), "--resolution", "16"]) == 0
    printed = capsys.readouterr().out
    assert r"refused a/\udce9" in printed
    assert "not UTF-8" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--shard-size -5", "--shard-size -5 is not a number from 1"),
        ("--shard-size 0", "type --shard-size 8192"),
        ("--resolution 0", "--resolution 0 is not a number"),
        ("--resolution 1000000", "more than 100000000"),
        ("--max-pixels -1", "--max-pixels -1"),
        ("--max-bytes 0", "--max-bytes 0"),
        ("--into ../x", "--into '../x' is not the name"),
        ("--into /x", "is not the name of a folder in ROOT"),
        ("--into ..", "is not the name of a folder"),
        ("--into latents", "where latents or features go"),
        ("--into features-x", "where latents or features go"),
    ],
)
def test_options_that_cannot_be_write_nothing_anywhere(options, says, folder, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(["images", str(folder), str(tmp_path / "out"), *options.split()]) == 2
    assert says in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_parquet_file_is_one_sentence(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(DiffxError, match="cannot be listed"):
        list_source(str(tmp_path / "a.parquet"))


def test_tars_within_tars_have_an_end(tmp_path):
    content = {"a.png": encoded()}
    for level in range(7):
        tar(tmp_path / f"{level}.tar", content)
        content = {"inner.tar": (tmp_path / f"{level}.tar").read_bytes()}
    assert len(list_source(str(tmp_path / "4.tar"))[0]) == 1
    with pytest.raises(DiffxError, match="more than 4 deep"):
        list_source(str(tmp_path / "6.tar"))


def test_repas_first_sample_may_be_the_bad_one(tmp_path):
    import numpy as np

    for name in ("images", "vae-sd"):
        (tmp_path / "repa" / name).mkdir(parents=True)
    labels = []
    for i, label in enumerate((0, 1, 2**70, 3)):
        picture(i, (16, 16)).save(tmp_path / "repa" / "images" / f"img{i:08d}.png")
        np.save(tmp_path / "repa" / "vae-sd" / f"img-mean-std-{i:08d}.npy", np.full((8, 2, 2), 1, np.float32))
        labels.append([f"img{i:08d}.png", label])
    (tmp_path / "repa" / "images" / "img00000000.png").write_bytes(b"nothing")
    (tmp_path / "repa" / "vae-sd" / "img-mean-std-00000001.npy").write_bytes(b"\x93NUMPY nothing")
    (tmp_path / "repa" / "images" / "dataset.json").write_text(json.dumps({"labels": labels}))
    manifest = import_repa(tmp_path / "repa", tmp_path / "out")
    assert [key for key, _ in manifest["rejected"]] == ["00000001", "00000002"]
    assert manifest["samples"] == 2
    images = json.loads((tmp_path / "out" / "images" / "manifest.json").read_text())
    assert [key for key, _ in images["rejected"]] == ["00000000", "00000002"]
    with pytest.raises(DiffxError, match="--scale nan"):
        import_repa(tmp_path / "repa", tmp_path / "again", scale=float("nan"))
