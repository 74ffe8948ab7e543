"""Starting a run from its settings: in this process, or in one for each device."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from diffx import ranks
from diffx.assemble.ready import look
from diffx.config.parse import write_settings
from diffx.config.settings import Settings
from diffx.errors import REQUEUE, DiffxError, Stopped
from diffx.processes import slurm
from diffx.processes.children import SAVED, Ended, Node, run_command, run_ranks, this_python
from diffx.run.folder import RunDir


def launch(settings: Settings) -> None:
    """Train, in this process or, with several devices, in one process each.

    The parent writes the settings once and starts `diffx.worker` on it. Ranks never compose a
    configuration, so they cannot disagree about one. On several nodes, inside a Slurm job, srun starts a worker on
    each, which then starts its ranks.

    Raises:
        DiffxError: a process failed, or nothing says where the other nodes are.
        Stopped: a signal came, and the run was saved.
    """
    devices, nodes = settings.trainer.devices, settings.trainer.num_nodes
    if devices * nodes == 1 or ranks.world() > 1:
        train_here(settings)
        return
    look(settings)
    node = slurm.this_node() if slurm.is_task() else Node()
    if nodes == node.nodes:
        with settings_file(settings) as file:
            _raise_unless_done(run_ranks(worker(file), devices, node), settings)
    elif slurm.in_job() and not slurm.is_task():
        with settings_file(settings, Path(settings.runs_dir)) as file:
            _raise_unless_done(run_command([*slurm.srun(nodes), *worker(file.absolute())]), settings)
    else:
        raise DiffxError(
            f"trainer.num_nodes={nodes}, but this is {node.nodes} node: run the same command inside a Slurm job of "
            f"{nodes} nodes, or start `torchrun --nnodes={nodes} --nproc-per-node={devices} -m diffx.worker FILE` on "
            "each; `python -m diffx ... --cfg job --resolve` prints that file."
        )


def _raise_unless_done(ended: Ended, settings: Settings) -> None:
    """What the end of other processes means for this one."""
    if ended.code in SAVED:
        raise Stopped(ended.sentence, requeue=ended.code == REQUEUE)
    if ended.code:
        raise DiffxError(ended.explain(str(RunDir.of(settings).path)))


def train_here(settings: Settings) -> None:
    """Train in this process."""
    torch.set_num_threads(settings.trainer.threads or min(2, os.cpu_count() or 1))
    from diffx.train.loop import train

    train(settings)


@contextmanager
def settings_file(settings: Settings, folder: Path | None = None) -> Iterator[Path]:
    """The settings as a file, for as long as a process may read it; in `folder` where other nodes see it too."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".launch-") as temporary:
        yield write_settings(settings, Path(temporary) / "config.yaml")


def worker(file: Path) -> list[str]:
    """The command that trains the settings in a file, which this process has written."""
    return this_python("diffx.worker", str(file), "--trust")
