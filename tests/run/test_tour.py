"""The notebook in examples/ runs from its first cell to its last."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.run.conftest import SMALL

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tour.ipynb"


def test_the_notebook_trains_samples_writes_a_method_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell by cell in one namespace, as Jupyter does, with a smaller network and fewer steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert len(cells) == 12
    small = [*SMALL, "backbone.depth=5", "eval.first=2", "max_steps=4"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            if "COMMON" in names:
                names["COMMON"] = [*names["COMMON"], *(s for s in small if s not in names["COMMON"])]  # type: ignore
    assert len(list(tmp_path.glob("runs/tour/*/s0/curve.jsonl"))) == 3
    assert "calm" in (tmp_path / "runs/tour/compare/compare.md").read_text()
    with Image.open(next(tmp_path.glob("runs/tour/*/s0/samples/tour.png"))) as picture:
        assert picture.width > 100
