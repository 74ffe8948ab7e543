"""One place says what float32 is; sampling has a precision of its own, which is part of the protocol."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffx.assemble.model import build_model
from diffx.assemble.ready import look
from diffx.config.compose import compose_config
from diffx.config.protocol import protocol, with_protocol
from diffx.config.settings import Settings
from diffx.errors import DiffxError
from diffx.evaluation.sampling import Sampling
from diffx.features.exact import exact_float32
from diffx.processes.arithmetic import arithmetic, set_tf32, tf32
from diffx.run.name import short_hash
from diffx.testing import tiny_backbone
from diffx.train.trainer import make_trainer
from tests.run.conftest import small

CUDA = torch.device("cuda")


def switches() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def switches_as_they_were() -> Iterator[None]:
    with tf32(False):
        yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def test_both_switches_are_set_together_and_left_as_they_were() -> None:
    set_tf32(True)
    assert switches() == ("high", True)
    with exact_float32(torch.device("cpu")):
        assert switches() == ("highest", False)
    with arithmetic("32", CUDA):
        assert switches() == ("highest", False)
    assert switches() == ("high", True)
    set_tf32(False)
    assert switches() == ("highest", False)
    with arithmetic("tf32", CUDA):
        assert switches() == ("high", True)
    assert switches() == ("highest", False)


def test_nothing_else_of_diffx_sets_them() -> None:
    room = Path(__file__).parents[2] / "src" / "diffx"
    sets = re.compile(r"set_float32_matmul_precision|allow_tf32|fp32_precision")
    assert [f.name for f in room.rglob("*.py") if sets.search(f.read_text())] == ["arithmetic.py"]


@pytest.mark.parametrize(("precision", "wanted"), [("32-true", ("highest", False)), ("bf16-mixed", ("highest", False))])
def test_training_in_float32_rounds_neither_products_nor_convolutions(
    precision: str, wanted: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, convolutions were rounded to TF32 and products were not."""
    from diffx.train import loop

    seen = []

    def stop(settings: Settings) -> None:
        seen.append(switches())
        raise DiffxError("enough")

    monkeypatch.setattr(loop, "assemble", stop)
    set_tf32(True)
    with pytest.raises(DiffxError, match="enough"):
        loop.train(compose_config(small(f"trainer.precision={precision}")))
    assert seen == [wanted]


def test_tf32_is_a_precision_of_gpus(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffx.train import loop

    settings = compose_config(small("trainer.precision=tf32"))
    seen = []
    monkeypatch.setattr(loop, "join_processes", lambda *_: None)
    monkeypatch.setattr(loop, "assemble", lambda _: seen.append(switches()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.train(settings)
    assert seen == [("high", True)]
    assert make_trainer(settings, torch.device("cpu"), [], tiny_backbone()).precision == "32-true"


@pytest.mark.parametrize("key", ["trainer.precision", "eval.precision"])
def test_tf32_without_a_gpu_is_refused(key: str) -> None:
    with pytest.raises(DiffxError, match=rf"{key}=tf32 is for GPUs; type {key}="):
        look(compose_config(small(f"{key}=tf32")))


def facts(*settings: str) -> dict[str, object]:
    return protocol(compose_config([*settings]), "data", "metrics")


def test_what_auto_comes_to_is_hashed_and_float32_as_before_there_was_a_choice(gpu: None) -> None:
    on_a_cpu = facts("trainer.accelerator=cpu")
    assert "precision" not in on_a_cpu
    assert facts("eval.precision=32", "trainer.accelerator=cuda") == on_a_cpu
    assert facts("trainer.accelerator=cuda") == on_a_cpu | {"precision": "tf32"}
    assert facts("eval.precision=bf16", "trainer.accelerator=cpu") == on_a_cpu | {"precision": "bf16"}
    hashes = {short_hash(facts(f"eval.precision={p}", "trainer.accelerator=cuda")) for p in ("auto", "bf16", "32")}
    assert len(hashes) == 3


@pytest.mark.parametrize("name", ["adm_50k", "curve", "dit_cfg"])
def test_every_protocol_has_a_precision(name: str) -> None:
    assert compose_config([f"eval={name}", "data=imagenet256", "eval.precision=32"]).eval.precision == "32"
    assert with_protocol(compose_config([]), name, ["eval.precision=bf16"]).eval.precision == "bf16"


def test_a_run_keeps_its_name_whatever_auto_is(gpu: None) -> None:
    assert compose_config(small()).id == compose_config(small("eval.precision=auto")).id


@pytest.mark.parametrize(("precision", "wanted"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_samples_are_drawn_in_the_protocols_precision(precision: str, wanted: torch.dtype) -> None:
    settings = compose_config(small(f"eval.precision={precision}"))
    model, seen = build_model(settings), set[torch.dtype]()
    block = next(model.backbone.blocks.children())
    block.register_forward_hook(lambda *_: seen.add((torch.ones(2, 2) @ torch.ones(2, 2)).dtype))
    sampling = Sampling(settings, model.objective)
    (x,) = sampling.batches(model.backbone, range(4), torch.device("cpu"))
    assert seen == {wanted}
    assert x.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("how", "compiled"), [("none", False), ("blocks", True), ("step", True)])
def test_averages_are_compiled_while_they_are_sampled_where_training_is(
    how: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: made.append(function) or function)
    settings = compose_config(small(f"compile={how}"))
    model = build_model(settings)
    (first,) = Sampling(settings, model.objective).batches(model.backbone, range(4), torch.device("cpu"))
    assert len(made) == (3 if compiled else 0)
    assert all("forward" not in block.__dict__ for block in model.backbone.blocks.children())
    (plain,) = Sampling(compose_config(small()), model.objective).batches(model.backbone, range(4), torch.device("cpu"))
    assert torch.equal(first, plain)
