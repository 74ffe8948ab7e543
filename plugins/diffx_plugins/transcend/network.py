"""The service network/RUN: the average of an earlier run, frozen, and what that run has cost."""

from pathlib import Path
from typing import Any

import torch

from diffx import ranks
from diffx.assemble.services import Surroundings
from diffx.backbone import Backbone
from diffx.backbone.protocol import state_shape
from diffx.backbone.teacher import NetworkTeacher
from diffx.checkpoint.average import read_average, trained_run
from diffx.config.read import read_settings
from diffx.config.settings import Settings
from diffx.config.target import make
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.run.folder import RunDir

UNITS = ("gpu_hours", "cpu_hours")


class EarlierRun(NetworkTeacher):
    """The stream of an earlier run's average.

    offline: what that run has cost up to its last evaluation, with what it had needed beforehand, in hours by unit.
    encoders: the frozen encoders that it was trained with, as its run.json has them.
    """

    def __init__(self, net: Backbone, run: RunDir) -> None:
        super().__init__(net)
        record = run.read_record()
        self.offline, self.encoders = cost_of(run, record), list(record.get("encoders") or [])


class Network:
    """Provides network/RUN."""

    def check(self, name: str, around: Surroundings) -> None:
        """Of a run that is there: its network must stand on the same grid and take the same states and labels."""
        earlier, ours = sketch_of(name), around.backbone
        if earlier is None:
            return
        for what, theirs, here in (
            ("tokens", earlier.grid_tokens, ours.grid_tokens),
            ("numbers in a state", state_shape(earlier), state_shape(ours)),
            ("classes", earlier.num_classes, ours.num_classes),
            ("as its text", earlier.text, ours.text),
        ):
            if theirs != here:
                raise DiffxError(
                    f"plugins.transcend.run={name} is of a network with {theirs} {what}, and this one has {here}; type "
                    "a run on the same data and grid."
                )

    def stand_in(self, name: str, backbone: Backbone) -> NetworkTeacher:
        with next(backbone.parameters()).device:
            return NetworkTeacher(sketch_of(name, None) or backbone)

    def find(self, name: str) -> None:
        if not name:
            raise DiffxError(
                "plugins.transcend has no teacher; type plugins.transcend.run= the folder of an earlier run, for "
                "instance one trained with plugins=[sra2]."
            )
        trained_run("plugins.transcend.run", name)

    def make(self, name: str, around: Surroundings) -> EarlierRun:
        self.find(name)
        run = RunDir(Path(name))
        service = EarlierRun(read_average(run).to(around.device), run)
        if ranks.is_first():
            spent = ", ".join(f"{hours:.4g} {unit}" for unit, hours in service.offline.items()) or "an unknown cost"
            print(
                f"plugins.transcend: {name} teaches; it took {spent}, which this run's clock does not count.",
                flush=True,
            )
        return service


def settings_of(run: str) -> Settings | None:
    """The settings of a run; None where there is none."""
    file = RunDir(Path(run)).settings
    return read_settings(file) if run and file.is_file() else None


def sketch_of(run: str, device: str | None = "meta") -> Backbone | None:
    """The network of a run as it starts, on `device`, or on that of the surrounding context; None where there is no
    run."""
    settings = settings_of(run)
    if settings is None:
        return None
    with torch.random.fork_rng(devices=[]):
        if device is None:
            return make(settings.backbone)
        with torch.device(device):
            return make(settings.backbone)


def objective_of(run: str, ours: Objective) -> Objective:
    """What a run's network was trained for, whose times must be in the unit of ours; ours where there is no run."""
    settings = settings_of(run)
    if settings is None:
        return ours
    theirs: Objective = make(settings.objective)
    if type(theirs) is not type(ours):
        raise DiffxError(
            f"plugins.transcend.run={run} was trained for {type(theirs).__name__}, and this run is for "
            f"{type(ours).__name__}, whose times are others; type the same objective= as that run's."
        )
    return theirs


def cost_of(run: RunDir, record: dict[str, Any]) -> dict[str, float]:
    """Hours by unit: of the run up to its last evaluation, and of what it had needed beforehand."""
    *_, last = ({}, *run.points())
    spent = {unit: float(last[unit]) for unit in UNITS if unit in last}
    for before in (record.get("offline") or {}).values():
        for unit, hours in before.items():
            spent[unit] = spent.get(unit, 0.0) + float(hours)
    return spent
