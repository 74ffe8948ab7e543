"""The average of a run that has trained, for another run: as its teacher, or as its guide."""

from pathlib import Path

import torch

from diffx.backbone import Backbone
from diffx.checkpoint.native import load_backbone
from diffx.config.read import read_settings
from diffx.config.target import make
from diffx.errors import DiffxError
from diffx.run.folder import RunDir


def trained_run(setting: str, run: str) -> RunDir:
    """The folder that a setting names. Raises DiffxError where it has no settings or no average."""
    folder = RunDir(Path(run))
    if missing := [file for file in (folder.settings, folder.ema_weights) if not file.is_file()]:
        raise DiffxError(
            f"{setting}={run} has no {missing[0].relative_to(folder.path)}; type the folder of a run that has trained, "
            "runs/EXPERIMENT/ID/sSEED."
        )
    return folder


def read_average(run: RunDir) -> Backbone:
    """The network of a run with its average as weights, for evaluation alone.

    Raises:
        DiffxError: settings that name what diffx and its registered packages do not provide, or damaged weights.
    """
    with torch.random.fork_rng(devices=[]):
        backbone: Backbone = make(read_settings(run.settings).backbone)
    load_backbone(backbone, run.ema_weights)
    return backbone.eval().requires_grad_(False)
