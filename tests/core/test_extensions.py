"""What a plugin may ask for beyond reads and spans: draws, attention, wraps, times of tokens, weights, an end."""

from types import MappingProxyType

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffx.assemble.flops import count_flops
from diffx.backbone import DiT
from diffx.backbone.layers.block import Block
from diffx.backbone.protocol import Backbone, Memory, pack, unpack
from diffx.errors import DiffxError
from diffx.planner import make_phases, make_plan, phase_at
from diffx.plugin import DRAWN, Plugin, Span
from diffx.step import Streams, draw, losses
from diffx.testing import TinyRun, tiny_backbone, tiny_batch, tiny_of
from diffx.tokens import Tokens, at_common_places, at_places, keep
from diffx.train.module import DiffusionModule


class Asks(Plugin):
    """Keeps what prepare() was given and what loss() saw."""

    def __init__(self, *needs: str, **declared) -> None:
        super().__init__(weight=1.0)
        self.needs = needs
        for name, value in declared.items():
            setattr(self, name, value)

    def prepare(self, batch, rng):
        self.given = batch
        return {}

    def loss(self, seen, out, aux):
        self.seen = seen
        return out.square().mean()


class Narrow(Plugin):
    def __init__(self, *span) -> None:
        super().__init__()
        self.span = Span(*span)


def refusal(plugins: dict[str, Plugin], backbone: Backbone | None = None) -> str:
    with pytest.raises(DiffxError) as error:
        TinyRun(plugins, backbone)
    return str(error.value)


# What the pass has drawn.


def test_a_plugin_finds_what_its_own_pass_has_drawn():
    run = TinyRun({"asks": Asks(*DRAWN)})
    draws, given = run.draws(), run.plugins["asks"].given
    noised = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    for key, wanted in {
        "t": draws.t,
        "noise": draws.noise["main"],
        "label": draws.y["main"],
        "noisy": noised,
        "target": draws.noise["main"] - draws.x,
    }.items():
        assert torch.equal(given[key], wanted), key


def test_what_nobody_asked_for_is_not_in_the_batch():
    run = TinyRun({"asks": Asks("t")})
    run.draws()
    assert not {"noise", "label", "noisy", "target"} & run.plugins["asks"].given.keys()


def test_x_is_what_is_trained_on_after_the_draw_from_the_posterior():
    run = TinyRun({"asks": Asks()})
    run.batch["x_std"] = torch.ones_like(run.batch["x"])
    draws = run.draws()
    assert torch.equal(run.plugins["asks"].given["x"], draws.x)
    assert not torch.equal(draws.x, run.batch["x"])


def test_a_view_of_its_own_gives_a_plugin_its_own_noise():
    run = TinyRun({"asks": Asks("noise", view="second")})
    draws = run.draws()
    assert torch.equal(run.plugins["asks"].given["noise"], draws.noise["second"])
    assert not torch.equal(draws.noise["second"], draws.noise["main"])


def test_the_average_is_a_service_that_is_handed_over_uncalled():
    teacher = tiny_of(DiT)
    run = TinyRun({"asks": Asks("ema", "noisy", "t", "label")})
    run.services["ema"]._net = (teacher,)
    run.draws()
    given = run.plugins["asks"].given
    tokens = given["ema"](given["noisy"], given["t"], given["label"], 3)
    stream, cond = teacher.embed(given["noisy"], given["t"], given["label"], Memory())
    for block in teacher.blocks[:3]:
        stream = Tokens(block(stream.x, cond))
    assert torch.equal(tokens, stream.x)
    assert not tokens.requires_grad


# Queries and keys.


