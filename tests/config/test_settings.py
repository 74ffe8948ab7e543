"""Settings are typed, checked in one place, the same whoever composed them, and survive a run's folder."""

import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from diffx.config.compose import compose_config, config_dir
from diffx.config.parse import tree_of, yaml_of
from diffx.config.read import read_settings, settings_of
from diffx.config.settings import DataSettings, EvalSettings, LoggerSettings, Settings, TrainerSettings
from diffx.errors import DiffxError
from diffx.run.folder import RunDir


def test_settings_written_and_read_are_the_same(tmp_path: Path) -> None:
    settings = compose_config(["+experiment=repa_b", "more_ema_decays=[0.999]", "budget={gpu_hours: 1}"])
    (tmp_path / "config.yaml").write_text(yaml_of(settings))
    assert read_settings(tmp_path / "config.yaml") == settings


@pytest.mark.parametrize("kind", [Settings, TrainerSettings, EvalSettings, LoggerSettings])
def test_a_default_of_the_schema_is_the_default_of_conf(kind: Any) -> None:
    """Else an id would leave out what is not the default."""
    composed: Any = compose_config([])
    part = {
        Settings: composed,
        TrainerSettings: composed.trainer,
        EvalSettings: composed.eval,
        LoggerSettings: composed.logger,
    }[kind]
    plain = [f for f in fields(kind) if type(f.default) in (int, float, str, bool, type(None), tuple)]
    assert len(plain) > 2
    assert {f.name: getattr(part, f.name) for f in plain} == {f.name: f.default for f in plain}


def test_every_number_has_a_range() -> None:
    for kind in (Settings, TrainerSettings, EvalSettings, DataSettings):
        assert is_dataclass(kind)
        for entry in fields(kind):
            if any(word in str(entry.type) for word in ("int", "float")) and "Settings" not in str(entry.type):
                assert "least" in entry.metadata, entry.name


def test_a_setting_that_the_file_leaves_out_is_as_in_the_schema() -> None:
    tree = tree_of(compose_config([]))
    del tree["log_every"], tree["trainer"]["threads"]
    assert settings_of(OmegaConf.create(tree)) == compose_config([])


def test_a_group_without_its_class_is_said() -> None:
    tree = tree_of(compose_config([])) | {"sampler": {"nfe": 3}}
    with pytest.raises(DiffxError, match=r"sampler\._target_ is not set"):
        settings_of(OmegaConf.create(tree))


def test_auto_devices_are_the_gpus_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose_config(["trainer.devices=auto", "trainer.accelerator=cpu"]).trainer.devices == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert compose_config(["trainer.devices=auto"]).trainer.devices == 4


def test_blocks_are_compiled_on_a_gpu_and_nothing_on_a_cpu_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose_config([]).compile == "none"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert compose_config([]).compile == "blocks"
    assert compose_config(["trainer.accelerator=cpu"]).compile == "none"
    assert compose_config(["compile=none"]).compile == "none"
    assert compose_config([]).id == compose_config(["compile=none"]).id


@pytest.mark.parametrize("devices", ["0", "-1", "[0,1]", "null", "1.5"])
def test_other_devices_are_refused_with_the_value(devices: str) -> None:
    with pytest.raises(DiffxError, match="must be int or auto"):
        compose_config([f"trainer.devices={devices}"])


def hydra(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffx", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("+batchsize=3", "batchsize is not a setting"),
        ("trainer.precision=bf17", "trainer.precision=bf17 is not known"),
        ("backbone.depth=deep", "backbone.depth=deep has the wrong kind"),
    ],
)
def test_hydras_own_launcher_goes_through_the_same_checks(typed: str, said: str, tmp_path: Path) -> None:
    ended = hydra(tmp_path, "-m", "hydra/launcher=basic", "logger=none", "max_steps=1", typed)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_hydras_own_launcher_leaves_out_plugins_that_are_off(tmp_path: Path) -> None:
    """It ended in a ConfigAttributeError: the experiment sets plugins.repa.depth."""
    ended = hydra(tmp_path, "-m", "hydra/launcher=basic", "+experiment=repa_b", "plugins=[]", "logger=none")
    assert ended.returncode == 2
    assert "python -m diffx.prepare" in ended.stderr
    assert "ConfigAttributeError" not in ended.stderr


IDS = {
    "": "4487a2fd",
    "plugins=[repa,tread] optimizer.lr=1e-3": "45174f4f",
    "+experiment=repa_xl seed=3": "89c0d4fb",
}


@pytest.mark.parametrize("typed", IDS)
def test_an_id_stays_what_it_is(typed: str) -> None:
    """A change here orphans every run that people have: their folders carry these names."""
    assert compose_config([*typed.split(), "trainer.accelerator=cpu"]).id == IDS[typed]


