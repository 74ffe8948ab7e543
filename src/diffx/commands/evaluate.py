"""python -m diffx.evaluate RUN | FILE.npz | FOLDER: measure samples under a protocol and print the values.

Of a run it draws the samples first, as diffx.sample does, and appends the values to the run's curve. So of an imported
model, or of an official file with --as, whose values go into a file of its folder. Images of others are measured as
they are: an .npz with arr_0 (uint8, NxHxWx3), or a folder of pictures.
"""

import argparse
import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffx.commands.frame import add_model, add_trust, drawn_from, on_all_devices

if TYPE_CHECKING:
    from diffx.assemble.parts import Metrics
    from diffx.config.settings import Settings
    from diffx.run.folder import RunDir

READ = 250  # images at a time


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m diffx.evaluate", description=__doc__)
    parser.add_argument(
        "target",
        type=Path,
        help="a run directory, an imported model, an official file with --as, an .npz file or a folder of pictures",
    )
    parser.add_argument("settings", nargs="*", help="KEY=VALUE settings of eval, sampler and guidance")
    parser.add_argument("--protocol", help="a file of conf/eval (default: the run's own; adm_50k for images)")
    parser.add_argument("--guidance", type=float, nargs="+", metavar="SCALE", help="measure each of these scales")
    parser.add_argument("--ema", type=float, nargs="+", metavar="DECAY", help="measure each of these averages of a run")
    help = "measure averages of these lengths, shares of training, from snapshots (snapshot_steps)"
    parser.add_argument("--ema-length", type=float, nargs="+", metavar="σ", help=help)
    parser.add_argument("--data", help="a file of conf/data: what images are compared with, or decodes a model")
    add_model(parser)
    add_trust(parser)
    on_all_devices("diffx.evaluate", parser, evaluate, arguments)


def evaluate(chosen: argparse.Namespace) -> None:
    """Measure a run or somebody's images, and print a table."""
    from diffx.errors import DiffxError

    if chosen.family is not None or (chosen.target / "config.yaml").exists():
        evaluate_network(chosen)
    elif chosen.target.suffix in (".pt", ".pth", ".ckpt", ".safetensors"):
        raise DiffxError(f"{chosen.target} is a file of weights; type also --as FAMILY-SIZE-PATCH, such as dit-xl-2.")
    elif chosen.guidance or chosen.ema or chosen.ema_length:
        flag = "--guidance" if chosen.guidance else "--ema" if chosen.ema else "--ema-length"
        raise DiffxError(f"{flag} is for runs, and {chosen.target} is none.")
    else:
        evaluate_images(chosen.target, chosen.protocol or "adm_50k", chosen.settings, chosen.data)


@dataclass(frozen=True)
class Case:
    """One set of samples to measure: its name, the folder of its network, all settings, and the weights."""

    title: str
    folder: Path
    settings: "Settings"
    weights: Path


def cases(chosen: argparse.Namespace) -> list[Case]:
    """Every average that is asked for with every guidance scale. Raises DiffxError before anything is drawn."""
    from diffx.config.protocol import with_protocol

    found = []
    averages = [*((decay, None) for decay in chosen.ema or []), *((None, length) for length in chosen.ema_length or [])]
    for (decay, length), scale in product(averages or [(None, None)], chosen.guidance or [None]):
        folder, settings, weights, typed = drawn_from(chosen.target, chosen, decay, length)
        changes = [*typed, *([] if scale is None else [f"guidance.scale={scale}"])]
        title = chosen.protocol or "evaluation"
        title += "" if decay is None else f"_ema_{decay:g}"
        title += "" if length is None else f"_ema_length_{length:g}"
        title += "" if scale is None else f"_guidance_{scale:g}"
        found.append(Case(title, folder, with_protocol(settings, chosen.protocol, changes), weights))
    return found


def evaluate_network(chosen: argparse.Namespace) -> None:
    """Draw the samples of a run or an imported model in each of the cases, measure them, and keep the values."""
    from diffx import ranks
    from diffx.checkpoint.imported import is_model
    from diffx.config.protocol import protocol
    from diffx.config.target import make
    from diffx.data.prompts import prompts_digest, prompts_of
    from diffx.evaluation.sample_set import SampleSet
    from diffx.pixels.files import NpzImages
    from diffx.processes.devices import pick_device
    from diffx.run.folder import RunDir

    asked = cases(chosen)
    folder, settings = asked[0].folder, asked[0].settings
    run = None if is_model(folder) else RunDir(folder)
    if run is not None:
        whole_record(run)
    data, device = make(settings.source), pick_device(settings.trainer.accelerator)
    # Before hours of sampling, since weights may be missing; and once, since no case changes them.
    metrics = make(settings.eval.metrics, data=data, device=device)
    for case in asked:
        file = folder / "samples" / f"{case.title}.npz"
        out = SampleSet(case.weights, case.settings, case.settings.eval.samples, file).draw()
        values = metrics(NpzImages(out).batches(READ, ranks.rank(), ranks.world()))
        if ranks.is_first():
            facts = protocol(case.settings, data.identity, metrics.identity, prompts_digest(prompts_of(data)))
            print_table(f"{folder} · {case.title}", values)
            if run is None:
                print(f"wrote {write_values(folder, case.title, facts, values)}; the samples are in {out}")
            else:
                curve = append_point(run, case.title, case.settings, facts, values)
                print(f"appended to {curve}; the samples are in {out}")