def test_the_attention_of_a_block_is_what_its_product_takes():
    run = TinyRun({"asks": Asks(attends=(2,), reads=(2,))})
    run.losses(run.draws())
    seen = run.plugins["asks"].seen
    q, k = seen["attention", 2]
    block: Block = run.backbone.blocks[2]
    assert q.shape == k.shape == (4, 4, 16, 8)
    shift, scale = block.adaLN_modulation(conditioning(run)).chunk(6, dim=-1)[:2]
    x = block.norm1(seen[2].x) * (1 + scale[:, None]) + shift[:, None]
    wanted = block.attn.qkv(x).view(4, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(q, wanted[0])
    torch.testing.assert_close(k, wanted[1])


def conditioning(run: TinyRun) -> Tensor:
    draws = run.draws()
    return run.backbone.embed(draws.x, draws.t, draws.y["main"], Memory())[1]


def test_attention_that_somebody_sees_changes_no_bit_of_the_prediction():
    plain, asked = TinyRun({}), TinyRun({"asks": Asks(attends=(0, 3))})
    assert torch.equal(plain.losses(plain.draws())["denoise"], asked.losses(asked.draws())["denoise"])


def test_attention_inside_a_span_is_refused_naming_both():
    message = refusal({"asks": Asks(attends=(2,)), "route": Narrow(1, 4, 0.5)})
    for words in ("plugins.asks", "attention of block 2", "plugins.route"):
        assert words in message


@pytest.mark.parametrize(("declared", "words"), [("attends", "attention of block 6"), ("wraps", "run block 6")])
def test_a_block_that_is_not_there_is_refused(declared, words):
    assert words in refusal({"asks": Asks(**{declared: (6,)})})


# Blocks that run inside a plugin.


class Halves(Plugin):
    """Runs its blocks and takes half of what they add."""

    def __init__(self, *blocks: int) -> None:
        super().__init__()
        self.wraps = blocks

    def around(self, depth, run, tokens, cond, aux):
        return Tokens((tokens.x + run(tokens, cond).x) / 2, tokens.ids, tokens.cond)


def test_a_wrapped_block_runs_inside_the_plugin():
    shares = []
    for others in ({}, {"half": Halves(1)}):
        run = TinyRun({"asks": Asks(reads=(1, 2)), **others})
        run.losses(run.draws())
        seen = run.plugins["asks"].seen
        shares.append(seen[2].x - seen[1].x)
    torch.testing.assert_close(shares[1], shares[0] / 2)


def test_two_plugins_around_one_block_are_refused_and_around_two_are_not():
    message = refusal({"a": Halves(1, 2), "b": Halves(2)})
    for words in ("plugins.a", "plugins.b", "block 2"):
        assert words in message
    TinyRun({"a": Halves(1), "b": Halves(2)})


def test_a_wrap_works_on_the_tokens_that_a_span_has_left():
    run = TinyRun({"route": Narrow(1, 4, 0.5), "half": Halves(2)})
    total = run.losses(run.draws())["total"]
    total.backward()
    assert total.isfinite()


# A time for each token.


class TwoTimes(Plugin):
    """The first half of the tokens has the sample's time, the second half a quarter of it."""

    def retime(self, t, rng):
        early = torch.arange(16).expand(len(t), -1) < 8
        return {"times": torch.where(early, t[:, None], t[:, None] / 4), "early": early}


def test_each_token_is_noised_fed_and_compared_at_its_own_time():
    run = TinyRun({"two": TwoTimes()})
    draws = run.draws()
    times, x, noise = draws.aux["two"]["times"], draws.x, draws.noise["main"]
    grid = times.view(4, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    out = run.backbone((1 - grid) * x + grid * noise, times, draws.y["main"])
    wanted = (out - (noise - x)).square().mean()
    torch.testing.assert_close(run.losses(draws)["denoise"], wanted)


def test_with_all_times_alike_the_network_is_the_plain_one():
    backbone = tiny_backbone()
    x, t, y = torch.randn(3, 4, 8, 8), torch.rand(3), torch.arange(3)
    torch.testing.assert_close(backbone(x, t[:, None].expand(-1, 16), y), backbone(x, t, y))


def test_times_of_tokens_go_with_them_into_a_span():
    run = TinyRun({"two": TwoTimes(), "route": Narrow(1, 4, 0.5), "asks": Asks(reads=(1, 2))})
    draws = run.draws()
    run.losses(draws)
    seen, kept = run.plugins["asks"].seen, draws.aux["route"]["keep"]
    for b in range(4):
        assert torch.equal(seen[2].cond[b], seen[1].cond[b][kept[b]])


def test_two_plugins_that_give_times_are_refused_and_so_is_a_backbone_that_takes_none():
    assert "plugins.a and plugins.b" in refusal({"a": TwoTimes(), "b": TwoTimes()})
    backbone = tiny_backbone()
    backbone.token_times = False
    assert "this backbone (DiT) has one for a sample" in refusal({"two": TwoTimes()}, backbone)


# Weights of the denoising error.


class LeftHalf(Plugin):
    def visible(self, aux):
        return torch.cat([torch.ones(4, 1, 8, 4), torch.zeros(4, 1, 8, 4)], dim=3)


def test_the_denoising_error_is_the_mean_over_what_is_visible():
    run = TinyRun({"left": LeftHalf(), "asks": Asks()})
    draws = run.draws()
    terms, x_t = run.losses(draws), run.objective.noised(draws.x, draws.noise["main"], draws.t)
    error = run.backbone(x_t, draws.t, draws.y["main"]) - (draws.noise["main"] - draws.x)
    torch.testing.assert_close(terms["denoise"], error[..., :4].square().mean())


def test_two_plugins_that_weigh_the_error_are_refused():
    assert "each weighs the denoising error" in refusal({"a": LeftHalf(), "b": LeftHalf()})


# Reads of a whole grid, and reads that are joined.


def test_a_read_of_the_whole_grid_is_refused_inside_a_span_and_allowed_at_its_ends():
    for depth in (1, 4):
        TinyRun({"route": Narrow(1, 4, 0.5), "asks": Asks(reads=(depth,), whole=True)})
    message = refusal({"route": Narrow(1, 4, 0.5), "asks": Asks(reads=(2,), whole=True)})
    for words in ("plugins.asks", "before block 2", "plugins.route"):
        assert words in message


def test_reads_on_both_sides_of_a_drop_come_to_common_places():
    run = TinyRun({"route": Narrow(1, 4, 0.5), "asks": Asks(reads=(1, 3), joins=True)})
    draws = run.draws()
    run.losses(draws)
    early, late = (run.plugins["asks"].seen[depth] for depth in (1, 3))
    for a, b in (at_common_places(early, late), at_common_places(late, early)[::-1]):
        assert torch.equal(b, late.x)
        assert torch.equal(a, torch.stack([early.x[i, late.ids[i]] for i in range(4)]))


def test_places_are_found_in_a_set_of_any_order():
    tokens = Tokens(torch.arange(24.0).view(1, 6, 4))
    some = keep(tokens, torch.tensor([[5, 0, 3, 1]]))
    assert torch.equal(at_places(some, torch.tensor([[3, 5]])), tokens.x[:, [3, 5]])


def test_joined_reads_in_spans_that_keep_different_tokens_are_refused():
    spans = {"a": Narrow(0, 2, 0.5), "b": Narrow(3, 5, 0.5)}
    TinyRun({**spans, "asks": Asks(reads=(1, 4))})
    message = refusal({**spans, "asks": Asks(reads=(1, 4), joins=True)})
    for words in ("plugins.asks", "plugins.a", "plugins.b"):
        assert words in message


# An end.


class Projected(Plugin):
    """Has a parameter and wants a teacher."""

    reads, needs = (2,), ("features/dinov2_vitb14",)

    def __init__(self, stop) -> None:
        super().__init__(weight=1.0)
        self.stop, self.layer = stop, nn.Linear(32, 1)

    def loss(self, seen, out, aux):
        return self.layer(seen[2].x).square().mean()


def test_from_its_stop_on_a_plugin_is_not_in_the_plan_and_nobody_runs_its_teacher():
    run = TinyRun({"early": Projected(5), "asks": Asks()})
    first, second = make_phases(run.backbone, run.plugins, run.provided)
    assert [phase_at((first, second), step).start for step in (0, 4, 5, 99)] == [0, 0, 5, 5]
    assert (first.plugins, second.plugins) == (("early", "asks"), ("asks",))
    assert (first.plan.needs, second.plan.needs) == (("features/dinov2_vitb14",), ())


def test_what_is_refused_is_refused_in_every_phase():
    run = TinyRun({})
    plugins = {"outer": Narrow(0, 6, (0.25, 0.5)), "early": Projected(3), "inner": Narrow(2, 4, 0.5)}
    with pytest.raises(DiffxError, match="inner"):
        make_phases(run.backbone, plugins, {"features/dinov2_vitb14"})


class Gradients(L.Callback):
    """The gradients of a plugin's parameters at every step."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor | None]] = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.seen.append([p.grad for p in module.plugins["early"].parameters()])


def test_a_run_goes_on_across_a_stop_without_the_teacher_and_with_zero_gradients():
    """DDP waits for a gradient of every parameter, a stopped plugin's too."""
    run, calls, gradients = TinyRun({"early": Projected(2)}), [], Gradients()
    teacher = run.services["features/dinov2_vitb14"]
    services = {"features/dinov2_vitb14": lambda image: calls.append(1) or teacher(image)}
    module = DiffusionModule(run.model, torch.optim.AdamW, services, seed=0, label_dropout=0.1, ema_decay=0.9)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=4, max_epochs=-1, callbacks=[gradients], **quiet)
    trainer.fit(module, DataLoader([run.batch] * 4, batch_size=None))
    assert len(calls) == 2
    assert [bool(grads[0].any()) for grads in gradients.seen] == [True, True, False, False]


@pytest.mark.parametrize("stop", [0, -3, 2.5, "soon"])
def test_a_stop_that_is_no_step_is_refused(stop):
    run = TinyRun({})
    with pytest.raises(DiffxError, match=r"plugins.early stops at step"):
        make_phases(run.backbone, {"early": Projected(stop)}, {"features/dinov2_vitb14"})


# A state of several streams, and a stream that changes on its way.


class WithVector(Backbone):
    """Denoises an image and a vector of five numbers, which walks as an extra token; leaves that token at block 1."""

    extra_tokens, hidden_size, side, shape, num_classes = 1, 8, 2, (1, 4, 4), 10

    def __init__(self, borders: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.borders, self.tokens_after = borders, dict.fromkeys(borders, 4)
        self.patches, self.vector = nn.Linear(4, 8), nn.Linear(5, 8)
        self.label = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Block(8, 2, 2) for _ in range(3))
        self.out, self.vector_out = nn.Linear(8, 4), nn.Linear(8, 5)

    @property
    def streams(self):
        return {"image": (1, 4, 4), "class": (5,)}

    def embed(self, x, t, y, memory):
        parts = unpack(x, self.streams)
        patches = parts["image"].unflatten(2, (2, 2)).unflatten(4, (2, 2)).permute(0, 2, 4, 1, 3, 5)
        tokens = self.patches(patches.flatten(3).flatten(1, 2))
        return Tokens(torch.cat([tokens, self.vector(parts["class"])[:, None]], dim=1)), self.label(y) + t[:, None]

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        return Tokens(self.blocks[depth](tokens.x, cond, tokens.ids), tokens.ids)

    def switch(self, depth, tokens, cond, memory):
        memory.other["vector"] = tokens.x[:, 4:]
        return Tokens(tokens.x[:, :4])

    def head(self, tokens, cond):
        image = self.out(tokens.x[:, :4]).view(-1, 1, 4, 4)
        vector = self.vector_out(tokens.x[:, 4]) if tokens.x.shape[1] > 4 else torch.zeros(len(image), 5)
        return pack({"image": image, "class": vector})


class Brings(Asks):
    streams = MappingProxyType({"class": "class_token"})
    reads_extra = True


def stream_draws(backbone: Backbone, plugins: dict[str, Plugin]):
    plan = make_plan(backbone, plugins, {"class_token"})
    batch = {"x": torch.randn(4, 1, 4, 4), "y": torch.arange(4), "class_token": torch.randn(4, 5)}
    objective = TinyRun({}).objective
    return plan, objective, batch, draw(backbone, plan, plugins, objective, batch, {}, Streams(0, 0), 0.1)


def test_the_state_holds_every_stream_and_the_denoising_loss_is_that_of_the_image():
    backbone, plugins = WithVector(), {"reg": Brings()}
    plan, objective, batch, draws = stream_draws(backbone, plugins)
    parts = unpack(draws.x, backbone.streams)
    assert draws.x.shape == (4, 21, 1, 1)
    assert torch.equal(parts["image"], batch["x"])
    assert torch.equal(parts["class"], batch["class_token"])
    noise = unpack(draws.noise["main"], backbone.streams)
    x_t = objective.noised(draws.x, draws.noise["main"], draws.t)
    out = unpack(backbone(x_t, draws.t, draws.y["main"]), backbone.streams)
    wanted = (out["image"] - (noise["image"] - batch["x"])).square().mean()
    torch.testing.assert_close(losses(backbone, plan, plugins, objective, draws)["denoise"], wanted)


def test_a_stream_that_no_plugin_brings_or_two_do_or_the_backbone_has_not_is_refused():
    with pytest.raises(DiffxError, match=r"denoises 'class' beside the image, and no plugin brings it"):
        make_plan(WithVector(), {}, ())
    with pytest.raises(DiffxError, match="another plugin brings too"):
        make_plan(WithVector(), {"a": Brings(), "b": Brings()}, ())
    with pytest.raises(DiffxError, match="this backbone denoises image"):
        make_plan(tiny_backbone(), {"a": Brings()}, ())


def test_extra_tokens_stand_last_and_are_never_dropped():
    backbone, plugins = WithVector(), {"reg": Brings(reads=(1,)), "route": Narrow(0, 2, 0.5)}
    plan, objective, _, draws = stream_draws(backbone, plugins)
    assert plan.views[0].tokens == (3, 3, 5, 5)
    assert (draws.aux["route"]["keep"][:, -1] == 4).all()
    losses(backbone, plan, plugins, objective, draws)
    assert plugins["reg"].seen[1].x.shape[1] == 3


def test_at_a_border_the_stream_changes_after_reads_and_before_drops():
    backbone, plugins = WithVector(borders=(1,)), {"reg": Brings(reads=(1, 2)), "route": Narrow(1, 2, 0.5)}
    plan, objective, _, draws = stream_draws(backbone, plugins)
    assert [kind for kind, _ in plan.views[0].actions[1]] == ["read", "switch", "save", "drop"]
    assert plan.views[0].tokens == (5, 2, 4, 4)
    losses(backbone, plan, plugins, objective, draws)
    assert {depth: tokens.x.shape[1] for depth, tokens in plugins["reg"].seen.items()} == {1: 5, 2: 4}


def test_a_span_across_a_border_is_refused_with_where_to_end_it():
    with pytest.raises(DiffxError, match=r"plugins.route narrows blocks on both sides of block 1.* end it at block 0"):
        make_plan(WithVector(borders=(1,)), {"reg": Brings(), "route": Narrow(0, 2, 0.5)}, ())


# What a plugin raises.


class Breaks(Plugin):
    reads = (1,)

    def __init__(self, where: str) -> None:
        super().__init__(weight=1.0)
        self.where = where

    def setup(self, backbone):
        if self.where == "setup":
            raise KeyError("a name")

    def loss(self, seen, out, aux):
        return seen[1].x @ seen[1].x  # (B, N, D) by (B, N, D)


def test_what_a_plugin_raises_in_setup_is_a_sentence_with_its_name():
    assert "plugins.broken failed in setup(): KeyError: 'a name'." in refusal({"broken": Breaks("setup")})


def test_what_a_plugin_raises_in_counting_is_a_sentence_with_its_name():
    run = TinyRun({"broken": Breaks("loss")})
    with pytest.raises(DiffxError, match=r"plugins.broken failed in a step: RuntimeError: "):
        count_flops(run.backbone, run.plugins, run.objective, run.plan, {})


# Cost.


def test_flops_are_those_of_an_image_however_many_are_counted_at_once():
    run = TinyRun({"half": Halves(1)})
    flops = count_flops(run.backbone, run.plugins, run.objective, run.plan, {})
    assert flops.forward == flops.plain


def test_the_teacher_among_the_runs_own_networks_costs_its_blocks():
    class Taught(Asks):
        def prepare(self, batch, rng):
            return {"features": batch["ema"](batch["noisy"], batch["t"], batch["label"], 3)}

    run = TinyRun({"taught": Taught("ema", "noisy", "t", "label")})
    flops = count_flops(run.backbone, run.plugins, run.objective, run.plan, {})
    assert 0.4 * flops.plain < flops.encoder < 0.6 * flops.plain


def test_a_batch_is_left_as_it_was():
    run, before = TinyRun({"asks": Asks(*DRAWN)}), tiny_batch()
    run.draws()
    assert run.batch.keys() == before.keys()
    assert all(torch.equal(run.batch[key], value) for key, value in before.items())
