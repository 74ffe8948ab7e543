"""What a run is called: a hash of what it is, without where, how long and on what it goes."""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Keys that say where, how long and on what a run goes, not what it is: they leave its identity alone.
NAMES = ("seed", "experiment", "runs_dir", "data.source.root", "logger")


WAYS = ("resume", "log_every", "checkpoint_minutes", "max_skipped_steps", "sweep_jobs")


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


def short_hash(facts: Any) -> str:
    """Eight hex digits of plain data."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=4).hexdigest()


def run_id(config: DictConfig) -> str:
    """A short hash of the resolved configuration without seed, paths, length and hardware."""
    facts = OmegaConf.to_container(config, resolve=True)
    assert isinstance(facts, dict)
    for key in NAMES + WAYS + LENGTH + HARDWARE:
        *parents, last = key.split(".")
        node: Any = facts
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return short_hash(facts)
