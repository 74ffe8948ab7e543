"""python -m diffx.worker FILE: train one resolved configuration. Sweeps start it; it never runs Hydra."""

import sys
from pathlib import Path

from diffx.cli import calm_openmp, finish


def work(file: Path) -> None:
    """Train the configuration in a YAML file."""
    from omegaconf import DictConfig, OmegaConf

    from diffx.launch import launch

    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    launch(config)


if __name__ == "__main__":
    calm_openmp()
    finish(lambda: work(Path(sys.argv[1])))
