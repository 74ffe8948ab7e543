"""`push` and `pull`: what of a folder goes to the Hugging Face Hub, and what comes from there.

Weights (safetensors), settings, the run's record and its measured values; never `last.ckpt`, which holds the optimizer
and is ten times as large, nor samples. Nothing that is pulled can run: commands read the folder by the rules for
folders of strangers (`diffx.config.trust`).
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from diffx.checkpoint.folder import BACKBONE, CONFIG, PLUGIN, UNUSED
from diffx.checkpoint.hub.model_card import write_card
from diffx.checkpoint.tensors import read_tensors
from diffx.errors import DiffxError
from diffx.frozen.hub import hub_answers
from diffx.run.folder import RunDir
from diffx.store.sealed import read_sealed

CARD = "README.md"
FACTS = (CONFIG, "run.json", "plan.txt", "curve*.jsonl", "values_*.json")
WEIGHTS = ("checkpoints/ema.safetensors", "checkpoints/autoencoder.safetensors", BACKBONE, PLUGIN, UNUSED)
SERVER = 500  # statuses from here on are the server's own faults


def push(source: Path, repository: str, public: bool = False) -> list[str]:
    """Write a run's averaged weights or an imported model, with its card, into a repository, which is made where there
    is none: private unless `public`. Returns what there is to say.

    Raises:
        DiffxError: no run and no model, damaged weights, or a Hub that does not answer or refuses.
    """
    files = find_files(source)
    check_weights(source)
    refuse_without_hub()
    if huggingface_hub.get_token() is None:
        raise DiffxError("push needs a token of the Hugging Face Hub that may write; type `hf auth login` first.")
    added = [CommitOperationAdd(file.relative_to(source).as_posix(), file) for file in files]
    card = CommitOperationAdd(CARD, write_card(source, repository).encode())
    with asking(repository):
        api = HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        made = api.create_commit(repository, [*added, card], commit_message="A model of diffx")
    size = sum(file.stat().st_size for file in files)
    listed = ", ".join(file.relative_to(source).as_posix() for file in files)
    return [
        f"pushed {listed} and {CARD}: {size / 1e6:.1f} MB, {'public' if public else 'private if it is new'}",
        str(made.repo_url),
    ]


def pull(repository: str, folder: Path | None = None, revision: str | None = None) -> list[str]:
    """Bring what `push` wrote into a folder (by default of the repository's name) and check its weights. Returns what
    there is to say. A download that broke off goes on.

    Raises:
        DiffxError: the folder holds something, the repository holds no model of diffx, or the Hub does not answer.
    """
    folder = Path(repository.rpartition("/")[2]) if folder is None else folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DiffxError(f"{folder} is there already; type -o and another folder.")
    refuse_without_hub()
    partial = folder.with_name(f"{folder.name}.partial")
    with asking(repository):
        # First which commit: snapshot_download takes what lies in the folder where the Hub does not say.
        commit = HfApi().model_info(repository, revision=revision).sha
        wanted = [*FACTS, *WEIGHTS, CARD]
        HfApi().snapshot_download(repository, revision=commit, local_dir=partial, allow_patterns=wanted)
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    try:
        files = find_files(partial)
        check_weights(partial)
    except DiffxError as error:
        said = str(error).replace(str(partial), repository)
        shutil.rmtree(partial)
        raise DiffxError(said) from error
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    size = sum((folder / file.relative_to(partial)).stat().st_size for file in files)
    return [
        f"pulled {len(files)} files, {size / 1e6:.1f} MB, into {folder}",
        f"python -m diffx.sample {folder} -n 64",
        f"python -m diffx.evaluate {folder} --protocol adm_50k",
    ]


def find_files(source: Path) -> list[Path]:
    """What of a folder is shared, weights last. Raises DiffxError where it is neither a run nor an imported model."""
    facts, weights = (
        [file for pattern in patterns for file in sorted(source.glob(pattern)) if file.is_file()]
        for patterns in (FACTS, WEIGHTS)
    )
    run, model = source / WEIGHTS[0], source / BACKBONE
    if not (source / CONFIG).is_file() or not (run in weights or model in weights):
        raise DiffxError(
            f"{source} is neither a run with a checkpoint ({CONFIG} and {WEIGHTS[0]}) nor an imported model ({CONFIG} "
            f"and {BACKBONE})."
        )
    return [*facts, *weights]


def check_weights(source: Path) -> None:
    """Raises DiffxError for weights that are damaged: a run's have a seal, a model's are read."""
    if (averaged := RunDir(source).ema_weights).is_file():
        read_sealed(averaged)
    else:
        read_tensors(source / BACKBONE)


def refuse_without_hub() -> None:
    if not hub_answers():
        raise DiffxError(
            "The Hugging Face Hub does not answer, or HF_HUB_OFFLINE=1 says not to ask it; a folder can be copied as "
            "it is, too."
        )


@contextmanager
def asking(repository: str) -> Iterator[None]:
    """The Hub's refusals, of whatever kind, as sentences."""
    try:
        yield
    except HFValidationError as error:
        raise DiffxError(f"{repository} is no name of a repository; type USER/NAME.") from error
    except RepositoryNotFoundError as error:
        raise DiffxError(
            f"The Hugging Face Hub has no repository {repository}, or a private one that your token may not see."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        whose = "has a fault of its own" if status >= SERVER else "refuses this token or these files"
        raise DiffxError(f"The Hugging Face Hub {whose} for {repository} (status {status}).") from error
    except Exception as error:  # the client has errors of many kinds for a connection that breaks
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DiffxError(f"{repository}: the Hugging Face Hub could not be asked ({reason}).") from error
