"""Two processes, or two micro-batches, take the step that one process takes on the same global batch."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffx.assemble.model import build_model
from diffx.config.compose import compose_config
from diffx.run.folder import RunDir
from diffx.train.loop import train
from tests import forks
from tests.run.conftest import small

SETS = [(), ("repa",), ("mdt",), ("tread",), ("repa", "tread"), ("repa", "mdt")]
# With so large an eps Adam's step is in proportion to the gradient, so that the weights compare the gradients. At this
# rate weights move by 0.2 and rounding stays rounding; at 30 they moved by 8, which made a thousand times more of it.
PROPORTIONAL = ["optimizer.eps=1.0", "optimizer.lr=1.0", "trainer.threads=1", "max_steps=3", "more_ema_decays=[0.5]"]


def config_of(strategy: str, plugins: tuple[str, ...], *more: str):  # type: ignore[no-untyped-def]  # a DictConfig
    settings = [*PROPORTIONAL, f"runs_dir={strategy}", *more]
    return compose_config(small(*settings, plugins=plugins))


def train_on_rank(rank: int, folder: str, port: int) -> None:
    """One of two processes, with every plugin set and strategy in turn."""
    os.chdir(folder)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in numbers.items()}
    for strategy in ("ddp", "fsdp"):
        for plugins in SETS:
            train(config_of(strategy, plugins, "trainer.devices=2", f"trainer.strategy={strategy}"))
    train(config_of("fsdp", ("repa",), "trainer.devices=2", "trainer.strategy=fsdp", "max_steps=5"))
    train(config_of("ddp-then-fsdp", ("repa", "tread"), "trainer.devices=2"))
    train(config_of("ddp-then-fsdp", ("repa", "tread"), "trainer.devices=2", "trainer.strategy=fsdp", "max_steps=5"))
    train(config_of("fsdp-eased", (), "trainer.devices=2", "trainer.strategy=fsdp", *EASED))
    train(config_of("fsdp-half", ("repa", "tread"), "trainer.devices=2", "trainer.strategy=fsdp", HALF))


HALF = "trainer.precision=bf16-mixed"
EASED = ["trainer.activation_checkpointing=true", "trainer.accumulate=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where two processes have trained everything."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    forks.ranks(train_on_rank, str(folder), port)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def state(run: RunDir) -> dict[str, torch.Tensor]:
    return torch.load(run.last_checkpoint, weights_only=True)["state_dict"]


def assert_close(actual: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """To 1e-4 of how far the weights have moved, and to four spacings of float32 at the largest weight.

    Sums in another order made 7e-7 of the movement (one thread against two, two encoders, five steps), and each of the
    steps rounds a weight by half a spacing. A gradient that is off by a per cent is a hundred times the first.
    """
    assert actual.keys() == wanted.keys()
    start = build_model(config_of("alone", ())).backbone.state_dict()
    for key, value in wanted.items():
        name = key.removeprefix("backbone.").removeprefix("ema.").removeprefix("more_ema.0_5.")
        moved = value - start.get(name, value)
        spacing = torch.finfo(torch.float32).eps * value.abs().max()
        assert (actual[key] - value).abs().max() <= 1e-4 * moved.abs().max() + 4 * spacing, key
    assert (wanted["backbone.final_layer.linear.weight"] != 0).any()  # it starts at zero


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("plugins", SETS, ids="+".join)
def test_two_ranks_take_the_steps_of_one_process(folder: Path, plugins: tuple[str, ...], strategy: str) -> None:
    alone = train(config_of("alone", plugins, "trainer.accumulate=2"))
    both = RunDir.of(config_of(strategy, plugins, "trainer.devices=2"))
    steps = 5 if (strategy, plugins) == ("fsdp", ("repa",)) else 3
    if steps == 5:
        alone = train(config_of("alone", plugins, "trainer.accumulate=2", "max_steps=5"))
    assert_close(state(both), state(alone))


def test_a_sharded_run_goes_on_from_its_checkpoint_as_an_unsharded_one_does(folder: Path) -> None:
    """The fsdp run with REPA trained three steps, then two more from its checkpoint; so may one process."""
    both = RunDir.of(config_of("fsdp", ("repa",)))
    alone = train(config_of("alone-in-parts", ("repa",), "trainer.accumulate=2"))
    alone = train(config_of("alone-in-parts", ("repa",), "trainer.accumulate=2", "max_steps=5"))
    assert_close(state(both), state(alone))


def test_weights_that_travel_in_bfloat16_change_no_step(folder: Path) -> None:
    both = RunDir.of(config_of("fsdp-half", ("repa", "tread"), HALF))
    alone = train(config_of("alone", ("repa", "tread"), HALF, "trainer.accumulate=2"))
    assert_close(state(both), state(alone))


def test_a_sharded_run_may_go_on_unsharded(folder: Path) -> None:
    path = RunDir.of(config_of("fsdp", ("mdt",))).last_checkpoint.absolute()
    on = train(config_of("on", ("mdt",), f"resume={path}", "trainer.accumulate=2", "max_steps=5"))
    whole = train(config_of("whole", ("mdt",), "trainer.accumulate=2", "max_steps=5"))
    assert_close(state(on), state(whole))


def test_a_run_may_go_on_sharded(folder: Path) -> None:
    on = RunDir.of(config_of("ddp-then-fsdp", ("repa", "tread")))
    whole = train(config_of("whole", ("repa", "tread"), "trainer.accumulate=2", "max_steps=5"))
    assert_close(state(on), state(whole))


def test_sharding_saves_plain_averages_of_every_decay(folder: Path) -> None:
    run = RunDir.of(config_of("fsdp", ("tread",)))
    tensors = state(run)
    for file, prefix in ((run.ema_weights, "ema."), (run.more_ema_weights(0.5), "more_ema.0_5.")):
        weights = load_file(file)
        build_model(config_of("fsdp", ())).backbone.load_state_dict(weights, strict=True)
        for key, value in weights.items():
            assert torch.equal(value, tensors[prefix + key])


def test_sharding_accumulation_and_checkpointed_activations_go_together(folder: Path) -> None:
    eased = RunDir.of(config_of("fsdp-eased", ()))
    alone = train(config_of("alone-in-four", (), "trainer.accumulate=4"))
    assert_close(state(eased), state(alone))


def test_checkpointed_activations_change_no_bit(folder: Path) -> None:
    plain = train(config_of("kept", ("repa", "tread")))
    again = train(config_of("run-again", ("repa", "tread"), "trainer.activation_checkpointing=true"))
    kept, rerun = state(plain), state(again)
    assert all(torch.equal(kept[key], rerun[key]) for key in kept)


def test_checkpointed_blocks_keep_less_for_the_backward_pass() -> None:
    from diffx.assemble.parts import assemble
    from diffx.train.clock import Meter
    from diffx.train.loop import make_module

    def kept(*settings: str) -> int:
        config = config_of("memory", (), *settings)
        module = make_module(config, assemble(config), Meter(torch.device("cpu")))
        backbone, total = module.backbone, 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            backbone(torch.randn(4, 1, 16, 16), torch.rand(4), torch.zeros(4, dtype=torch.long))
        return total

    assert kept("trainer.activation_checkpointing=true") < 0.5 * kept()


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffx.errors import DiffxError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiffxError, match=r"batch_size=16 .* 3 micro-batches each. Try batch_size=15"):
        train(config_of("uneven", (), "trainer.accumulate=3"))
    assert not list(tmp_path.iterdir())
