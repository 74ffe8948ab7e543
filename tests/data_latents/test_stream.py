"""Prepared data behind a URL: the same samples in windows, from a cache with a bound, or a sentence."""

import gc
import os
import pickle
import shutil
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from diffx.commands.prepare import main as prepare
from diffx.config.compose import compose_config
from diffx.data import StepBatches
from diffx.data.batches import permutation
from diffx.data.latents import Latents
from diffx.data.remote_shards import RemoteShards
from diffx.data.stream import GROUP, Fetching, Stream
from diffx.errors import DiffxError
from diffx.store import bounded, remote
from diffx.store.bounded import GB, BoundedFolder
from tests.data_latents.served import Served, as_it_is, serving
from tests.data_latents.test_latents import write

SAMPLES, WINDOW, BATCH = 5 * GROUP - 7, 2 * GROUP, 24
KEYS = [f"class{i % 2}/image{i:03}" for i in range(SAMPLES)]
FACTS = {"posterior": True, "shift": [0.5], "scale": [2.0], "autoencoder": "tiny"}
ROW = 2 * 4 * 4 * 2 + 3 * 8 * 8  # bytes of a sample's latent and image
NEEDED = 2 * WINDOW * ROW / 0.95 + 2  # bytes of two windows, and what is kept free beside them


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of both sides, and images in another order and in other shards."""
    folder, rng = tmp_path_factory.mktemp("prepared"), np.random.default_rng(0)
    rows = lambda shape, dtype: {k: rng.integers(0, 200, shape).astype(dtype) for k in KEYS}  # noqa: E731
    write(folder, "latents", rows((2, 4, 4), "f2"), FACTS, size=50)
    write(folder, "latents-flipped", rows((2, 4, 4), "f2"), FACTS, size=50)
    write(folder, "images", dict(reversed(rows((3, 8, 8), "u1").items())), size=70)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    with serving(root) as there:
        yield there


def opened(root: str, **settings: object) -> Latents:
    data = Latents(root, **{"window": WINDOW, "cache_gb": NEEDED / GB} | settings)
    data.provide(["image"], side=1)
    return data


def batches(data: Latents, start: int = 0, rank: int = 0, world: int = 1) -> StepBatches:
    assert data.stream is not None
    return StepBatches(len(data), BATCH, 3, start, rank, world, order=data.stream.order)


def ahead(data: Latents, start: int = 0, lag: int = 1) -> Iterator[torch.Tensor]:
    assert data.stream is not None
    return iter(data.stream.ahead(batches(data, start), lag))


def held(folder: Path) -> int:
    total = 0
    for entry in os.scandir(folder) if folder.exists() else []:
        with suppress(FileNotFoundError):
            total += entry.stat().st_size if entry.name != bounded.COUNT else 0
    return total


def test_an_epoch_visits_each_sample_once_and_a_window_only_its_groups():
    stream = Stream(SAMPLES, [[], []], WINDOW)
    for epoch in (0, 1):
        order = stream.order(seed=5, epoch=epoch)
        assert sorted(order.tolist()) == list(range(2 * SAMPLES))
        windows = list(islice(stream.windows_from(epoch * 2 * SAMPLES, seed=5), 5))
        assert (windows[0].start, windows[-1].stop) == (epoch * 2 * SAMPLES, (epoch + 1) * 2 * SAMPLES)
        for window in windows:
            seen = order[window.start - epoch * 2 * SAMPLES : window.stop - epoch * 2 * SAMPLES].numpy()
            assert set(seen // SAMPLES * 5 + seen % SAMPLES // GROUP) == set(window.groups)
    assert not torch.equal(stream.order(5, 0), stream.order(5, 1))


def test_the_order_is_this_one_for_good():
    """A resumed run goes on in it, under another version of NumPy too."""
    assert Stream(SAMPLES, [[]], WINDOW).order(seed=0, epoch=0)[:8].tolist() == [162, 185, 178, 285, 169, 280, 164, 152]


def test_a_window_of_all_samples_is_the_order_of_local_data(root):
    assert torch.equal(Stream(SAMPLES, [[]], 5 * GROUP).order(7, 2), permutation(SAMPLES, 7, 2))
    assert torch.equal(Stream(SAMPLES, [[]], SAMPLES).order(7, 2), permutation(SAMPLES, 7, 2))
    assert Latents(str(root)).stream is None


@pytest.mark.parametrize("flip", [False, True])
def test_data_larger_than_the_cache_give_what_the_local_folder_gives(root, flip, monkeypatch):
    """Images are joined by key from another order; three epochs pass through a cache of two windows, and every batch
    finds its rows there."""
    here, there = opened(str(root), flip=flip), opened(f"file://{root}", flip=flip)
    there.stream.check_room(BATCH)
    steps, readers, read = 3 * len(here) // BATCH, set[str](), RemoteShards.read
    monkeypatch.setattr(RemoteShards, "read", lambda *args: readers.add(threading.current_thread().name) or read(*args))
    for wanted, indices in zip(islice(batches(here), steps), ahead(there), strict=False):
        assert torch.equal(wanted, indices)
        a, b = here.batch(wanted), there.batch(indices)
        assert all(torch.equal(a[key], b[key]) for key in ("x", "x_std", "y", "image"))
        assert held(there._kept.folder) <= NEEDED < SAMPLES * ROW
    assert readers == {"fetch"}
    assert there.stream.fetched > 1.5 * SAMPLES * ROW


def test_resuming_at_any_step_goes_on_in_the_same_order(root):
    whole = [indices.tolist() for indices in islice(ahead(opened(f"file://{root}")), 40)]
    for step in (1, 5, 6, 17, 39):
        again = ahead(opened(f"file://{root}"), start=step)
        assert [indices.tolist() for indices in islice(again, 40 - step)] == whole[step:]


def test_ranks_share_each_batch(root):
    data = opened(f"file://{root}")
    shares = [islice(batches(data, rank=rank, world=2), 20) for rank in (0, 1)]
    for whole, one, other in zip(batches(data), *shares, strict=False):
        assert sorted([*one.tolist(), *other.tolist()]) == sorted(whole.tolist())


def test_rows_come_over_the_network_once_while_they_are_kept(served):
    data = opened(served.url)
    indices = next(ahead(data, lag=1000))
    before = len(served.asked)
    wanted = data.batch(next(ahead(data, lag=1000)))["image"]
    assert torch.equal(pickle.loads(pickle.dumps(data)).batch(indices)["image"], wanted)
    assert len(served.asked) == before
    data._kept.folder.rename(data._kept.folder.with_name("gone"))
    assert torch.equal(data.batch(indices)["image"], wanted)
    asked = len(served.asked)
    data.batch(torch.tensor([2, 0, 200, 1]))
    assert len(served.asked) == asked + 2 + 2  # latents and images, each in two ranges of neighbours


def test_a_truncated_answer_is_asked_for_again(served, root, capsys):
    broken = iter([True, True])
    served.answer = lambda name, content: (
        (206, content[:-5], len(content) - 5) if next(broken, False) and "npy" in name else as_it_is(name, content)
    )
    data = opened(served.url)
    rows = data.batch(torch.arange(10))
    assert torch.equal(rows["x"], Latents(str(root)).batch(torch.arange(10))["x"])


@pytest.mark.parametrize(
    ("name", "answer", "sentence"),
    [
        ("npy", lambda content: (206, content[:-1], len(content) - 1), r"tried 3 times .* 1 bytes early"),
        ("npy", lambda content: (206, b"\1" * len(content), len(content)), r"not what was prepared: class0/image000"),
        ("npy", lambda content: (404, b"", 0), r"shard-00000\.npy is not there any more"),
        ("npy", lambda content: (503, b"", 0), r"cannot be reached, tried 3 times \(503"),
        ("npy", lambda content: (403, b"", 0), r"refuses to be read \(403.*log in by"),
        ("npy", lambda content: (416, b"", 0), r"cannot be read \(416"),
        (
            "manifest",
            lambda content: (200, content[:-9], len(content) - 9),
            r"manifest\.json cannot be read \(Unterminated",
        ),
        ("shard-00001.json", lambda content: (200, content[:-9], len(content) - 9), r"of another preparation"),
        ("manifest", lambda content: (404, b"", 0), r"manifest\.json does not exist; prepare the data in a local"),
    ],
)
def test_what_a_storage_does_wrong_is_a_sentence(served, name, answer, sentence):
    served.answer = lambda path, content: answer(content) if name in path else as_it_is(path, content)
    with pytest.raises(DiffxError, match=sentence):
        opened(served.url).batch(torch.arange(3))


def test_storage_that_refuses_what_it_does_not_have_has_no_cached_features(served):
    served.answer = lambda path, content: (403, b"", 0) if "features" in path else as_it_is(path, content)
    assert opened(served.url).provide(["features/dinov2_vitb14"], side=1) == ["features/dinov2_vitb14"]


def test_a_server_without_ranges_is_refused(served):
    served.ranges = False
    with pytest.raises(DiffxError, match="answers no ranges of bytes"):
        opened(served.url).batch(torch.arange(3))


def test_shards_that_are_replaced_while_they_are_read_end_the_run(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    stream = ahead(opened(f"file://{copy}"))
    next(stream)
    for file in (copy / "images").glob("*.npy"):
        np.save(file, np.roll(np.load(file), 1, axis=0))
    with pytest.raises(DiffxError, match="not what was prepared"):
        list(islice(stream, 40))


def test_an_error_keeps_nothing_alive_that_was_in_use_when_it_was_raised():
    """The loader's workers end with the loader, and a process does not end before they do."""

    class Gone:
        def fetch(self, group: int) -> None:
            raise DiffxError("gone")

    def use(loader: set[int]) -> None:
        Fetching([(Gone(), 0)], 1).wait()

    loader = set[int]()
    alive = weakref.ref(loader)
    gc.disable()
    try:
        use(loader)
    except DiffxError:
        del loader
    finally:
        gc.enable()
    assert alive() is None


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://bucket/data", r"^s3://bucket/data/latents/manifest.json needs a package that is not here: .*s3fs.*\.$"),
        ("nothing://bucket/data", "cannot be opened: Protocol not known"),
        ("https://me:secret@host/data", "holds a password, a token or a query"),
        ("s3://bucket/data?token=secret", "holds a password, a token or a query"),
        ("http://127.0.0.1:1/data", "cannot be reached, tried 3 times"),
        ("file:///nowhere/data", "manifest.json does not exist"),
    ],
)
def test_a_url_that_cannot_be_read_is_a_sentence_without_secrets(url, sentence):
    with pytest.raises(DiffxError, match=sentence) as caught:
        Latents(url)
    assert "secret" not in str(caught.value)


