"""The protocols of conf/eval: what each published number was made with, in training and for a run that is there."""

import pytest

from diffx.config.compose import compose_config
from diffx.config.protocol import with_protocol
from diffx.errors import DiffxError

PUBLISHED = {  # sampler, NFE, guidance scale, its interval's end, channels, power, samples, rounding
    "adm_50k": ("EulerMaruyama", 250, 1.0, 1.0, None, None, 50_000, "nearest"),
    "repa_cfg": ("EulerMaruyama", 250, 1.8, 0.7, None, None, 50_000, "truncate"),
    "dit_cfg": ("Ancestral", 250, 1.5, 1.0, 3, None, 50_000, "nearest"),
    "mdt_power_cosine": ("Ancestral", 250, 3.8, 1.0, 3, 4, 50_000, "truncate"),
    "sit_ode": ("Heun", 249, 1.0, 1.0, None, None, 50_000, "nearest"),
    "tread_edm": ("EDMHeun", 79, 1.0, 1.0, None, None, 50_000, "truncate"),
    "lightningdit_cfg": ("Euler", 249, 10.0, 0.9, 3, None, 50_000, "nearest"),
    "sr_dit": ("EulerMaruyama", 250, 1.0, 1.0, None, None, 50_000, "truncate"),
    "jit_cfg": ("Heun", 99, 2.9, 0.9, None, None, 50_000, "nearest"),
    "curve": ("Euler", 50, 1.0, 1.0, None, None, 10_000, "nearest"),
}


def facts(config) -> tuple:
    guidance = config.guidance
    sampler = config.sampler.target.rpartition(".")[2]
    return (
        sampler,
        config.sampler.nfe,
        guidance.scale,
        guidance.high,
        guidance.channels,
        guidance.power,
        config.eval.samples,
        config.eval.rounding,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_protocol_composes_as_published(name: str) -> None:
    config = compose_config([f"eval={name}", "data=imagenet256"])
    assert facts(config) == PUBLISHED[name]
    assert config.eval.labels == ("balanced" if name in ("jit_cfg", "sr_dit") else "random")
    assert config.eval.metrics.reference == "VIRTUAL_imagenet256"
    assert config.eval.metrics.dinov2 == "dinov2_vitl14"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_run_that_is_there_gets_the_whole_protocol(name: str) -> None:
    """Nothing of the run's own guidance or sampler is left."""
    run = compose_config(["+experiment=mdt_xl", "guidance.low=0.2", "guidance.power=2"])
    assert facts(with_protocol(run, name)) == PUBLISHED[name]


def test_path_drop_guidance_takes_the_place_of_a_runs_own() -> None:
    as_released = with_protocol(compose_config(["plugins=[sprint]"]), "sprint_pdg")
    assert (as_released.guidance.scale, as_released.eval.rounding) == (3.0, "truncate")
    changed = with_protocol(compose_config(["plugins=[sprint]"]), "sprint_pdg", ["guidance.scale=2"])
    assert changed.guidance.target == "diffx_plugins.sprint.PathDropGuidance"
    assert dict(changed.guidance.arguments) == {"scale": 2, "low": 0.0, "high": 1.0}
    assert changed.sampler.nfe == 250


def test_without_a_protocol_a_run_keeps_its_own() -> None:
    run = compose_config(["sampler.nfe=7", "eval.samples=321"])
    assert with_protocol(run, None) == run


def test_settings_come_on_top() -> None:
    changed = with_protocol(compose_config([]), "repa_cfg", ["guidance.scale=1.35", "eval.samples=1000"])
    assert facts(changed) == ("EulerMaruyama", 250, 1.35, 0.7, None, None, 1000, "truncate")


@pytest.mark.parametrize("setting", ["guidance.scal=2", "batch_size=3", "guidance.scale"])
def test_a_misspelt_setting_is_named_with_near_ones(setting: str) -> None:
    with pytest.raises(DiffxError, match=f"{setting.partition('=')[0]} is not a setting"):
        with_protocol(compose_config([]), None, [setting])


def test_an_unknown_protocol_is_named_with_those_there_are() -> None:
    with pytest.raises(DiffxError, match=r"adm_5k.*adm_50k"):
        with_protocol(compose_config([]), "adm_5k")


@pytest.mark.parametrize("name", ["sit_xl", "repa_xl", "mdt_xl", "tread_xl"])
def test_the_papers_experiments_draw_curves_of_ten_thousand_samples(name: str) -> None:
    from diffx.assemble.model import build_model

    config = compose_config([f"+experiment={name}"])
    build_model(config, "meta")
    assert config.eval.samples == 10_000
    assert config.sampler.nfe in (49, 50)
    assert config.guidance.scale == 1


def test_another_sampler_and_guidance_are_named_as_in_training_and_then_set():
    own = compose_config([])
    found = with_protocol(own, None, ["sampler.nfe=11", "sampler=heun", "guidance=routed", "guidance.strong=0.2"])
    assert (found.sampler.target, found.sampler.nfe) == ("diffx.sampler.Heun", 11)
    assert (found.guidance.target, found.guidance.strong) == ("diffx_plugins.tread.RoutedGuidance", 0.2)
    assert found.eval == own.eval


def test_a_sampler_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(DiffxError, match=r"There is no sampler=huen; did you mean heun"):
        with_protocol(compose_config([]), None, ["sampler=huen"])


def test_a_protocol_keeps_what_a_runs_own_metrics_are_compared_with_and_in() -> None:
    own = ["data=imagenet256", "eval=curve", "eval.metrics.reference=own", "eval.metrics.dinov2=null"]
    settings = with_protocol(compose_config(own), "adm_50k")
    assert (settings.eval.samples, settings.sampler.nfe) == (50_000, 250)
    assert settings.eval.metrics.reference == "own"
    assert settings.eval.metrics.dinov2 is None
    typed = with_protocol(compose_config(own), "adm_50k", ["eval.metrics.reference=other.npz"])
    assert typed.eval.metrics.reference == "other.npz"


def test_metrics_of_another_kind_are_the_protocols() -> None:
    assert with_protocol(compose_config([]), "adm_50k").eval.metrics.target.endswith("ADMMetrics")


def test_latents_may_be_decoded_by_another_autoencoder_which_is_part_of_the_protocol() -> None:
    settings = with_protocol(compose_config(["data=imagenet256"]), None, ["eval.decoder=one/other"])
    assert settings.decoder == settings.source.decoder == "one/other"
    assert with_protocol(settings, "adm_50k").decoder == "one/other"
    assert settings.id == compose_config(["data=imagenet256"]).id
    with pytest.raises(DiffxError, match=r"eval\.decoder=one/other, and data=digits is made of pixels"):
        with_protocol(compose_config([]), None, ["eval.decoder=one/other"])


def test_another_decoder_than_the_autoencoder_that_a_run_trains_is_refused() -> None:
    with pytest.raises(DiffxError, match=r"end_to_end trains the autoencoder that decodes.*type eval\.decoder=null"):
        compose_config(["+experiment=repa_e_xl", "eval.decoder=one/other"])
