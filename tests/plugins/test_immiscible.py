"""Immiscible diffusion: the noise of a sample is chosen by its distance."""

from itertools import permutations

import pytest
import torch

from diffx.errors import DiffxError
from diffx.plugin import Plugin
from diffx.testing import TinyRun
from diffx_plugins.immiscible import Immiscible, assign


class Watch(Plugin):
    """Keeps what its pass has drawn."""

    needs = ("noise", "noisy", "target")

    def prepare(self, batch, rng):
        return {key: batch[key] for key in self.needs}


def drawn(batch=5):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 2, 2, generator=rng), torch.randn(batch, 3, 2, 2, generator=rng), rng


def test_no_permutation_has_a_smaller_sum_of_distances():
    x, noise, _ = drawn()
    sums = {p: sum((x[i] - noise[j]).norm().item() for i, j in enumerate(p)) for p in permutations(range(5))}
    assert tuple(assign(x, noise).tolist()) == min(sums, key=sums.get)


def test_dealt_out_anew_the_noise_of_a_batch_is_the_same_set():
    x, noise, rng = drawn(16)
    chosen = Immiscible().couple(x, noise, rng)
    assert not torch.equal(chosen, noise)
    order = (chosen.unsqueeze(1) == noise.unsqueeze(0)).flatten(2).all(2)
    assert torch.equal(order.sum(0), torch.ones(16, dtype=torch.long))


def test_of_k_draws_each_sample_has_the_nearest():
    x, noise, rng = drawn()
    chosen = Immiscible(4).couple(x, noise, rng)
    _, _, again = drawn()
    draws = torch.stack([noise, *(torch.randn(x.shape, generator=again) for _ in range(3))])
    distances = (draws - x).flatten(2).norm(dim=2)
    wanted = torch.stack([draws[distances[:, i].argmin(), i] for i in range(5)])
    assert torch.equal(chosen, wanted)


def test_network_target_and_other_plugins_have_the_chosen_noise():
    run = TinyRun({"it": Immiscible(3), "watch": Watch()})
    draws, seen = run.draws(), run.draws().aux["watch"]
    plain = TinyRun({"watch": Watch()}).draws()
    noise = draws.noise["main"]
    assert not torch.equal(noise, plain.noise["main"])
    assert torch.equal(seen["noise"], noise)
    torch.testing.assert_close(seen["noisy"], run.objective.noised(draws.x, noise, draws.t))
    torch.testing.assert_close(seen["target"], run.objective.target(draws.x, noise, draws.t))


def test_two_that_choose_the_noise_are_refused():
    with pytest.raises(DiffxError, match=r"plugins\.it and plugins\.other both: each chooses the noise"):
        TinyRun({"it": Immiscible(), "other": Immiscible(2)})


@pytest.mark.parametrize("candidates", [1, 0, -4])
def test_a_number_of_draws_that_leaves_no_choice_is_refused(candidates):
    with pytest.raises(DiffxError, match=f"candidates={candidates} leaves nothing to choose"):
        Immiscible(candidates)
