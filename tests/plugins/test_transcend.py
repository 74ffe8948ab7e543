"""Self-Transcendence: what the earlier run is shown, guidance on features, what it has cost, and which run is none."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from diffx.assemble.flops import count_flops
from diffx.assemble.model import build_model
from diffx.assemble.parts import assemble
from diffx.assemble.ready import look
from diffx.assemble.record import describe_run
from diffx.assemble.services import Surroundings
from diffx.backbone.protocol import walk_blocks
from diffx.backbone.teacher import NetworkTeacher
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from diffx.step import fed
from diffx.testing import BATCH, TinyRun, tiny_backbone
from diffx.train.loop import train
from diffx_plugins.transcend import Transcend
from diffx_plugins.transcend.network import Network, cost_of
from diffx_plugins.tread import TREAD
from tests.run.conftest import SMALL

EARLIER = ["plugins=[repa]", *SMALL, "backbone.depth=3", "max_steps=2"]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(compose_config([*EARLIER, f"runs_dir={tmp_path_factory.mktemp('runs')}"]))


def typed(run: RunDir, *more: str) -> list[str]:
    return ["plugins=[transcend]", f"plugins.transcend.run={run.path}", *SMALL, "max_steps=2", *more]


class Shown(NetworkTeacher):
    """A teacher that keeps what it is asked."""

    def __init__(self, net) -> None:
        super().__init__(net)
        self.asked = []

    def __call__(self, *given):
        self.asked.append(given)
        return super().__call__(*given)


def taught(beside: dict | None = None, **settings) -> tuple[TinyRun, Shown]:
    teacher = Shown(tiny_backbone(depth=5))
    plugins = {"transcend": Transcend(**settings), **(beside or {})}
    return TinyRun(plugins, tiny_backbone(), {"network/": teacher}), teacher


def test_the_teacher_is_shown_the_students_state_and_time_with_the_label_undropped():
    run, teacher = taught(teacher_depth=4)
    draws = run.draws(5)
    ((x, t, y, depth),) = teacher.asked
    wanted = fed(run.objective, 4, draws.x, draws.noise["main"], draws.t)
    assert torch.equal(x, wanted[0])
    assert torch.equal(t, wanted[1])
    assert torch.equal(y, run.batch["y"])
    assert depth == 4


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_loss_is_the_cosine_with_the_guided_features(scale):
    run, teacher = taught(depth=2, teacher_depth=3, scale=scale)
    draws, net, seen = run.draws(), teacher._net[0], {}
    plugin = run.plugins["transcend"]
    plugin.loss, inner = lambda s, out, aux: seen.update(s) or inner(s, out, aux), plugin.loss
    value = run.losses(draws)["transcend"]
    x_in, t_in = fed(run.objective, 4, draws.x, draws.noise["main"], draws.t)
    labels = (run.batch["y"], torch.full((BATCH,), 10))
    c, u = (walk_blocks(net, x_in, t_in, y, until=3)[0].x for y in labels)
    cosine = F.cosine_similarity(plugin.projector(seen[2].x), u + scale * (c - u), dim=-1)
    torch.testing.assert_close(value, -cosine.mean())
    assert len(teacher.asked) == (1 if scale == 1 else 2)


def test_inside_a_route_each_token_meets_the_feature_of_its_place():
    run, _ = taught({"tread": TREAD(0.5, 1, 4)}, depth=3)
    draws, seen = run.draws(), {}
    plugin, kept = run.plugins["transcend"], draws.aux["tread"]["keep"]
    plugin.loss, inner = lambda s, out, aux: seen.update(s) or inner(s, out, aux), plugin.loss
    value = run.losses(draws)["transcend"]
    target = torch.stack([draws.aux["transcend"]["features"][k, kept[k]] for k in range(BATCH)])
    torch.testing.assert_close(value, -F.cosine_similarity(plugin.projector(seen[3].x), target, dim=-1).mean())


def test_the_teachers_passes_are_counted():
    def teaching(**settings) -> int:
        run, _ = taught(**settings)
        run.services["network/"] = NetworkTeacher(run.backbone)
        return count_flops(run.backbone, run.plugins, run.objective, run.plan, {}).encoder

    once = teaching(teacher_depth=2)
    assert once > 0
    assert teaching(teacher_depth=2, scale=2.0) == 2 * once
    assert 1.8 < teaching(teacher_depth=4) / once < 2


def test_the_earlier_runs_average_teaches_and_its_cost_and_encoders_are_recorded(earlier, tmp_path, capsys):
    settings = compose_config(typed(earlier, f"runs_dir={tmp_path}"))
    parts = assemble(settings)
    teacher = parts.services[f"network/{earlier.path}"]
    (net,) = teacher._net
    assert not any(p.requires_grad for p in net.parameters())
    assert len(net.blocks) == 3
    hours = json.loads(earlier.curve.read_text().splitlines()[-1])["cpu_hours"]
    assert teacher.offline == {"cpu_hours": hours}
    assert f"it took {hours:.4g} cpu_hours, which this run's clock does not count" in capsys.readouterr().out
    record = describe_run(settings, parts)
    assert record["offline"] == {f"network/{earlier.path}": {"cpu_hours": hours}}
    assert [one["name"] for one in record["encoders"]] == ["embedded"]
    assert parts.flops.encoder > 0


def test_a_run_trains_beside_its_teacher_and_its_network_is_opened_after_the_teacher_is_gone(earlier, tmp_path):
    run = train(compose_config(typed(earlier, f"runs_dir={tmp_path}", "plugins.transcend.scale=1.5")))
    assert run.read_record()["status"] == "complete"
    assert run.read_record()["train_parts"]["encoder"] > 0
    build_model(compose_config(typed(RunDir(tmp_path / "gone"))), "meta")


def test_what_the_earlier_run_had_needed_is_part_of_its_cost(earlier, tmp_path):
    run = RunDir(tmp_path)
    run.curve.write_text('{"step": 1, "gpu_hours": 2.0}\n{"step": 2, "gpu_hours": 3.0}\n{"step": 3, "gp')
    record = {"offline": {"features/x": {"gpu_hours": 0.5}, "network/y": {"cpu_hours": 4.0}}}
    assert cost_of(run, record) == {"gpu_hours": 3.5, "cpu_hours": 4.0}
    assert cost_of(RunDir(tmp_path / "none"), {}) == {}


def test_a_run_that_is_not_there_is_refused_before_anything_is_built(earlier, tmp_path):
    with pytest.raises(DiffxError, match=r"has no teacher; type plugins\.transcend\.run="):
        look(compose_config(["plugins=[transcend]", *SMALL]))
    with pytest.raises(DiffxError, match=r"run=.*gone has no config\.yaml; type the folder of a run"):
        look(compose_config(typed(RunDir(tmp_path / "gone"))))
    (tmp_path / "config.yaml").write_bytes(earlier.settings.read_bytes())
    with pytest.raises(DiffxError, match=r"has no checkpoints/ema\.safetensors"):
        look(compose_config(typed(RunDir(tmp_path))))


def test_a_damaged_file_of_weights_is_refused(earlier, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_bytes(earlier.settings.read_bytes())
    (tmp_path / "checkpoints" / "ema.safetensors").write_bytes(b"\x80\x04pickle")
    around = Surroundings(tiny_backbone(), 16)
    with pytest.raises(DiffxError, match="cannot be read as safetensors"):
        Network().make(str(tmp_path), around)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["backbone.patch_size=8"],
            r"is of a network with \d+ tokens, and this one has \d+; type a run on the same data",
        ),
        (["objective=edm", "sampler=edm", "sampler.nfe=3"], r"was trained for Interpolant, and this run is for EDM"),
        (["plugins.transcend.teacher_depth=4"], r"teacher_depth=4 counts blocks from 1, and there are 3"),
        (["plugins.transcend.depth=40"], r"depth=40 counts blocks from 1"),
        (["plugins.transcend.scale=0.5"], r"scale=0\.5 must be >= 1; type 1"),
    ],
)
def test_a_run_that_does_not_fit_and_settings_that_are_none_are_refused(earlier, more, sentence):
    with pytest.raises(DiffxError, match=sentence):
        build_model(compose_config(typed(earlier, *more)), "meta")


def test_the_projector_ends_in_the_teachers_width(earlier):
    model = build_model(compose_config(typed(earlier, "backbone.hidden_size=64")), "meta")
    assert model.plugins["transcend"].projector[4].out_features == 32
    assert model.plugins["transcend"].projector[0].in_features == 64


def test_a_path_that_begins_at_the_root_is_one_need(earlier):
    assert Path(Transcend(run=str(earlier.path)).needs[0].removeprefix("network/")) == earlier.path
