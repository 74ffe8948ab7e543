"""A weaker run as the guide."""

import numpy as np
import pytest
import torch

from diffx.commands.sample import main as sample
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.evaluation.autoguidance import Autoguidance, weak_network
from diffx.objective import Interpolant
from diffx.testing.tiny import randomised_anew
from diffx.train.loop import train
from tests.run.conftest import small


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    """The folder of a weak run: one step of a network of one block."""
    folder = tmp_path_factory.mktemp("weak")
    return train(compose_config(small("max_steps=1", "backbone.depth=1", f"runs_dir={folder}"))).path


def test_it_leads_away_from_the_weak_network_with_the_label_kept(weak):
    net = weak_network(str(weak), torch.device("cpu"))
    x, y, t = torch.randn(3, 1, 16, 16), torch.tensor([1, 2, 3]), torch.full((3,), 0.5)
    randomised_anew(net)

    def strong(x, t, y):
        return x + y.view(-1, 1, 1, 1)

    found = Autoguidance(scale=2.5, weak=str(weak))(strong, x, 0.5, y, torch.full((3,), 10))
    wanted = net(x, t, y) + 2.5 * (strong(x, t, y) - net(x, t, y))
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(net(x, t, y), net(x, t, torch.full((3,), 10)))


def test_outside_its_interval_the_weak_network_is_not_asked(weak):
    x, y = torch.randn(2, 1, 16, 16), torch.tensor([1, 2])
    found = Autoguidance(high=0.4, weak=str(weak))(lambda x, t, y: x, x, 0.5, y, y)
    assert torch.equal(found, x)


def test_a_run_is_sampled_with_an_earlier_one_from_the_command_line(weak, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(compose_config(small("max_steps=3")))
    for name, more in (("plain", []), ("guided", ["guidance=autoguidance", f"guidance.weak={weak}"])):
        sample([str(run.path), "-n", "4", "--nfe", "3", "-o", f"{name}.npz", *more])
    plain, guided = (np.load(f"{name}.npz")["arr_0"] for name in ("plain", "guided"))
    assert plain.shape == guided.shape
    assert (plain != guided).any()


@pytest.mark.parametrize(("objective", "fits"), [(Interpolant(), True), (Interpolant(prediction="noise"), False)])
def test_a_guide_of_another_objective_is_refused(weak, objective, fits):
    guidance = Autoguidance(weak=str(weak))
    if fits:
        guidance.check_objective(objective)
        return
    with pytest.raises(DiffxError, match="another objective"):
        guidance.check_objective(objective)


def test_a_guide_that_is_not_there_is_refused_at_once():
    with pytest.raises(DiffxError, match=r"guidance\.weak is not set"):
        Autoguidance()
    with pytest.raises(DiffxError, match=r"weak=nowhere has no config\.yaml"):
        Autoguidance(weak="nowhere")


def test_a_guide_of_other_states_is_refused(weak):
    with pytest.raises(DiffxError, match=r"for states \(1, 16, 16\), and this one has \(4, 8, 8\)"):
        Autoguidance(weak=str(weak))(lambda x, t, y: x, torch.zeros(1, 4, 8, 8), 0.5, torch.zeros(1), torch.zeros(1))
