"""Settings against the classes that they are for, and against each other."""

import inspect
import math
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from diffx.config.parse import nodes_of
from diffx.config.settings import SEEDS, Settings
from diffx.config.target import Node, target_of
from diffx.errors import DiffxError, unknown_key
from diffx.frozen.autoencoder import SPECS as AUTOENCODERS
from diffx.frozen.encoder import encoder_spec

# What arguments of classes may be at least and at most, where nonsense would otherwise be taken, or never come back. A
# class's own checks come on top; plugins may be called anything.
LIMITS: dict[str, tuple[float, float]] = {
    "backbone.depth": (1, 1000),
    "backbone.hidden_size": (1, 65_536),
    "backbone.num_heads": (1, 1024),
    "backbone.patch_size": (1, 4096),
    "backbone.input_size": (1, 16_384),
    "backbone.in_channels": (1, 4096),
    "backbone.num_classes": (1, 10_000_000),
    "backbone.decoder_layers": (0, 1000),
    "backbone.decoder_width": (1, 65_536),
    "backbone.decoder_depth": (1, 1000),
    "backbone.decoder_heads": (1, 1024),
    "backbone.dense": (1, 1000),
    "backbone.bottleneck": (1, 65_536),
    "backbone.context_tokens": (0, 10_000),
    "backbone.context_start": (0, 1000),
    "backbone.early_depth": (1, 1000),
    "backbone.time_tokens": (1, 10_000),
    "backbone.label_tokens": (1, 10_000),
    "backbone.mlp_ratio": (0.01, 100),
    "objective.shift": (1e-3, 1e3),
    "objective.min_snr": (1e-3, 1e6),
    "objective.floor": (0, 1),
    "objective.std": (1e-3, 1e3),
    "objective.sigma_data": (1e-3, 1e3),
    "objective.mean": (-100, 100),
    "sampler.nfe": (1, 1_000_000),
    "sampler.shift": (1e-3, 1e3),
    "sampler.sigma_min": (1e-9, 1e6),
    "sampler.sigma_max": (1e-9, 1e6),
    "sampler.rho": (0.01, 1000),
    "sampler.last_step": (0, 1),
    "sampler.rtol": (1e-12, 1),
    "sampler.atol": (0, 1),
    "guidance.scale": (0, 1e4),
    "guidance.power": (1e-3, 1e3),
    "guidance.start": (0, 1000),
    "guidance.end": (0, 1000),
    "guidance.seed": (0, SEEDS - 1),
    "optimizer.lr": (0, 1e30),  # float32 holds that, and a run that it breaks says so
    "optimizer.eps": (0, 1e30),
    "optimizer.weight_decay": (0, 1e30),
    "data.source.seed": (0, SEEDS - 1),
    "plugins.*.weight": (-math.inf, 1e6),
    "plugins.*.projector_dim": (1, 65_536),
    "plugins.*.depth": (0, 1000),
    "plugins.*.temperature": (1e-4, 1e4),
    "plugins.*.width": (1, 65_536),
    "data.source.count": (1, 100_000_000),
}

OF_EVERY_PLUGIN = {"stop": inspect.Parameter("stop", inspect.Parameter.KEYWORD_ONLY, annotation=int | None)}


def check(settings: Settings) -> None:
    """Refuse arguments that no class takes, and settings that do not go with each other."""
    _check_condition(settings)
    for path, node in nodes_of(settings):
        _check_arguments(path, node)
    _check_together(settings)


def _check_condition(settings: Settings) -> None:
    """Refuse data without classes and captions, and captions for a network of classes, whose number would be 0."""
    data = settings.data
    if data.text is None and data.num_classes == 0:
        raise DiffxError(
            f"data.num_classes=0, and data={data.name} has no captions (data.text); type how many there are."
        )
    if data.text is None:
        return
    if "num_classes" in inspect.signature(target_of(settings.backbone, "backbone")).parameters:
        raise DiffxError(
            f"data={data.name} has captions, and {settings.backbone.target} is conditioned by classes; type "
            "backbone=mmdit_tiny without plugins that bring a backbone of their own, or data=shapes."
        )


