"""The conformance suite that a third party runs on its own plugin, and the tiny run it is made of.

    from diffx.testing import PluginContract

    class TestMine(PluginContract):
        plugin = staticmethod(lambda: Mine(weight=0.1))

runs every test below with pytest, on a CPU, in seconds.
"""

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from diffx.backbone import DiT
from diffx.encoder import encoder_spec
from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.plan import MAIN, Plan, make_plan
from diffx.plugin import Plugin
from diffx.step import Draws, Streams, draw, losses, walk

BATCH, CLASSES, IMAGE = 4, 10, 32
Services = Mapping[str, Callable[[Tensor], Tensor]]


def tiny_backbone(**options: Any) -> DiT:
    """A DiT of 6 blocks on 16 tokens, the last two a decoder, with no weight left at zero; `options` go to DiT."""
    sizes = {"input_size": 8, "hidden_size": 32, "depth": 6, "num_heads": 4, "num_classes": CLASSES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = DiT(**sizes | {"decoder_layers": 2} | options)
    randomise(backbone, seed=1)
    return backbone


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Fill every parameter that is all zeros: a fresh DiT outputs exactly zero, and comparing zeros proves nothing."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))


def stand_in_encoder(dim: int, side: int) -> Callable[[Tensor], Tensor]:
    """A deterministic encoder: images uint8 (B, 3, H, W) -> features (B, side², dim), waves of the mean colours."""
    directions = 3 * torch.randn(3, dim, generator=torch.Generator().manual_seed(dim))

    def encode(image: Tensor) -> Tensor:
        colours = F.adaptive_avg_pool2d(image.float() / 127.5 - 1, side).flatten(2).transpose(1, 2)
        return torch.sin(colours @ directions)

    return encode


def stand_in_services(plugins: Iterable[Plugin], side: int) -> Services:
    """A stand-in for every encoder whose features a plugin needs."""
    needs = [need for plugin in plugins for need in plugin.needs]
    return {n: stand_in_encoder(encoder_spec(n[9:]).dim, side) for n in needs if n.startswith("features/")}


def tiny_batch() -> dict[str, Tensor]:
    """Four samples with their images."""
    rng = torch.Generator().manual_seed(2)
    return {
        "x": torch.randn(BATCH, 4, 8, 8, generator=rng),
        "y": torch.randint(CLASSES, (BATCH,), generator=rng),
        "image": torch.randint(256, (BATCH, 3, IMAGE, IMAGE), generator=rng).byte(),
    }


class TinyRun:
    """Plugins set up on a backbone, planned, and their training step. Raises DiffxError for a set that cannot work."""

    def __init__(
        self, plugins: Mapping[str, Plugin], backbone: DiT | None = None, services: Services | None = None
    ) -> None:
        self.backbone = tiny_backbone() if backbone is None else backbone
        self.plugins, self.objective, self.batch = dict(plugins), Interpolant(), tiny_batch()
        for seed, plugin in enumerate(self.plugins.values()):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                plugin.setup(self.backbone)
            randomise(plugin, seed)
        self.services = services or stand_in_services(self.plugins.values(), self.backbone.side)
        self.plan = self.plan_now()

    def plan_now(self) -> Plan:
        """The plan of what the plugins declare at this moment."""
        return make_plan(self.backbone, self.plugins, {*self.batch, *self.services})

    def name_in_reverse(self) -> None:
        """The same set, named in the other order."""
        self.plugins = dict(reversed(self.plugins.items()))
        self.plan = self.plan_now()

    def draws(self, step: int = 0) -> Draws:
        """What training step `step` draws, a tenth of the labels dropped."""
        streams, null = Streams(seed=0, step=step), self.backbone.null_label
        return draw(self.plan, self.plugins, self.objective, self.batch, self.services, streams, 0.1, null)

    def losses(self, draws: Draws) -> dict[str, Tensor]:
        return losses(self.backbone, self.plan, self.plugins, self.objective, draws)


class Operations(TorchDispatchMode):
    """Records the operations that reach the dispatcher, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **kwargs or {})


def registered() -> list[str]:
    """The names under the entry points `diffx.plugins` of all installed packages."""
    return sorted(entry_points(group="diffx.plugins").names)


def make_registered(name: str) -> Plugin:
    """The registered plugin `name` with its defaults."""
    return next(iter(entry_points(group="diffx.plugins", name=name))).load()()


def through_pickle(modules: Any) -> Any:
    return pickle.loads(pickle.dumps(modules))


class PluginContract:
    """What every plugin must satisfy. Subclass it in a test file and give `plugin`; override the rest where needed."""

    name = "mine"

    @staticmethod
    def plugin() -> Plugin:
        """A fresh plugin, before setup()."""
        raise NotImplementedError("give your contract a plugin: plugin = staticmethod(lambda: Mine())")

    def backbone(self) -> DiT:
        """A fresh backbone on which the plugin works, the same every time."""
        return tiny_backbone()

    def services(self, backbone: DiT) -> Services:
        """Whatever the plugin needs beside x, y and image; by default stand-ins for encoders."""
        return stand_in_services([self.plugin()], backbone.side)

    def start(self) -> TinyRun:
        backbone = self.backbone()
        return TinyRun({self.name: self.plugin()}, backbone, self.services(backbone))

    def test_switched_off_the_step_runs_the_plain_backbones_operations_bit_for_bit(self) -> None:
        plain, run = self.backbone(), self.start()
        view = make_plan(run.backbone, {}, ()).views[0]
        x, t, y = run.batch["x"], torch.linspace(0, 1, BATCH), run.batch["y"]
        with torch.no_grad(), Operations() as expected:
            wanted = plain(x, t, y)
        with torch.no_grad(), Operations() as walked:
            out, _ = walk(run.backbone, view, {}, x, t, y, {})
        with torch.no_grad(), Operations() as forwarded:
            run.backbone(x, t, y)
        assert wanted.abs().max() > 0.1
        assert torch.equal(out, wanted)
        assert walked.names == forwarded.names == expected.names

    def test_the_plugin_holds_no_parameter_of_the_backbone(self) -> None:
        run = self.start()
        owned = {id(p) for p in run.plugins[self.name].parameters()}
        assert not owned & {id(p) for p in run.backbone.parameters()}
        assert not any(p in run.backbone.state_dict() for p in run.plugins[self.name].state_dict())

    def test_every_loss_has_its_weight_and_the_total_is_their_weighted_sum(self) -> None:
        run = self.start()
        plugin = run.plugins[self.name]
        terms = run.losses(run.draws())
        named = {part: f"{self.name}/{part}" if part else self.name for part in plugin.weights()}
        total = torch.stack([terms[key] for key in terms if key.endswith("denoise")]).sum()
        if plugin.has_loss:
            total = total + sum(w * terms[named[part]] for part, w in plugin.weights().items())
        torch.testing.assert_close(terms["total"], total)

    def test_every_trained_parameter_gets_a_finite_gradient(self) -> None:
        run = self.start()
        run.losses(run.draws())["total"].backward()
        for owner in (run.backbone, *run.plugins.values()):
            for key, parameter in owner.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, key
                    assert parameter.grad.isfinite().all(), key

    def test_the_step_is_one_graph_and_a_new_weight_does_not_recompile(self) -> None:
        run = self.start()
        graphs = []

        def count(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        compiled = torch.compile(losses, fullgraph=True, backend=count, dynamic=False)
        shapes = set()
        for step in range(4):
            draws = run.draws(step)
            shapes.add(str([(key, value.shape) for key, value in draws.aux[self.name].items()]))
            for part in run.plugins[self.name].weights() if run.plugins[self.name].has_loss else ():
                run.plugins[self.name].set_weight(0.1 * step, part)
            total = compiled(run.backbone, run.plan, run.plugins, run.objective, draws)["total"]
            torch.testing.assert_close(total, run.losses(draws)["total"])
        # A ratio drawn every step changes the number of tokens: one graph for each.
        assert len(graphs) == len(shapes)

    def test_a_span_that_drops_nothing_equals_the_dense_pass(self) -> None:
        run = self.start()
        plugin = run.plugins[self.name]
        if plugin.span is None:
            pytest.skip("this plugin narrows nothing")
        plugin.span = dataclasses.replace(plugin.span, rate=0.0)
        run.plan = run.plan_now()
        draws = run.draws()
        x, t, y = draws.x, draws.t, draws.y[MAIN]
        view = next(v for v in run.plan.views if v.name == plugin.view)
        out, _ = walk(run.backbone, view, run.plugins, x, t, y, draws.aux)
        torch.testing.assert_close(out, run.backbone(x, t, y), rtol=1e-4, atol=1e-5)

    def test_a_loaded_state_gives_the_same_losses(self, tmp_path: Path) -> None:
        run, other = self.start(), self.start()
        randomised_anew(other.plugins[self.name])
        torch.save(run.plugins[self.name].state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        other.plugins[self.name].load_state_dict(state, strict=True)
        assert_equal_losses(other.losses(run.draws()), run.losses(run.draws()))

    @pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
    def test_a_copy_gives_the_same_losses_and_shares_nothing(self, copied: Callable[[Any], Any]) -> None:
        run = self.start()
        draws = run.draws()
        wanted = run.losses(draws)
        backbone, plugins = copied((run.backbone, run.plugins))
        for module in (run.backbone, *run.plugins.values()):
            randomised_anew(module)
        assert_equal_losses(losses(backbone, run.plan, plugins, run.objective, draws), wanted)

    def test_bfloat16_autocast_is_finite_and_close(self) -> None:
        run = self.start()
        draws = run.draws()
        exact = run.losses(draws)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = run.losses(draws)
        rough["total"].backward()
        for key, value in exact.items():
            assert abs(rough[key] - value) < 0.02 + 0.05 * abs(value), key
        assert all(p.grad.isfinite().all() for p in run.backbone.parameters() if p.grad is not None)

    def test_two_ranks_average_to_the_gradients_of_one_process(self, tmp_path: Path) -> None:
        """Holds for losses that are means over samples; a loss across samples overrides this test."""
        run = self.start()
        draws = run.draws()
        step = Step(run.backbone, run.plugins, run.plan)
        step(draws).backward()
        wanted = {key: p.grad.clone() for key, p in step.named_parameters() if p.grad is not None}
        step.zero_grad()
        torch.multiprocessing.spawn(train_on_rank, (step, draws, str(tmp_path)), nprocs=2)
        averaged = torch.load(tmp_path / "gradients.pt", weights_only=True)
        assert averaged.keys() == wanted.keys()
        for key, gradient in wanted.items():
            torch.testing.assert_close(averaged[key], gradient, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("other", registered())
    def test_it_composes_with_a_registered_plugin_or_the_error_names_both(self, other: str) -> None:
        if type(make_registered(other)) is type(self.plugin()):
            pytest.skip("the same plugin")
        both = {self.name: self.plugin(), other: make_registered(other)}
        backbone = self.backbone()
        services = {**stand_in_services([both[other]], backbone.side), **self.services(backbone)}
        refusal = ""
        try:
            run = TinyRun(both, backbone, services)
        except DiffxError as error:
            refusal = str(error)
        if refusal:
            assert self.name in refusal
            assert other in refusal
            return
        total = run.losses(run.draws())["total"]
        total.backward()
        assert total.isfinite()
        assert all(p.grad.isfinite().all() for p in run.backbone.parameters() if p.grad is not None)
        run.name_in_reverse()
        torch.testing.assert_close(run.losses(run.draws())["total"], total)


class Step(nn.Module):
    """The training step as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, backbone: DiT, plugins: Mapping[str, Plugin], plan: Plan) -> None:
        super().__init__()
        self.backbone, self.plugins, self.plan = backbone, nn.ModuleDict(plugins), plan

    def forward(self, draws: Draws) -> Tensor:
        plugins: Any = dict(self.plugins.items())
        return losses(self.backbone, self.plan, plugins, Interpolant(), draws)["total"]


def train_on_rank(rank: int, step: Step, draws: Draws, folder: str) -> None:
    """One of two processes: its half of the batch, forward and backward through DistributedDataParallel, twice, since
    a parameter without gradient shows in the second step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(step)
    for _ in range(2):
        step.zero_grad()
        wrapped(shard(draws, rank, 2)).backward()
    if rank == 0:
        torch.save({k: p.grad for k, p in step.named_parameters() if p.grad is not None}, f"{folder}/gradients.pt")
    torch.distributed.barrier()  # a process that leaves early can abort the other
    torch.distributed.destroy_process_group()


def shard(draws: Draws, rank: int, ranks: int) -> Draws:
    """The samples of one rank: every tensor that has a row for each sample, cut."""
    size = len(draws.x) // ranks

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(entry) for key, entry in value.items()}
        has_rows = value.ndim and len(value) == len(draws.x)
        return value[rank * size : (rank + 1) * size].clone() if has_rows else value

    return Draws(*map(cut, draws))


def randomised_anew(module: nn.Module) -> None:
    """Overwrite every parameter with noise."""
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))


def assert_equal_losses(actual: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert actual.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(actual[key], value), key