def write_values(folder: Path, title: str, facts: dict[str, Any], values: dict[str, float]) -> Path:
    """Values of an imported model with their protocol, as values_TITLE.json in its folder."""
    from diffx.run.name import short_hash
    from diffx.store.whole_file import write_text

    file = folder / f"values_{title}.json"
    measured = {"values": values, "protocol": short_hash(facts), "protocol_facts": facts}
    write_text(file, json.dumps(measured, indent=1) + "\n")
    return file


def evaluate_images(path: Path, name: str, changes: list[str], data: str | None) -> None:
    """Measure images that are there already."""
    from diffx import ranks
    from diffx.config.compose import compose_config
    from diffx.config.protocol import with_protocol
    from diffx.pixels.files import open_images

    images = open_images(path)
    plain = compose_config([f"data={data}"] if data else [])
    plain = replace(plain, data=replace(plain.data, image_size=images.size))
    settings = with_protocol(plain, name, changes)
    metrics = metrics_of(settings, data)
    values = metrics(images.batches(READ, ranks.rank(), ranks.world()))
    if ranks.is_first():
        print_table(f"{path} · {len(images)} images of {images.size} pixels · {name}", values)
        if len(images) != settings.eval.samples:
            print(f"{name} is about {settings.eval.samples} images: values of other numbers do not compare with it.")


def metrics_of(settings: "Settings", data: str | None) -> "Metrics":
    """The metrics of images that have no run. Raises DiffxError where nothing says what to compare them with."""
    from diffx.config.target import make
    from diffx.errors import DiffxError
    from diffx.processes.devices import pick_device

    reads_data = settings.eval.metrics.get("reference", "own") == "own"
    if reads_data and data is None:
        raise DiffxError("Nothing says what these images are compared with; type --data NAME, a data set of diffx.")
    source = make(settings.source) if reads_data else None
    return make(settings.eval.metrics, data=source, device=pick_device(settings.trainer.accelerator))


def whole_record(run: "RunDir") -> dict[str, Any]:
    """run.json. Raises DiffxError where it does not say what a point of the curve needs."""
    from diffx.errors import DiffxError

    record = run.read_record()
    if not {"cost", "flops"} <= record.keys():
        raise DiffxError(
            f"{run.path / 'run.json'} does not say what training cost; type the command that trained this run again, "
            "which writes it anew."
        )
    return record


def append_point(
    run: "RunDir", name: str, settings: "Settings", facts: dict[str, Any], values: dict[str, float]
) -> Path:
    """One more line: of curve.jsonl under the protocol that the run was measured by all along, else of
    curve_NAME.jsonl, since two protocols do not share an axis. Returns the file.

    Raises:
        DiffxError: run.json is not there or cannot be read.
    """
    from diffx.run.name import short_hash

    record, key = whole_record(run), short_hash(facts)
    own = key == record.get("protocol_hash")
    file = run.curve if own else run.path / f"curve_{name}.jsonl"
    line = progress(run, settings, record) | {"values": values, "protocol": key, "ema_decay": facts["ema_decay"]}
    run.append_point(line if own else line | {"protocol_facts": facts}, file)
    return file


def progress(run: "RunDir", settings: "Settings", record: dict[str, Any]) -> dict[str, Any]:
    """How far training was at the last checkpoint and what it had cost, as a line of the curve says it."""
    import torch

    from diffx.errors import DiffxError

    if not run.last_checkpoint.exists():
        return progress_of_average(run, record)
    try:
        # Mapped, not read: an XL checkpoint has 11 GB, and two numbers of it are wanted.
        state = torch.load(run.last_checkpoint, map_location="cpu", weights_only=True, mmap=True)
        step, seconds = int(state["global_step"]), float(state["callbacks"]["Clock"]["device_seconds"])
    except (OSError, RuntimeError, KeyError) as error:
        raise DiffxError(f"{run.last_checkpoint} does not say at which step the weights are ({error}).") from error
    images = step * settings.batch_size
    return {
        "step": step,
        "images": images,
        record["cost"]: seconds / 3600,
        "train_flops": images * record["flops"]["train_per_image"],
    }


def progress_of_average(run: "RunDir", record: dict[str, Any]) -> dict[str, Any]:
    """The same of a run without its last checkpoint, as it was pulled: from the curve's point at the weights' step."""
    from diffx.errors import DiffxError
    from diffx.store.sealed import facts_of

    step = facts_of(run.ema_weights).get("step")
    keys = ("step", "images", record["cost"], "train_flops")
    for point in run.points():
        if str(point["step"]) == step and all(key in point for key in keys):
            return {key: point[key] for key in keys}
    raise DiffxError(
        f"{run.path} has no last.ckpt, and no point in curve.jsonl at step {step} of its weights, so that nobody knows "
        "what they cost."
    )


def print_table(title: str, values: dict[str, float]) -> None:
    print(title)
    width = max(map(len, values))
    for name, value in values.items():
        print(f"  {name:<{width}}  {value:.6g}")
