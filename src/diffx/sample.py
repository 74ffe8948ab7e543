"""python -m diffx.sample RUN: draw samples from a run's EMA weights, as a PNG grid and a uint8 .npz, on all GPUs.

Sample i depends on the seed and i alone. A set that was cut off goes on when the same command is typed again.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffx.cli import calm_openmp, finish
from diffx.devices import process_group, runs_here, start_processes

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    calm_openmp()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m diffx.sample", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory, with config.yaml and checkpoints/ema.safetensors")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE settings of eval, sampler and guidance")
    parser.add_argument("--protocol", help="a file of conf/eval: its sampler, guidance, labels and number of samples")
    parser.add_argument("-n", "--count", type=int, help="how many samples (default 100, or the protocol's number)")
    parser.add_argument("-o", "--out", type=Path, help="the .npz to write (default RUN/samples/PROTOCOL.npz)")
    parser.add_argument("--nfe", type=int, help="network forwards, instead of the sampler's setting")
    parser.add_argument("--guidance", type=float, help="guidance scale, instead of the setting")
    parser.add_argument("--label", type=int, help="one label for all samples, instead of eval.labels")
    parser.add_argument("--seed", type=int, help="seed of noise and labels, instead of eval.seed")
    parser.add_argument("--devices", type=int, help="processes to share the work (default: one for each GPU)")
    chosen = parser.parse_intermixed_args(arguments)
    if runs_here(chosen.devices):
        finish(lambda: sample(chosen))
    else:
        finish(lambda: start_processes("diffx.sample", arguments, chosen.devices))


def sample(chosen: argparse.Namespace) -> None:
    """Draw, decode, write, and say where."""
    from diffx import ranks
    from diffx.errors import DiffxError
    from diffx.protocols import with_protocol
    from diffx.run import RunDir
    from diffx.sample_set import SampleSet

    flags = {"sampler.nfe": chosen.nfe, "guidance.scale": chosen.guidance, "eval.seed": chosen.seed}
    settings = [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = with_protocol(read_config(chosen.run), chosen.protocol, [*chosen.settings, *settings])
    count = chosen.count if chosen.count is not None else config.eval.samples if chosen.protocol else 100
    if count < 1:
        raise DiffxError(f"--count {count}: type a number of at least 1.")
    out = (chosen.out or chosen.run / "samples" / (chosen.protocol or "samples")).with_suffix(".npz")
    with process_group():
        SampleSet(RunDir(chosen.run), config, count, out, chosen.label).draw()
    if ranks.is_first():
        print(f"{count} samples: {out} (arr_0, uint8, NxHxWxC) and {out.with_suffix('.png')}")


def read_config(run: Path) -> "DictConfig":
    """The configuration of a run directory. Raises DiffxError where it has none."""
    from omegaconf import DictConfig, OmegaConf

    from diffx.errors import DiffxError

    file = run / "config.yaml"
    if not file.exists():
        raise DiffxError(f"{run} is no run directory: it has no config.yaml; type runs/EXPERIMENT/ID/sSEED.")
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


if __name__ == "__main__":
    main()
