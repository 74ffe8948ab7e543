"""Where a run's numbers come from: versions of packages, and the commit."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DISTRIBUTION = "diffx-train"
PACKAGES = ("torch", "lightning", "hydra-core", "numpy", "timm", "diffusers", "torchmetrics", "wandb")


def versions() -> dict[str, str]:
    """Versions of diffx and of the packages that shape its numbers."""
    found = {}
    for name in (DISTRIBUTION, *PACKAGES):
        try:
            found["diffx" if name == DISTRIBUTION else name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit of the checkout that diffx runs from, and whether it has changes; empty outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
