"""python -m diffx.probe RUN: what each block of a run knows: classes, by a linear probe, and an encoder's view of
images, by CKNNA. These are the figures by which REPA argues.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from diffx.commands.frame import add_trust, calm_openmp, finish, settings_of_run


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    calm_openmp()
    parser = argparse.ArgumentParser(prog="python -m diffx.probe", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory, with config.yaml and checkpoints/ema.safetensors")
    parser.add_argument("--t", type=float, nargs="+", default=[0.5], help="noise levels, from 0 (data) to 1 (noise)")
    parser.add_argument(
        "--encoder", help="what CKNNA compares with (default: the encoder that the run was aligned to, else the data's)"
    )
    parser.add_argument("-n", "--count", type=int, default=10_000, help="images to fit on and, at most, to test on")
    parser.add_argument("--ema", type=float, metavar="DECAY", help="one of more_ema_decays, instead of ema_decay")
    parser.add_argument("-o", "--out", type=Path, help="the .json to write, with a .png beside it (default RUN/probe)")
    add_trust(parser)
    chosen = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    finish(lambda: run(chosen))


def run(chosen: argparse.Namespace) -> None:
    """Probe, print a table, write probe.json and probe.png, and say where."""
    from diffx.commands.probe_figure import draw
    from diffx.config.protocol import with_ema
    from diffx.errors import DiffxError
    from diffx.evaluation.block_probe import probe_blocks
    from diffx.run.folder import RunDir
    from diffx.store.whole_file import write_text

    folder = RunDir(chosen.run)
    settings, weights = with_ema(settings_of_run(chosen.run, chosen), folder, chosen.ema)
    found = probe_blocks(settings, weights, chosen.t, chosen.encoder, chosen.count)
    facts = {"run": str(chosen.run), "label": folder.read_record().get("label", "run"), **found}
    file = (chosen.out or chosen.run / "probe").with_suffix(".json")
    print_table(facts)
    try:
        write_text(file, json.dumps(facts, indent=1) + "\n")
        draw(facts, file.with_suffix(".png"))
    except OSError as error:
        raise DiffxError(f"{file} cannot be written ({error.strerror}); type -o and another place.") from error
    print(f"written to {file} and {file.with_suffix('.png')}")


def print_table(facts: dict[str, Any]) -> None:
    """A line for every block, with both numbers at every noise level."""
    times = sorted({block["t"] for block in facts["blocks"]})
    reads = {depth: name for name, depths in facts["reads"].items() for depth in depths}
    print("block" + "".join(f"  probe t={t:<4g}  CKNNA t={t:<4g}" for t in times))
    for depth in sorted({block["depth"] for block in facts["blocks"]}):
        row = [block for t in times for block in facts["blocks"] if block["depth"] == depth and block["t"] == t]
        numbers = "".join(f"{block['linear_probe']:14.1%}{block['cknna']:14.3f}" for block in row)
        print(f"{depth:5d}{numbers}" + (f"  {reads[depth]} reads" if depth in reads else ""))
    print(f"{facts['encoder']} itself: {facts['encoder_linear_probe']:.1%}; all on {facts['images']['tested_on']}")
