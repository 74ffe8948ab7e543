"""The wheel, in an environment that has diffx's dependencies but not its checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Choices that go only with another.
PARTNERS = {
    "objective=ddpm": ["sampler=ancestral", "backbone.learn_sigma=true"],
    "sampler=ancestral": ["objective=ddpm", "backbone.learn_sigma=true"],
    "objective=edm": ["sampler=edm"],
    "objective=meanflow": ["sampler=meanflow", "+backbone.two_times=true"],
    "sampler=meanflow": ["objective=meanflow", "+backbone.two_times=true"],
    "eval=dit_cfg": ["objective=ddpm", "backbone.learn_sigma=true"],
    "eval=mdt_power_cosine": ["objective=ddpm", "backbone.learn_sigma=true"],
    "eval=pixart_clip": ["objective=ddpm", "backbone.learn_sigma=true"],
    "eval=tread_edm": ["objective=edm"],
    "sampler=edm": ["objective=edm"],
    "guidance=early_head": ["data=imagenet256", "backbone=rae2_xl", "plugins=[early_head]"],
    "plugins=[early_head]": ["data=imagenet256", "backbone=rae2_xl"],
    "plugins=[haste]": ["data=imagenet256", "backbone=s"],
    "plugins=[sra2]": ["data=imagenet256"],
    "+experiment=smoke": ["data=imagenet256", "eval=curve", "plugins=[repa]"],
}
PARTNERS |= {
    f"autoencoder={file.stem}": ["data=imagenet256", f"backbone.patch_size={16 if file.stem == 'pixels' else 1}"]
    for file in (ROOT / "conf/autoencoder").glob("*.yaml")
}
PARTNERS |= {
    f"backbone={file.stem}": ["data=captions"]
    for file in (ROOT / "conf/backbone").glob("*.yaml")
    if file.stem.startswith(("mmdit", "pixart", "sd3"))
}
PARTNERS["end_to_end=repa_e"] = ["data=shapes_latent", "plugins=[repa]"]
COMPOSED_ONLY = ["guidance=autoguidance", "guidance=contrastive"]  # they need what a run has written


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with only the wheel installed; dependencies are read from the one the tests run in."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("diffx_train-*.whl")
    paths = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    site = Path(paths.stdout.strip())
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    # Folders named in a .pth file are not searched for .pth files themselves, so the editable diffx stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, folder: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"DIFFX_HOME": str(folder / "home")}
    result = subprocess.run([python, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_is_what_is_imported_and_carries_its_configuration(python: Path, tmp_path: Path) -> None:
    code = "import diffx, diffx_plugins, diffx.config.compose as c; print(diffx.__file__); print(c.config_dir())"
    package, conf = run(python, tmp_path, "-c", code).split()
    assert str(ROOT / "src") not in package
    assert Path(conf) == Path(package).parent / "conf"
    assert (Path(conf) / "config.yaml").is_file()


def test_every_config_of_the_wheel_composes_and_plans_from_any_directory(python: Path, tmp_path: Path) -> None:
    code = (
        f"partners, composed_only = {PARTNERS}, {COMPOSED_ONLY}\n"
        "from diffx.config.compose import compose_config, config_dir; from diffx.assemble.model import build_model\n"
        "for file in sorted(config_dir().glob('*/*.yaml')):\n"
        "    group, name = file.parent.name, file.stem\n"
        "    value = f'[{name}]' if group == 'plugins' else name\n"
        "    choice = ('+' if group == 'experiment' else '') + f'{group}={value}'\n"
        "    settings = compose_config([choice, *partners.get(choice, [])])\n"
        "    choice in composed_only or build_model(settings, 'meta')\n"
        "    print(group, name)\n"
    )
    composed = run(python, tmp_path, "-c", code).splitlines()
    assert len(composed) == len(list((ROOT / "conf").glob("*/*.yaml")))


def test_the_wheel_trains_a_step(python: Path, tmp_path: Path) -> None:
    settings = ["max_steps=1", "logger=none", "backbone.depth=2", "eval.samples=100", "sampler.nfe=1", "batch_size=4"]
    run(python, tmp_path, "-m", "diffx", "plugins=[tread]", *settings, "plugins.tread.start=0", "plugins.tread.end=0")
    assert list(tmp_path.glob("runs/digits/*/s0/curve.jsonl"))
    assert not list(tmp_path.glob("home/embedded/*"))  # the feature networks came with the wheel


def test_a_third_partys_package_is_found_planned_trained_and_passes_the_contract(python: Path, tmp_path: Path) -> None:
    """docs/package, built as a wheel and installed beside diffx's."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "docs" / "package", source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True)
    (wheel,) = tmp_path.glob("diffx_spread-*.whl")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = run(python, tmp_path, "-c", where).strip()
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    assert "spread reads" in run(python, tmp_path, "-m", "diffx.plan", "plugins=[spread,tread]")
    settings = ["max_steps=1", "logger=none", "eval.samples=100", "sampler.nfe=1", "batch_size=4"]
    run(python, tmp_path, "-m", "diffx", "plugins=[spread]", *settings)
    assert list(tmp_path.glob("runs/digits/*/s0/curve.jsonl"))
    chosen = "one_graph or switched_off or copy or counted"
    passed = run(python, tmp_path, "-m", "pytest", "-q", "-k", chosen, "-p", "no:cacheprovider", str(source / "tests"))
    assert "5 passed" in passed
