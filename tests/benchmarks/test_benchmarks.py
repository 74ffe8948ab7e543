"""Every benchmark runs at its smallest size, prints its table and writes it as JSON. No time is judged."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.ladder import rungs
from benchmarks.measure import Ratio, in_turn, peak_flops, speed_ratio
from benchmarks.profile import own_times
from tests import forks

ROOT = Path(__file__).parents[2]
TINY = ["backbone.hidden_size=32", "backbone.depth=4", "backbone.num_heads=2"]


def run(name: str, out: Path, *arguments: str) -> tuple[dict, str]:
    """The JSON and the text of a benchmark."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--rounds", "2", "-o", str(out)]
    done = forks.run(command, cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


@pytest.fixture(scope="module")
def step(tmp_path_factory) -> tuple[dict, str]:
    out = tmp_path_factory.mktemp("step") / "step.json"
    sizes = ["--batch-size", "2", "--steps", "1", "--samples", "4", "--plugins", "repa", "tread"]
    return run("step", out, *TINY, *sizes)


def test_a_step_is_measured_for_every_plugin_set_beside_the_plain_one(step):
    result, text = step
    assert [row["plugins"] for row in result["steps"]] == ["plain", "repa", "tread"]
    assert "realised" in text
    assert result["machine"]["torch"] == torch.__version__


def test_flops_predict_that_tread_is_cheaper_and_repa_dearer(step):
    predicted = {row["plugins"]: row["flops_predict"] for row in step[0]["steps"]}
    assert predicted["repa"] < predicted["plain"] == 1 < predicted["tread"]


def test_realised_is_the_measured_ratio_over_the_predicted_one(step):
    for row in step[0]["steps"]:
        measured = row["speed_over_plain"]
        assert measured["low"] <= measured["median"] <= measured["high"]
        assert row["realised"] == pytest.approx(measured["median"] / row["flops_predict"])


def test_the_split_of_a_step_covers_all_its_parts(step):
    for row in step[0]["steps"]:
        assert set(row["split_seconds"]) == {
            "data", "encoder", "draw", "forward", "backward", "optimizer", "ema", "logging",
        }  # fmt: skip
        assert row["split_seconds"]["backward"] > 0


def test_no_mfu_is_claimed_of_a_device_whose_peak_is_not_known(step):
    assert all(row["mfu"] is None for row in step[0]["steps"])


def test_the_ladder_begins_with_the_peers_and_ends_with_diffxs_trainer(step):
    names = [row["name"] for row in step[0]["ladder"]]
    assert names[0] == "peers"
    assert names[-1] == "diffx's trainer"
    assert step[0]["ladder"][0]["over_peers"]["median"] == 1


def test_routing_is_measured_by_order_of_ids_and_by_number_of_tokens(step):
    (row,) = step[0]["tokens"]
    assert set(row["ids"]) == {"sorted", "shuffled"}
    assert row["lengths"]["256"]["median"] == 1


def test_guided_sampling_sends_twice_the_rows_through_the_network_and_counts_the_same_nfe(tmp_path):
    sizes = ["--samplers", "euler", "heun", "ancestral", "edm", "--nfe", "4", "--batch-size", "1"]
    result, text = run("sample", tmp_path / "sample.json", *TINY, *sizes)
    by_name = {(row["sampler"], row["guidance_scale"]): row for row in result["samplers"]}
    assert len(by_name) == 8
    for sampler, nfe in {"euler": 4, "heun": 3, "ancestral": 4, "edm": 3}.items():
        plain, guided = by_name[sampler, 1.0], by_name[sampler, 1.5]
        assert plain["nfe"] == guided["nfe"] == plain["forwards"] == guided["forwards"] == nfe
        assert guided["rows_per_sample"] == 2 * plain["rows_per_sample"]
    assert "forwards/s" in text


def test_evaluation_is_measured_in_three_parts_and_float32_sums_move_the_distance_little(tmp_path):
    result, text = run("eval", tmp_path / "eval.json", "--images", "1", "--features", "128", "--dim", "16")
    assert result["inception_images_per_second"] > 0
    assert set(result["features_per_second"]) == {"float32", "float64"}
    assert result["distance_of_float32_sums"] == pytest.approx(result["distance"], rel=1e-3)
    assert "Fréchet" in text


def test_loading_is_measured_for_both_layouts_with_and_without_images(tmp_path):
    result, text = run("data", tmp_path / "data.json", "--samples", "8")
    assert set(result["shards_over_files"]) == {"latents", "latents and images"}
    assert "times as fast as files" in text


def test_variants_take_turns_in_an_order_that_is_reversed_every_other_round():
    order: list[str] = []
    in_turn({name: lambda name=name: order.append(name) or 1.0 for name in "ab"}, 3)
    assert order == list("abbaab")


def test_a_ratio_is_taken_within_each_round():
    assert speed_ratio([1.0, 10.0, 4.0], [0.5, 5.0, 1.0]) == Ratio(2.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_of_a_gpu_goes_by_its_name(name, peak):
    assert peak_flops(name) == peak


def test_a_gpus_ladder_has_the_rungs_that_mean_nothing_on_a_cpu():
    on_cpu, on_gpu = (rungs(torch.device(kind), "bf16-mixed", encoder=True) for kind in ("cpu", "cuda"))
    assert set(on_cpu) < set(on_gpu)
    assert on_gpu["CUDA graphs"].compile == "graphs"
    assert "encoder compiled" not in rungs(torch.device("cuda"), "bf16-mixed", encoder=False)
    assert "bfloat16 residual stream" not in rungs(torch.device("cuda"), "32-true", encoder=True)
    quick = rungs(torch.device("cuda"), "bf16-mixed", encoder=True, slow=False)
    assert set(on_gpu) - set(quick) == {"whole step compiled", "CUDA graphs"}


def test_a_profile_counts_the_time_of_a_kernel_once():
    def event(key: str, where: DeviceType) -> SimpleNamespace:
        return SimpleNamespace(key=key, device_type=where, self_device_time_total=3.0, self_cpu_time_total=1.0)

    events = [event("aten::mm", DeviceType.CPU), event("gemm_kernel", DeviceType.CUDA)]
    assert own_times(events, torch.device("cuda")) == {"gemm_kernel": 3.0}
    assert own_times(events[:1], torch.device("cpu")) == {"aten::mm": 1.0}


def test_each_rung_changes_something():
    recipes = list(rungs(torch.device("cuda"), "bf16-mixed", encoder=True).values())
    assert len(set(recipes)) == len(recipes)
