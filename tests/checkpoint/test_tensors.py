"""Reading files without running what is in them."""

import pickle

import pytest
import torch

from diffx.checkpoint.tensors import read_tensors, write_tensors
from diffx.commands.checkpoint import main
from diffx.errors import DiffxError


class Payload:
    """Pickled, it would write a file when opened."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_a_pickle_that_carries_code_is_refused_with_how_to_convert_it_and_is_not_run(tmp_path):
    torch.save({"w": torch.ones(2), "extra": Payload(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(DiffxError, match=r"more than tensors.*open.*save_file") as refusal:
        read_tensors(tmp_path / "bad.pt")
    assert "container" in str(refusal.value)
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_with_code_is_refused_and_not_run_either(tmp_path):
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    with pytest.raises(DiffxError):
        read_tensors(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_damaged_or_missing_file_is_refused_by_name(tmp_path, name):
    with pytest.raises(DiffxError, match=f"{name} does not exist"):
        read_tensors(tmp_path / name)
    write_tensors({"w": torch.ones(1000)}, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DiffxError, match=f"{name} cannot be read"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_is_written_is_read_back_and_nothing_else_is_left(tmp_path, name):
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.arange(3)}
    write_tensors(tensors, tmp_path / name)
    again = read_tensors(tmp_path / name).tensors
    assert all(torch.equal(again[key], tensor) for key, tensor in tensors.items())
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_content_that_is_no_state_dict_is_refused(tmp_path):
    torch.save({"epoch": 3, "w": torch.ones(2)}, tmp_path / "odd.pt")
    with pytest.raises(DiffxError, match="is not a state dict"):
        read_tensors(tmp_path / "odd.pt")


def test_a_wrapper_without_the_weights_asked_for_names_those_it_has(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "live.pt")
    with pytest.raises(DiffxError, match="type --weights model"):
        read_tensors(tmp_path / "live.pt")


def test_the_command_says_bad_input_in_one_sentence_with_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["import", str(tmp_path / "no.pt"), "--as", "sit-xl-2", "-o", str(tmp_path / "model")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("diffx: ")
    assert "does not exist" in error
    assert error.count("\n") == 1
