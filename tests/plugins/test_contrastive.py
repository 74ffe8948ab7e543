"""Contrastive flow matching: away from the target of another sample."""

import pytest
import torch

from diffx.errors import DiffxError
from diffx.streams import Streams
from diffx.testing import TinyRun, tiny_backbone
from diffx_plugins.contrastive import Contrastive, draw_partners


def prepared(partners: str, label: list[int], draws: int = 200) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Partners and shares of many draws; the target of sample i is the number i."""
    plugin = Contrastive(partners=partners)
    plugin.setup(tiny_backbone())
    rng = Streams(0, 0).own("contrastive")
    batch = {"target": torch.arange(len(label)).float().view(-1, 1, 1, 1), "label": torch.tensor(label)}
    aux = [plugin.prepare(batch, rng) for _ in range(draws)]
    return [(a["other"].flatten().long(), a["share"]) for a in aux]


def test_partners_are_the_other_samples_each_as_often():
    chosen = torch.stack([partner for partner, _ in prepared("all", [1, 1, 2, 3], 3000)])
    for sample in range(4):
        counts = chosen[:, sample].bincount(minlength=4) / 3000
        assert counts[sample] == 0
        assert (counts[torch.arange(4) != sample] - 1 / 3).abs().max() < 0.06  # seven standard deviations


def test_samples_without_a_label_are_left_out_and_the_rest_scaled_up():
    for _, share in prepared("conditional", [1, 10, 2, 10], 3):
        assert share.tolist() == [2.0, 0.0, 2.0, 0.0]


def test_a_batch_without_any_label_adds_nothing():
    assert prepared("conditional", [10, 10], 1)[0][1].tolist() == [0.0, 0.0]


def test_partners_of_another_class_are_so_and_a_sample_that_has_none_is_left_out():
    label = torch.tensor([1, 1, 2, 2])
    for partner, share in prepared("class_conditioned", label.tolist()):
        assert (label[partner] != label).all()
        assert share.tolist() == [1.0] * 4
    assert prepared("class_conditioned", [3, 3], 1)[0][1].tolist() == [0.0, 0.0]


def test_a_sample_without_a_choice_is_its_own_partner():
    nobody = torch.zeros(3, 3, dtype=torch.bool)
    assert draw_partners(nobody, Streams(0, 0).own("it")).tolist() == [0, 1, 2]


def test_the_total_may_be_negative():
    run = TinyRun({"it": Contrastive(weight=3.0)})
    assert run.losses(run.draws())["total"] < 0


def test_a_batch_of_one_is_refused():
    run = TinyRun({"it": Contrastive()})
    with pytest.raises(DiffxError, match="batch_size of at least 2"):
        run.draws(rank=0, ranks=4)


def test_unknown_partners_are_refused():
    with pytest.raises(DiffxError, match="partners=some"):
        Contrastive(partners="some")
