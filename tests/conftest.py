"""One thread, nothing online, and a cache folder beside the tests, so that the small networks are trained once."""

import os
from pathlib import Path

os.environ.setdefault("DIFFX_HOME", str(Path(__file__).parents[1] / ".cache"))
os.environ["OMP_WAIT_POLICY"] = "passive"  # before torch is imported
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTHONPATH" in os.environ:  # the same folders for processes that start elsewhere
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
