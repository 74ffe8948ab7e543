"""Agreement of MM-DiT and PixArt with diffusers' networks: recorded ones, and live ones with their gradients."""

from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel
from recordings import Recording, assert_agrees, load

from diffx.backbone import Text
from diffx.checkpoint.architecture import parse_architecture
from diffx.checkpoint.official import from_official, to_official

CASES = ("mmdit", "mmdit_qknorm", "pixart")
OFFICIAL = {"mmdit": SD3Transformer2DModel, "mmdit_qknorm": SD3Transformer2DModel, "pixart": PixArtTransformer2DModel}


def architecture_of(recording: Recording) -> Any:
    """The recorded network as one of a family of official files."""
    config = recording.config
    heads = config["num_attention_heads"]
    sizes = {"input_size": config["sample_size"], "in_channels": config["in_channels"], "num_heads": heads}
    sizes |= {"hidden_size": heads * config["attention_head_dim"], "depth": config["num_layers"]}
    sizes |= {"text_length": recording["text"].shape[1], "text_channels": recording["text"].shape[2]}
    if "joint_attention_dim" not in config:
        return parse_architecture(f"pixart-xl-{config['patch_size']}", sizes)
    sizes |= {"pooled_channels": config["pooled_projection_dim"], "position_size": config["pos_embed_max_size"]}
    sizes |= {"qk_norm": config["qk_norm"] is not None, "dual_blocks": len(config["dual_attention_layers"])}
    return parse_architecture(f"sd3-medium-{config['patch_size']}", sizes)


def backbone_of(recording: Recording, weights: dict[str, torch.Tensor]) -> Any:
    architecture = architecture_of(recording)
    backbone = architecture.build()
    backbone.load_state_dict(from_official(weights, architecture).weights.backbone, strict=True)
    return backbone


def text_of(recording: Recording) -> Text:
    tokens = recording["text"]
    mask = recording.io.get("mask", torch.ones(tokens.shape[:2])).bool()
    return Text(tokens, mask, recording.io.get("pooled", tokens.new_zeros(len(tokens), 0)))


def times_of(recording: Recording) -> torch.Tensor:
    """MM-DiT's count to a thousand in its files and to one here."""
    return recording["t"] / 1000 if "pooled" in recording.io else recording["t"]


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_the_forward_agrees(case: str):
    recording = load(case)
    out = backbone_of(recording, recording.weights)(recording["x"], times_of(recording), text_of(recording))
    assert_agrees(out, recording["out"], 3e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_written_as_it_was_read(case: str):
    recording = load(case)
    architecture = architecture_of(recording)
    written = to_official(from_official(recording.weights, architecture).weights, architecture)
    assert written.keys() == recording.weights.keys()
    assert all(torch.equal(tensor, recording.weights[key]) for key, tensor in written.items())


@pytest.mark.parametrize("case", CASES)
def test_the_forward_and_all_gradients_agree_with_diffusers_itself(case: str):
    recording = load(case)
    config = {key: value for key, value in recording.config.items() if value is not None}
    if "dual_attention_layers" in config:
        config["dual_attention_layers"] = tuple(config["dual_attention_layers"])
    torch.manual_seed(0)
    theirs = OFFICIAL[case](**config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = backbone_of(recording, {k: w.detach().clone() for k, w in theirs.state_dict().items()})
    text = text_of(recording)
    x, t = torch.randn_like(recording["x"]), torch.tensor([3, 500, 997])
    if case == "pixart":
        named: dict[str, Any] = {"encoder_attention_mask": recording["mask"], "added_cond_kwargs": {}}
    else:
        named = {"pooled_projections": text.pooled}
    wanted = theirs(x, encoder_hidden_states=text.tokens, timestep=t, **named).sample
    out = ours(x, t if case == "pixart" else t / 1000, text)
    assert_agrees(out.detach(), wanted.detach(), 2e-6)
    wanted.square().mean().backward()
    out.square().mean().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    architecture = architecture_of(recording)
    for rule in architecture.layout.rules:
        gradients = rule.read(gradients, architecture.settings)
    used = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None and p.grad.any()}
    assert used.keys() == {name for name, gradient in gradients.items() if gradient.any()}
    for name, gradient in used.items():
        assert_agrees(gradient, gradients[name], 1e-4)
