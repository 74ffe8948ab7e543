"""The frame of a command that shares its work among all GPUs: arguments, processes, errors."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from diffx.errors import DiffxError, Stopped
from diffx.processes.devices import process_group, refuse_too_many, runs_here, start_processes

if TYPE_CHECKING:
    from diffx.config.settings import Settings


def on_all_devices(
    module: str,
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], None],
    arguments: list[str] | None = None,
) -> None:
    """Parse the arguments of `python -m MODULE` and do `work` in one process for each GPU, or for each of --devices.

    Bad input is one sentence on stderr and exit code 2.
    """
    calm_openmp()
    parser.add_argument("--devices", type=int, help="processes to share the work (default: one for each GPU)")
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = parser.parse_intermixed_args(settings_first(arguments))

    def share() -> None:
        refuse_too_many(chosen.devices)
        if runs_here(chosen.devices):
            with process_group():
                work(chosen)
        else:
            start_processes(module, arguments, chosen.devices)

    finish(share)


def settings_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with every KEY=VALUE before the first option: `--guidance 1 1.5 eval.samples=8` would else ask for
    a third scale."""
    front = list(takewhile(lambda a: not a.startswith("-"), arguments))
    rest = arguments[len(front) :]
    settings = [a for a in rest if re.match(r"[\w.]+=", a)]
    return [*front, *settings, *(a for a in rest if a not in settings)]


def add_trust(parser: argparse.ArgumentParser) -> None:
    """--trust, for commands that make what a folder's config.yaml names."""
    help = "let config.yaml name classes from anywhere, which then run: for a folder that you made"
    parser.add_argument("--trust", action="store_true", help=help)


def add_model(parser: argparse.ArgumentParser) -> None:
    """What commands are told that also take an official file, or what was imported from one."""
    help = "of an official file: what it is, such as dit-xl-2 (docs/checkpoints.md)"
    parser.add_argument("--as", dest="family", metavar="FAMILY-SIZE-PATCH", help=help)
    help = "of an official file: which, where it has both"
    parser.add_argument("--weights", choices=["ema", "model"], default="ema", help=help)
    help = "of an imported model: the autoencoder of its latents (default: that of its family)"
    parser.add_argument("--decoder", metavar="NAME", help=help)
    help = "of an imported model that text conditions: folder of a text encoder; once for each that it was trained with"
    parser.add_argument("--encoder", action="append", default=[], metavar="FOLDER", help=help)
    help = "with --encoder: tokens of a prompt, for T5 (default 256, or what the network was trained with)"
    parser.add_argument("--length", type=int, help=help)


class Drawn(NamedTuple):
    """What samples are drawn from: a run or an imported model, its settings, and the file of its weights. changes: what
    was typed that is about sampling."""

    folder: Path
    settings: "Settings"
    weights: Path
    changes: list[str]


def drawn_from(
    target: Path, chosen: argparse.Namespace, ema: float | None = None, length: float | None = None
) -> Drawn:
    """A run's average (of a decay, or of a length), an imported model, or with --as an official file, which is imported
    beside itself; settings backbone.KEY=VALUE are then of the import.

    Raises:
        DiffxError: it is none of them, or its settings do not fit.
    """
    from diffx import ranks
    from diffx.checkpoint.folder import BACKBONE
    from diffx.checkpoint.imported import Readers, import_once, is_model, settings_of_model
    from diffx.checkpoint.post_hoc import choose_average
    from diffx.run.folder import RunDir

    changes = list(chosen.settings)
    if chosen.family is not None:
        sizes = [change for change in changes if change.startswith("backbone.")]
        changes = [change for change in changes if change not in sizes]
        plain = [size.removeprefix("backbone.") for size in sizes]
        target, remarks = ranks.firsts(lambda: import_once(target, chosen.family, chosen.weights, plain))
        for remark in remarks if ranks.is_first() else ():
            print(remark, flush=True)
    if not is_model(target):
        if chosen.encoder or chosen.length is not None:
            raise DiffxError(
                f"--encoder and --length are for imported models, and {target} is a run, whose data knows the encoders "
                "of its captions; leave them out."
            )
        settings, weights = choose_average(settings_of_run(target, chosen), RunDir(target), ema, length)
        return Drawn(target, settings, weights, changes)
    if ema is not None or length is not None:
        flag = f"--ema-length {length:g}" if ema is None else f"--ema {ema:g}"
        raise DiffxError(f"{flag} is for runs, and {target} is an imported model; leave it out.")
    readers = Readers(tuple(chosen.encoder), chosen.length)
    settings = settings_of_model(target, chosen.data, chosen.decoder, readers)
    return Drawn(target, settings, target / BACKBONE, changes)


def settings_of_run(run: Path, chosen: argparse.Namespace) -> "Settings":
    """The settings in a run's folder, whoever made it, unless the user trusts it. Raises DiffxError where it has none
    or they name what they may not."""
    from diffx.checkpoint.imported import is_model
    from diffx.config.read import read_settings, read_trusted_settings

    file = run / "config.yaml"
    if not file.exists():
        also = "; of an official file type also --as FAMILY-SIZE-PATCH" if run.is_file() else ""
        raise DiffxError(f"{run} is no run directory: it has no config.yaml; type runs/EXPERIMENT/ID/sSEED{also}.")
    if is_model(run):
        raise DiffxError(f"{run} is an imported model, and this is for runs; type diffx.sample or diffx.evaluate.")
    return (read_trusted_settings if chosen.trust else read_settings)(file)


def finish(command: Callable[[], None]) -> None:
    """Run a command; bad input is one sentence on stderr and exit code 2, a signal another code after saving."""
    try:
        command()
    except Stopped as stop:
        if str(stop):
            print(f"diffx: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except DiffxError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(error: DiffxError) -> NoReturn:
    print(f"diffx: {error}", file=sys.stderr)
    sys.exit(2)


def calm_openmp() -> None:
    """OpenMP's idle threads spin by default, which on shared cores can make a step seven times slower; they must sleep.

    Works only before torch is imported, which is why this file imports it late.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
