"""python -m diffx.embedded [FOLDER]: train the networks that diffx ships and write them with their record.

Five minutes of one core. Another processor may train other last bits: distances compare between machines because all
use the same files, not because all could make them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from diffx.data import Digits, LabelledReference, Shapes
from diffx.data.captions import Pictures
from diffx.embedded import networks, shipped
from diffx.embedded.captions import attributes, text_encoder
from diffx.embedded.networks import Recipe
from diffx.store.digest import digest


def main(folder: Path) -> None:
    """Write the networks of the default digits and shapes, and record.json, into `folder`."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    record = {}
    for data in (Digits(), Shapes()):
        for recipe in (networks.ENCODER, networks.SUPERVISED, networks.SELF_SUPERVISED):
            record[f"{data.name}-{recipe.role}"] = _write(recipe, data, folder)
    record["shapes-autoencoder"] = _write(networks.AUTOENCODER, Shapes(), folder)
    record |= write_captions(folder)
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def write_captions(folder: Path) -> dict[str, dict[str, object]]:
    """The networks of the captions' data, and what record.json says of them."""
    data, record = Pictures(), {}
    for recipe in (networks.ENCODER, networks.SELF_SUPERVISED):
        record[f"{data.name}-{recipe.role}"] = _write(recipe, data, folder)
    for role, made in (("text", text_encoder), ("attributes", attributes)):
        known = made.facts(data)
        record[f"{data.name}-{role}"] = _save(f"{data.name}-{role}", data, made.SEED, made.train(data), known, folder)
    return record


def _write(recipe: Recipe, data: LabelledReference, folder: Path) -> dict[str, object]:
    trained, known = networks.train(recipe, data), networks.facts(recipe, data)
    return _save(f"{data.name}-{recipe.role}", data, recipe.seed, trained, known, folder)


def _save(
    name: str,
    data: LabelledReference,
    seed: int,
    trained: tuple[nn.Module, dict[str, Any]],
    facts: dict[str, Any],
    folder: Path,
) -> dict[str, object]:
    network, notes = trained
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return {
        "data": f"{type(data).__name__}(), {len(data)} images of {list(data.shape)}",
        "seed": seed,
        "steps": facts["steps"],
        "torch": torch.__version__,
        **notes,
        "facts": digest(facts),
        "sha256": shipped.sha256(path),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else shipped.FOLDER)
