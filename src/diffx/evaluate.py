"""python -m diffx.evaluate RUN | FILE.npz | FOLDER: measure samples under a protocol and print the values.

Of a run it draws the samples first, as diffx.sample does, and appends the values to the run's curve. Images of others
are measured as they are: an .npz with arr_0 (uint8, NxHxWx3), or a folder of pictures.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffx.cli import calm_openmp, finish
from diffx.devices import process_group, runs_here, start_processes

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from diffx.parts import Metrics
    from diffx.run import RunDir

READ = 250  # images at a time


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    calm_openmp()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m diffx.evaluate", description=__doc__)
    parser.add_argument("target", type=Path, help="a run directory, an .npz file or a folder of pictures")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE settings of eval, sampler and guidance")
    parser.add_argument("--protocol", help="a file of conf/eval (default: the run's own; adm_50k for images)")
    parser.add_argument("--guidance", type=float, nargs="+", metavar="SCALE", help="measure each of these scales")
    parser.add_argument("--data", help="what images are compared with, where no file says it: a file of conf/data")
    parser.add_argument("--devices", type=int, help="processes to share the work (default: one for each GPU)")
    chosen = parser.parse_intermixed_args(arguments)
    if runs_here(chosen.devices):
        finish(lambda: evaluate(chosen))
    else:
        finish(lambda: start_processes("diffx.evaluate", arguments, chosen.devices))


def evaluate(chosen: argparse.Namespace) -> None:
    """Measure a run or somebody's images, and print a table."""
    from diffx.errors import DiffxError

    with process_group():
        if (chosen.target / "config.yaml").exists():
            for scale in chosen.guidance or [None]:
                evaluate_run(chosen.target, chosen.protocol, chosen.settings, scale)
        elif chosen.guidance:
            raise DiffxError(f"--guidance is for runs, and {chosen.target} is none.")
        else:
            evaluate_images(chosen.target, chosen.protocol or "adm_50k", chosen.settings, chosen.data)


def evaluate_run(path: Path, name: str | None, settings: list[str], scale: float | None) -> None:
    """Draw the samples of a run under a protocol, measure them, and append the values to its curve."""
    from diffx import ranks
    from diffx.build import make
    from diffx.evaluation import protocol
    from diffx.image_files import NpzImages
    from diffx.protocols import with_protocol
    from diffx.run import RunDir
    from diffx.sample import read_config
    from diffx.sample_set import SampleSet

    chosen = [*settings, *([] if scale is None else [f"guidance.scale={scale}"])]
    config = with_protocol(read_config(path), name, chosen)
    data = make(config.data.source)
    metrics = make(config.eval.metrics, data=data)  # before hours of sampling, since its weights may be missing
    run = RunDir(path)
    title = (name or "evaluation") + ("" if scale is None else f"_guidance_{scale:g}")
    out = SampleSet(run, config, config.eval.samples, path / "samples" / f"{title}.npz").draw()
    values = metrics(NpzImages(out).batches(READ, ranks.rank(), ranks.world()))
    if ranks.is_first():
        file = append_point(run, title, config, protocol(config, data.identity, metrics.identity), values)
        print_table(f"{path} · {title}", values)
        print(f"appended to {file}; the samples are in {out}")


def evaluate_images(path: Path, name: str, settings: list[str], data: str | None) -> None:
    """Measure images that are there already."""
    from diffx import ranks
    from diffx.compose import compose_config
    from diffx.image_files import open_images
    from diffx.protocols import with_protocol

    images = open_images(path)
    plain = compose_config([f"data={data}"] if data else [])
    plain.data.image_size = images.size
    config = with_protocol(plain, name, settings)
    metrics = metrics_of(config, data)
    values = metrics(images.batches(READ, ranks.rank(), ranks.world()))
    if ranks.is_first():
        print_table(f"{path} · {len(images)} images of {images.size} pixels · {name}", values)
        if len(images) != config.eval.samples:
            print(f"{name} is about {config.eval.samples} images: values of other numbers do not compare with it.")


def metrics_of(config: "DictConfig", data: str | None) -> "Metrics":
    """The metrics of images that have no run. Raises DiffxError where nothing says what to compare them with."""
    from diffx.build import make
    from diffx.errors import DiffxError

    reads_data = config.eval.metrics.get("reference", "own") == "own"
    if reads_data and data is None:
        raise DiffxError("Nothing says what these images are compared with; type --data NAME, a data set of diffx.")
    return make(config.eval.metrics, data=make(config.data.source) if reads_data else None)


def append_point(
    run: "RunDir", name: str, config: "DictConfig", facts: dict[str, Any], values: dict[str, float]
) -> Path:
    """One more line: of curve.jsonl under the protocol that the run was measured by all along, else of
    curve_NAME.jsonl, since two protocols do not share an axis. Returns the file."""
    from diffx.run import short_hash

    card, key = run.read_card(), short_hash(facts)
    own = key == card.get("protocol_hash")
    file = run.curve if own else run.path / f"curve_{name}.jsonl"
    line = progress(run, config, card) | {"values": values, "protocol": key, "ema_decay": facts["ema_decay"]}
    run.append_point(line if own else line | {"protocol_facts": facts}, file)
    return file


def progress(run: "RunDir", config: "DictConfig", card: dict[str, Any]) -> dict[str, Any]:
    """How far training was at the last checkpoint and what it had cost, as a line of the curve says it."""
    import torch

    from diffx.errors import DiffxError

    try:
        # Mapped, not read: an XL checkpoint has 11 GB, and two numbers of it are wanted.
        state = torch.load(run.last_checkpoint, map_location="cpu", weights_only=True, mmap=True)
        step, seconds = int(state["global_step"]), float(state["callbacks"]["Clock"]["device_seconds"])
    except (OSError, RuntimeError, KeyError) as error:
        raise DiffxError(f"{run.last_checkpoint} does not say at which step the weights are ({error}).") from error
    images = step * int(config.batch_size)
    return {
        "step": step,
        "images": images,
        card["cost"]: seconds / 3600,
        "train_flops": images * card["flops"]["train_per_image"],
    }


def print_table(title: str, values: dict[str, float]) -> None:
    print(title)
    width = max(map(len, values))
    for name, value in values.items():
        print(f"  {name:<{width}}  {value:.6g}")


if __name__ == "__main__":
    main()