def test_a_cache_too_small_for_two_windows_is_refused_with_what_to_type(root, monkeypatch):
    data = opened(f"file://{root}", cache_gb=NEEDED / 2 / GB)
    with pytest.raises(DiffxError, match=rf"two windows of 128 samples.*cache_gb=1, or data\.source\.window={GROUP}"):
        data.stream.check_room(BATCH)
    opened(f"file://{root}", cache_gb=NEEDED / 2 / GB, window=GROUP).stream.check_room(BATCH)
    opened(f"file://{root}").stream.check_room(BATCH)
    with pytest.raises(DiffxError, match=r"window=128 is less than a batch; type 129 or more"):
        opened(f"file://{root}").stream.check_room(WINDOW + 1)
    usage = shutil.disk_usage(root)._replace(free=int(NEEDED / 2))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DiffxError, match=r"The disk of .*streams has room for .* type data\.source\.cache= and"):
        opened(f"file://{root}").stream.check_room(BATCH)


@pytest.mark.parametrize(
    ("setting", "value"), [("window", 0), ("window", "all"), ("cache_gb", 0), ("cache_gb", "much")]
)
def test_settings_that_cannot_be_are_refused(root, setting, value):
    with pytest.raises(DiffxError, match=rf"data\.source\.{setting}={value} must be"):
        Latents(f"file://{root}", **{setting: value})


