"""What is trained and how: backbone, plugins, objective and plan, from the settings alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from diffx.assemble.services import Surroundings, provided_needs
from diffx.backbone import Backbone
from diffx.config.settings import Settings
from diffx.config.target import Node, make, target_of
from diffx.errors import DiffxError, naming
from diffx.objective import Objective
from diffx.planner import Phase, Plan, make_phases
from diffx.plugin import Plugin
from diffx.sampler.field import check_fit
from diffx.sampler.guidance import FitsBackbone

BATCH_KEYS = ("x", "y", "image")
TERMS = ("denoise", "total")


@dataclass(frozen=True)
class TrainingModel:
    """What is trained and how: built from the settings alone, with no data and no weights of others.

    phases: a plan for every stretch of the run between the steps at which a plugin stops.
    """

    backbone: Backbone
    plugins: dict[str, Plugin]
    objective: Objective
    phases: tuple[Phase, ...]

    @property
    def plan(self) -> Plan:
        """The plan at step 0, in which every plugin is there."""
        return self.phases[0].plan


def build_model(settings: Settings, device: torch.device | str = "cpu") -> TrainingModel:
    """Backbone, plugins, objective and plan, initialised from settings.seed, without touching global random state.

    On device "meta" nothing is allocated. Raises DiffxError for anything that cannot work.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(settings.seed)
        backbone, objective = build_network(settings)
        make_optimizer(settings.optimizer, [("any", nn.Parameter(torch.zeros(1)))])
        plugins: dict[str, Plugin] = {}
        for name, node in settings.plugins.items():
            if name in TERMS:
                raise DiffxError(f"A plugin cannot be called {name}, which is the name of a term of the loss.")
            # Its own seed: one plugin's modules start alike whatever stands beside it.
            torch.manual_seed(settings.seed + 1)
            plugins[name] = make_plugin(name, node)
            set_up(name, plugins[name], backbone, objective)
    around = Surroundings(backbone, settings.data.image_size)
    return TrainingModel(backbone, plugins, objective, phases_of(backbone, plugins, around))


def build_network(settings: Settings) -> tuple[Backbone, Objective]:
    """What samples: a freshly initialised backbone and its objective. No plugin has a part in sampling.

    Raises:
        DiffxError: settings that no network has, or a sampler or guidance that is not for it.
    """
    backbone: Backbone = make(settings.backbone)
    objective: Objective = make(settings.objective)
    check_fit(make(settings.sampler), objective)
    for part in (objective, make(settings.guidance)):
        if isinstance(part, FitsBackbone):
            part.check_backbone(backbone)
    return backbone, objective


def make_optimizer(node: Node, named: Sequence[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """An optimizer of named parameters; a class gets the names if it says so with `takes_names = True`."""
    takes_names = getattr(target_of(node), "takes_names", False)
    optimizer: torch.optim.Optimizer = make(node, params=list(named) if takes_names else [p for _, p in named])
    return optimizer


def make_plugin(name: str, node: Node) -> Plugin:
    """A plugin from its settings. `stop` may be set of every one, and is no argument of its class."""
    own = {key: value for key, value in node.arguments.items() if key != "stop"}
    plugin = make(Node(node.target, own))
    if not isinstance(plugin, Plugin):
        raise DiffxError(f"plugins.{name}._target_={node.target} makes no diffx.plugin.Plugin; type one that does.")
    plugin.stop = node.get("stop", plugin.stop)
    return plugin


def set_up(name: str, plugin: Plugin, backbone: Backbone, objective: Objective) -> None:
    """Let a plugin build what it needs. What it raises is a sentence with its name."""
    plugin.objective = objective
    with naming(name, "in setup()"):
        plugin.setup(backbone)


def phases_of(backbone: Backbone, plugins: Mapping[str, Plugin], around: Surroundings) -> tuple[Phase, ...]:
    """The plans of a run, after asking who meets the plugins' needs."""
    needs = [need for plugin in plugins.values() for need in plugin.needs]
    return make_phases(backbone, plugins, {*BATCH_KEYS, *provided_needs(needs, around)})
