"""python -m diffx.plan: print what a run would do and cost, and stop."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from diffx.commands.frame import calm_openmp, finish
from diffx.errors import DiffxError
from diffx.store.remote import is_url

if TYPE_CHECKING:
    from diffx.config.settings import Settings


def main() -> None:
    """The command line of `python -m diffx.plan`: print what a run would do and cost, and stop."""
    calm_openmp()
    finish(lambda: print_plan(sys.argv[1:]))


def print_plan(overrides: Sequence[str]) -> None:
    """Print the plan of one configuration; needs no data and no weights. Of data behind a URL it says what is kept
    here, or why that cannot be read."""
    from diffx.assemble.end_to_end import sketch_end_to_end, with_end_to_end
    from diffx.assemble.flops import count_flops
    from diffx.assemble.latents import describe_autoencoder
    from diffx.assemble.model import build_model
    from diffx.assemble.plan_table import plan_table
    from diffx.config.compose import compose_config

    settings = compose_config(overrides)
    model = build_model(settings, "meta")
    flops = count_flops(model.backbone, model.plugins, model.objective, model.plan, {})
    if settings.end_to_end:
        component = sketch_end_to_end(settings, model)
        flops = with_end_to_end(flops, component, model, settings.data.image_size)
    print(plan_table(model.backbone, model.plugins, model.plan, flops))
    if is_url(settings.data.source.get("root")):
        print(_streamed(settings, model.plan.needs, model.backbone.side))
    if settings.autoencoder:
        print(describe_autoencoder(settings.autoencoder, settings.data.image_size))


def _streamed(settings: "Settings", needs: Iterable[str], side: int) -> str:
    from diffx.config.target import make

    try:
        data = make(settings.source)
        data.provide(needs, side)
        return str(data.stream.describe())
    except DiffxError as error:
        return f"data: {error}"
