"""python -m diffx.worker FILE: train one resolved configuration. Sweeps start it; it never runs Hydra."""

import sys
from pathlib import Path

from diffx.commands.frame import calm_openmp, finish


def work(file: Path) -> None:
    """Train the configuration in a YAML file."""
    from omegaconf import DictConfig, OmegaConf

    from diffx.commands.launch import launch

    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    launch(config)


def main() -> None:
    """The command line."""
    calm_openmp()
    finish(lambda: work(Path(sys.argv[1])))
