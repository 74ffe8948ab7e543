"""python -m diffx_plugins.contrastive RUN: the mean target over a run's training data, for guidance=contrastive."""

import argparse
from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from diffx.commands.frame import add_trust, finish, settings_of_run
from diffx.config.target import make
from diffx.data import Data
from diffx.errors import DiffxError
from diffx.store.whole_file import replaced
from diffx_plugins.contrastive.guidance import KEY, mean_target

BATCH = 256


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m diffx_plugins.contrastive", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--count", type=int, default=50_000, help="at most so many training images (default 50000)")
    parser.add_argument("-o", "--out", type=Path, help="the file to write (default RUN/interference.safetensors)")
    add_trust(parser)
    chosen = parser.parse_args(arguments)
    finish(lambda: write_mean(chosen))


def write_mean(chosen: argparse.Namespace) -> None:
    """Average, write, and say where."""
    settings = settings_of_run(chosen.run, chosen)
    if chosen.count < 1:
        raise DiffxError(f"--count {chosen.count}: type a number of at least 1.")
    data: Data = make(settings.data.source)
    mean = mean_target(make(settings.objective), mean_of(data, chosen.count))
    out = chosen.out or chosen.run / "interference.safetensors"
    with replaced(out) as temporary:
        save_file({KEY: mean}, temporary)
    print(f"The mean target: {out}; type guidance=contrastive guidance.interference={out}")


def mean_of(data: Data, count: int) -> Tensor:
    """Of x over the training images, evenly spaced ones where there are more than `count`; (C, H, W)."""
    chosen = torch.linspace(0, len(data) - 1, min(count, len(data))).round().long()
    total = torch.zeros(data.shape, dtype=torch.float64)
    for part in track(chosen.split(BATCH), "averaging", transient=True):
        total += data.batch(part)["x"].double().sum(0)
    return (total / len(chosen)).float()


if __name__ == "__main__":
    main()
