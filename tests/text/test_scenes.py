"""Scenes, what is said of them, and whether a picture agrees with a prompt."""

import json

import numpy as np
import pytest

from diffx.data.captions import Pictures, language
from diffx.data.captions.alignment import agreement, asked_by, asks_unseen
from diffx.data.captions.language import UNSAID, asked
from diffx.data.captions.scene import COLOURS, SHAPES, SIZES, has_unseen
from diffx.data.prompts import Prompt, check_prompts, read_prompts
from diffx.errors import DiffxError


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures()


def shapes(*said: str) -> np.ndarray:
    """Objects of "small red circle", with "-" for what is not said."""
    kinds = (SIZES, COLOURS, SHAPES)
    return np.array(
        [[UNSAID if w == "-" else k.index(w) for k, w in zip(kinds, one.split(), strict=True)] for one in said]
    )


def test_no_training_scene_has_a_held_out_composition_and_a_quarter_of_the_held_out_ones_has(pictures) -> None:
    assert not has_unseen(pictures.scenes).any()
    assert has_unseen(pictures.held_out).mean() == 0.25


def test_every_pair_of_colour_and_shape_that_is_not_held_out_is_trained(pictures) -> None:
    pairs = {tuple(one) for one in pictures.scenes.objects[:, 0, 1:].tolist()}
    assert len(pairs) == len(COLOURS) * len(SHAPES) - 6


def test_what_a_caption_asks_for_is_what_its_scene_has_where_it_says_so(pictures) -> None:
    number, row, objects = pictures.scenes
    for i, caption in enumerate(pictures.captions(2000)):
        wanted = asked(caption)
        assert len(wanted.objects) == number[i], caption
        share = agreement(wanted, int(row[i]), objects[i, : number[i]])
        assert all(right == of for right, of in share.values()), caption


def test_captions_vary_and_leave_out_attributes_now_and_then(pictures) -> None:
    captions = pictures.captions(2000)
    wanted = [asked(caption) for caption in captions]
    unsaid = np.concatenate([one.objects for one in wanted]) == UNSAID
    assert unsaid.mean(0) == pytest.approx([0.35, 0.1, 0], abs=0.03)
    assert len(set(captions)) > 1500


@pytest.mark.parametrize(
    ("prompt", "objects", "row"),
    [
        ("a large red circle left of a small blue square", ["large red circle", "small blue square"], 1),
        ("A big red disc, under a violet plus.", ["- purple cross", "large red circle"], 0),
        ("a star and a ring", ["- - star", "- - ring"], UNSAID),
        ("a star, a ring and a cross from top to bottom", ["- - star", "- - ring", "- - cross"], 0),
        ("there is an orange ring", ["- orange ring"], UNSAID),
    ],
)
def test_a_prompt_is_understood(prompt: str, objects: list[str], row: int) -> None:
    wanted = asked(prompt)
    assert wanted.row == row
    assert (wanted.objects == shapes(*objects)).all()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("a red elephant on a chair", "'elephant', 'on', 'chair'"), ("a " * 30, "30 words, and the encoder .* takes 23")],
)
def test_a_prompt_beyond_the_encoder_is_refused_in_a_sentence(prompt: str, said: str) -> None:
    with pytest.raises(DiffxError, match=said):
        language.tokens(["a star", prompt])


def test_agreement_counts_what_is_there_each_once_and_in_its_place() -> None:
    wanted = asked("a large red circle left of a small blue square")
    right = agreement(wanted, 1, shapes("large red circle", "small blue square"))
    assert {what: share for what, (share, _) in right.items()} == {
        "shape": 2, "colour": 2, "relation": 1, "all": 1, "all_unseen": 0}  # fmt: skip
    swapped = agreement(wanted, 1, shapes("small blue square", "large red circle"))
    assert (swapped["shape"], swapped["colour"], swapped["relation"]) == ((2, 2), (2, 2), (0, 1))
    bound = agreement(wanted, 1, shapes("large blue circle", "small red square"))
    assert (bound["shape"], bound["colour"], bound["relation"], bound["all"]) == ((2, 2), (0, 2), (0, 1), (0, 1))
    once = agreement(asked("a red circle and a red circle"), 1, shapes("small red circle"))
    assert (once["shape"], once["all"]) == ((1, 2), (0, 1))
    assert agreement(wanted, 0, shapes("large red circle", "small blue square"))["relation"] == (0, 1)


def test_a_prompt_without_a_relation_takes_any_order_and_a_wrong_size_fails_all_alone() -> None:
    either = asked("a red circle and a blue square")
    assert agreement(either, 0, shapes("small blue square", "small red circle"))["all"] == (1, 1)
    small = agreement(asked("a large red circle"), 1, shapes("small red circle"))
    assert (small["colour"], small["all"]) == ((1, 1), (0, 1))


def test_held_out_compositions_are_known_by_what_is_asked_for() -> None:
    assert asks_unseen(asked("a red triangle"))
    assert asks_unseen(asked("a circle left of a star"))
    assert not asks_unseen(asked("a star left of a circle"))
    assert not asks_unseen(asked("a triangle and a red star"))


def test_a_geneval_line_says_what_should_be_seen(tmp_path) -> None:
    lines = [
        {"prompt": "whatever", "include": [{"class": "circle", "count": 2, "color": "red"}]},
        {"prompt": "it", "include": [{"class": "star", "count": 1}, {"class": "ring", "position": ["right of", 0]}]},
        {"prompt": "it", "include": [{"class": "star", "count": 1}, {"class": "ring", "position": ["left of", 0]}]},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    two, right, left = (asked_by(prompt) for prompt in read_prompts(file))
    assert (two.objects == shapes("- red circle", "- red circle")).all()
    assert (right.objects == shapes("- - star", "- - ring")).all()
    assert (left.objects == shapes("- - ring", "- - star")).all()
    assert (two.row, right.row, left.row) == (UNSAID, 1, 1)
    assert (asked_by(Prompt("a star")).objects == shapes("- - star")).all()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "\n\n", "holds no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"promt": "b"}', 'line 2 has no "prompt"'),
        ("p.jsonl", "a star", "line 1 is no JSON"),
        ("p.jsonl", '{"prompt": "a", "include": ["star"]}', '"include" is no list'),
    ],
)
def test_a_file_of_prompts_that_cannot_be_read_is_refused_with_its_line(name, text, said, tmp_path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DiffxError, match=said):
        read_prompts(tmp_path / name)


def test_an_empty_prompt_is_refused_by_its_number() -> None:
    with pytest.raises(DiffxError, match="Prompt 2 is empty"):
        check_prompts(["a star", "  "])
