"""REG beside its recordings: sizes, what it needs, what it refuses, spans around it."""

import pytest
import torch
import torch.nn.functional as F

from diffx.backbone import REGBackbone
from diffx.backbone.protocol import pack, state_shape, unpack
from diffx.errors import DiffxError
from diffx.sampler import Guidance
from diffx.testing import BATCH, TinyRun, tiny_backbone, tiny_of
from diffx_plugins.reg import REG
from diffx_plugins.repa import REPA
from diffx_plugins.tread import TREAD

SIZES = {"xl": (1152, 28, 16, 676_886_032), "l": (1024, 24, 16, 459_664_144), "b": (768, 12, 12, 131_683_600)}


@pytest.fixture
def run() -> TinyRun:
    return TinyRun({"reg": REG()}, tiny_of(REGBackbone))


@pytest.mark.parametrize("size", SIZES)
def test_the_parameters_are_as_many_as_the_official_networks_less_a_row_of_zeros(size):
    width, depth, heads, count = SIZES[size]
    with torch.device("meta"):
        net = REGBackbone(hidden_size=width, depth=depth, num_heads=heads)
    assert sum(p.numel() for p in net.parameters()) + width == count


def test_the_state_is_the_image_and_the_encoders_class_token(run):
    draws = run.draws()
    parts = unpack(draws.x, run.backbone.streams)
    assert torch.equal(parts["image"], run.batch["x"])
    assert torch.equal(parts["class"], run.services["class_token/dinov2_vitb14"](run.batch["image"]))
    assert draws.x.shape[1:] == state_shape(run.backbone)


def test_each_stream_has_its_loss_and_the_image_that_of_denoising(run):
    draws = run.draws()
    terms = run.losses(draws)
    out = run.backbone(run.objective.noised(draws.x, draws.noise["main"], draws.t), draws.t, draws.y["main"])
    error = unpack(out - (draws.noise["main"] - draws.x), run.backbone.streams)
    torch.testing.assert_close(terms["denoise"], error["image"].square().mean())
    torch.testing.assert_close(terms["reg/class"], error["class"].square().mean())
    torch.testing.assert_close(terms["total"], terms["denoise"] + 0.5 * terms["reg/align"] + 0.03 * terms["reg/class"])


def test_inside_a_route_the_class_token_stays_and_each_token_meets_the_feature_of_its_place():
    run = TinyRun({"tread": TREAD(0.5, 1, 4), "reg": REG(depth=3)}, tiny_of(REGBackbone))
    draws = run.draws()
    kept = draws.aux["tread"]["keep"]
    assert run.plan.views[0].kept == {"tread": (8 + 1,)}
    assert (kept[:, -1] == 16).all()
    plugin, features = run.plugins["reg"], draws.aux["reg"]["features"]
    seen = {}
    plugin.loss, loss = lambda s, out, aux: seen.update(s) or loss(s, out, aux), plugin.loss
    align = run.losses(draws)["reg/align"]
    (tokens,) = seen.values()
    assert torch.equal(tokens.ids, kept)
    wanted = torch.stack([features[k, kept[k]] for k in range(BATCH)])
    torch.testing.assert_close(align, -F.cosine_similarity(plugin.projector(tokens.x), wanted, dim=-1).mean())


def test_repa_beside_it_reads_the_grid_alone():
    run = TinyRun({"reg": REG(), "repa": REPA()}, tiny_of(REGBackbone))
    assert run.losses(run.draws())["repa"].isfinite()


def test_a_backbone_without_a_class_token_is_refused():
    with pytest.raises(DiffxError, match=r"type backbone\._target_=diffx\.backbone\.REGBackbone"):
        TinyRun({"reg": REG()}, tiny_backbone())


def test_another_width_of_the_class_token_is_refused():
    with pytest.raises(DiffxError, match=r"type backbone\.class_dim=128"):
        TinyRun({"reg": REG(encoder="embedded")}, tiny_of(REGBackbone))


def test_the_backbone_without_the_plugin_is_refused():
    with pytest.raises(DiffxError, match="denoises 'class' beside the image, and no plugin brings it"):
        TinyRun({}, tiny_of(REGBackbone))


@torch.no_grad()
def test_guided_channels_are_those_of_the_image_and_streams_have_their_own_scale():
    net = tiny_of(REGBackbone)
    x, y = torch.randn(BATCH, *state_shape(net)), torch.arange(BATCH)
    null, t = net.null_condition(y), torch.full((BATCH,), 0.5)
    guided = unpack(Guidance(2.0, channels=3, streams={"class": 1.5})(net, x, 0.5, y, null), net.streams)
    c, u = unpack(net(x, t, y), net.streams), unpack(net(x, t, null), net.streams)
    image = torch.cat([(u["image"] + 2 * (c["image"] - u["image"]))[:, :3], c["image"][:, 3:]], dim=1)
    torch.testing.assert_close(guided["image"], image)
    torch.testing.assert_close(guided["class"], u["class"] + 1.5 * (c["class"] - u["class"]))


def test_a_scale_for_a_stream_that_is_not_there_is_refused():
    net = tiny_of(REGBackbone)
    x, y = pack({name: torch.zeros(1, *shape) for name, shape in net.streams.items()}), torch.zeros(1).long()
    with pytest.raises(
        DiffxError, match=r"guidance\.streams\.text is no stream of this backbone; there are image, class"
    ):
        Guidance(2.0, streams={"text": 1.0})(net, x, 0.5, y, net.null_condition(y))
