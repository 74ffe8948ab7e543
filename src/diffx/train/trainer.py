"""The Lightning trainer of a run, which leaves bars, checkpoints and samplers to diffx."""

import logging
import warnings

import lightning as L
from omegaconf import DictConfig

from diffx.train.clock import Meter
from diffx.train.strategy import Ranks, make_strategy


def make_trainer(config: DictConfig, meter: Meter, callbacks: list[L.Callback]) -> L.Trainer:
    """A Lightning trainer that leaves bars, checkpoints and samplers to diffx, and is silent."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    trainer = L.Trainer(
        accelerator=meter.device.type,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=make_strategy(config.trainer.strategy, meter.device),
        plugins=[Ranks()],
        precision=config.trainer.precision,
        accumulate_grad_batches=config.trainer.accumulate,
        gradient_clip_val=config.trainer.gradient_clip_val,
        max_steps=config.max_steps,
        max_epochs=-1,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    # Interruption hears signals. Lightning would take SIGTERM away from it, broadcast from inside the handler, and, on
    # several GPUs, make every batch wait for the device to ask whether there was one.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer
