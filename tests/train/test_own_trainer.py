"""A DiffusionModule trains under a lightning.Trainer of the user's own, and `import diffx` offers what that takes."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

import diffx
from diffx.errors import DiffxError, Diverged
from diffx_plugins.repa import REPA
from diffx_plugins.tread import TREAD

QUIET: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
ROOT = Path(__file__).parents[2]


def batches(count: int, scale: float = 1.0, **more: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 1, 8, 8, generator=rng), torch.arange(8) % 4
    return [{"x": x * scale, "y": y, **more}] * count


def loader(given: list[dict[str, torch.Tensor]]) -> DataLoader[Any]:
    return DataLoader(given, batch_size=None)  # type: ignore[arg-type]


def network() -> diffx.DiT:
    torch.manual_seed(0)
    return diffx.DiT(input_size=8, in_channels=1, patch_size=2, hidden_size=32, depth=4, num_heads=2, num_classes=4)


def optimizer(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3)


class Losses(L.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        self.seen.append(float(module.terms["denoise"]))


def test_it_trains_over_epochs_and_lowers_the_loss(tmp_path: Path) -> None:
    losses = Losses()
    module = diffx.DiffusionModule.of(network(), {"tread": TREAD(start=1, end=2)}, optimizer=optimizer, ema_decay=0.9)
    start = module.ema.final_layer.linear.weight.clone()
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", callbacks=[losses], default_root_dir=tmp_path, gradient_clip_val=1.0, **QUIET
    )
    trainer.fit(module, loader(batches(40, scale=0.1)))
    assert trainer.global_step == 120
    assert sum(losses.seen[-20:]) < 0.9 * sum(losses.seen[:20])
    assert not torch.equal(module.ema.final_layer.linear.weight, start)


def test_its_checkpoint_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
        "accumulate_grad_batches": 2,
        **QUIET,
    }
    whole = diffx.DiffusionModule.of(network(), optimizer=optimizer)
    L.Trainer(max_steps=9, **options).fit(whole, loader(batches(8)))
    first = L.Trainer(max_steps=5, **options)
    first.fit(diffx.DiffusionModule.of(network(), optimizer=optimizer), loader(batches(8)))
    first.save_checkpoint(tmp_path / "five.ckpt")
    parts = diffx.DiffusionModule.of(network(), optimizer=optimizer)
    L.Trainer(max_steps=9, **options).fit(parts, loader(batches(8)), ckpt_path=tmp_path / "five.ckpt")
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_a_plugin_needs_comes_as_a_service() -> None:
    plugin = REPA(encoder="embedded", projector_dim=16)
    calls = []

    def encode(image: torch.Tensor) -> torch.Tensor:
        calls.append(len(image))
        return torch.ones(len(image), 16, 128)

    module = diffx.DiffusionModule.of(
        network(), {"repa": plugin}, optimizer=optimizer, services={"features/embedded": encode}
    )
    with_images = loader(batches(2, image=torch.zeros(8, 1, 8, 8, dtype=torch.uint8)))
    L.Trainer(max_steps=2, accelerator="cpu", enable_checkpointing=False, **QUIET).fit(module, with_images)
    assert calls == [8, 8]
    assert "repa" in module.terms


def test_a_need_that_nothing_meets_is_refused() -> None:
    with pytest.raises(DiffxError, match="features/embedded"):
        diffx.DiffusionModule.of(network(), {"repa": REPA(encoder="embedded")}, optimizer=optimizer)


def test_gradients_that_break_end_it_with_the_reason() -> None:
    module = diffx.DiffusionModule.of(network(), optimizer=optimizer)
    poisoned = loader(batches(30, scale=float("nan")))
    with pytest.raises(Diverged, match="the loss denoise is not finite"):
        L.Trainer(max_steps=30, accelerator="cpu", enable_checkpointing=False, **QUIET).fit(module, poisoned)


def test_a_skipped_step_moves_no_average() -> None:
    module = diffx.DiffusionModule.of(network(), optimizer=optimizer, ema_decay=0.5)
    trainer = L.Trainer(max_steps=3, accelerator="cpu", enable_checkpointing=False, callbacks=[Kept()], **QUIET)
    trainer.fit(module, loader([*batches(2), *batches(1, scale=float("nan"))]))
    two, three = trainer.callbacks[0].kept[1:]  # type: ignore[attr-defined]
    assert int(module.guard.skipped) == 1
    assert all(torch.equal(a, b) for a, b in zip(two, three, strict=True))


class Kept(L.Callback):
    """The averages after every step."""

    def __init__(self) -> None:
        self.kept: list[list[torch.Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step:
            self.kept.append([p.clone() for p in module.ema.parameters()])

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self.kept.append([p.clone() for p in module.ema.parameters()])


def test_every_public_name_is_there() -> None:
    assert {"DiT", "Plugin", "Span", "Tokens", "DiffusionModule", "compare"} <= set(diffx.__all__)
    for name in diffx.__all__:
        assert getattr(diffx, name) is not None
    assert set(diffx.__all__) <= set(dir(diffx))
    with pytest.raises(AttributeError, match="nothing"):
        diffx.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["diffx", "diffx.commands.train", "diffx.commands.worker", "diffx.commands.sample"])
def test_importing_diffx_or_a_command_imports_no_torch(module: str) -> None:
    """OpenMP reads its waiting policy when torch is imported, and commands set it when they run."""
    code = f"import sys, {module}; print([name for name in ('torch', 'lightning', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/train.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "denoise" in done.stdout
