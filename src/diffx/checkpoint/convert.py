"""Importing an official file into a folder of diffx, and exporting a model in an official layout."""

from collections.abc import Sequence
from pathlib import Path

from diffx.checkpoint.architecture import (
    Architecture,
    check_layout,
    known_layout,
    parse_architecture,
    setting_changes,
)
from diffx.checkpoint.diffusers import write_flow, write_transformer
from diffx.checkpoint.folder import Imported, read_model, trained_plugin, write_model
from diffx.checkpoint.layouts import LAYOUTS
from diffx.checkpoint.official import from_official, to_official
from diffx.checkpoint.tensors import PICKLES, read_tensors, write_as_ema, write_tensors
from diffx.errors import DiffxError

PATHS = {"linear": "linear", "gvp": "cosine", "cosine": "cosine", "vp": "vp"}
PREDICTIONS = {"velocity": "velocity", "v": "velocity", "noise": "noise", "score": "score"}


def import_file(file: Path, name: str, folder: Path, weights: str = "ema", changes: Sequence[str] = ()) -> list[str]:
    """Read an official file and write it as a folder of diffx; returns what there is to say about it.

    Raises:
        DiffxError: the file cannot be read safely, is of another architecture, or the folder holds a model.
    """
    architecture = parse_architecture(name, setting_changes(changes))
    read = read_tensors(file, weights)
    objective = dict(architecture.layout.objective)
    if "prediction" in objective:
        objective |= _interpolant_of(read.args)
    converted, has_null, remarks = from_official(read.tensors, architecture, objective.get("prediction", ""))
    source: dict[str, str | bool] = {"family": architecture.family, "file": file.name, "null_label": has_null}
    source["weights"] = weights
    if architecture.layout.plugin and converted.plugin:
        source["plugin"] = architecture.layout.plugin
    written = write_model(
        Imported(converted, architecture.layout.backbone, architecture.settings, objective, source), folder
    )
    return [*remarks, *(f"wrote {path}" for path in written)]


def export_model(source: Path, family: str | None, out: Path) -> list[str]:
    """Write an imported model, or a run's EMA weights, in an official layout or for diffusers; says what was written.

    Raises:
        DiffxError: there is no model, it does not fit the layout, or the target exists.
    """
    model = read_model(source)
    family = family or model.source.get("family")
    if family is None:
        raise DiffxError(f"Type --as with the layout to write: {', '.join(LAYOUTS)} or diffusers.")
    if family == "diffusers":
        flow = model.objective.get("_target_") == LAYOUTS["repa"].objective["_target_"]
        return [f"wrote {path}" for path in (write_flow if flow else write_transformer)(model, out)]
    layout = known_layout(family)
    check_layout(model.backbone, model.settings, model.objective, layout, family)
    weights, remarks = model.weights, []
    if layout.plugin and not weights.plugin:
        weights = weights._replace(plugin=trained_plugin(source, layout.plugin))
        if not weights.plugin and layout.under_ema:
            remarks.append(f"without what only training uses, since plugins.{layout.plugin} did not train this model")
    architecture = Architecture(family, model.settings)
    prediction = model.objective.get("prediction", "")
    tensors = to_official(weights, architecture, prediction, model.source.get("null_label", True))
    (write_as_ema if layout.under_ema and out.suffix in PICKLES else write_tensors)(tensors, out)
    return [*remarks, f"wrote {out}"]


def _interpolant_of(args: dict[str, str]) -> dict[str, str]:
    """Path and prediction, where the file's own arguments name them."""
    found = {}
    for key, theirs, names in [("path", "path_type", PATHS), ("prediction", "prediction", PREDICTIONS)]:
        value = args.get(theirs)
        if value is not None:
            if str(value).lower() not in names:
                raise DiffxError(f"The file says that it was trained with {theirs}={value}, which diffx does not know.")
            found[key] = names[str(value).lower()]
    return found
