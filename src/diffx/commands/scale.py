"""python -m diffx.scale SETTINGS devices=1024: what a run would take on so many GPUs, and what would bind.

What is not a setting of the run is one of the machine: gpu=h100, node=8, nic=400 (Gbit/s for each GPU), step_ms=115
step_batch=64 (a measured step), storage=2 (GB/s of a node), failures=0.47 (for 1,000 GPU-days), price=2.5,
images=1000000000; src/diffx/cluster/machine.py has all of them and where their defaults are from.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from diffx.commands.frame import calm_openmp, finish

if TYPE_CHECKING:
    from diffx.cluster.machine import Machine
    from diffx.cluster.simulate import Step
    from diffx.cluster.work import Work


def main() -> None:
    """The command line of `python -m diffx.scale`."""
    calm_openmp()
    parser = argparse.ArgumentParser(
        prog="python -m diffx.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="of the run, as for diffx, and of the machine")
    parser.add_argument("-o", "--out", type=Path, default=Path("scale.png"), help="the figure of efficiency")
    asked = parser.parse_intermixed_args(sys.argv[1:])
    finish(lambda: print_scale(asked.settings, asked.out))


def print_scale(words: Sequence[str], out: Path) -> None:
    """Print a row for each number of GPUs up to devices=, and draw efficiency over it; needs no data and no weights."""
    from diffx.cluster.figure import draw
    from diffx.cluster.machine import Machine
    from diffx.cluster.simulate import simulate
    from diffx.cluster.work import work_of
    from diffx.config.compose import compose_config
    from diffx.config.parse import typed

    names = {entry.name for entry in fields(Machine)}
    own = [word for word in words if word.partition("=")[0] in names]
    machine = typed(Machine, own)
    work = work_of(compose_config([word for word in words if word not in own]))
    steps = [simulate(work, machine, count) for count in counts(machine)]
    for sentence in _facts(work, machine, steps[-1]):
        print(textwrap.fill(sentence, 80, subsequent_indent="  "))
    _print_table(work, machine, steps)
    draw(work, machine, steps, out)
    print(f"Efficiency and the parts of a step over GPUs are drawn in {out}")


def counts(machine: "Machine") -> list[int]:
    """Numbers of GPUs: one, a node, twice as many each time, and at last those asked for."""
    found, count = [1], machine.node
    while count < machine.devices:
        found.append(count)
        count *= 2
    return [*found, machine.devices] if machine.devices > found[-1] else found


def _facts(work: "Work", machine: "Machine", last: "Step") -> list[str]:
    """What was counted, what was measured and what is assumed, a sentence each."""
    from diffx.cluster.simulate import batch_on, checkpoint_seconds

    said = [
        f"{work.name}: {work.flops / 1e12:.3g} TFLOP an image, forward and backward, teachers included; "
        f"{work.parameters / 1e6:.0f}M parameters; {work.steps:,} steps of {work.batch}.",
        _step_fact(machine),
        _data_fact(work, machine, last),
        f"A checkpoint every {checkpoint_seconds(work, machine) / 60:.0f} minutes; {machine.failures:g} failures in "
        f"1,000 GPU-days, each {machine.restart:g} minutes and what is trained again.",
    ]
    if batch_on(work, last.devices) != work.batch:
        each = last.batch // last.devices
        said.append(
            f"batch_size={work.batch} has less than one image for each of {last.devices:,} GPUs: beyond {work.batch} "
            f"each gets {each}, which is another training than the settings', on as many images."
        )
    return said


def _step_fact(machine: "Machine") -> str:
    if machine.step_ms:
        return f"Measured: {machine.step_ms:g} ms for a step of {machine.step_batch} on one {machine.gpu}."
    return (
        f"PREDICTED, not measured: products at {machine.utilisation:.0%} of {machine.gpu}'s "
        f"{machine.chip.peak / 1e12:.0f} TFLOP/s; type step_ms= and step_batch= of a step that was."
    )


def _data_fact(work: "Work", machine: "Machine", last: "Step") -> str:
    size, nodes = machine.sample_bytes or work.sample_bytes, -(-last.devices // machine.node)
    rate = last.images_per_second * size / 1e9
    said = f"{size / 1e3:.0f} kB an image, on {last.devices:,} GPUs {rate / nodes:.2g} GB/s for each of {nodes:,} nodes"
    if not machine.images:
        return said + "."
    passes = work.steps * work.batch / machine.images
    return (
        f"{said}; {machine.images:,} images are {machine.images * size / 1e12:.3g} TB and are seen {passes:.2g} times."
    )


def _print_table(work: "Work", machine: "Machine", steps: "Sequence[Step]") -> None:
    """At most 80 columns."""
    print(f"\n{'GPUs':>9} {'batch':>9} {'ms/step':>8} {'images/s':>10} {'effic.':>6} {'hours':>8} {'price':>9}  rest")
    for step in steps:
        hours = step.hours(work.steps * work.batch)
        price = hours * step.devices * machine.price
        print(
            f"{step.devices:>9,} {step.batch:>9,} {1e3 * step.seconds:>8.1f} {step.images_per_second:>10,.0f} "
            f"{step.efficiency:>6.0%} {hours:>8,.{1 if hours >= 1 else 3}f} {price:>9,.0f}  {step.binds}"
        )
    print(f"\nprice: {machine.price:g} for a GPU-hour. rest: what costs most beside products, and its share.")
