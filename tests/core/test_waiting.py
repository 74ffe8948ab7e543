"""A step queues work and never waits for the device: no value is read back, nothing is copied between host and device.

The draws and losses run on a pretended GPU, whose tensors have no values, so that every machine checks them. The
backward pass, which cannot be pretended, runs on the CPU; a GPU, where there is one, checks all of it by itself.
"""

import contextlib
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from diffx import step
from diffx.objective import DDPM, EDM, Interpolant
from diffx.step import Services
from diffx.streams import Streams
from diffx.testing import TinyRun, make_registered, registered, tiny_mdt, try_set
from diffx.train.ema import update_ema
from diffx.train.module import DiffusionModule
from diffx_plugins.immiscible import Immiscible

# Each method by itself, and those that meet in blocks together.
SETS = [(), *((name,) for name in registered()), ("mdt", "repa", "tread"), ("repa", "tread")]
OBJECTIVES = {"linear": Interpolant(), "cosine": Interpolant("cosine", "noise", "lognormal"), "edm": EDM()}
OPTIONS: dict[str, dict[str, Any]] = {
    "sincos": {},
    "rope": {"position": "rope", "qk_norm": True, "norm": "rmsnorm", "mlp": "swiglu"},
    "bias": {"relative_bias": True, "skips": True, "position": "learned"},
}
# Operations whose result's value or shape the host has to know.
READING = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "bincount")


class Waits(TorchDispatchMode):
    """Records the operations in which a host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits(func, args, kwargs):
            self.names.append(str(func))
        return func(*args, **kwargs)


def waits(func: Any, args: Any, kwargs: Any) -> bool:
    name = func._overloadpacket.__name__
    if name in ("_to_copy", "copy_"):
        target = kwargs.get("device") or args[0].device
        source = args[1] if name == "copy_" else args[0]
        return torch.device(target).type != source.device.type and source.ndim > 0
    if name in ("index", "index_put", "index_put_"):
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return name in READING


class PretendedGenerator(torch.Generator):
    """A CPU generator that says it is a GPU's."""

    device = torch.device("cuda")


class PretendedStreams(Streams):
    def own(self, consumer: str) -> torch.Generator:
        return PretendedGenerator("cpu")


def on_a_pretended_gpu(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    return mode.from_tensor(tensor).detach().to("cuda")


def move(mode: FakeTensorMode, module: nn.Module) -> None:
    """Put a module's tensors on the pretended GPU, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = on_a_pretended_gpu(mode, parameter)
                part._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = on_a_pretended_gpu(mode, buffer)


def start(names: tuple[str, ...], **options: Any) -> TinyRun:
    # Dealing out a batch's noise waits once a step, and says so; the nearest of several draws does not.
    plugins = {name: Immiscible(4) if name == "immiscible" else make_registered(name) for name in names}
    run, refusal = try_set(plugins, tiny_mdt(**options))
    if run is None:
        pytest.skip(refusal)
    return run


def served(run: TinyRun) -> tuple[dict[str, Any], Services]:
    """What the teachers that see images make of the batch, and the other services."""
    seeing = {need: s for need, s in run.services.items() if getattr(s, "takes", ("image",))}
    made = {need: service(run.batch["image"]) for need, service in seeing.items()}
    return made, {need: s for need, s in run.services.items() if need not in seeing}


def waits_of_pretended_steps(run: TinyRun, steps: int = 1) -> list[list[str]]:
    """What draws and losses wait for, step by step. What cannot be done without a value raises an error of torch's."""
    waited = []
    features, services = served(run)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in (run.backbone, *run.plugins.values()):
            move(mode, module)
        batch = tree_map(partial(on_a_pretended_gpu, mode), {**run.batch, **features})
        for count in range(steps):
            streams = PretendedStreams(0, count, device="cuda")
            with Waits() as seen:
                draws = step.draw(run.backbone, run.plan, run.plugins, run.objective, batch, services, streams, 0.1)
                total = run.losses(draws)["total"]
            assert total.device.type == "cuda"
            waited.append(seen.names)
    return waited


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_drawing_and_losses_never_wait(names):
    assert waits_of_pretended_steps(start(names)) == [[]]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_no_option_of_the_backbone_waits(options):
    assert waits_of_pretended_steps(start(("mdt",), **options)) == [[]]


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_no_objective_waits(objective):
    run = start(())
    run.objective = objective
    assert waits_of_pretended_steps(run) == [[]]


def test_ddpm_moves_its_table_once_and_then_never_waits():
    run = start((), learn_sigma=True)
    run.objective = DDPM(min_snr=5)
    assert waits_of_pretended_steps(run, steps=3) == [["aten._to_copy.default"], [], []]


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_the_backward_pass_and_the_average_never_wait(names):
    run = start(names)
    draws, average = run.draws(), tiny_mdt()
    with Waits() as seen:
        run.losses(draws)["total"].backward()
        update_ema(average, run.backbone, 0.99)
    assert seen.names == []


class ReadsEverySecondStep(L.Callback):
    """Reads a loss after every second step, and counts the waits of each step."""

    def __init__(self, seen: Waits) -> None:
        self.seen, self.waits = seen, []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step % 2 == 0:
            module.terms["total"].item()
        self.waits.append(len(self.seen.names))
        self.seen.names.clear()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightnings_loop_reads_nothing_that_no_callback_reads(precision):
    run = start(("mdt", "repa", "tread"))
    batch = run.batch | {need: run.services[need](run.batch["image"]) for need in run.plan.needs}
    module = DiffusionModule(
        run.model, partial(torch.optim.AdamW, fused=True), {}, seed=0, label_dropout=0.1, ema_decay=0.9
    )
    reads = ReadsEverySecondStep(seen := Waits())
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu", precision=precision, gradient_clip_val=1.0, max_steps=6, max_epochs=-1,
        callbacks=[reads], **quiet,
    )  # fmt: skip
    with seen:
        trainer.fit(module, DataLoader([batch] * 6, batch_size=None))
    assert reads.waits[2:] == [0, 1, 0, 1]  # the first steps still build what the others use


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_a_gpu_is_never_waited_for(names):
    run = start(names)
    features, services = served(run)
    batch = tree_map(lambda value: value.cuda(), {**run.batch, **features})
    modules = [module.cuda() for module in (run.backbone, *run.plugins.values())]
    average = tiny_mdt().cuda()
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    for count in range(3):
        torch.cuda.set_sync_debug_mode("error" if count else "default")  # the first step may still load kernels
        try:
            streams = Streams(0, count, device="cuda")
            draws = step.draw(run.backbone, run.plan, run.plugins, run.objective, batch, services, streams, 0.1)
            run.losses(draws)["total"].backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            update_ema(average, run.backbone, 0.99)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x + torch.ones(2, 2).to(x.device),
    ],
    ids=["item", "bool", "cpu", "mask", "nonzero", "table"],
)
def test_what_waits_is_seen(reads):
    with FakeTensorMode() as mode:
        x = on_a_pretended_gpu(mode, torch.ones(2, 2))
        # Some end here: a pretended tensor has no value to go on with.
        with contextlib.suppress(DataDependentOutputException, DynamicOutputShapeException), Waits() as seen:
            reads(x)
    assert seen.names
