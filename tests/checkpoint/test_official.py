"""Importing the official layouts and writing them again."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from official_files import BACKWARD, assert_agrees, official, our_output, recorded_output
from safetensors.torch import load_file, save_file

from diffx import backbone as backbones
from diffx.backbone import DiT
from diffx.checkpoint import export_model, import_file, open_backbone
from diffx.checkpoint.architecture import check_layout
from diffx.checkpoint.folder import Imported, read_model, write_model
from diffx.checkpoint.imported import settings_of_model
from diffx.checkpoint.layouts import LAYOUTS
from diffx.checkpoint.official import Weights, from_official, to_official, turn_time
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx_plugins.mdt import MDT
from diffx_plugins.repa import REPA


def imported(official, tmp_path: Path, **content) -> Path:
    """The folder of a family's tiny file, written as torch.save does."""
    torch.save(content or official.weights, tmp_path / "official.pt")
    import_file(tmp_path / "official.pt", official.name, tmp_path / "model", changes=official.settings)
    return tmp_path / "model"


def test_an_imported_file_gives_the_recorded_outputs(file_of, tmp_path):
    assert_agrees(our_output(file_of, open_backbone(imported(file_of, tmp_path))), recorded_output(file_of))


def test_import_followed_by_export_gives_the_same_tensors(file_of, tmp_path):
    export_model(imported(file_of, tmp_path), None, tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == file_of.weights.keys()
    for key, tensor in file_of.weights.items():
        if file_of.family in BACKWARD and key.endswith("t_embedder.mlp.0.weight"):  # turned twice: float32's rounding
            torch.testing.assert_close(again[key], tensor, rtol=0, atol=1e-7)
        else:
            assert torch.equal(again[key], tensor), key


def test_an_imported_backbone_is_plain_safetensors_that_loads_strictly(file_of, tmp_path):
    folder = imported(file_of, tmp_path)
    file_of.architecture.build().load_state_dict(load_file(folder / "backbone.safetensors"), strict=True)


def test_the_training_only_weights_load_into_the_plugin(tmp_path):
    for family, plugin in [("mdt", MDT()), ("mdtv2", MDT())]:
        file, folder = official(family), tmp_path / family
        folder.mkdir()
        model = read_model(imported(file, folder))
        plugin.setup(getattr(backbones, model.backbone)(**model.settings))
        plugin.load_state_dict(model.weights.plugin, strict=True)
        assert torch.equal(plugin.mask_token, file.weights["mask_token"])
        assert model.source["plugin"] == "mdt"


def test_repas_projector_goes_to_the_plugins_state(tmp_path):
    file = official("repa")
    model = read_model(imported(file, tmp_path))
    plugin = REPA(depth=2, projector_dim=40)
    plugin.setup(getattr(backbones, model.backbone)(**model.settings))
    plugin.projectors[0][4] = torch.nn.Linear(40, 24)
    plugin.load_state_dict(model.weights.plugin, strict=True)
    assert torch.equal(plugin.projectors[0][0].weight, file.weights["projectors.0.0.weight"])


def test_the_half_of_sits_channels_that_its_code_drops_is_set_aside(sit):
    backbone = from_official(sit.weights, sit.architecture)[0].backbone
    rows = sit.weights["final_layer.linear.bias"]
    kept = torch.stack([row for r, row in enumerate(rows) if r % 8 < 4])
    assert torch.equal(backbone["final_layer.linear.bias"], -kept)


def test_turning_time_in_the_weights_equals_turning_it_in_the_input(sit):
    network = DiT(**sit.architecture.settings).t_embedder
    t = torch.linspace(0, 1, 33)
    with torch.no_grad():
        wanted = network(1 - t)
        network.mlp[0].weight.copy_(turn_time(network.mlp[0].weight))
        torch.testing.assert_close(network(t), wanted, rtol=1e-5, atol=1e-6)


def test_a_sit_that_predicts_noise_keeps_its_sign(sit, tmp_path):
    args = argparse.Namespace(prediction="noise", path_type="GVP", model="SiT-XL/2")
    model = read_model(imported(sit, tmp_path, ema=sit.weights, args=args))
    assert (model.objective["prediction"], model.objective["path"]) == ("noise", "cosine")
    backbone = getattr(backbones, model.backbone)(**model.settings)
    backbone.load_state_dict(model.weights.backbone)
    assert_agrees(-our_output(sit, backbone), sit.io["out"])


def test_a_sit_checkpoint_becomes_a_repa_one_whose_time_runs_the_other_way(sit, tmp_path):
    export_model(imported(sit, tmp_path), "repa", tmp_path / "repa.pt")
    import_file(tmp_path / "repa.pt", "repa-s-2", tmp_path / "again", changes=sit.settings)
    assert_agrees(our_output(sit, open_backbone(tmp_path / "again")), sit.io["out"])


def test_a_file_for_repas_own_sampling_has_the_weights_under_ema_and_the_projectors(tmp_path):
    repa = official("repa")
    export_model(imported(repa, tmp_path), "repa", tmp_path / "again.pt")
    written = torch.load(tmp_path / "again.pt", weights_only=True)
    assert written.keys() == {"ema"}
    assert written["ema"].keys() == repa.weights.keys()
    assert torch.equal(written["ema"]["projectors.0.4.weight"], repa.weights["projectors.0.4.weight"])


def test_a_run_that_repa_trained_is_written_with_its_projectors_and_another_is_said_to_have_none(tmp_path):
    """A run's average is the backbone's; its plugin's weights are in the last checkpoint."""
    repa = official("repa")
    weights = from_official(repa.weights, repa.architecture).weights
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    facts = {"backbone": {"_target_": "diffx.backbone.DiT", **repa.architecture.settings}}
    facts["objective"] = dict(repa.architecture.layout.objective)
    (run / "config.yaml").write_text(json.dumps(facts))
    save_file(weights.backbone, run / "checkpoints" / "ema.safetensors")
    assert any("plugins.repa did not train" in line for line in export_model(run, "repa", tmp_path / "bare.pt"))
    state = {f"plugins.repa.{key}": tensor for key, tensor in weights.plugin.items()}
    torch.save({"state_dict": state | {"backbone.any": torch.ones(1)}}, run / "checkpoints" / "last.ckpt")
    export_model(run, "repa", tmp_path / "whole.pt")
    written = torch.load(tmp_path / "whole.pt", weights_only=True)["ema"]
    assert written.keys() == repa.weights.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in repa.weights.items())


