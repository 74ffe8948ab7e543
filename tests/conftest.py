"""One thread, no W&B, and a cache folder that lives as long as the session."""

import os

os.environ["OMP_WAIT_POLICY"] = "passive"  # before torch is imported
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
