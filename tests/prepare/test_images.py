"""Images from every layout, cropped as ADM does."""

import io
import json
import tarfile

import numpy as np
import pytest
from made_sources import CLASSES, image_folder, picture, tar_of_tars
from PIL import Image

from diffx.data.shards import open_shards
from diffx.errors import DiffxError
from diffx.pixels.decode import ADDRESS, Refused, decode
from diffx.prepare.images import center_crop, prepare_images
from diffx.prepare.source import list_source, read_bytes


def keys_and_labels(source: str) -> list[tuple[str, int]]:
    return [(sample.key, sample.label) for sample in list_source(source)[0]]


def test_an_image_of_the_right_size_is_left_alone():
    image = picture(0, (16, 16))
    np.testing.assert_array_equal(center_crop(image, 16), np.asarray(image))


def test_an_image_twice_as_large_is_halved_by_box_averages():
    image = picture(1, (32, 32))
    means = np.asarray(image, np.float64).reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(center_crop(image, 16) - means).max() <= 1  # Pillow rounds after each axis


def test_a_long_image_loses_both_ends():
    image = picture(2, (16, 40))
    np.testing.assert_array_equal(center_crop(image, 16), np.asarray(image)[12:28])


def test_between_one_and_two_times_the_size_only_bicubic_is_used():
    image = picture(3, (30, 24))
    whole = np.asarray(image.resize((20, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(center_crop(image, 16), whole[:, 2:18])


def test_labels_count_the_sorted_class_folders(tmp_path):
    root = image_folder(tmp_path / "source", 4)
    names = [f"{CLASSES[0]}/{CLASSES[0]}_0", f"{CLASSES[0]}/{CLASSES[0]}_3"]
    assert keys_and_labels(str(root)) == [
        (names[0], 0),
        (names[1], 0),
        (f"{CLASSES[1]}/{CLASSES[1]}_1", 1),
        (f"{CLASSES[2]}/{CLASSES[2]}_2", 2),
    ]


def test_imagenets_tar_of_tars_gives_the_same_samples_as_the_folder(tmp_path):
    folder = image_folder(tmp_path / "source")
    archive = tar_of_tars(tmp_path / "train.tar", folder)
    assert keys_and_labels(str(archive)) == keys_and_labels(str(folder))
    for one, other in zip(list_source(str(archive))[0], list_source(str(folder))[0], strict=True):
        assert read_bytes(one.place) == read_bytes(other.place)


def test_one_tar_per_class_in_a_folder_is_labelled_by_the_tars(tmp_path):
    folder = image_folder(tmp_path / "source")
    (tmp_path / "tars").mkdir()
    for name in CLASSES:
        with tarfile.open(tmp_path / "tars" / f"{name}.tar", "w") as archive:
            for image in (folder / name).iterdir():
                archive.add(image, image.name)
    assert keys_and_labels(str(tmp_path / "tars")) == keys_and_labels(str(folder))
    assert keys_and_labels(str(tmp_path / "tars" / "*.tar")) == keys_and_labels(str(folder))


def test_webdataset_tars_are_labelled_by_their_cls_files(tmp_path):
    with tarfile.open(tmp_path / "part.tar", "w") as archive:
        for i, label in enumerate((7, 3)):
            image = io.BytesIO()
            picture(i).save(image, "PNG")
            for name, data in ((f"{i:04d}.png", image.getvalue()), (f"{i:04d}.cls", str(label).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    assert keys_and_labels(str(tmp_path / "part.tar")) == [("0000", 7), ("0001", 3)]


def test_parquet_rows_give_the_images_and_labels_of_their_columns(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    encoded = []
    for i in range(5):
        image = io.BytesIO()
        picture(i).save(image, "PNG")
        encoded.append({"bytes": image.getvalue(), "path": f"{i}.png"})
    table = pyarrow.table({"image": encoded, "label": [4, 0, 2, 2, 1]})
    parquet.write_table(table, tmp_path / "train-00000.parquet", row_group_size=2)
    samples, _ = list_source(str(tmp_path / "train-*.parquet"))
    assert [s.label for s in samples] == [4, 0, 2, 2, 1]
    assert [read_bytes(s.place) for s in samples] == [e["bytes"] for e in encoded]


def test_dataset_json_in_the_folder_gives_the_labels(tmp_path):
    (tmp_path / "00000").mkdir()
    picture(0).save(tmp_path / "00000" / "img00000000.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["00000/img00000000.png", 5]]}))
    assert keys_and_labels(str(tmp_path)) == [("00000/img00000000", 5)]


def test_two_files_of_one_key_are_refused_by_name(tmp_path):
    root = image_folder(tmp_path / "source", 3)
    file = root / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    picture(0).save(file.with_suffix(".png"))
    with pytest.raises(DiffxError, match=rf"both have a sample {CLASSES[0]}/{CLASSES[0]}_0"):
        list_source(str(root))


def test_an_empty_source_is_refused(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DiffxError, match="holds no images"):
        list_source(str(tmp_path / "nothing"))


def test_a_compressed_tar_is_refused(tmp_path):
    folder = image_folder(tmp_path / "source", 3)
    with tarfile.open(tmp_path / "train.tar", "w:gz") as archive:
        archive.add(folder, "source")
    with pytest.raises(DiffxError, match="uncompressed"):
        list_source(str(tmp_path / "train.tar"))


def test_corrupt_images_are_left_out_and_named_with_the_reason(source, tmp_path):
    manifest = prepare_images(str(source), tmp_path / "out", 16, shard_size=5)
    assert manifest["samples"] == 11
    ((key, reason),) = manifest["rejected"]
    assert key == f"{CLASSES[1]}/{CLASSES[1]}_4"
    assert reason


def test_every_row_is_the_crop_of_the_sample_that_its_key_names(source, tmp_path):
    prepare_images(str(source), tmp_path / "out", 16, shard_size=5)
    shards = open_shards(tmp_path / "out" / "images", "")
    keys, labels = shards.index()
    rows = shards.read(np.arange(len(shards)))
    for key, label, row in zip(keys, labels, rows, strict=True):
        file = source / f"{key.decode()}.JPEG"
        np.testing.assert_array_equal(row, center_crop(Image.open(file).convert("RGB"), 16).transpose(2, 0, 1))
        assert CLASSES[label] == file.parent.name


def test_grey_and_transparent_images_become_colour(tmp_path):
    for mode in ("L", "RGBA", "P", "CMYK"):
        file = tmp_path / "source" / "a" / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(0).convert(mode).save(file)
    manifest = prepare_images(str(tmp_path / "source"), tmp_path / "out", 16)
    assert (manifest["samples"], manifest["rejected"]) == (4, [])


def test_a_folder_begun_at_another_resolution_is_refused_and_kept(source, tmp_path):
    prepare_images(str(source), tmp_path / "out", 16)
    before = (tmp_path / "out" / "images" / "manifest.json").read_text()
    with pytest.raises(DiffxError, match="resolution=16 and not 8"):
        prepare_images(str(source), tmp_path / "out", 8)
    assert (tmp_path / "out" / "images" / "manifest.json").read_text() == before


def test_a_source_that_changed_since_is_refused(source, tmp_path):
    prepare_images(str(source), tmp_path / "out", 16)
    picture(99).save(source / CLASSES[0] / "new.png")
    with pytest.raises(DiffxError, match="begun with 12 samples"):
        prepare_images(str(source), tmp_path / "out", 16)


def test_processes_share_the_shards_and_the_last_one_finishes(source, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert prepare_images(str(source), tmp_path / "out", 16, shard_size=4) is None
    monkeypatch.setenv("RANK", "0")
    shared = prepare_images(str(source), tmp_path / "out", 16, shard_size=4)
    monkeypatch.setenv("WORLD_SIZE", "1")
    alone = prepare_images(str(source), tmp_path / "alone", 16, shard_size=4)
    assert shared["checksum"] == alone["checksum"]


def test_a_source_that_is_not_there_and_a_resolution_that_nothing_takes_are_said_at_once(tmp_path):
    with pytest.raises(DiffxError, match=r"nowhere\.tar does not exist"):
        prepare_images(str(tmp_path / "nowhere.tar"), tmp_path / "out", 16)
    with pytest.raises(DiffxError, match=r"--resolution 250 is no multiple of 8.*type --resolution 256"):
        prepare_images(str(tmp_path), tmp_path / "out", 250)
    assert not (tmp_path / "out").exists()


def test_a_reason_holds_no_address_of_an_object_in_memory():
    broken = b"GIF89a" + bytes(40)
    with pytest.raises(Refused) as refused:
        decode(broken)
    assert "0x" not in str(refused.value)
    assert ADDRESS.sub("", "cannot <_io.BytesIO object at 0x7f01ab>") == "cannot <_io.BytesIO object>"
