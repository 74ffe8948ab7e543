"""Which of the embedded networks learn from the classes: the report calls two of the three self-supervised."""

import pytest
import torch

from diffx.data import Digits
from diffx.embedded import networks as embedded
from diffx.embedded import training

pytestmark = pytest.mark.slow


class Relabelled(Digits):
    """The same images, each with the class of another one."""

    def __init__(self) -> None:
        super().__init__(16)
        self._labels = self._labels.roll(1)
        self.identity += "-relabelled"


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    """Ten steps of training and an empty cache."""
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path))
    monkeypatch.setattr(training, "STEPS", 10)


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


@pytest.mark.parametrize("make", [embedded.encoder, embedded.self_supervised])
def test_a_self_supervised_network_never_sees_a_class(make):
    assert torch.equal(weights(make(Digits(16))), weights(make(Relabelled())))


def test_the_supervised_network_does():
    assert not torch.equal(weights(embedded.supervised(Digits(16))), weights(embedded.supervised(Relabelled())))
