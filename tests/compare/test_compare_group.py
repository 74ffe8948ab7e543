"""Methods, labels, baselines and the fair-comparison card."""

from pathlib import Path

import pytest
from made_runs import ENCODER, write_run

from diffx.compare.card import check_measures, find_differences, find_odd, name_kinship
from diffx.compare.cost import name_busy
from diffx.curves.method import Method, choose_baseline, group_runs
from diffx.curves.metric import find_network, name_metric
from diffx.curves.read import read
from diffx.errors import DiffxError
from diffx.run.distances import pick_distances


def methods(root: Path) -> list[Method]:
    return group_runs(read([root])[0])


def labels(root: Path) -> list[str]:
    return [method.label for method in methods(root)]


def test_the_seeds_of_one_id_are_one_method(root: Path):
    for seed in (2, 0, 1):
        write_run(root, "repa", seed)
    (method,) = methods(root)
    assert (method.label, method.seeds) == ("repa", (0, 1, 2))


def test_the_plain_method_comes_first_and_combinations_last(root: Path):
    for label in ("repa+tread", "tread", "plain", "repa"):
        write_run(root, label)
    assert labels(root) == ["plain", "repa", "tread", "repa+tread"]


def test_labels_of_a_sweep_carry_the_swept_value_and_are_sorted_by_it(root: Path):
    for weight in (10.0, 0.5, 1.0):
        write_run(root, "repa", plugins={"repa": {"weight": weight}}, identity=f"w{weight}")
    assert labels(root) == ["repa weight=0.5", "repa weight=1", "repa weight=10"]


def test_a_swept_setting_takes_as_much_of_its_name_as_it_needs(root: Path):
    for first, second in ((1, 1), (1, 2), (2, 1)):
        plugins = {"repa": {"weight": first}, "disperse": {"weight": second}}
        write_run(root, "both", plugins=plugins, identity=f"{first}{second}")
    assert labels(root)[0] == "both repa.weight=1 disperse.weight=1"


def test_settings_that_follow_a_swept_one_are_not_repeated_in_the_label(root: Path):
    for weight in (0.5, 1.0):
        plugins = {"repa": {"weight": weight, "same_again": weight}}
        write_run(root, "repa", plugins=plugins, identity=f"w{weight}")
    assert labels(root) == ["repa weight=0.5", "repa weight=1"]


def test_backbones_of_several_classes_go_by_their_names_and_by_what_their_class_does_not_say(root: Path):
    for name, depth in (("DiT", 6), ("DiT", 12), ("UViT", 7)):
        backbone = {"_target_": f"diffx.backbone.{name}", "depth": depth, "conv": name == "UViT"}
        write_run(root, "plain", config={"backbone": backbone}, identity=f"{name}{depth}")
    assert labels(root) == ["plain backbone=DiT depth=6", "plain backbone=DiT depth=12", "plain backbone=UViT depth=7"]


def test_a_backbone_and_its_variants_are_named_by_what_each_varies(root: Path):
    usual = {"mlp": "gelu", "norm": "layernorm", "position": "sincos"}
    variants = {"plain": {}, "a": {"mlp": "swiglu"}, "b": {"norm": "rmsnorm"}, "c": {"position": "rope"}}
    for name, changed in variants.items():
        write_run(root, "plain", config={"backbone": usual | changed}, identity=name)
    assert sorted(labels(root)) == ["plain", "plain mlp=swiglu", "plain norm=rmsnorm", "plain position=rope"]


def test_values_that_half_of_the_methods_have_are_said_of_all(root: Path):
    for values in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)):
        settings = dict(zip("abc", values, strict=True))
        write_run(root, "plain", config={"backbone": settings}, identity="".join(map(str, values)))
    assert labels(root)[0] == "plain a=0 b=0 c=0"
    assert all(len(label.split()) == 4 for label in labels(root))


def test_the_method_without_plugins_is_the_baseline(root: Path):
    write_run(root, "plain")
    write_run(root, "repa")
    baseline, remarks = choose_baseline(methods(root), None)
    assert baseline is not None
    assert baseline.label == "plain"
    assert remarks == []