@pytest.mark.parametrize("which", ["ema", "model"])
def test_a_training_scripts_wrapper_gives_the_weights_asked_for(dit, tmp_path, which):
    other = {key: torch.zeros_like(tensor) for key, tensor in dit.weights.items()}
    both = {"ema": other, "model": other} | {which: dit.weights}
    wrapper = {**both, "opt": {"state": {0: torch.ones(2)}, "param_groups": []}, "args": argparse.Namespace(lr=1e-4)}
    torch.save(wrapper, tmp_path / "0400000.pt")
    import_file(tmp_path / "0400000.pt", dit.name, tmp_path / "model", which, dit.settings)
    assert_agrees(our_output(dit, open_backbone(tmp_path / "model")), dit.io["out"])


def test_fast_dits_module_prefix_and_half_precision_are_taken_off(dit, tmp_path):
    prefixed = {f"module.{key}": tensor for key, tensor in dit.weights.items()}
    torch.save({"model": prefixed, "ema": prefixed}, tmp_path / "fast.pt")
    import_file(tmp_path / "fast.pt", "fast-dit-s-2", tmp_path / "model", changes=dit.settings)
    assert_agrees(our_output(dit, open_backbone(tmp_path / "model")), dit.io["out"])
    halves = {key: tensor.half() for key, tensor in dit.weights.items()}
    converted = from_official(halves, dit.architecture)[0].backbone
    assert {tensor.dtype for tensor in converted.values()} == {torch.float32}


