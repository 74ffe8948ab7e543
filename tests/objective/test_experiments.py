"""The papers' settings as experiments: they compose, they build, and their sampler fits their objective."""

from itertools import product

import pytest
import torch

from diffx.assemble.model import make_optimizer, make_plugin
from diffx.config.compose import compose_config, split_sweep
from diffx.config.target import make as instantiate
from diffx.errors import DiffxError
from diffx.objective.interpolant import PATHS, PREDICTIONS
from diffx.sampler import Field, check_fit
from diffx.schedule import LearningRate
from diffx.testing import tiny_backbone

PAPERS = {  # backbone and training-only parameters in millions, learning rate, clipping
    "sit_xl": (675.1, 0.0, 1e-4, None),
    "repa_xl": (675.1, 8.1, 1e-4, 1.0),
    "dit_xl": (675.1, 0.0, 1e-4, None),
    "mdt_xl": (675.9, 23.9, 3e-4, None),
    "mdtv2_xl": (718.3, 23.9, 3e-4, 1.0),
    "tread_xl": (675.1, 0.0, 1e-4, None),
    "repa_tread_xl": (675.1, 8.1, 1e-4, 1.0),
    "irepa_xl": (675.1, 8.0, 1e-4, 1.0),
    "sra_xl": (675.1, 5.3, 1e-4, 1.0),
    "self_flow_xl": (675.1, 5.3, 1e-4, 1.0),
    "haste_xl": (675.1, 8.1, 1e-4, 1.0),
    "layersync_xl": (675.1, 0.0, 1e-4, None),
    "dispersive_xl": (675.1, 0.0, 1e-4, None),
    "contrastive_xl": (675.1, 0.0, 1e-4, 1.0),
    "reg_xl": (676.9, 8.1, 1e-4, 1.0),
    "ddt_xl": (674.6, 3.5, 1e-4, None),
    "sra2_xl": (675.1, 0.6, 1e-4, 1.0),
    "transcend_xl": (675.1, 8.9, 1e-4, 1.0),
    "maskdit_xl": (730.5, 0.0, 1e-4, None),
    "sprint_xl": (677.5, 0.0, 1e-4, 1.0),
    "uvit_h": (500.8, 0.0, 2e-4, None),
    "improved_dit_xl": (674.6, 0.0, 1e-4, None),
    "lightningdit_xl": (675.3, 0.0, 2e-4, None),
    "sr_dit_b": (132.9, 7.3, 1e-4, 1.0),
    "speedrun2": (132.3, 13.1, 1e-3, 1.0),
    "rae_ddt_xl": (838.7, 0.0, 2e-4, 1.0),
    "rae2_xl": (875.2, 0.0, 2e-4, 1.0),
    "jit_b": (131.3, 0.0, 2e-4, None),
    "t2i_b": (506.4, 0.0, 1e-4, 1.0),
    "t2i_xl": (854.9, 0.0, 1e-4, 1.0),
    "t2i_repa_xl": (854.9, 8.1, 1e-4, 1.0),
    "t2i_tread_xl": (854.9, 0.0, 1e-4, 1.0),
    "t2i_repa_tread_xl": (854.9, 8.1, 1e-4, 1.0),
}


def millions(modules) -> float:
    return round(sum(p.numel() for module in modules for p in module.parameters()) / 1e6, 1)


LENGTHS = {  # batch size, steps and the average's decay, where not these
    "": (256, 400_000, 0.9999),
    "lightningdit_xl": (1024, 80_000, 0.9999),
    "uvit_h": (1024, 500_000, 0.9999),
    "rae_ddt_xl": (1024, 100_000, 0.9995),
    "rae2_xl": (1024, 100_000, 0.9995),
    "jit_b": (1024, 250_000, 0.9999),
    "t2i_b": (256, 150_000, 0.9999),
}