def test_an_unknown_baseline_is_an_error_that_lists_the_labels(root: Path):
    write_run(root, "plain")
    with pytest.raises(DiffxError, match='"plain"'):
        choose_baseline(methods(root), "plian")


def test_without_a_plain_run_there_is_no_baseline_and_a_remark_says_so(root: Path):
    write_run(root, "repa")
    baseline, remarks = choose_baseline(methods(root), None)
    assert baseline is None
    assert "no baseline" in remarks[0]


def test_the_card_is_empty_when_only_plugins_differ(root: Path):
    write_run(root, "plain")
    write_run(root, "repa")
    assert find_differences(methods(root)) == []


@pytest.mark.parametrize(
    ("config", "facts", "said"),
    [
        ({"backbone": {"name": "dit_tiny", "depth": 6, "decoder_layers": 2}}, {}, "backbone.decoder_layers: 0 in"),
        ({"data": {"name": "shapes"}}, {}, "data.name"),
        ({"batch_size": 128}, {}, "batch_size"),
        ({"ema_decay": 0.99}, {}, "ema_decay"),
        ({"optimizer": {"lr": 2e-3}}, {}, "optimizer.lr: 0.001 in plain, 0.002 in repa"),
        ({}, {"device": {"kind": "cpu", "name": "Other", "count": 1}}, "device: Two cores in plain, Other in repa"),
        ({}, {"device": {"kind": "cpu", "name": "Two cores", "count": 2}}, "device count"),
        ({}, {"precision": "bf16-mixed"}, "precision"),
        ({}, {"versions": {"diffx": "0.1.0", "torch": "2.14"}}, "version of torch"),
        ({}, {"git": {"commit": "fff", "dirty": False}}, "git commit"),
        ({}, {"offline": {"features": 1.5}}, "offline features: – in plain, 1.5 in repa"),
    ],
)
def test_every_other_difference_stands_on_the_card(root: Path, config: dict, facts: dict, said: str):
    write_run(root, "plain")
    write_run(root, "repa", config=config, facts=facts)
    assert any(said in str(difference) for difference in find_differences(methods(root)))


def test_unequal_seeds_stand_on_the_card(root: Path):
    write_run(root, "plain", 0)
    write_run(root, "plain", 1)
    write_run(root, "repa", 0)
    assert [str(one) for one in find_differences(methods(root))] == ["seeds: 0 1 in plain, 0 in repa"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"protocol_hash": "ff00", "protocol": {"sampler": "heun", "nfe": 100}}, "nfe: 50 in plain, 100 in repa"),
        ({"cost": "gpu_hours"}, "CPU-hours in plain; GPU-hours in repa"),
        ({"device": {"kind": "cuda", "name": "H100", "count": 1}}, "Two cores in plain; H100 in repa"),
    ],
)
def test_two_measures_on_one_axis_are_refused_unless_mixed(root: Path, facts: dict, said: str):
    write_run(root, "plain")
    write_run(root, "repa", facts=facts)
    both = methods(root)
    with pytest.raises(DiffxError, match="--mixed") as refusal:
        check_measures(both, mixed=False)
    assert said in str(refusal.value)
    assert any(said in sentence for sentence in check_measures(both, mixed=True))
    assert find_odd(both, both[0]) == {"repa"}


def test_real_images_that_score_differently_betray_a_changed_feature_network(root: Path):
    write_run(root, "plain", facts={"reference": {"floor": {"fd_x_1k": 1.11}}})
    write_run(root, "repa", facts={"reference": {"floor": {"fd_x_1k": 0.53}}})
    both = methods(root)
    with pytest.raises(DiffxError, match=r"1\.11 in plain, 0\.53 in repa. Its feature network or reference changed"):
        check_measures(both, mixed=False)
    assert find_odd(both, both[0]) == {"repa"}


def test_rounding_of_another_machine_is_not_a_changed_feature_network(root: Path):
    write_run(root, "plain", facts={"reference": {"floor": {"fd_x_1k": 1.1100}}})
    write_run(root, "repa", facts={"reference": {"floor": {"fd_x_1k": 1.1101}}})
    assert check_measures(methods(root), mixed=False) == []


