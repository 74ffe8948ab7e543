"""What a configuration from elsewhere may name: classes of diffx and of registered packages, and known optimizers.

A configuration names classes, and making one runs code. What a user typed may name anything; a file that came with a
downloaded run may not.
"""

import importlib
import inspect
from collections.abc import Iterator
from importlib.metadata import entry_points

from diffx.config.parse import nodes_of
from diffx.config.settings import Settings
from diffx.config.target import Node
from diffx.errors import DiffxError

# By setting, the packages whose public classes it may name.
ROOMS = {
    "backbone": ("diffx.backbone",),
    "objective": ("diffx.objective",),
    "sampler": ("diffx.sampler",),
    "guidance": ("diffx.sampler", "diffx.evaluation.autoguidance"),
    "data.source": ("diffx.data", "diffx.embedded"),
    "eval.metrics": ("diffx.metrics",),
    "logger.lightning": ("lightning.pytorch.loggers",),
}
GROUPS = {
    "backbone": "diffx.backbones",
    "plugins": "diffx.plugins",
    "guidance": "diffx.plugins",
    "end_to_end": "diffx.end_to_end",
}
OPTIMIZERS = {
    "diffx.optimizer": ("MuonAdamW",),
    "torch.optim": ("Adafactor", "Adam", "AdamW", "Muon", "RAdam", "SGD"),
    "timm.optim": ("Adan", "Lamb", "Lion"),
}


def refuse_strangers(settings: Settings) -> None:
    """Raises DiffxError for the first node that names what a configuration from elsewhere may not."""
    for path, node in nodes_of(settings):
        if not _is_known(path, node):
            raise DiffxError(
                f"{path}._target_={node.target} is nothing that diffx, its registered plugins and backbones or its "
                "list of optimizers provide; if you made this folder or know what it runs, add --trust."
            )


def _is_known(path: str, node: Node) -> bool:
    role = path.split(".")[0] if path.startswith("plugins.") else path
    allowed = [*ROOMS.get(role, ()), *_registered(GROUPS.get(role, ""))]
    module, _, name = node.target.rpartition(".")
    if path == "optimizer":
        return name in OPTIMIZERS.get(module, ())
    within = any(module == place or module.startswith(f"{place}.") for place in allowed)
    return within and _is_own_class(module, name)


def _registered(group: str) -> Iterator[str]:
    """The modules that installed packages have put their plugins or backbones in."""
    for entry in entry_points(group=group) if group else ():
        yield entry.value.partition(":")[0]


def _is_own_class(module: str, name: str) -> bool:
    """Whether a module offers a class of its package under that name, rather than one that it has imported."""
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return inspect.isclass(found) and found.__module__.split(".")[0] == module.split(".")[0]
