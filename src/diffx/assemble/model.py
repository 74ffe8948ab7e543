"""What is trained and how: backbone, plugins, objective and plan, from the settings alone."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from diffx.backbone import DiT
from diffx.config.settings import Settings
from diffx.config.target import make
from diffx.errors import DiffxError
from diffx.frozen.encoder import check_grid, encoder_spec
from diffx.objective import Objective
from diffx.planner import Plan, make_plan
from diffx.plugin import Plugin
from diffx.sampler.field import check_fit

BATCH_KEYS = ("x", "y", "image")


TERMS = ("denoise", "total")


@dataclass(frozen=True)
class TrainingModel:
    """What is trained and how: built from the settings alone, with no data and no weights of others."""

    backbone: DiT
    plugins: dict[str, Plugin]
    objective: Objective
    plan: Plan


def build_model(settings: Settings, device: torch.device | str = "cpu") -> TrainingModel:
    """Backbone, plugins, objective and plan, initialised from settings.seed, without touching global random state.

    On device "meta" nothing is allocated. Raises DiffxError for anything that cannot work.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(settings.seed)
        backbone: DiT = make(settings.backbone)
        objective: Objective = make(settings.objective)
        check_fit(make(settings.sampler), objective)
        make(settings.guidance)
        make(settings.optimizer, params=[torch.nn.Parameter(torch.zeros(1))])
        plugins: dict[str, Plugin] = {}
        for name, node in settings.plugins.items():
            if name in TERMS:
                raise DiffxError(f"A plugin cannot be called {name}, which is the name of a term of the loss.")
            # Its own seed: one plugin's modules start alike whatever stands beside it.
            torch.manual_seed(settings.seed + 1)
            plugins[name] = make(node)
            plugins[name].setup(backbone)
    provided = {*BATCH_KEYS, *(f"features/{name}" for name in _encoders(plugins, backbone, settings))}
    return TrainingModel(backbone, plugins, objective, make_plan(backbone, plugins, provided))


def encoder_names(needs: Iterable[str]) -> list[str]:
    """The frozen encoders among what plugins need, each once."""
    return list(dict.fromkeys(n.removeprefix("features/") for n in needs if n.startswith("features/")))


def _encoders(plugins: dict[str, Plugin], backbone: DiT, settings: Settings) -> list[str]:
    names = encoder_names(need for plugin in plugins.values() for need in plugin.needs)
    for name in names:
        check_grid(encoder_spec(name), name, settings.data.image_size, backbone.side)
    return names