@pytest.mark.parametrize(
    "same",
    ["seed=3", "max_steps=7", "runs_dir=there", "logger=none", "optimizer.fused=false", "trainer.accumulate=2",
     "sweep_jobs=3", "max_skipped_steps=3", "data.workers=1", "compile=blocks", "budget={cpu_hours: 1}"],
)  # fmt: skip
def test_where_how_long_and_on_what_a_run_goes_leave_its_id(same: str) -> None:
    assert compose_config([same]).id == compose_config([]).id


@pytest.mark.parametrize(
    "other",
    ["optimizer.lr=1e-3", "plugins=[repa]", "backbone.depth=5", "eval.samples=100", "batch_size=16", "label_dropout=0",
     "trainer.gradient_clip_val=null", "ema_decay=0.9", "sampler.nfe=7", "guidance.scale=2", "data.size=8"],
)  # fmt: skip
def test_what_makes_another_run_changes_the_id(other: str) -> None:
    assert compose_config([other]).id != compose_config([]).id


def test_every_protocol_evaluates_at_least_twice_per_doubling() -> None:
    """With one, the interval between the points is what a comparison knows least about."""
    for name in sorted(file.stem for file in (config_dir() / "eval").iterdir()):
        assert compose_config([f"eval={name}"]).eval.per_doubling >= 2, name
    assert EvalSettings.__dataclass_fields__["per_doubling"].default == 2


def test_a_number_at_its_default_is_the_setting_left_out() -> None:
    settings = compose_config([])
    left_out = {key: value for key, value in settings.backbone.arguments.items() if key != "skips"}
    assert replace(settings, backbone=replace(settings.backbone, arguments=left_out)).id == settings.id


def test_a_folder_of_before_the_move_is_read(tmp_path: Path) -> None:
    settings = compose_config([])
    old = yaml_of(settings).replace("diffx.metrics.EmbeddedMetrics", "diffx.metrics.features.EmbeddedMetrics")
    (tmp_path / "config.yaml").write_text(old.replace("diffx.data.Digits", "diffx.data.digits.Digits"))
    assert "features" in (tmp_path / "config.yaml").read_text()
    assert read_settings(RunDir(tmp_path).settings) == settings


def test_a_class_that_is_no_more_is_said_in_one_sentence(tmp_path: Path) -> None:
    old = yaml_of(compose_config([])).replace("diffx.sampler.Euler", "diffx.sampler.Eulerian")
    (tmp_path / "config.yaml").write_text(old)
    with pytest.raises(DiffxError, match=r"sampler\._target_=diffx\.sampler\.Eulerian") as refused:
        read_settings(tmp_path / "config.yaml")
    assert "\n" not in str(refused.value)


NONSENSE = {
    "budget={}": "budget={}",
    "budget={cpu_hours: -1}": "budget.cpu_hours=-1",
    "budget={cpu_hours: inf}": "budget.cpu_hours=inf",
    "guidance.channels=99": "guidance.channels=99",
    "guidance.channels=0": "guidance.channels=0",
    "backbone.mlp_ratio=0": "backbone.mlp_ratio=0",
    "objective.shift=inf": "objective.shift=inf",
    "objective.shift=nan": "objective.shift=nan",
    "data.decoder=vae9000": "data.decoder=vae9000",
    "plugins=[repa] plugins.repa.projector_dim=0": "plugins.repa.projector_dim=0",
    "plugins=[repa] plugins.repa.weight=1e300": "plugins.repa.weight=1e+300",
    "backbone.depth=1000000": "backbone.depth=1000000",
    "eval.per_doubling=1e8": "eval.per_doubling=100000000",
    "trainer.gradient_clip_val=nan": "trainer.gradient_clip_val=nan",
    "checkpoint_minutes=inf": "checkpoint_minutes=inf",
    "data.name=../elsewhere": "experiment=../elsewhere",
    "eval=3": "eval",
    "trainer=null": "trainer",
    "logger.mode=sometimes": "logger.mode=sometimes",
    "eval.rounding=up": "eval.rounding=up",
    "optimizer.lr=nan": "optimizer.lr=nan",
    "seed=4294967296": "seed=4294967296",
    "resume=null": "resume=null",
}


@pytest.mark.parametrize("typed", NONSENSE)
def test_nonsense_is_refused_with_the_value_before_anything_is_built(typed: str) -> None:
    words = [typed] if "{" in typed else typed.split()
    with pytest.raises(DiffxError) as refused:
        compose_config(words)
    assert NONSENSE[typed] in str(refused.value)
    assert "\n" not in str(refused.value)
