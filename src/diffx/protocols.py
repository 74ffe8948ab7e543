"""The evaluation protocols of conf/eval, applied to the configuration of a run that is there already."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from diffx.build import check, unknown_key
from diffx.compose import compose_config
from diffx.errors import DiffxError

SECTIONS = ("eval", "sampler", "guidance")


def with_protocol(config: DictConfig, name: str | None, settings: Sequence[str] = ()) -> DictConfig:
    """A copy of a run's resolved configuration that samples and measures as `python -m diffx eval=NAME` does.

    name: a file of conf/eval; None keeps the run's own. settings: KEY=VALUE on top, of eval, sampler and guidance.

    Raises:
        DiffxError: an unknown protocol or setting, or a value that cannot be.
    """
    changed = OmegaConf.create(OmegaConf.to_container(config))
    assert isinstance(changed, DictConfig)
    if name is not None:
        chosen = compose_config([f"eval={name}", f"data.image_size={config.data.image_size}"])
        for section in SECTIONS:
            changed[section] = chosen[section]
    known = [f"{section}.{key}" for section in SECTIONS for key in changed[section] if key != "_target_"]
    known += [f"eval.metrics.{key}" for key in changed.eval.metrics if key != "_target_"]
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not equals or key not in known:
            raise DiffxError(unknown_key(key, known))
        changed.merge_with(OmegaConf.from_dotlist([setting]))
    check(changed)
    return changed
