"""Text as a condition, on a network small enough to look through."""

import pytest
import torch
from text_backbone import TextDiT

from diffx.assemble.flops import count_flops
from diffx.backbone import Text, TextShape
from diffx.backbone.protocol import where_dropped
from diffx.sampler.guidance import Guidance
from diffx.testing import BATCH, BackboneContract, TinyRun, example_condition, tiny_of


class TestText(BackboneContract):
    family = TextDiT


@pytest.fixture(scope="module")
def net() -> TextDiT:
    net: TextDiT = tiny_of(TextDiT)
    return net


def test_a_dropped_caption_is_the_null_condition_in_all_its_parts(net: TextDiT) -> None:
    y = example_condition(net, torch.Generator().manual_seed(0))
    null = net.null_condition(y)
    mixed = where_dropped(torch.tensor([True, False, True, False]), null, y)
    assert isinstance(mixed, Text)
    for part, instead, given in zip(mixed, null, y, strict=True):
        assert torch.equal(part[0], instead[0])
        assert torch.equal(part[1], given[1])


def test_guidance_runs_captions_and_the_null_condition_side_by_side(net: TextDiT) -> None:
    y = example_condition(net, torch.Generator().manual_seed(0))
    x, t = torch.randn(BATCH, 4, 8, 8), torch.full((BATCH,), 0.5)
    with torch.no_grad():
        guided = Guidance(3.0)(net, x, 0.5, y, net.null_condition(y))
        with_text, without = net(x, t, y), net(x, t, net.null_condition(y))
    torch.testing.assert_close(guided, without + 3 * (with_text - without), rtol=1e-4, atol=1e-5)


def test_a_step_of_a_text_network_is_counted_as_that_of_a_network_of_classes_is(net: TextDiT) -> None:
    run = TinyRun({}, net)
    flops = count_flops(run.backbone, {}, run.objective, run.plan, {})
    assert flops.train > 2 * flops.forward > flops.plain > 0


@pytest.mark.parametrize(
    ("text", "suits"),
    [((9, 6, 3), True), ((5, 6, 3), True), ((5, 7, 3), False), ((5, 6, 4), False), ((5, 6, 0), False)],
)
def test_text_of_the_widths_that_a_network_reads_suits_it_at_any_length(text: tuple[int, ...], suits: bool):
    assert TextShape(*text).suits(TextShape(5, 6, 3)) is suits


def test_a_pooled_vector_that_a_network_does_not_read_may_have_any_width():
    assert TextShape(5, 6, 8).suits(TextShape(5, 6, 0))
