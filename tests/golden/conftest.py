"""`pytest tests/golden --device cuda`: the recordings on a GPU, in true float32."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import recordings
import torch
from safetensors.torch import load_file
from torch import nn

from diffx.processes.arithmetic import tf32


@pytest.fixture(autouse=True)
def on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test makes and reads is on that device; a network goes there when it gets its weights."""
    name = request.config.getoption("--device")
    if name is None:
        yield
        return
    load = nn.Module.load_state_dict

    def load_there(module: nn.Module, *given: Any, **options: Any) -> Any:
        return load(module.to(name), *given, **options)

    monkeypatch.setattr(nn.Module, "load_state_dict", load_there)
    monkeypatch.setattr(recordings, "load_file", partial(load_file, device=name))
    with torch.device(name), tf32(False):
        yield