@pytest.mark.parametrize("which", ["ema", "model"])
def test_jits_checkpoint_with_two_averages_gives_the_first_or_the_weights_themselves(tmp_path, which):
    jit = official("jit")
    other = {key: torch.zeros_like(tensor) for key, tensor in jit.weights.items()}
    states = {"model": other, "model_ema1": other, "model_ema2": other}
    states[{"ema": "model_ema1", "model": "model"}[which]] = jit.weights
    torch.save({**states, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "checkpoint-last.pth")
    import_file(tmp_path / "checkpoint-last.pth", jit.name, tmp_path / "model", which, jit.settings)
    assert_agrees(our_output(jit, open_backbone(tmp_path / "model")), jit.io["out"])


@pytest.mark.parametrize("which", ["ema", "model"])
def test_ddts_lightning_checkpoint_gives_the_weights_asked_for_and_its_projector(tmp_path, which):
    ddt = official("ddt")
    prefixes = {"ema": "ema_denoiser.", "model": "denoiser."}
    state = {prefixes[which] + key: tensor for key, tensor in ddt.weights.items()}
    (other,) = set(prefixes) - {which}
    state |= {prefixes[other] + key: torch.zeros_like(tensor) for key, tensor in ddt.weights.items()}
    state |= {"diffusion_trainer.proj.0.weight": torch.ones(4, 64)}
    torch.save({"epoch": 3, "global_step": 9, "state_dict": state}, tmp_path / "ddt.ckpt")
    import_file(tmp_path / "ddt.ckpt", ddt.name, tmp_path / "model", which, ddt.settings)
    assert_agrees(our_output(ddt, open_backbone(tmp_path / "model")), ddt.io["out"])
    assert read_model(tmp_path / "model").weights.plugin.keys() == {"projectors.0.0.weight"}


@pytest.mark.parametrize("family", ["lightningdit", "sr-dit"])
def test_rotary_tables_that_diffx_makes_are_those_of_the_official_file(family):
    """A model that was trained here has none to write back."""
    file = official(family)
    converted = from_official(file.weights, file.architecture)
    weights = converted.weights._replace(unused={})
    written = to_official(weights, file.architecture, null_label=converted.null_label)
    tables = [key for key in file.weights if key.startswith("feat_rope.")]
    assert len(tables) == 2
    for key in tables:
        torch.testing.assert_close(written[key], file.weights[key], rtol=0, atol=1e-6)


def test_a_file_without_tables_that_diffx_makes_is_read(tmp_path):
    file = official("lightningdit")
    bare = {key: tensor for key, tensor in file.weights.items() if not key.startswith("feat_rope.")}
    converted = from_official(bare, file.architecture)
    backbone = file.architecture.build()
    backbone.load_state_dict(converted.weights.backbone, strict=True)
    assert_agrees(our_output(file, backbone), file.io["out"])


def test_a_class_token_with_a_position_of_its_own_is_refused():
    file = official("reg")
    table = file.weights["pos_embed"].clone()
    table[:, 0] = 1
    with pytest.raises(DiffxError, match="gives the class token a position"):
        from_official({**file.weights, "pos_embed": table}, file.architecture)


def test_a_lightningdit_with_qk_norm_is_one_still_and_one_without_its_norms_is_none(tmp_path):
    file = official("lightningdit")
    assert file.architecture.settings["qk_norm"]
    layout = file.architecture.layout
    check_layout("DiT", file.architecture.settings, {}, layout, "lightningdit")
    with pytest.raises(DiffxError, match=r"norm=layernorm where lightningdit has scaled_rmsnorm"):
        check_layout("DiT", {**file.architecture.settings, "norm": "layernorm"}, {}, layout, "lightningdit")


def test_safetensors_are_read_too(dit, tmp_path):
    save_file(dit.weights, tmp_path / "dit.safetensors")
    import_file(tmp_path / "dit.safetensors", dit.name, tmp_path / "model", changes=dit.settings)
    assert_agrees(our_output(dit, open_backbone(tmp_path / "model")), dit.io["out"])


def test_a_file_of_another_architecture_is_refused_naming_the_first_keys_and_shapes(dit, tmp_path):
    torch.save(dit.weights, tmp_path / "dit.pt")
    with pytest.raises(DiffxError) as refusal:
        import_file(tmp_path / "dit.pt", "dit-xl-2", tmp_path / "model")
    message = str(refusal.value)
    assert "x_embedder.proj.weight is 32x4x2x2 in the file and 1152x4x2x2 in dit" in message
    assert "pos_embed is 1x16x32 in the file and 1x256x1152 in dit" in message
    assert message.count(" in the file") == 3
    assert "and 288 more" in message
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("family", "key"), [("mdt", "decoder_pos_embed"), ("mdtv2", "en_inblocks.0")])
def test_a_missing_tensor_is_named_as_the_official_file_would_name_it(dit, family, key):
    wrong = official(family)
    with pytest.raises(DiffxError, match=rf"{key}\S* is absent in the file"):
        from_official(dit.weights, wrong.architecture)


