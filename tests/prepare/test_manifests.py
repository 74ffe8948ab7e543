"""A manifest that says something else than its shards is no longer intact, whatever it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffx.commands.prepare import main
from diffx.data.latents import Latents
from diffx.errors import DiffxError
from diffx.prepare.encode import prepare_latents
from diffx.prepare.images import prepare_images
from diffx.prepare.verify import verify


@pytest.fixture
def root(source: Path, autoencoder: Path, tmp_path: Path) -> Path:
    prepare_images(str(source), tmp_path / "root", 16, shard_size=5)
    prepare_latents(tmp_path / "root", str(autoencoder))
    return tmp_path / "root"


def change(root: Path, path: tuple[str, ...], value: Any, files: tuple[str, ...] = ("manifest.json",)) -> None:
    """Set a fact of the latents' manifest, or of other files there."""
    for name in files:
        file = root / "latents" / name
        whole = json.loads(file.read_text())
        inside = whole
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value
        file.write_text(json.dumps(whole))


CHANGES = {
    "a scale of 0": (("facts", "scale"), [0.0]),
    "a scale of NaN": (("facts", "scale"), [float("nan")]),
    "another scale": (("facts", "scale"), [0.3]),
    "another dtype": (("dtype",), "float32"),
    "another shape": (("shape",), [8, 4, 4]),
    "fewer shards": (("shards",), [{"samples": 5, "crc32": "00000000"}]),
    "more samples": (("samples",), 12),
    "other statistics": (("statistics",), {}),
    "another format": (("format",), 2),
    "nothing refused": (("rejected",), [["a", "b"]]),
    "a fact of its own": (("extra",), 1),
}


@pytest.mark.parametrize("change_", CHANGES.values(), ids=CHANGES)
def test_a_changed_manifest_is_no_longer_intact_and_the_remedy_brings_it_back(root, autoencoder, change_, capsys):
    before = (root / "latents" / "manifest.json").read_text()
    change(root, *change_)
    assert {problem[:2] for problem in verify(root)} == {("manifest", "latents")}
    assert main(["verify", str(root)]) == 1
    assert f"Delete {root / 'latents' / 'manifest.json'} and type" in capsys.readouterr().out
    (root / "latents" / "manifest.json").unlink()
    assert [problem.kind for problem in verify(root)] == ["unfinished"]
    prepare_latents(root, str(autoencoder))
    assert (root / "latents" / "manifest.json").read_text() == before


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_scale_that_leaves_nothing_is_found_where_the_listing_has_it_too_and_is_never_trained_on(root, scale):
    change(root, ("facts", "scale"), [scale], ("manifest.json", "listing.json"))
    (problem,) = verify(root)
    assert "leaves no latents to train on" in problem.key
    with pytest.raises(DiffxError, match=r"manifest\.json has scale"):
        Latents(str(root))


def test_a_shard_of_another_dtype_than_the_manifest_is_never_trained_on(root):
    file = root / "latents" / "shard-00000.npy"
    np.save(file, np.load(file).view(np.int16))
    assert "manifest" in {problem.kind for problem in verify(root)}
    with pytest.raises(DiffxError, match="int16"):
        Latents(str(root)).batch(torch.arange(2))


def test_notes_that_diffx_did_not_write_are_one_sentence(root, capsys):
    (root / "latents" / "shard-00000.json").write_text("[1, 2]")
    assert main(["verify", str(root)]) == 2
    assert "that diffx did not write" in capsys.readouterr().err
