"""The cache gives back what was made, and makes it again when it cannot be trusted."""

import json
from pathlib import Path

import pytest

from diffx.errors import DiffxError
from diffx.store import cache
from diffx.store.digest import digest

FACTS = {"name": "thing", "size": [2, 3]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kind" / "thing.bin"


def make(path: Path) -> dict[str, float]:
    path.write_bytes(b"content")
    return {"accuracy": 0.5}


def must_not_make(path: Path) -> dict[str, float]:
    raise AssertionError("the entry was made again")


def test_home_is_the_folder_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path / "here"))
    assert cache.home() == tmp_path / "here"


def test_home_is_below_the_users_cache_when_the_environment_is_silent(monkeypatch):
    monkeypatch.delenv("DIFFX_HOME", raising=False)
    assert cache.home() == Path.home() / ".cache" / "diffx"


def test_an_entry_is_made_once_and_its_notes_come_back(path):
    assert cache.entry(path, FACTS, make) == {"accuracy": 0.5}
    assert cache.entry(path, FACTS, must_not_make) == {"accuracy": 0.5}
    assert path.read_bytes() == b"content"


def test_nothing_but_the_entry_is_left_in_the_folder(path):
    cache.entry(path, FACTS, make)
    assert {file.name for file in path.parent.iterdir()} <= {"thing.bin", "thing.bin.json", "thing.bin.lock"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"conten"),
        lambda path: path.write_bytes(b"Content"),
        lambda path: path.with_name("thing.bin.json").write_text('{"facts": '),
        lambda path: path.with_name("thing.bin.json").write_text("[]"),
        lambda path: path.with_name("thing.bin.json").unlink(),
    ],
    ids=["truncated", "altered", "half-written facts", "facts of another kind", "no facts"],
)
def test_a_damaged_entry_is_made_again_and_said_so_in_one_line(path, damage, capsys):
    cache.entry(path, FACTS, make)
    damage(path)
    assert cache.entry(path, FACTS, make) == {"accuracy": 0.5}
    assert path.read_bytes() == b"content"
    assert capsys.readouterr().out.count("\n") == 1
    cache.entry(path, FACTS, must_not_make)


def test_an_entry_made_from_other_facts_is_made_again(path):
    cache.entry(path, FACTS, make)
    cache.entry(path, FACTS | {"size": [2, 4]}, make)
    assert json.loads(path.with_name("thing.bin.json").read_text())["facts"]["size"] == [2, 4]


def test_a_failure_while_making_leaves_the_old_entry_alone(path):
    cache.entry(path, FACTS, make)

    def fail(fresh: Path) -> dict[str, float]:
        fresh.write_bytes(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        cache.entry(path, FACTS | {"size": [9]}, fail)
    cache.entry(path, FACTS, must_not_make)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_variable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffxError, match="DIFFX_HOME"):
        cache.entry(tmp_path / "file" / "thing.bin", FACTS, make)


def test_the_digest_depends_on_values_and_not_on_their_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
