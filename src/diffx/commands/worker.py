"""python -m diffx.worker FILE: train one resolved configuration. Launches and sweeps start it; it never runs Hydra."""

import argparse
from pathlib import Path

from diffx.commands.frame import add_trust, calm_openmp, finish
from diffx.processes.children import end_with_parent


def work(chosen: argparse.Namespace) -> None:
    """Train the configuration in a YAML file."""
    from diffx.commands.launch import launch
    from diffx.config.read import read_settings, read_trusted_settings

    launch((read_trusted_settings if chosen.trust else read_settings)(chosen.file))


def main() -> None:
    """The command line."""
    calm_openmp()
    end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m diffx.worker", description=__doc__)
    parser.add_argument("file", type=Path, help="settings as `python -m diffx ... --cfg job --resolve` prints them")
    add_trust(parser)
    chosen = parser.parse_args()
    finish(lambda: work(chosen))
