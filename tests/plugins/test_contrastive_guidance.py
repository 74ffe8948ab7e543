"""The guidance that puts back what a contrast pushed the network away from."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffx.commands.sample import main as sample
from diffx.config.compose import compose_config
from diffx.data import Digits
from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.train.loop import train
from diffx_plugins.contrastive import ContrastiveGuidance
from diffx_plugins.contrastive.__main__ import main
from diffx_plugins.contrastive.guidance import mean_target
from tests.run.conftest import small

WEIGHT = 0.3


def file_of(tmp_path, mean):
    save_file({"mean_target": mean}, tmp_path / "mean.safetensors")
    return str(tmp_path / "mean.safetensors")


def test_what_is_left_of_the_minimum_of_the_loss_is_the_mean_of_each_class(tmp_path):
    """Targets of two classes; for each the one output with the least loss, found by descent, over all pairs."""
    targets = torch.randn(2, 8, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(2, 1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    everyone = targets.flatten(0, 1)
    for _ in range(400):
        loss = (out - targets).square().mean() - WEIGHT * (out - everyone).square().mean()
        (slope,) = torch.autograd.grad(loss, out)
        out = (out - 2 * slope).detach().requires_grad_()
    guidance = ContrastiveGuidance(weight=WEIGHT, interference=file_of(tmp_path, everyone.mean(0)))
    y = torch.tensor([0, 1])
    found = guidance(lambda x, t, y: out.detach()[y, 0], torch.zeros(2, 1, 2, 2, dtype=torch.float64), 0.5, y, y)
    torch.testing.assert_close(found, targets.mean(1))


def test_it_commutes_with_classifier_free_guidance(tmp_path):
    mean, outputs = torch.randn(1, 2, 2), torch.randn(2, 1, 2, 2)
    guidance = ContrastiveGuidance(scale=1.8, weight=WEIGHT, interference=file_of(tmp_path, mean))
    found = guidance(lambda x, t, y: outputs[y], torch.zeros(1, 1, 2, 2), 0.5, torch.tensor([0]), torch.tensor([1]))
    label, null = ((1 - WEIGHT) * one + WEIGHT * mean for one in outputs)
    torch.testing.assert_close(found[0], null + 1.8 * (label - null))


@pytest.mark.parametrize(
    ("objective", "refused"),
    [(Interpolant(), False), (Interpolant(path="cosine"), True), (Interpolant(prediction="noise"), False)],
)
def test_the_mean_target_is_one_vector_or_refused(objective, refused):
    mean = torch.randn(1, 2, 2)
    if refused:
        with pytest.raises(DiffxError, match="changes with time"):
            mean_target(objective, mean)
        return
    wanted = objective.target(mean[None], torch.zeros(1, 1, 2, 2), torch.tensor([0.5]))[0]
    torch.testing.assert_close(mean_target(objective, mean), wanted)


def test_from_the_command_line_a_run_gets_its_mean_and_is_sampled_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(compose_config(small("max_steps=1", "plugins=[contrastive]")))
    main([str(run.path)])
    file = run.path / "interference.safetensors"
    data = Digits(size=16)
    mean = data.batch(torch.arange(len(data)))["x"].mean(0)
    torch.testing.assert_close(load_file(file)["mean_target"], -mean)
    sample([str(run.path), "-n", "4", "--nfe", "2", "guidance=contrastive", f"guidance.interference={file}"])
    assert (run.path / "samples" / "samples.npz").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "guidance.interference is not set"),
        ({"interference": "nowhere.safetensors"}, "interference=nowhere.safetensors is no file"),
        ({"weight": 1.0}, "weight=1.0"),
        ({"scale": -1.0}, "scale=-1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(DiffxError, match=says):
        ContrastiveGuidance(**settings)


def test_a_file_of_other_data_is_refused(tmp_path):
    guidance = ContrastiveGuidance(interference=file_of(tmp_path, torch.zeros(3, 4, 4)))
    with pytest.raises(DiffxError, match=r"shape \(3, 4, 4\), and this network gives \(1, 2, 2\)"):
        guidance(lambda x, t, y: x, torch.zeros(2, 1, 2, 2), 0.5, torch.zeros(2), torch.zeros(2))
