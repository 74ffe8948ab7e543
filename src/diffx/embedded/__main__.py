"""python -m diffx.embedded [FOLDER]: train the networks that diffx ships and write them with their record.

Five minutes of one core. Another processor may train other last bits: distances compare between machines because all
use the same files, not because all could make them.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffx.data import Digits, LabelledReference, Shapes
from diffx.embedded import networks, shipped
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
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def _write(recipe: Recipe, data: LabelledReference, folder: Path) -> dict[str, object]:
    network, notes = networks.train(recipe, data)
    path = folder / f"{data.name}-{recipe.role}.safetensors"
    save_file(network.state_dict(), path)
    facts = networks.facts(recipe, data)
    return {
        "data": f"{type(data).__name__}(), {len(data)} images of {list(data.shape)}",
        "seed": recipe.seed,
        "steps": facts["steps"],
        "torch": torch.__version__,
        **notes,
        "facts": digest(facts),
        "sha256": shipped.sha256(path),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else shipped.FOLDER)
