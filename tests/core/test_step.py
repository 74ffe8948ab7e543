"""The training step: who draws what, how plugins meet the stream, and how the losses add up."""

import pytest
import torch

from diffx.backbone.protocol import walk_blocks
from diffx.errors import DiffxError
from diffx.plugin import Plugin, Span
from diffx.step import draw, walk_with_plugins
from diffx.streams import Streams
from diffx.testing import TinyRun, tiny_batch, tiny_mdt
from diffx_plugins.mdt import MDT
from diffx_plugins.repa import REPA
from diffx_plugins.tread import TREAD


class Reader(Plugin):
    """Keeps what it read, for the test to look at."""

    def __init__(self, *reads: int, weight=1.0) -> None:
        super().__init__(weight)
        self.reads = reads

    def loss(self, seen, out, aux):
        self.seen = seen
        return sum(tokens.x.square().mean() for tokens in seen.values())


class Narrow(Plugin):
    def __init__(self, *span, view: str = "main", **save) -> None:
        super().__init__()
        self.span, self.view = Span(*span, **save), view


def blocks_by_hand(run: TinyRun, draws, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens (B, N, D) before block `depth` of the dense pass, and the conditioning."""
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    tokens, cond = walk_blocks(run.backbone, x_t, draws.t, draws.y["main"], until=depth)
    return tokens.x, cond


@pytest.mark.parametrize("plugin", [TREAD, MDT, lambda: REPA(projector_dim=16)], ids=["tread", "mdt", "repa"])
def test_switching_a_plugin_on_changes_no_other_draw(plugin):
    plain, run = TinyRun({}, tiny_mdt()).draws(5), TinyRun({"new": plugin()}, tiny_mdt()).draws(5)
    assert torch.equal(plain.t, run.t)
    assert torch.equal(plain.noise["main"], run.noise["main"])
    assert torch.equal(plain.y["main"], run.y["main"])


def test_a_plugins_own_draws_do_not_depend_on_the_others():
    alone = TinyRun({"tread": TREAD()}, tiny_mdt()).draws()
    beside = TinyRun({"mdt": MDT(), "tread": TREAD()}, tiny_mdt()).draws()
    assert torch.equal(alone.aux["tread"]["keep"], beside.aux["tread"]["keep"])


def test_two_plugins_draw_different_masks():
    aux = TinyRun({"a": Narrow(0, 2, 0.5), "b": Narrow(3, 5, 0.5)}).draws().aux
    assert not torch.equal(aux["a"]["keep"], aux["b"]["keep"])


def test_the_same_step_draws_alike_and_another_step_seed_or_rank_does_not():
    first, again = (Streams(1, 2, 3).own("noise").initial_seed() for _ in range(2))
    others = [Streams(0, 2, 3), Streams(1, 0, 3), Streams(1, 2, 0)]
    assert first == again
    assert len({first, *(s.own("noise").initial_seed() for s in others), Streams(1, 2, 3).own("t").initial_seed()}) == 5


def test_the_shared_stream_is_alike_on_all_ranks():
    assert Streams(1, 2, 0).shared("rate").initial_seed() == Streams(1, 2, 7).shared("rate").initial_seed()


def test_views_share_the_times_and_have_their_own_noise_and_dropped_labels():
    run = TinyRun({"mdt": MDT()}, tiny_mdt())
    draws = draw(run.backbone, run.plan, run.plugins, run.objective, many_labels(), {}, Streams(0, 0), 0.5)
    assert draws.t.shape == (400,)
    assert abs(torch.stack([draws.noise["main"].flatten(), draws.noise["masked"].flatten()]).corrcoef()[0, 1]) < 0.05
    dropped = [draws.y[view] == 10 for view in ("main", "masked")]
    for d in dropped:
        assert abs(d.float().mean() - 0.5) < 0.15  # six standard deviations
    assert 0.25 < (dropped[0] == dropped[1]).float().mean() < 0.75


def many_labels() -> dict[str, torch.Tensor]:
    return {"x": torch.zeros(400, 4, 2, 2), "y": torch.arange(400) % 10}


def test_labels_are_dropped_at_the_asked_rate_and_only_to_the_null_label():
    run = TinyRun({})
    for share in (0.0, 1.0):
        batch = many_labels()
        y = draw(run.backbone, run.plan, {}, run.objective, batch, {}, Streams(0, 0), share).y["main"]
        assert torch.equal(y, torch.full_like(y, 10) if share else batch["y"])


def drawn(run: TinyRun, streams: Streams):
    return draw(run.backbone, run.plan, run.plugins, run.objective, tiny_batch(), {}, streams, 0.1)


def test_a_ratio_drawn_every_step_is_alike_on_all_ranks_and_takes_every_value():
    run = TinyRun({"mdt": MDT((0.3, 0.5))}, tiny_mdt())
    lengths = []
    for step in range(40):
        pair = [drawn(run, Streams(0, step, rank)).aux["mdt"]["keep"] for rank in (0, 1)]
        assert pair[0].shape == pair[1].shape
        assert not torch.equal(*pair)
        lengths.append(pair[0].shape[1])
    assert set(lengths) == set(run.plan.views[1].kept["mdt"])


def test_a_teacher_runs_once_for_all_plugins_that_want_it():
    calls = []

    def teacher(image):
        calls.append(image)
        return torch.ones(len(image), 16, 768)

    services = {"features/dinov2_vitb14": teacher}
    run = TinyRun({"a": REPA(1, projector_dim=16), "b": REPA(2, projector_dim=16)}, services=services)
    run.draws()
    assert len(calls) == 1


def test_features_that_come_with_the_batch_are_used_without_the_teacher():
    run = TinyRun({"repa": REPA(projector_dim=16)}, services={"features/dinov2_vitb14": lambda image: 1 / 0})
    run.batch["features/dinov2_vitb14"] = torch.ones(4, 16, 768)
    assert torch.equal(run.draws().aux["repa"]["features/dinov2_vitb14"], torch.ones(4, 16, 768))


def test_draws_carry_no_gradient():
    run = TinyRun({"repa": REPA(projector_dim=16)})
    weight = torch.ones(1, requires_grad=True)
    run.services = {need: lambda image: weight * torch.ones(4, 16, 768) for need in run.services}
    assert not run.draws().aux["repa"]["features/dinov2_vitb14"].requires_grad


def test_a_read_sees_the_tokens_before_its_block():
    run = TinyRun({"reader": Reader(0, 2, 6)})
    draws = run.draws()
    run.losses(draws)
    for depth, tokens in run.plugins["reader"].seen.items():
        torch.testing.assert_close(tokens.x, blocks_by_hand(run, draws, depth)[0])
        assert tokens.ids is None


def test_a_read_inside_a_span_sees_the_tokens_kept_and_their_places():
    run = TinyRun({"route": Narrow(1, 4, 0.5), "reader": Reader(1, 2, 4)})
    draws = run.draws()
    run.losses(draws)
    seen, keep = run.plugins["reader"].seen, draws.aux["route"]["keep"]
    assert torch.equal(seen[2].ids, keep)
    assert seen[2].x.shape[1] == 8
    assert seen[1].ids is None  # at its own depth the read comes before the drop
    assert seen[4].ids is None  # and after the restore
    assert seen[4].x.shape[1] == 16


def test_nested_spans_come_back_to_every_place():
    """A token that the inner span skips has the outer span's state at its start, and each finds its own place."""
    run = TinyRun({"outer": Narrow(0, 6, 0.5), "inner": Narrow(1, 5, 0.5), "reader": Reader(1, 2, 5, 6)})
    draws = run.draws()
    run.losses(draws)
    seen, outer, inner = run.plugins["reader"].seen, draws.aux["outer"]["keep"], draws.aux["inner"]["keep"]
    embedded, _ = blocks_by_hand(run, draws, 0)
    for b in range(4):
        assert torch.equal(seen[2].ids[b], outer[b][inner[b]])
        skipped = [i for i in range(8) if i not in inner[b]]
        assert torch.equal(seen[5].x[b, skipped], seen[1].x[b, skipped])
        routed_around = [i for i in range(16) if i not in outer[b]]
        assert torch.equal(seen[6].x[b, routed_around], embedded[b, routed_around])


def test_a_delayed_route_restores_the_state_of_its_save_depth():
    run = TinyRun({"route": Narrow(3, 5, 0.5, save=1), "reader": Reader(1, 3, 5)})
    draws = run.draws()
    run.losses(draws)
    seen, keep = run.plugins["reader"].seen, draws.aux["route"]["keep"]
    for b in range(4):
        skipped = [i for i in range(16) if i not in keep[b]]
        assert torch.equal(seen[5].x[b, skipped], seen[1].x[b, skipped])
        assert not torch.equal(seen[5].x[b, skipped], seen[3].x[b, skipped])


def test_repa_inside_a_tread_route_aligns_kept_tokens_with_the_features_of_their_places():
    run = TinyRun({"tread": TREAD(0.5, start=1, end=3), "repa": REPA(3, projector_dim=16)})
    draws = run.draws()
    embedded, cond = blocks_by_hand(run, draws, 1)
    keep = draws.aux["tread"]["keep"]
    kept = torch.stack([embedded[b, keep[b]] for b in range(4)])
    for block in run.backbone.blocks[1:3]:
        kept = block(kept, cond)
    features = draws.aux["repa"]["features/dinov2_vitb14"]
    cosines = []
    for b in range(4):
        for i, place in enumerate(keep[b]):
            p, f = run.plugins["repa"].projectors[0](kept[b, i]), features[b, place]
            cosines.append(p @ f / (p.norm() * f.norm()))
    torch.testing.assert_close(run.losses(draws)["repa"], -torch.stack(cosines).mean(), rtol=1e-4, atol=1e-5)


def test_the_total_is_the_denoising_losses_one_to_one_and_each_weighted_loss():
    run = TinyRun({"mdt": MDT(), "a": Reader(1, weight=0.25), "b": Reader(2, weight=2.0)}, tiny_mdt())
    terms = run.losses(run.draws())
    assert set(terms) == {"denoise", "masked/denoise", "a", "b", "total"}
    total = terms["denoise"] + terms["masked/denoise"] + 0.25 * terms["a"] + 2.0 * terms["b"]
    torch.testing.assert_close(terms["total"], total)


def test_a_plugin_with_several_losses_has_a_weight_for_each():
    class Two(Reader):
        def loss(self, seen, out, aux):
            return {"near": out.square().mean(), "far": out.abs().mean()}

    run = TinyRun({"two": Two(1, weight={"near": 0.5, "far": 3.0})})
    terms = run.losses(run.draws())
    expected = terms["denoise"] + 0.5 * terms["two/near"] + 3.0 * terms["two/far"]
    torch.testing.assert_close(terms["total"], expected)


def test_a_plugins_view_denoises_its_own_noise():
    run = TinyRun({"mdt": MDT()}, tiny_mdt())
    draws = run.draws()
    x_t = run.objective.noised(draws.x, draws.noise["masked"], draws.t)
    view = run.plan.views[1]
    out, _ = walk_with_plugins(run.backbone, view, run.plugins, x_t, draws.t, draws.y["masked"], draws.aux)
    expected = (out - (draws.noise["masked"] - draws.x)).square().mean()
    torch.testing.assert_close(run.losses(draws)["masked/denoise"], expected)


def test_a_scheduled_weight_follows_the_step():
    reader = Reader(1, weight=lambda step: 1.0 if step < 100 else 0.0)
    weights = []
    for step in (0, 99, 100):
        reader.follow_schedule(step)
        weights.append(reader.weights()[""].item())
    assert weights == [1.0, 1.0, 0.0]


def test_a_fixed_weight_ignores_the_step():
    reader = Reader(1, weight=0.5)
    reader.follow_schedule(1000)
    assert reader.weights()[""] == 0.5


def test_the_weight_is_not_saved_with_the_state():
    assert Reader(1).state_dict() == {}


@pytest.mark.parametrize("weight", [-0.5, float("inf"), float("nan"), "0.5", None])
def test_a_weight_that_is_no_finite_number_from_zero_is_refused(weight):
    with pytest.raises(DiffxError, match="weight="):
        Reader(1, weight=weight)
    with pytest.raises(DiffxError, match="weight="):
        Reader(1).set_weight(weight)


def test_with_no_plugin_the_walk_equals_the_backbone_bit_for_bit_for_every_option():
    for options in ({}, {"position": "rope"}, {"relative_bias": True}, {"skips": True}, {"learn_sigma": True}):
        run = TinyRun({}, tiny_mdt(**options))
        x, t, y = run.batch["x"], torch.rand(4), run.batch["y"]
        out, seen = walk_with_plugins(run.backbone, run.plan.views[0], {}, x, t, y, {})
        assert torch.equal(out, run.backbone(x, t, y))
        assert seen == {}