def test_a_protocol_that_changes_along_one_curve_is_refused(root: Path):
    folder = write_run(root, "plain")
    lines = (folder / "curve.jsonl").read_text().splitlines()
    (folder / "curve.jsonl").write_text("\n".join([*lines[:-1], lines[-1].replace("ab12", "cd34")]) + "\n")
    with pytest.raises(DiffxError, match="ab12 then cd34"):
        check_measures(methods(root), mixed=False)


METRICS = ["fd_embedded_sup_1k", "fd_embedded_ssl_1k"]


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ({"name": "embedded_ssl", "family": "x", "training": "y"}, "the same network as embedded_ssl"),
        ({"name": "big", "family": "embedded-simclr", "training": "y"}, "of the same family as embedded_ssl"),
        ({"name": "big", "family": "x", "training": "supervised"}, "supervised like embedded_sup"),
    ],
)
def test_a_metric_related_to_a_runs_encoder_is_called_out(root: Path, encoder: dict, said: str):
    write_run(root, "repa", facts={"encoders": [encoder]})
    (sentence,) = name_kinship(methods(root), METRICS)
    assert sentence.startswith("repa is aligned to")
    assert said in sentence


def test_an_unrelated_encoder_is_not_called_out(root: Path):
    write_run(root, "repa", facts={"encoders": [{**ENCODER, "training": "language"}]})
    assert name_kinship(methods(root), METRICS) == []


def test_distances_are_told_from_other_values_by_name():
    names = ["fid_50k", "sfid_50k", "fd_dinov2_10k", "nearest_train", "precision_50k", "is_50k", "kid_10k", "fdx"]
    assert pick_distances(names) == ["fid_50k", "sfid_50k", "fd_dinov2_10k", "kid_10k"]


def test_titles_keep_the_number_of_samples():
    assert name_metric("fd_embedded_ssl_2k") == "FD embedded ssl (2k samples)"
    assert name_metric("fid_50k") == "FID (50k samples)"


def test_fid_is_measured_in_inception_features_whether_listed_or_not():
    assert (find_network("fid_50k", []) or {})["family"] == "inception"


def test_a_metric_of_an_unlisted_network_has_no_known_features():
    assert (
        find_network("fd_mystery_1k", [{"name": "dinov2", "family": "dinov2", "training": "self-supervised"}]) is None
    )


def test_a_seed_whose_steps_cost_more_than_its_siblings_is_called_out(root: Path):
    """Seed 1 is 20 % slower than seed 0; another method may be slower as a whole."""
    write_run(root, "plain", 0, costs=(1.0, 2.0))
    write_run(root, "plain", 1, costs=(1.2, 2.4))
    write_run(root, "repa", 0, costs=(2.0, 4.0))
    (sentence,) = name_busy(methods(root))
    assert (
        "Each step cost more than the fastest sibling's in plain seed 1 (+20%): at equal cost this seed is" in sentence
    )


def test_the_steps_of_a_run_of_seconds_are_not_timed(root: Path):
    write_run(root, "plain", 0, costs=(0.001, 0.002))
    write_run(root, "plain", 1, costs=(0.002, 0.004))
    assert name_busy(methods(root)) == []


def test_seeds_that_are_a_few_per_cent_apart_are_not_called_out(root: Path):
    for seed, slower in enumerate((1.0, 1.05, 1.09)):
        write_run(root, "plain", seed, costs=(1.0 * slower, 2.0 * slower))
    assert name_busy(methods(root)) == []


def test_a_sweeps_many_methods_are_named_together_in_the_sentence_on_kinship(root: Path):
    for weight in range(1, 7):
        write_run(root, "repa", plugins={"repa": {"weight": weight}}, identity=f"w{weight}")
    assert all(sentence.startswith("the 6 methods with repa are") for sentence in name_kinship(methods(root), METRICS))
    assert name_kinship(methods(root), METRICS)
