"""One thread, nothing online, and a cache folder beside the tests, so that the small networks are trained once."""

import os
from pathlib import Path

os.environ.setdefault("DIFFX_HOME", str(Path(__file__).parents[1] / ".cache"))
os.environ["OMP_WAIT_POLICY"] = "passive"  # before torch is imported
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTHONPATH" in os.environ:  # the same folders for processes that start elsewhere
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))

from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():  # before triton is imported, which its interpreter asks for; torch alone does not
    os.environ["TRITON_INTERPRET"] = "1"

from tests import forks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", help="where the golden tests run, such as cuda; the CPU unless told")


def pytest_configure(config: pytest.Config) -> None:
    if str(config.getoption("--device", None)).startswith("cuda") and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch sees no GPU here; leave --device out.")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def forked_ranks() -> Iterator[None]:
    """torch.multiprocessing.spawn without the 7 s of processor time in which each of the two would import torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.multiprocessing, "spawn", forks.spawn)
        yield
