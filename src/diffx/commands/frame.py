"""The frame of a command that shares its work among all GPUs: arguments, processes, errors."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

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


def settings_of_run(run: Path, chosen: argparse.Namespace) -> "Settings":
    """The settings in a run's folder, whoever made it, unless the user trusts it. Raises DiffxError where it has none
    or they name what they may not."""
    from diffx.config.read import read_settings, read_trusted_settings

    file = run / "config.yaml"
    if not file.exists():
        raise DiffxError(f"{run} is no run directory: it has no config.yaml; type runs/EXPERIMENT/ID/sSEED.")
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
