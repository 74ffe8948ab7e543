"""Muon for the matrices inside blocks and AdamW for all else, as one optimizer."""

import os
import socket

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from diffx.assemble.model import make_optimizer
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.optimizer import MuonAdamW, is_hidden_matrix
from diffx.testing import tiny_backbone
from diffx.train.module import _skip_if
from tests import forks


class Holder(torch.nn.Module):
    """Named as the training module names it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = tiny_backbone()
        self.plugins = torch.nn.ModuleDict({"repa": torch.nn.Linear(4, 4)})


def with_gradients(module, seed=1):
    rng = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        if p.requires_grad:
            p.grad = torch.randn(p.shape, generator=rng)
    return module


def trained(module):
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def test_matrices_of_blocks_are_muons_and_all_else_is_adamws():
    optimizer = MuonAdamW(trained(module := Holder()))
    muons = {id(p) for p in optimizer.param_groups[0]["params"]}
    names = {name.split("blocks.0.")[1] for name, p in trained(module) if id(p) in muons and "blocks.0." in name}
    assert names == {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
    assert all(name.startswith("backbone.blocks.") for name, p in trained(module) if id(p) in muons)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained(module))


def test_each_part_steps_as_torchs_own():
    ours, theirs = with_gradients(Holder()), with_gradients(Holder())
    optimizer = MuonAdamW(trained(ours), lr=0.01, adamw_lr=0.002, weight_decay=0.1)
    matrices = [p for name, p in trained(theirs) if is_hidden_matrix(name, p)]
    rest = [p for name, p in trained(theirs) if not is_hidden_matrix(name, p)]
    own = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.002, weight_decay=0.0),
    ]
    for _ in range(3):
        for step in (optimizer, *own):
            step.step()
    for (name, p), (_, q) in zip(trained(ours), trained(theirs), strict=True):
        assert torch.equal(p, q), name


def test_it_goes_on_from_a_saved_state_bit_for_bit(tmp_path):
    ours, copy = with_gradients(Holder()), with_gradients(Holder())
    first = MuonAdamW(trained(ours))
    first.step()
    torch.save((ours.state_dict(), first.state_dict()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    copy.load_state_dict(weights)
    second = MuonAdamW(trained(copy))
    second.load_state_dict(state)
    for optimizer in (first, second):
        optimizer.param_groups[0]["lr"] = 0.5  # set from outside, it holds for the part that steps
        optimizer.step()
    for (name, p), (_, q) in zip(trained(ours), trained(copy), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("bad", [True, False])
def test_a_step_with_a_gradient_that_is_not_finite_does_nothing(bad):
    module = with_gradients(Holder())
    before = [p.clone() for _, p in trained(module)]
    optimizer = MuonAdamW(trained(module))
    _skip_if(torch.tensor(bad), optimizer)
    optimizer.step()
    assert all(torch.equal(p, q) == bad for (_, p), q in zip(trained(module), before, strict=True))


def test_a_configuration_names_it_and_it_gets_the_names():
    settings = compose_config(["optimizer=muon", "optimizer.lr=0.03"])
    optimizer = make_optimizer(settings.optimizer, trained(Holder()))
    assert isinstance(optimizer, MuonAdamW)
    assert [group["lr"] for group in optimizer.param_groups] == [0.03, 0.03]


def test_an_unknown_scaling_is_refused_in_a_sentence():
    settings = compose_config(["optimizer=muon", "optimizer.adjust_lr_fn=much"])
    with pytest.raises(DiffxError, match="much"):
        make_optimizer(settings.optimizer, trained(Holder()))


QKV = "backbone.blocks.0.attn.qkv.weight"


def step_of(weight, gradient):
    parameter = torch.nn.Parameter(weight)
    parameter.grad = gradient
    MuonAdamW([(QKV, parameter)], lr=0.1).step()
    return parameter.detach()


def step_on_rank(rank, file, port):
    """One of two processes, each with half of the rows."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    weight, gradient = (distribute_tensor(one, mesh, [Shard(0)]) for one in torch.load(file, weights_only=True))
    whole = step_of(weight, gradient).full_tensor()
    if rank == 0:
        torch.save(whole, f"{file}.after")
    torch.distributed.destroy_process_group()


def test_a_sharded_matrix_is_made_orthogonal_as_a_whole(tmp_path):
    """To a tenth of the update: bfloat16 rounds its products otherwise, which made 3 %. Each half made orthogonal by
    itself would be off by the size of an update."""
    weight, gradient = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(2))
    torch.save((weight, gradient), tmp_path / "matrices.pt")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    forks.ranks(step_on_rank, str(tmp_path / "matrices.pt"), port)
    sharded = torch.load(tmp_path / "matrices.pt.after", weights_only=True)
    wanted = step_of(weight.clone(), gradient)
    halves = torch.cat([step_of(w.clone(), g) for w, g in zip(weight.split(12), gradient.split(12), strict=True)])
    update = (wanted - weight).norm()
    assert (sharded - wanted).norm() < 0.1 * update
    assert (halves - wanted).norm() > 0.2 * update
