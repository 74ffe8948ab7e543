"""What a run is called: a hash of what it is, without where, how long and on what it goes."""

import hashlib
import json
from typing import Any

# Settings that say where, how long and on what a run goes, not what it is: run ids and comparisons leave them out.
NAMES = ("seed", "experiment", "study", "title", "runs_dir", "data.source.root", "logger")
CACHE = ("data.source.cache", "data.source.cache_gb")
WAYS = ("eval.decoder", "resume", "log_every", "checkpoint_minutes", "checkpoint_share", "max_skipped_steps")
SWEEPS = ("sweep_jobs", "sweep_stop", "sweep_prune", "sweep_metric")
LENGTH = ("max_steps", "budget")
HARDWARE = (
    "compile",
    "optimizer.fused",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.accumulate",
    "trainer.activation_checkpointing",
    "trainer.threads",
    "data.workers",
    "eval.batch_size",
)
NOT_PART_OF_A_RUN = (*NAMES, *CACHE, *WAYS, *SWEEPS, *LENGTH, *HARDWARE)


def is_part_of_a_run(setting: str) -> bool:
    """Whether another value of this setting, a dotted name, makes another run."""
    return not any(setting == name or setting.startswith(f"{name}.") for name in NOT_PART_OF_A_RUN)


def short_hash(facts: Any) -> str:
    """Eight hex digits of plain data."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=4).hexdigest()
