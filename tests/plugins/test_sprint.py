"""SPRINT beside its recordings: which places stay, whose sparse path is dropped, what guidance leaves out, refusals."""

import pytest
import torch

from diffx.assemble.flops import count_flops
from diffx.backbone import SprintBackbone
from diffx.backbone.protocol import Memory, walk
from diffx.errors import DiffxError
from diffx.planner import make_plan
from diffx.sampler import Guidance
from diffx.testing import BATCH, TinyRun, tiny_backbone, tiny_of
from diffx.tokens import Tokens
from diffx_plugins.repa import REPA
from diffx_plugins.sprint import SPRINT, PathDropGuidance
from diffx_plugins.tread import TREAD


def started(**settings) -> TinyRun:
    return TinyRun({"sprint": SPRINT(**settings)}, tiny_of(SprintBackbone))


@pytest.mark.parametrize(
    ("ratio", "rows", "columns", "stay"), [(0.5, 2, 2, 2), (0.75, 2, 2, 1), (0.625, 2, 4, 3), (0.875, 2, 4, 1)]
)
def test_of_each_group_of_places_equally_many_stay(ratio, rows, columns, stay):
    keep = started(drop_ratio=ratio).draws().aux["sprint"]["keep"]
    present = torch.zeros(BATCH, 16).scatter(1, keep, 1.0).view(BATCH, 4, 4)
    groups = present.unfold(1, rows, rows).unfold(2, columns, columns).sum((-1, -2))
    assert (groups == stay).all()
    assert torch.equal(keep, keep.sort(1).values)


def test_samples_keep_different_places_and_every_place_comes_in_turn():
    run = started()
    keep = torch.cat([run.draws(step).aux["sprint"]["keep"] for step in range(30)])
    assert len({tuple(row.tolist()) for row in keep}) > 20
    assert set(keep.flatten().tolist()) == set(range(16))


def test_a_random_mask_keeps_its_share_of_the_grid():
    keep = started(mask="random").draws().aux["sprint"]["keep"]
    assert keep.shape == (BATCH, 4)
    assert all(len(set(row.tolist())) == 4 for row in keep)


@torch.no_grad()
def test_with_no_token_and_no_path_dropped_the_training_pass_is_the_plain_one():
    run = started(drop_ratio=0.0, path_drop=0.0)
    draws = run.draws()
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    plain = run.objective.loss(run.backbone(x_t, draws.t, draws.y["main"]), draws.x, draws.noise["main"], draws.t)
    torch.testing.assert_close(run.losses(draws)["total"], plain.mean())


@torch.no_grad()
def test_the_middle_sees_the_kept_tokens_and_what_is_missing_is_the_mask_token():
    """A second formula: blocks on the kept rows alone, and a loop over samples that fills in the rest."""
    run = started(path_drop=0.5)
    net, draws = run.backbone, run.draws(3)
    keep, dropped = draws.aux["sprint"]["keep"], draws.aux["sprint"]["path_dropped"]
    assert 0 < dropped.sum() < BATCH
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    tokens, cond = net.embed(x_t, draws.t, draws.y["main"], Memory())
    dense = net.blocks[1](net.blocks[0](tokens.x, cond), cond)
    sparse = net.mask_token.repeat(BATCH, 16, 1)
    for k in range(BATCH):
        if not dropped[k]:
            ids = keep[k : k + 1]
            row = dense[k : k + 1, keep[k]]
            for block in net.blocks[2:4]:
                row = block(row, cond[k : k + 1], ids)
            sparse[k, keep[k]] = row[0]
    x = net.fuse(torch.cat([sparse, dense], dim=-1))
    for block in net.blocks[4:]:
        x = block(x, cond)
    wanted = run.objective.loss(net.head(Tokens(x), cond), draws.x, draws.noise["main"], draws.t).mean()
    torch.testing.assert_close(run.losses(draws)["total"], wanted)


def test_the_path_of_about_so_many_samples_is_dropped_one_by_one_or_the_batch_as_one():
    one_by_one = torch.stack([started(path_drop=0.3).draws(k).aux["sprint"]["path_dropped"] for k in range(60)])
    assert 0.2 < one_by_one.float().mean() < 0.4
    assert (one_by_one.any(1) & ~one_by_one.all(1)).any()
    as_one = torch.stack(
        [started(path_drop=0.3, path_drop_by="batch").draws(k).aux["sprint"]["path_dropped"] for k in range(60)]
    )
    assert torch.equal(as_one.any(1), as_one.all(1))
    assert as_one.any()
    assert not as_one.all()


def test_the_mask_token_is_of_the_network_and_never_trained():
    run = started()
    assert not list(run.plugins["sprint"].parameters())
    run.losses(run.draws())["total"].backward()
    assert run.backbone.mask_token.grad is None