def test_a_tensor_too_many_is_refused(dit):
    with pytest.raises(DiffxError, match="extra is 3 in the file and absent in dit"):
        from_official({**dit.weights, "extra": torch.zeros(3)}, dit.architecture)


@pytest.mark.parametrize("name", ["sit", "sit-xl", "sit-xxl-2", "sit-xl-3", "uvit-s-2", "unet-l-2", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name, tmp_path):
    with pytest.raises(DiffxError, match="FAMILY-SIZE-PATCH, for instance sit-xl-2"):
        import_file(tmp_path / "any.pt", name, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [("widht=64", "widht is not a setting"), ("depth", "depth is not KEY=VALUE"), ("depth=deep", "not of the kind of")],
)
def test_a_setting_that_does_not_exist_or_fit_is_refused(tmp_path, change, complaint):
    with pytest.raises(DiffxError, match=complaint):
        import_file(tmp_path / "any.pt", "sit-xl-2", tmp_path / "model", changes=[change])


def test_a_model_is_not_overwritten(dit, tmp_path):
    folder = imported(dit, tmp_path)
    before = (folder / "backbone.safetensors").read_bytes()
    with pytest.raises(DiffxError, match="exists already"):
        import_file(tmp_path / "official.pt", dit.name, folder, changes=dit.settings)
    with pytest.raises(DiffxError, match="exists already"):
        export_model(folder, "dit", folder / "backbone.safetensors")
    assert (folder / "backbone.safetensors").read_bytes() == before


def test_a_backbone_with_options_of_its_own_is_not_written_as_something_else(tmp_path):
    mdt = official("mdt")
    with pytest.raises(DiffxError, match="it is a MDTBackbone, and dit has a DiT"):
        export_model(imported(mdt, tmp_path), "dit", tmp_path / "out.pt")


def test_a_model_for_another_objective_is_not_written_as_something_else(sit, tmp_path):
    with pytest.raises(DiffxError, match=r"objective diffx.objective.Interpolant where tread has diffx.objective.EDM"):
        export_model(imported(sit, tmp_path), "tread", tmp_path / "out.pt")


def test_a_folder_whose_settings_do_not_fit_its_weights_is_not_opened(sit, tmp_path):
    folder = imported(sit, tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("depth: 4", "depth: 3"))
    with pytest.raises(DiffxError, match=r"blocks\.3\.\S+ is \S+ in the weights and absent in config.yaml"):
        open_backbone(folder)
    (folder / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(DiffxError, match="has no backbone settings"):
        open_backbone(folder)


def test_the_weights_of_a_run_are_exported_in_an_official_layout(sit, tmp_path):
    """A run directory has config.yaml and checkpoints/ema.safetensors, as an imported model has its two files."""
    model, run = imported(sit, tmp_path), tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_bytes((model / "config.yaml").read_bytes())
    (run / "checkpoints" / "ema.safetensors").write_bytes((model / "backbone.safetensors").read_bytes())
    export_model(run, "repa", tmp_path / "repa.safetensors")
    assert load_file(tmp_path / "repa.safetensors").keys() == load_file(model / "backbone.safetensors").keys()
    with pytest.raises(DiffxError, match="neither an imported model"):
        export_model(tmp_path, "repa", tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("family", "size", "data"),
    [
        ("dit", 32, "imagenet256"),
        ("dit", 64, "imagenet512"),
        ("jit", 256, "imagenet256"),
        ("jit", 512, "imagenet512"),
        ("lightningdit", 16, "imagenet256"),
        ("lightningdit", 32, "imagenet512"),
    ],
)
def test_an_imported_network_is_measured_on_images_as_large_as_its_own(tmp_path, family, size, data):
    """Latents of 32 are images of 256 pixels by SD-VAE, and of 512 by VA-VAE."""
    layout = LAYOUTS[family]
    settings = {"in_channels": layout.latents["in_channels"], "input_size": size}
    nothing = Weights({"x": torch.zeros(1)}, {}, {})
    model = Imported(nothing, layout.backbone, settings, dict(layout.objective), {"family": family})
    write_model(model, tmp_path / "model")
    metrics = settings_of_model(tmp_path / "model").eval.metrics
    assert metrics == compose_config([f"data={data}", "eval=curve"]).eval.metrics