PLAIN = (0.0, 1.0, None, 1.0)
LOG_NORMAL = {  # mean and deviation of ln σ/α, the interval that is drawn from, and the shift
    "ddt_xl": PLAIN,
    "improved_dit_xl": PLAIN,
    "sprint_xl": PLAIN,
    "lightningdit_xl": PLAIN,
    "t2i_xl": PLAIN,
    "t2i_repa_xl": PLAIN,
    "t2i_tread_xl": PLAIN,
    "t2i_repa_tread_xl": PLAIN,
    "rae_ddt_xl": (0.0, 1.0, [0, 0.999], 48**0.5),
    "rae2_xl": (0.0, 1.0, None, 8.0),
    "jit_b": (0.8, 0.8, None, 1.0),
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_experiment_has_its_sizes_and_settings(name):
    backbone, training_only, lr, clip = PAPERS[name]
    config = compose_config([f"+experiment={name}"])
    with torch.device("meta"):
        model, plugins = instantiate(config.backbone), {n: make_plugin(n, p) for n, p in config.plugins.items()}
        for plugin in plugins.values():
            plugin.objective = instantiate(config.objective)
            plugin.setup(model)
    assert (millions([model]), millions(plugins.values())) == (backbone, training_only)
    length = LENGTHS.get(name, LENGTHS[""])
    assert (config.experiment, config.batch_size, config.max_steps, config.ema_decay) == (name, *length)
    assert (config.optimizer.lr, config.trainer.gradient_clip_val) == (lr, clip)
    make_optimizer(config.optimizer, [("any", torch.nn.Parameter(torch.zeros(1)))])
    objective, law = config.objective.arguments, ("mean", "std", "truncate", "shift")
    drawn = tuple(objective[key] for key in law) if objective.get("times") == "lognormal" else None
    assert drawn == LOG_NORMAL.get(name)


@pytest.mark.parametrize(("name", "stays", "ends"), [("rae_ddt_xl", 40, 800), ("rae2_xl", 25, 50)])
def test_the_learning_rate_of_rae_falls_to_a_tenth_between_its_epochs(name, stays, ends):
    rate = LearningRate(**vars(compose_config([f"+experiment={name}"]).learning_rate))
    epochs = [stays, (stays + ends) / 2, ends, ends + 1]
    assert [rate(round(1250 * epoch)) for epoch in epochs] == pytest.approx([1, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("overrides", [["objective=cosine"], ["objective=vp"]])
def test_every_objective_of_the_configuration_composes(overrides):
    instantiate(compose_config(overrides).objective)


def test_the_recipe_of_objectives_has_every_path_with_every_prediction():
    jobs = [compose_config(job).objective.arguments for job in split_sweep(["+experiment=sweep_objective"])]
    assert {(job["path"], job["prediction"]) for job in jobs} == set(product(PATHS, PREDICTIONS))
    assert len(jobs) == 12


def test_what_rae_and_jit_train_with_can_be_typed():
    rae = instantiate(
        compose_config(["objective.times=lognormal", "objective.truncate=[0,1]", "objective.shift=6.9"]).objective
    )
    jit = instantiate(
        compose_config(["objective.prediction=data", "objective.error=velocity", "objective.floor=0.05"]).objective
    )
    assert (rae.truncate, rae.shift, jit.error, jit.floor) == ((0, 1), 6.9, "velocity", 0.05)


FITTING = [
    ("linear", "euler"),
    ("cosine", "heun"),
    ("linear", "sde"),
    ("linear", "dopri5"),
    ("ddpm", "ancestral"),
    ("edm", "edm"),
]


@torch.no_grad()
@pytest.mark.parametrize(("objective", "sampler"), FITTING)
def test_the_configured_samplers_run_on_the_objectives_they_are_for(objective, sampler):
    few = [] if sampler == "dopri5" else ["sampler.nfe=3"]
    config = compose_config([f"objective={objective}", f"sampler={sampler}", *few])
    backbone = tiny_backbone(learn_sigma=True)
    field = Field(backbone, instantiate(config.objective), torch.tensor([1]), torch.tensor([10]))
    check_fit(instantiate(config.sampler), field.objective)
    sample = instantiate(config.sampler)(field, torch.ones(1, 4, 8, 8).double(), torch.zeros_like)
    assert sample.isfinite().all()
    assert sample.shape == (1, 4, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize(("objective", "sampler"), [("ddpm", "euler"), ("edm", "heun"), ("linear", "ancestral")])
def test_a_sampler_for_another_objective_is_refused_with_what_to_type(objective, sampler):
    config = compose_config([f"objective={objective}", f"sampler={sampler}"])
    backbone = tiny_backbone(learn_sigma=True)
    field = Field(backbone, instantiate(config.objective), torch.tensor([1]), torch.tensor([10]))
    with pytest.raises(DiffxError, match="type sampler="):
        check_fit(instantiate(config.sampler), instantiate(config.objective))
    with pytest.raises(DiffxError, match="type sampler="):
        instantiate(config.sampler)(field, torch.ones(1, 4, 8, 8).double(), torch.zeros_like)
