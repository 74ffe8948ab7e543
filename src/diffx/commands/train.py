"""python -m diffx: train one configuration, or with -m a sweep that ends with its comparison.

Every configuration is composed and checked before the first run starts: bad input ends in one sentence, exit code 2,
and no file. diffx runs sweeps itself; another hydra/launcher or hydra/sweeper is left to Hydra, which then calls the
same training.
"""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from diffx.commands.frame import calm_openmp, finish
from diffx.errors import DiffxError

if TYPE_CHECKING:
    from diffx.config.settings import Settings

TO_HYDRA = ("--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
ABOUT = ("--help", "-h", "--version", "--install-completion")
MULTIRUN = ("-m", "--multirun")


def main() -> None:
    """The command line of `python -m diffx`."""
    calm_openmp()
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a method in the working directory, for `diffx` as for `python -m diffx`
    arguments = sys.argv[1:]
    overrides = [a for a in arguments if a not in MULTIRUN]
    if any(a in ABOUT for a in arguments):
        finish(lambda: print(about(arguments)))
    elif any(a.split("=")[0] in (*TO_HYDRA, "hydra/launcher", "hydra/sweeper") for a in arguments):
        finish(lambda: check_search(arguments))
        _run_hydra()
    elif len(overrides) < len(arguments):
        finish(lambda: run_sweep(overrides))
    else:
        finish(lambda: train_one(overrides))


def about(arguments: Sequence[str]) -> str:
    """What --help, --version and --install-completion answer."""
    from diffx.commands.help.completion import install
    from diffx.commands.help.page import write_help
    from diffx.run.origin import versions

    if "--version" in arguments:
        return " · ".join(f"{name} {number}" for name, number in versions().items())
    if "--install-completion" in arguments:
        return install()
    return write_help([a for a in arguments if a not in ABOUT and a not in MULTIRUN])


def train_one(overrides: Sequence[str]) -> None:
    """Compose, check, train."""
    from diffx.commands.launch import launch
    from diffx.config.compose import compose_config
    from diffx.processes.slurm import another_turn

    with another_turn():
        launch(compose_config(overrides))


def run_sweep(overrides: Sequence[str]) -> None:
    """Check all jobs of a sweep, run them, go on when one fails, and compare what there is."""
    from diffx.assemble.ready import look
    from diffx.commands.sweep.processes import places_of, run_all
    from diffx.commands.sweep.words import announce, name_jobs
    from diffx.compare import compare
    from diffx.config.compose import compose_config, split_sweep
    from diffx.power.stop import run_in_rounds
    from diffx.processes.slurm import another_turn
    from diffx.run.folder import RunDir

    jobs = [compose_config(job) for job in split_sweep(overrides)]
    runs = [RunDir.of(settings).path for settings in jobs]
    if repeated := {str(run) for run in runs if runs.count(run) > 1}:
        raise DiffxError(
            f"Several jobs of this sweep are one run, {', '.join(sorted(repeated))}: its length "
            "(max_steps, budget) and its hardware do not make a run another one. Sweep over something else."
        )
    for settings in jobs:
        look(settings)
    places, named = places_of(jobs[0].trainer.devices, jobs[0].sweep_jobs), name_jobs(jobs)
    print(announce(named, len(places)), flush=True)

    def start(some: "Mapping[str, Settings]") -> list[str]:
        return run_all(some, places)

    with another_turn():
        failed = run_in_rounds(named, start) if jobs[0].sweep_stop else start(named)
    for sentence in failed:
        print(f"failed: {sentence}", file=sys.stderr)
    measured = [path for path in runs if (path / "curve.jsonl").exists()]
    if measured:
        compare(measured, runs[0].parents[1] / "compare")
    if failed:
        raise DiffxError(f"{len(failed)} of {len(jobs)} runs failed: " + "; ".join(failed))


def has_diverged(settings: "Settings") -> bool:
    """Whether a run has broken off since its numbers were no longer finite, which is a result."""
    from diffx.run.folder import RunDir

    return RunDir.of(settings).read_record().get("status") == "diverged"


def read_result(settings: "Settings") -> float:
    """What a search over settings gets back from a run: the last value of `sweep_metric`, by default of the first
    distance; infinite for one that diverged. It is read from the run's curve, so any launcher can have trained it.

    Raises:
        DiffxError: no such metric was measured.
    """
    from diffx.run.distances import searched_metric
    from diffx.run.folder import RunDir

    if has_diverged(settings):
        return math.inf
    points = [*RunDir.of(settings).points()]
    values = dict(points[-1]["values"]) if points else {}
    wanted = searched_metric(settings.sweep_metric, values) or ""
    if wanted not in values:
        raise DiffxError(f"sweep_metric={wanted} was not measured; type one of {', '.join(values) or 'nothing'}.")
    return float(values[wanted])


def check_search(arguments: Sequence[str]) -> None:
    """Refuse Optuna's sweeper in a sentence where it is not installed, and a rule that Hydra's own would not follow."""
    if "hydra/sweeper=optuna" in arguments and find_spec("optuna") is None:
        raise DiffxError("hydra/sweeper=optuna needs the extra `search`; type pip install 'diffx-train[search]'.")
    chosen = next((a for a in arguments if a.split("=")[0] in ("hydra/launcher", "hydra/sweeper")), None)
    if chosen and any(a.lstrip("+").startswith("sweep_stop=") and not a.endswith("=null") for a in arguments):
        raise DiffxError(
            f"sweep_stop leaves out further seeds of a method, which only diffx's own sweep does: with {chosen} no job "
            "is left out, and a trial has no seeds that could tell it. Leave one of the two out; for trials there is "
            "sweep_prune=0.1: one that is behind another by more than seeds with that spread explain is broken off."
        )


def _run_hydra() -> None:
    """Let Hydra itself answer: its help, or its own launchers and sweepers."""
    import hydra
    from omegaconf import DictConfig

    from diffx.commands.launch import launch
    from diffx.config.compose import VERSION_BASE, config_dir, register_folders, settings_of_composed
    from diffx.processes.slurm import another_turn

    register_folders()

    def train(config: DictConfig) -> float:
        settings = settings_of_composed(config)
        try:
            with another_turn():
                launch(settings)
        except DiffxError:
            if not has_diverged(settings):
                raise
        return read_result(settings)

    def job(config: DictConfig) -> float:
        found: list[float] = []
        finish(lambda: found.append(train(config)))
        return found[0]

    hydra.main(config_path=str(config_dir()), config_name="config", version_base=VERSION_BASE)(job)()
