"""The Lightning trainer of a run, which leaves bars, checkpoints and samplers to diffx."""

import logging
import warnings

import lightning as L

from diffx.config.settings import Settings
from diffx.train.clock import Meter
from diffx.train.strategy import Ranks, make_strategy


def make_trainer(settings: Settings, meter: Meter, callbacks: list[L.Callback]) -> L.Trainer:
    """A Lightning trainer that leaves bars, checkpoints and samplers to diffx, and is silent."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    trainer = L.Trainer(
        accelerator=meter.device.type,
        devices=settings.trainer.devices,
        num_nodes=settings.trainer.num_nodes,
        strategy=make_strategy(settings.trainer.strategy, meter.device),
        plugins=[Ranks()],
        precision=settings.trainer.precision,  # type: ignore[arg-type]  # one of the choices of TrainerSettings
        accumulate_grad_batches=settings.trainer.accumulate,
        gradient_clip_val=settings.trainer.gradient_clip_val,
        max_steps=settings.max_steps,
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