def test_a_preparation_refuses_a_url_instead_of_making_a_folder_of_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert prepare(["images", str(tmp_path), "s3://bucket/data"]) == 2
    assert "s3://bucket/data is a URL" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_window_names_a_run_and_the_url_and_its_cache_do_not():
    def id_of(*words: str) -> str:
        return compose_config(["data=imagenet256", *words]).id

    streamed = id_of("data.source.root=s3://bucket/imagenet256")
    assert id_of("data.source.root=/fast/imagenet256") != streamed
    elsewhere = ("data.source.root=/fast/imagenet256", "data.source.cache=/fast", "data.source.cache_gb=7")
    assert id_of("data.source.window=65536", *elsewhere) == streamed
    assert compose_config(["data=captioned256", "data.source.root=hf://datasets/a/b"]).data.source.window == 8192


def test_of_several_that_want_a_file_one_makes_it(tmp_path, monkeypatch):
    made, folder = [], BoundedFolder(tmp_path, 1000)

    def make() -> bytes:
        made.append(1)
        return bytes(100)

    threads = [threading.Thread(target=folder.fill, args=("a", 100, make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), folder.made, held(tmp_path)) == (1, 100, 100)
    looked = iter([False])
    monkeypatch.setattr(BoundedFolder, "_is_there", lambda self, path, size: next(looked, path.exists()))
    folder.fill("a", 100, make)  # it came between looking and locking
    assert (len(made), sorted(file.name for file in tmp_path.iterdir())) == (1, [bounded.COUNT, "a"])


def test_the_least_recently_used_file_goes_first_and_stays_readable_to_who_has_it_open(tmp_path):
    folder = BoundedFolder(tmp_path, 300)
    for name in "abc":
        folder.fill(name, 90, lambda name=name: name.encode() * 90)
    reader = (tmp_path / "b").open("rb")
    folder.fill("a", 90, bytes)
    assert folder.read_into("c", [(0, memoryview(bytearray(5)))])
    folder.fill("d", 90, lambda: b"d" * 90)
    assert sorted(file.name for file in tmp_path.iterdir()) == [bounded.COUNT, "a", "c", "d"]
    assert reader.read() == b"b" * 90
    assert not folder.read_into("b", [])


def test_what_a_killed_process_has_left_unfinished_is_neither_read_nor_kept(tmp_path):
    (tmp_path / ".a").write_bytes(b"x" * 90)
    (tmp_path / ".b").write_bytes(b"x" * 90)
    (tmp_path / "c").write_bytes(b"cut off")
    folder = BoundedFolder(tmp_path, 200)
    for name in "ac":
        folder.fill(name, 90, lambda: b"y" * 90)
        assert (tmp_path / name).read_bytes() == b"y" * 90
    assert held(tmp_path) == 180


def test_a_file_beyond_the_bound_is_refused_and_what_cannot_be_made_leaves_nothing(tmp_path):
    folder = BoundedFolder(tmp_path, 50)
    with pytest.raises(DiffxError, match=r"no room for 9e-08 GB.*data\.source\.cache_gb"):
        folder.fill("a", 90, lambda: bytes(90))
    with pytest.raises(ZeroDivisionError):
        folder.fill("b", 9, lambda: bytes(1 // 0))
    assert held(tmp_path) == 0
