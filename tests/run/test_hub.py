"""A model pushed to the Hub and pulled again, against a local stand-in that speaks its protocol."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from diffx.commands import evaluate
from diffx.commands.checkpoint import main
from diffx.run.folder import RunDir
from tests.run.fake_hub import TOKEN, FakeHub, serving


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        place = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", found.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield found


def model(folder: Path) -> Path:
    """As `import` leaves one, of two numbers."""
    folder.mkdir()
    save_file({"weight": torch.ones(2)}, folder / "backbone.safetensors")
    (folder / "config.yaml").write_text(
        "backbone: {_target_: diffx.backbone.DiT}\nsource: {family: sit, file: SiT-XL-2-256.pt, weights: ema}\n"
    )
    measured = {"values": {"fid_50k": 8.3}, "protocol": "ad50ad50", "protocol_facts": {}}
    (folder / "values_adm_50k.json").write_text(json.dumps(measured))
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr, beside the bars of a download."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.count("diffx: ") == 1
    assert "Traceback" not in said
    return said


@pytest.mark.slow
def test_a_run_is_pushed_with_its_card_pulled_and_evaluated(
    run: Callable[..., RunDir], hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = run("eval.first=8", "eval.samples=8", "max_steps=8", plugins=("tread",))
    main(["push", str(trained.path), "me/tread"])
    files = hub.files["me/tread"]
    assert set(files) == {
        "README.md", "config.yaml", "run.json", "plan.txt", "curve.jsonl", "checkpoints/ema.safetensors",
    }  # fmt: skip
    assert hub.created == [("me/tread", "private")]
    card, record, point = files["README.md"].decode(), trained.read_record(), list(trained.points())[-1]
    assert card.startswith("---\nlibrary_name: diffx\n")
    assert "trained by diffx on digits with tread (" in card
    assert "start 1, end 1" in card
    for name, value in point["values"].items():
        assert f"| {name} | {value:.6g} | of training | `{point['protocol']}` | 8 | {point['cpu_hours']:.4g} |" in card
    assert f"git checkout {record['git']['commit']}" in card
    assert "python -m diffx.worker config.yaml" in card
    main(["pull", "me/tread", "-o", str(tmp_path / "pulled")])
    assert (tmp_path / "pulled" / "checkpoints" / "ema.safetensors").read_bytes() == trained.ema_weights.read_bytes()
    assert not (tmp_path / "pulled" / ".cache").exists()
    evaluate.main([str(tmp_path / "pulled")])
    again = list(RunDir(tmp_path / "pulled").points())[-1]
    assert (again["step"], again["cpu_hours"]) == (point["step"], point["cpu_hours"])
    assert again["values"] == pytest.approx(point["values"], rel=1e-3)
    config = tmp_path / "pulled" / "config.yaml"
    config.write_text(config.read_text().replace("diffx.backbone.DiT", "os.system"))
    with pytest.raises(SystemExit):
        evaluate.main([str(tmp_path / "pulled")])
    assert "add --trust" in capsys.readouterr().err


def test_an_imported_model_comes_back_as_it_was_and_its_card_has_its_values(hub: FakeHub, tmp_path: Path) -> None:
    source = model(tmp_path / "sit")
    main(["push", str(source), "me/sit", "--public"])
    assert hub.created == [("me/sit", "public")]
    card = hub.files["me/sit"]["README.md"].decode()
    assert "imported from SiT-XL-2-256.pt (sit, weights: ema)" in card
    assert "| fid_50k | 8.3 | adm_50k | `ad50ad50` | – | – |" in card
    main(["pull", "me/sit", "-o", str(tmp_path / "back")])
    for file in source.iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_what_cannot_be_pushed_or_pulled_is_one_sentence(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model(tmp_path / "sit")
    assert "neither a run with a checkpoint" in refused(["push", str(tmp_path), "me/sit"], capsys)
    assert "sit is there already; type -o" in refused(["pull", "me/sit", "-o", str(source)], capsys)
    assert "has no repository me/none" in refused(["pull", "me/none", "-o", str(tmp_path / "out")], capsys)
    assert "is no name of a repository" in refused(["push", str(source), "me/a/b"], capsys)
    hub.files["me/other"] = {"config.yaml": b"{}", "pytorch_model.bin": b"pickle"}
    assert "me/other is neither a run" in refused(["pull", "me/other", "-o", str(tmp_path / "out")], capsys)
    hub.files["me/broken"] = {"config.yaml": b"{}", "backbone.safetensors": b"cut"}
    assert "me/broken" in refused(["pull", "me/broken", "-o", str(tmp_path / "out")], capsys)
    assert not list(tmp_path.glob("out*"))
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "refuses this token" in refused(["push", str(source), "me/sit"], capsys)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "push needs a token" in refused(["push", str(source), "me/sit"], capsys)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "does not answer" in refused(["pull", "me/sit", "-o", str(tmp_path / "out")], capsys)
