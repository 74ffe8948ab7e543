"""Short names of content: of facts, and of tensors."""

import hashlib
import json
import zlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor


def digest(facts: dict[str, Any]) -> str:
    """Twelve hex digits that change when any of the facts does."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def checksum(weights: Iterable[Tensor]) -> str:
    """CRC-32 of tensors: which networks these are, since one thread more can train slightly others."""
    value = 0
    for tensor in weights:
        value = zlib.crc32(tensor.contiguous().numpy().tobytes(), value)
    return f"{value:08x}"
