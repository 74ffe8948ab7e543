"""Every experiment of a paper is its method at its size; one of each method trains as it stands, but narrow."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from diffx.assemble.model import build_model
from diffx.config.compose import compose_config, split_sweep
from diffx.config.parse import tree_of
from diffx.config.protocol import protocol
from diffx.errors import DiffxError
from diffx.train.loop import train
from tests.prepare.made_sources import tiny_autoencoder
from tests.run.made_latents import NARROW, SMALL_LATENTS, made_latents

METHODS = {  # the plugins of each, and the objective it trains with
    "dit": ([], "DDPM"),
    "sit": ([], "Interpolant"),
    "repa": (["repa"], "Interpolant"),
    "mdt": (["mdt"], "DDPM"),
    "mdtv2": (["mdt"], "DDPM"),
    "tread": (["tread"], "EDM"),
    "repa_tread": (["repa", "tread"], "Interpolant"),
}
SIZES = {"xl": (28, 1152), "l": (24, 1024), "b": (12, 768), "s": (12, 384)}
NAMES = [f"{method}_{size}" for method in METHODS for size in SIZES]


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return made_latents(folder / "made", tiny_autoencoder(folder / "autoencoder", levels=4))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_its_method_at_its_size(name: str) -> None:
    method, _, size = name.rpartition("_")
    config = compose_config([f"+experiment={name}"])
    plugins, objective = METHODS[method]
    assert (config.experiment, config.data.name, config.max_steps, config.batch_size, config.ema_decay) == (
        name, "imagenet256", 400_000, 256, 0.9999,
    )  # fmt: skip
    assert list(config.plugins) == plugins
    assert config.objective.target.endswith(objective)
    model = build_model(config, "meta")
    assert (len(model.backbone.blocks), model.backbone.hidden_size) == SIZES[size]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_two_steps_and_samples(method: str, latents: Path, tmp_path: Path) -> None:
    """At its own depth, so that its blocks, spans and decoder are those of the paper; narrow, on 16 tokens."""
    run = train(
        compose_config(
            [f"+experiment={method}_s", *NARROW, *SMALL_LATENTS, f"data.source.root={latents}", f"runs_dir={tmp_path}"]
        )
    )
    card = run.read_record()
    assert (card["status"], card["plugins"], card["precision"]) == (
        "complete", METHODS[method][0], "bf16-mixed",
    )  # fmt: skip
    assert run.last_point(2) == 2
    assert all(tensor.isfinite().all() for tensor in load_file(run.ema_weights).values())


@pytest.mark.parametrize(("chosen", "left"), [("[]", []), ("[tread]", ["tread"]), ("[repa,tread]", ["repa", "tread"])])
def test_an_experiments_settings_of_a_method_go_with_the_method(chosen: str, left: list[str]) -> None:
    config = compose_config(["+experiment=repa_b", f"plugins={chosen}"])
    build_model(config, "meta")
    assert list(config.plugins) == left
    assert "repa" not in left or config.plugins["repa"].depth == 4


def test_a_setting_of_a_method_that_is_not_chosen_is_refused_with_what_to_type() -> None:
    with pytest.raises(DiffxError, match=r"plugins\.repa\.weight is a setting of repa, .* type plugins=\[repa\]"):
        compose_config(["plugins.repa.weight=1"])


def test_settings_of_a_method_that_does_not_exist_are_refused() -> None:
    with pytest.raises(DiffxError, match=r"plugins\.rpea is not a setting; did you mean plugins\.repa"):
        compose_config(["+plugins.rpea.weight=1"])


def test_experiments_that_differ_in_the_method_alone_are_measured_by_one_protocol() -> None:
    """Else their curves would not share an axis."""
    for names in (("sit_b", "repa_b", "repa_tread_b"), ("dit_b", "mdt_b", "mdtv2_b")):
        protocols = [protocol(compose_config([f"+experiment={name}"]), "data", "metrics") for name in names]
        assert all(other == protocols[0] for other in protocols)


SWEEPS = {  # the setting, and an experiment to put the recipe behind
    "sweep_repa_weight": ("repa", "weight", "repa_b"),
    "sweep_mask_ratio": ("mdt", "mask_ratio", "mdt_s"),
    "sweep_selection_ratio": ("tread", "selection_ratio", "tread_b"),
}


@pytest.mark.parametrize("recipe", SWEEPS)
@pytest.mark.parametrize("data", ["imagenet256", "digits"])
def test_a_sweep_recipe_varies_one_setting_of_the_experiment_before_it_or_of_the_digits(recipe: str, data: str) -> None:
    plugin, setting, experiment = SWEEPS[recipe]
    alone = [f"+experiment={recipe}", f"plugins=[{plugin}]"]
    typed = alone if data == "digits" else [f"+experiment=[{experiment},{recipe}]"]
    configs = [compose_config(job) for job in split_sweep(typed)]
    for config in configs:
        build_model(config, "meta")
    trees = [tree_of(config) for config in configs]
    values = [tree["plugins"][plugin].pop(setting) for tree in trees]
    assert len(set(values)) == len(values) >= 3
    assert all(tree == trees[0] for tree in trees)
    assert configs[0].data.name == data


@pytest.mark.parametrize("size", SIZES)
def test_a_sweep_recipe_keeps_the_other_methods_of_the_experiment_before_it(size: str) -> None:
    job, *_ = split_sweep([f"+experiment=[repa_tread_{size},sweep_repa_weight]"])
    config = compose_config(job)
    assert (config.experiment, list(config.plugins)) == (f"repa_tread_{size}", ["repa", "tread"])
    assert config.plugins["repa"].weight == 0.25


def test_every_job_of_the_field_plans() -> None:
    jobs = split_sweep(["+experiment=field"])
    planned = [sorted(build_model(compose_config(job), "meta").plugins) for job in jobs]
    assert len({str(names) for names in planned}) == len(jobs) - 1  # iREPA is REPA with other settings
    assert planned[0] == []


def test_every_job_of_the_study_of_text_plans_on_both_networks() -> None:
    jobs = split_sweep(["+experiment=text"])
    planned = [sorted(build_model(compose_config(job), "meta").plugins) for job in jobs]
    assert planned == [[], ["repa"], ["tread"], ["contrastive"]]
    other = [compose_config([*job, "backbone=pixart_tiny"]) for job in jobs]
    assert [sorted(build_model(config, "meta").plugins) for config in other] == planned
    assert {config.eval.prompts for config in other} == {None}  # those of the held-out pictures


def test_every_job_of_the_conditioning_study_is_another_network_of_one_size() -> None:
    configs = [compose_config(job) for job in split_sweep(["+experiment=conditioning"])]
    nets = [build_model(config, "meta").backbone for config in configs]
    assert (
        len({config.id for config in configs}) == len({sum(p.numel() for p in net.parameters()) for net in nets}) == 5
    )
    assert {(len(net.blocks), net.hidden_size) for net in nets} == {(6, 128)}
