"""LayerSync: a shallow block is pulled to a deep one, which stands still."""

import pytest
import torch

from diffx.errors import DiffxError
from diffx.testing import TinyRun, tiny_backbone
from diffx.tokens import Tokens
from diffx_plugins.layersync import LayerSync
from diffx_plugins.tread import TREAD


@pytest.mark.parametrize(("blocks", "reads"), [(28, (8, 16)), (24, (8, 16)), (12, (4, 8)), (6, (2, 4)), (2, (1, 2))])
def test_by_default_a_third_is_aligned_with_two_thirds(blocks, reads):
    plugin = LayerSync()
    plugin.setup(tiny_backbone(depth=blocks))
    assert plugin.reads == reads


def test_its_gradient_reaches_the_blocks_before_the_shallow_depth_alone():
    run = TinyRun({"it": LayerSync(2, 4)})
    run.losses(run.draws())["it"].backward()
    reached = [block.attn.qkv.weight.grad is not None for block in run.backbone.blocks]
    assert reached == [True, True, False, False, False, False]


def test_tokens_kept_by_a_route_are_compared_with_those_of_their_places():
    plugin = LayerSync(2, 4)
    plugin.setup(tiny_backbone())
    deep, ids = torch.randn(1, 16, 32), torch.tensor([[9, 0, 4]])
    loss = plugin.loss({2: Tokens(deep[:, [9, 0, 4]], ids), 4: Tokens(deep)}, deep, {})
    torch.testing.assert_close(loss, torch.tensor(-1.0))


def test_it_trains_across_the_end_of_a_route():
    run = TinyRun({"tread": TREAD(0.5, 1, 3), "it": LayerSync(2, 5)})
    assert -1 < run.losses(run.draws())["it"] < 1


@pytest.mark.parametrize("depths", [(3, 3), (4, 2), (0, 3), (2, 7)])
def test_depths_out_of_order_or_outside_the_backbone_are_refused(depths):
    with pytest.raises(DiffxError, match=f"shallow={depths[0]} and deep={depths[1]}"):
        LayerSync(*depths).setup(tiny_backbone())