def _check_arguments(path: str, node: Node) -> None:
    """Every setting of a node is an argument of its class, and of its kind."""
    known = dict(inspect.signature(target_of(node, path)).parameters)
    if path.startswith("plugins."):
        known |= OF_EVERY_PLUGIN
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    for key, value in node.arguments.items():
        if key not in known:
            raise DiffxError(unknown_key(f"{path}.{key}", [f"{path}.{name}" for name in known]))
        _check_kind(f"{path}.{key}", value, known[key].annotation)
        _check_limits(f"{path}.{key}", value)


def _check_kind(key: str, value: Any, annotation: Any) -> None:
    """Refuse a word where a class asks for a number, and the like; annotations that say more are left to the class."""
    kinds = set(get_args(annotation)) if isinstance(annotation, UnionType) else {annotation}
    if not kinds <= {int, float, str, bool, NoneType}:
        return
    fits = type(value) in kinds or (type(value) is int and float in kinds)
    if not fits:
        wanted = " or ".join(sorted("null" if kind is NoneType else kind.__name__ for kind in kinds))
        raise DiffxError(f"{key}={value} has the wrong kind; type {wanted}.")


def _check_limits(key: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise DiffxError(f"{key}={value} is not a finite number; type one that is.")
    least, most = LIMITS.get(re.sub(r"^plugins\.[^.]+", "plugins.*", key), (-math.inf, math.inf))
    limited = isinstance(value, int | float) and (least, most) != (-math.inf, math.inf)
    if limited and (isinstance(value, bool) or not least <= value <= most):
        raise DiffxError(f"{key}={value} must lie between {least:g} and {most:g}.")


def _check_together(settings: Settings) -> None:
    """Refuse settings that do not go with each other."""
    trainer = settings.trainer
    if trainer.strategy == "fsdp" and trainer.precision == "16-mixed":
        raise DiffxError("trainer.strategy=fsdp does not go with 16-mixed; type trainer.precision=bf16-mixed.")
    if trainer.stream == "bfloat16" and trainer.precision not in ("bf16-mixed", "fp8"):
        raise DiffxError(
            "trainer.stream=bfloat16 goes with trainer.precision=bf16-mixed or fp8, not with "
            f"{trainer.precision}; type one of them, or trainer.stream=float32."
        )
    if trainer.strategy == "fsdp" and settings.compile == "step":
        raise DiffxError("trainer.strategy=fsdp gathers weights between blocks; type compile=blocks.")
    if settings.optimizer.get("fused") and trainer.precision == "16-mixed":
        raise DiffxError(
            "trainer.precision=16-mixed scales gradients, which a fused optimizer hides from clipping; "
            "type optimizer.fused=false."
        )
    rate = settings.learning_rate
    if rate.name != "constant" and (rate.steps is None or rate.warmup >= rate.steps):
        raise DiffxError(
            f"learning_rate={rate.name} needs its length, longer than the warm-up of {rate.warmup} steps; type "
            f"learning_rate.steps={max(settings.max_steps, rate.warmup + 1)}."
        )
    _check_names(settings)
    _check_autoencoder(settings)
    _check_end_to_end(settings)
    more = settings.more_ema_decays
    if len({settings.ema_decay, *more}) < 1 + len(more):
        raise DiffxError(f"ema_decay={settings.ema_decay} and more_ema_decays={list(more)} name an average twice.")
    if settings.budget and not settings.budget.hours:
        raise DiffxError("budget={} says nothing; type 'budget={cpu_hours: 1}', gpu_hours, or budget=null.")


def _check_autoencoder(settings: Settings) -> None:
    """Refuse data of another shape than the autoencoder's latents."""
    name, data = settings.autoencoder, settings.data
    if name is None:
        return
    if name not in AUTOENCODERS:
        raise DiffxError(f"autoencoder={name} is not known; type one of {', '.join(AUTOENCODERS)}.")
    spec = AUTOENCODERS[name]
    side = data.image_size // (spec.stride or 1)
    if (data.channels, data.size) != (spec.channels, side):
        raise DiffxError(
            f"data.channels={data.channels} data.size={data.size}, and autoencoder={name} makes {spec.channels} "
            f"channels of {side}x{side} from images of {data.image_size} pixels; leave data.channels and data.size out."
        )


def _check_end_to_end(settings: Settings) -> None:
    """Refuse what an autoencoder cannot be trained under together with the network."""
    if settings.end_to_end is None:
        return
    if settings.data.decoder == "pixels":
        raise DiffxError(
            f"end_to_end trains the autoencoder behind latents, and data={settings.data.name} is made of pixels; type "
            "data=shapes_latent, or data=imagenet256."
        )
    if settings.eval.decoder is not None:
        raise DiffxError(
            f"end_to_end trains the autoencoder that decodes samples, and eval.decoder={settings.eval.decoder} names "
            "another; type eval.decoder=null."
        )
    if settings.trainer.strategy == "fsdp":
        raise DiffxError(
            "trainer.strategy=fsdp shards the network that end_to_end holds still in one of its two passes, which has "
            "not been made to work; type trainer.strategy=ddp."
        )
    if settings.trainer.activation_checkpointing:
        raise DiffxError(
            "trainer.activation_checkpointing runs blocks again in the backward pass, when the pass that end_to_end "
            "holds them still for is over; type trainer.activation_checkpointing=false."
        )


def _check_names(settings: Settings) -> None:
    """Words that stand for folders, channels and decoders."""
    for key in ("experiment", "study"):
        name = getattr(settings, key)
        if name is not None and (Path(name).name != name or name in ("", ".", "..")):
            raise DiffxError(f"{key}={name} names a folder under runs_dir; type a name without slashes.")
    if not settings.runs_dir.strip():
        raise DiffxError("runs_dir= is no folder; type runs_dir=runs.")
    if "://" in settings.runs_dir:
        raise DiffxError(
            f"runs_dir={settings.runs_dir} is object storage, which has neither the renames nor the locks that keep a "
            "run whole; type runs_dir=runs and copy it during or after the run (`s5cmd sync`, `rclone copy`), or the "
            "folder where `rclone mount --vfs-cache-mode full` has put the bucket."
        )
    encoder_spec(settings.data.encoder)
    if settings.logger.name == "lightning" and settings.logger.lightning is None:
        raise DiffxError(
            "logger=lightning needs a class; type logger.lightning._target_=lightning.pytorch.loggers.NAME."
        )
    if not settings.logger.project.strip():
        raise DiffxError("logger.project= is no name of a project in W&B; type logger.project=diffx, or logger=none.")
    channels = settings.guidance.get("channels")
    most = max(4, settings.data.channels)  # the published protocols say 3 of a latent's 4, whatever the data here
    if channels is not None and not 1 <= channels <= most:
        raise DiffxError(
            f"guidance.channels={channels}, and data={settings.data.name} has {settings.data.channels}; type a number "
            f"from 1 to {most}, or null for all of them."
        )
    source = settings.data.source
    own = getattr(target_of(source), "decoder", "pixels")
    key, decoder = ("eval", settings.eval.decoder) if settings.eval.decoder else ("data", settings.data.decoder)
    if "decoder" not in source.arguments and decoder != own:
        made = "of pixels, which nothing decodes" if own == "pixels" else "by an autoencoder of its own"
        raise DiffxError(
            f"{key}.decoder={decoder}, and data={settings.data.name} is made {made}; type "
            f"{key}.decoder={'null' if key == 'eval' else own}."
        )
