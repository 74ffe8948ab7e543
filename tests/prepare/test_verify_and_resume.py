"""A killed preparation goes on with nothing lost or doubled, and verify finds what is damaged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_sources import CLASSES, image_folder

from diffx.commands.prepare import main
from diffx.data.shards import ShardWriter, open_shards
from diffx.errors import DiffxError
from diffx.prepare.encode import prepare_latents
from diffx.prepare.images import prepare_images
from diffx.prepare.verify import verify
from tests import forks


@pytest.fixture
def root(source: Path, autoencoder: Path, tmp_path: Path) -> Path:
    prepare_images(str(source), tmp_path / "root", 16, shard_size=5)
    prepare_latents(tmp_path / "root", str(autoencoder))
    return tmp_path / "root"


def found(root: Path) -> list[tuple[str, str, str]]:
    return [problem[:3] for problem in verify(root)]


@pytest.mark.slow
def test_a_preparation_killed_in_the_middle_goes_on_with_nothing_lost_or_doubled(tmp_path):
    corrupt = (100, 250, 499)
    source = image_folder(tmp_path / "source", 500, corrupt)
    command = [sys.executable, "-m", "diffx.prepare", "images", str(source), str(tmp_path / "out")]
    command += ["--resolution", "32", "--shard-size", "20"]
    folder = tmp_path / "out" / "images"
    started = forks.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    while not (folder / "shard-00003.npy.partial").exists():
        assert started.poll() is None
        time.sleep(0.0005)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert not (folder / "manifest.json").exists()
    finished = {file: file.stat().st_mtime_ns for file in folder.glob("shard-*.npy")}
    assert len(finished) >= 3
    forks.run(command, check=True, capture_output=True)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    whole = prepare_images(str(source), tmp_path / "whole", 32, shard_size=20)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["checksum"] == whole["checksum"]
    assert manifest["samples"] == 497
    assert sorted(key.rsplit("_", 1)[1] for key, _ in manifest["rejected"]) == sorted(map(str, corrupt))
    keys, _ = open_shards(folder, "").index()
    assert len(set(keys.tolist())) == 497
    assert verify(tmp_path / "out") == []


def test_two_processes_never_write_the_same_shard(tmp_path):
    writer = ShardWriter(tmp_path, 0, (2,), "uint8", 4)
    with pytest.raises(DiffxError, match="Another process"):
        ShardWriter(tmp_path, 0, (2,), "uint8", 4)
    writer.add("a", 0, np.zeros(2))
    writer.close()
    assert np.load(tmp_path / "shard-00000.npy").shape == (1, 2)


def test_a_sound_folder_has_no_problems(root, capsys):
    assert main(["verify", str(root)]) == 0
    assert "all samples are there, once, and intact" in capsys.readouterr().out


def test_a_changed_byte_names_its_sample_and_no_other(root):
    file = root / "images" / "shard-00001.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    keys, _ = open_shards(root / "images", "").index()
    last_of_shard_1 = json.loads((root / "images" / "shard-00001.json").read_text())["keys"][-1]
    assert found(root) == [("corrupt", "images", last_of_shard_1)]
    assert last_of_shard_1.encode() in keys


def test_a_file_cut_short_names_the_samples_that_are_gone(root):
    file = root / "latents" / "shard-00000.npy"
    file.write_bytes(file.read_bytes()[:-10])
    keys = json.loads((root / "latents" / "shard-00000.json").read_text())["keys"]
    assert found(root) == [("corrupt", "latents", keys[-1])]


def test_a_lost_shard_names_all_its_samples_and_the_remedy_brings_them_back(root, autoencoder, capsys):
    before = (root / "latents" / "shard-00001.npy").read_bytes()
    (root / "latents" / "shard-00001.npy").unlink()
    assert main(["verify", str(root)]) == 1
    printed = capsys.readouterr().out
    assert "latents: 4 missing" in printed
    (root / "latents" / "shard-00001.json").unlink()
    assert str(root / "latents" / "shard-00001.json") in printed
    prepare_latents(root, str(autoencoder))
    assert (root / "latents" / "shard-00001.npy").read_bytes() == before
    assert verify(root) == []


def test_a_doubled_and_a_missing_sample_are_named(root):
    file = root / "images" / "shard-00002.json"
    note = json.loads(file.read_text())
    first = json.loads((root / "images" / "shard-00000.json").read_text())["keys"][0]
    lost, note["keys"][0] = note["keys"][0], first
    file.write_text(json.dumps(note))
    assert ("doubled", "images", first) in found(root)
    assert ("missing", "images", lost) in found(root)


def test_labels_that_disagree_between_folders_are_named(root):
    file = root / "latents" / "shard-00000.json"
    note = json.loads(file.read_text())
    note["labels"][2] += 1
    file.write_text(json.dumps(note))
    altered, label = found(root)
    assert altered[:2] == ("manifest", "latents")
    assert "shard-00000.json holds other" in altered[2]
    assert label == ("label", "latents", note["keys"][2])


def test_shards_not_made_yet_are_unfinished(root):
    (root / "latents" / "shard-00002.json").unlink()
    assert {kind for kind, _, _ in found(root)} == {"unfinished"}


def test_the_command_line_says_what_is_wrong_and_exits_with_2(tmp_path, capsys):
    assert main(["images", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    assert "nothing does not exist; type a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_line_reports_refused_images(source, tmp_path, capsys):
    assert main(["images", str(source), str(tmp_path / "out"), "--resolution", "16"]) == 0
    printed = capsys.readouterr().out
    assert "11 samples, 1 refused" in printed
    assert f"refused {CLASSES[1]}/{CLASSES[1]}_4" in printed
