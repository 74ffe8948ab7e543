"""The recipes of the debate compose and build, at both scales."""

import pytest

from diffx.assemble.model import build_model
from diffx.config.compose import compose_config, split_sweep

CLAIMS = {"a": 3, "b": 4, "c": 2, "d": 4, "e": 2, "f": 6, "g": 4, "h": 5}  # runs of each


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_variant_of_a_claim_is_a_run_of_its_own_on_the_digits(claim: str) -> None:
    jobs = [compose_config(job) for job in split_sweep([f"+experiment=debate/{claim}"])]
    assert len({job.id for job in jobs}) == len(jobs) == CLAIMS[claim]
    assert {(job.experiment, job.data.name, job.budget.cpu_hours) for job in jobs} == {
        (f"debate_{claim}", "digits", 0.03)
    }
    build_model(jobs[-1], "meta")


def test_pixels_and_latents_of_the_same_shapes_are_two_runs() -> None:
    jobs = [compose_config(job) for job in split_sweep(["+experiment=debate/i"])]
    assert [job.data.name for job in jobs] == ["shapes", "shapes_latent"]
    assert [build_model(job, "meta").backbone.side ** 2 for job in jobs] == [256, 16]


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_same_claim_is_asked_of_xl_on_imagenets_latents(claim: str) -> None:
    last = compose_config(split_sweep([f"+experiment=debate/{claim}", "scale=xl"])[-1])
    assert (last.data.name, last.max_steps, last.batch_size, last.budget) == ("imagenet256", 400_000, 256, None)
    assert len(build_model(last, "meta").backbone.blocks) == 28