@torch.no_grad()
def test_guidance_goes_away_from_no_label_and_no_middle():
    net = tiny_of(SprintBackbone)
    x, y, t = torch.randn(BATCH, 4, 8, 8), torch.arange(BATCH), torch.full((BATCH,), 0.5)
    null = net.null_condition(y)
    memory = Memory()
    tokens, cond = net.embed(x, t, null, memory)
    for block in range(2):
        tokens = net.run_block(block, tokens, cond, memory)
    tokens = net.switch(2, tokens, cond, memory)
    tokens = net.switch(4, Tokens(net.mask_token.expand_as(tokens.x)), cond, memory)
    for block in (4, 5):
        tokens = net.run_block(block, tokens, cond, memory)
    weak, strong = net.head(tokens, cond), net(x, t, y)
    torch.testing.assert_close(PathDropGuidance(2.0)(net, x, 0.5, y, null), weak + 2 * (strong - weak))


@torch.no_grad()
def test_guidance_outside_its_interval_is_the_plain_forward():
    net = tiny_of(SprintBackbone)
    x, y = torch.randn(BATCH, 4, 8, 8), torch.arange(BATCH)
    guided = PathDropGuidance(2.0, high=0.4)(net, x, 0.5, y, net.null_condition(y))
    assert torch.equal(guided, net(x, torch.full((BATCH,), 0.5), y))
    assert torch.equal(guided, Guidance(1.0)(net, x, 0.5, y, net.null_condition(y)))


def test_guidance_of_a_network_without_a_middle_is_refused():
    net, x, y = tiny_backbone(), torch.zeros(1, 4, 8, 8), torch.zeros(1).long()
    with pytest.raises(DiffxError, match=r"this network is a DiT; type guidance=classifier_free"):
        PathDropGuidance(2.0)(net, x, 0.5, y, net.null_condition(y))


@pytest.mark.parametrize(
    ("width", "depth", "heads", "relative"),
    [(384, 12, 6, 0.50), (768, 12, 12, 0.51), (1024, 24, 16, 0.38), (1152, 28, 16, 0.36)],
)
def test_the_flops_of_a_training_forward_are_the_measured_share_of_dits(width, depth, heads, relative):
    with torch.device("meta"):
        net, plugin = SprintBackbone(hidden_size=width, depth=depth, num_heads=heads), SPRINT()
        plugin.setup(net)
    flops = count_flops(net, {"sprint": plugin}, TinyRun({}).objective, make_plan(net, {"sprint": plugin}, ()), {})
    assert flops.relative == pytest.approx(relative, abs=0.006)


def test_features_are_aligned_inside_the_middle_and_behind_it():
    for depth in (2, 3, 4, 6):
        run = TinyRun({"sprint": SPRINT(), "repa": REPA(depth)}, tiny_of(SprintBackbone))
        assert run.losses(run.draws())["repa"].isfinite()


def test_a_route_inside_the_middle_nests_and_one_across_its_end_is_refused():
    run = TinyRun({"sprint": SPRINT(), "tread": TREAD(0.5, 3, 3)}, tiny_of(SprintBackbone))
    assert run.plan.views[0].kept == {"sprint": (4,), "tread": (2,)}
    assert run.losses(run.draws())["total"].isfinite()
    with pytest.raises(DiffxError, match=r"plugins\.tread narrows blocks on both sides of block 4"):
        TinyRun({"sprint": SPRINT(), "tread": TREAD(0.5, 2, 4)}, tiny_of(SprintBackbone))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"drop_ratio": 1.0}, r"drop_ratio=1\.0 is the share .* type a number in \[0, 1\)"),
        ({"drop_ratio": 0.6}, r"drop_ratio=0\.6 leaves no whole number .* type 0\.5, 0\.75 or"),
        ({"mask": "diagonal"}, r"mask=diagonal is not known; type one of structured, random"),
        ({"path_drop": 1.0}, r"path_drop=1\.0 is a probability"),
        ({"path_drop_by": "rank"}, r"path_drop_by=rank is not known; type one of sample, batch"),
        ({"drop_extra": True}, r"type plugins\.sprint\.mask=random"),
    ],
)
def test_a_setting_that_is_none_is_refused_with_what_to_type(settings, sentence):
    with pytest.raises(DiffxError, match=sentence):
        started(**settings)


def test_a_grid_without_whole_groups_is_refused():
    with pytest.raises(DiffxError, match=r"on a grid of 3 x 3"):
        TinyRun({"sprint": SPRINT()}, tiny_of(SprintBackbone, input_size=6))


def test_another_backbone_is_refused():
    with pytest.raises(DiffxError, match=r"type backbone\._target_=diffx\.backbone\.SprintBackbone"):
        TinyRun({"sprint": SPRINT()}, tiny_backbone())


@pytest.mark.parametrize("dense", [0, 3])
def test_a_backbone_without_a_middle_is_refused(dense):
    with pytest.raises(DiffxError, match=r"backbone\.dense=\d blocks at either end .* type a number from 1 to 2"):
        SprintBackbone.tiny(dense=dense)


@torch.no_grad()
def test_the_walk_that_leaves_the_middle_out_runs_no_block_of_it():
    net = tiny_of(SprintBackbone)
    x, t, y = torch.randn(BATCH, 4, 8, 8), torch.rand(BATCH), torch.arange(BATCH)
    ran = []
    for number, block in enumerate(net.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    PathDropGuidance(2.0)(net, x, 0.5, y, net.null_condition(y))
    assert ran == [0, 1, 2, 3, 4, 5, 0, 1, 4, 5]
    assert walk(net, x, t, y).isfinite().all()
