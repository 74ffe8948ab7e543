"""`prepare text`: one row for each prepared image, its caption as frozen encoders read it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffx.backbone import Text
from diffx.data.shards import read_note
from diffx.data.text_rows import FOLDER, row_of
from diffx.errors import DiffxError
from diffx.frozen.text import load_text_encoders
from diffx.prepare.job import Job, Process, Put, Row
from diffx.prepare.limits import check_count
from diffx.prepare.text.captions import read_captions
from diffx.processes.devices import own_device
from diffx.store.digest import digest


def prepare_text(
    source: str,
    root: Path,
    folders: Sequence[str],
    length: int | None = None,
    missing: str = "refuse",
    batch_size: int = 32,
) -> dict[str, Any] | None:
    """Write root/text: the captions of `source`, encoded, one for each sample of root/latents or root/images.

    A caption that is missing, or has more tokens than the encoders take, is named in the manifest with the reason.
    missing: "empty" encodes the empty prompt where there is no caption.

    Returns the manifest once every process is done.

    Raises:
        DiffxError: nothing prepared, no captions, an encoder that cannot be read, or a folder begun differently.
    """
    check_count("--batch-size", batch_size, 32)
    if length is not None:
        check_count("--length", length, 256)
    beside = next((root / name for name in ("latents", "images") if (root / name / "manifest.json").exists()), None)
    if beside is None:
        raise DiffxError(f"{root} has no images; type `python -m diffx.prepare images {source} {root}` first.")
    captions, device = read_captions(source), own_device("auto")
    encoder = load_text_encoders(folders, length, device)
    count = len(list(beside.glob("shard-*.json")))
    notes = [read_note(beside, shard) or {} for shard in range(count)]
    if not any(key in captions for note in notes for key in note["keys"]):
        raise DiffxError(
            f"None of the {len(captions)} captions of {source} is of an image in {beside}, whose first is "
            f"{notes[0]['keys'][0]}; name the source that the images came from."
        )

    def make(shard: int, put: Put) -> None:
        keys, labels = notes[shard]["keys"], notes[shard]["labels"]
        for start in range(0, len(keys), batch_size):
            part = slice(start, start + batch_size)
            words = [captions.get(key, "" if missing == "empty" else None) for key in keys[part]]
            for row in encode_batch(encoder, keys[part], labels[part], words):
                put(row)

    facts = {
        "encoders": list(folders),
        "length": length,
        "text": list(encoder.shape),
        "identity": digest(encoder.facts),
        "missing": missing,
    }
    shape = encoder.shape
    width = shape.length * shape.channels + shape.pooled + 1
    shards = [(note["keys"], note["labels"]) for note in notes]
    unit = "gpu_hours" if device.type == "cuda" else "cpu_hours"
    return Job(root / FOLDER, facts, shards, (width,), "float16", make, unit).run(Process.here())


def encode_batch(
    encoder: Any, keys: Sequence[str], labels: Sequence[int], captions: Sequence[str | None]
) -> Iterator[Row]:
    """A row for each key: its encoded caption, or why there is none."""
    long = encoder.too_long([caption or "" for caption in captions])
    reasons = {place: f"its caption has {count} tokens, more than the encoder takes" for place, count in long.items()}
    reasons |= {place: "it has no caption" for place, caption in enumerate(captions) if caption is None}
    rows = encode_rows(encoder, [caption or "" for place, caption in enumerate(captions) if place not in reasons])
    for place, (key, label) in enumerate(zip(keys, labels, strict=True)):
        yield Row(key, label, None, reasons[place]) if place in reasons else Row(key, label, next(rows))


def encode_rows(encoder: Any, prompts: list[str]) -> Iterator[np.ndarray]:
    """Rows (float16) of prompts, one after the other."""
    if not prompts:
        return iter(())
    text: Text = encoder(prompts)
    if not all(bool(part.isfinite().all()) and float(part.abs().max()) < torch.finfo(torch.float16).max
               for part in (text.tokens, text.pooled) if part.numel()):  # fmt: skip
        raise DiffxError("The encoder gives numbers that float16 cannot hold; its weights may be damaged.")
    return iter(row_of(text).astype(np.float16))
