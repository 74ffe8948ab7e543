"""What a cluster is: its GPUs, links, storage, failures and price."""

from dataclasses import dataclass
from typing import NamedTuple

from diffx.config.settings import number, one_of


class Gpu(NamedTuple):
    """Of one GPU, by its maker's data sheet.

    peak: dense bfloat16 FLOP/s. memory: bytes. copies: bytes/s, 0.9 of the sheet's, which is what copies were seen to
    reach on an H200 (4.3 of 4.8 TB/s). link: bytes/s to the other GPUs of its node, in one direction.
    """

    peak: float
    memory: float
    copies: float
    link: float


GPUS = {
    "a100": Gpu(312e12, 80e9, 0.9 * 2.04e12, 300e9),
    "h100": Gpu(989e12, 80e9, 0.9 * 3.35e12, 450e9),
    "h200": Gpu(989e12, 141e9, 0.9 * 4.8e12, 450e9),
    "b200": Gpu(2250e12, 180e9, 0.9 * 8e12, 900e9),
}
PER_DEVICE = 32  # images, where the batch of the settings has less than one for each device


@dataclass(frozen=True, kw_only=True)
class Machine:
    """devices: GPUs at most. node: GPUs of a node. step_ms, step_batch: a step of `step_batch` images measured on one
    such GPU; without it products are taken to run at `utilisation` of the peak, which is a guess: by arithmetic, what
    compiled blocks reach on an H200.

    nic: Gbit/s of network for each GPU. collectives: share of the links' bandwidth that sums over GPUs reach. latency:
    µs of one hop. storage: GB/s that a node reads. sample_bytes: read for each image; 0: counted from the settings.
    images: in the data set; 0: as the data has them. saving: GB/s at which a checkpoint is written. failures: for 1,000
    GPU-days; the default is that of Llama 3's training, 419 in 54 days of 16,384 H100s (arXiv 2407.21783, table 5).
    restart: minutes from a failure to the next step. price: for a GPU-hour.
    """

    devices: int = number(8, least=1, below=10**7)
    gpu: str = one_of("h100", *GPUS)
    node: int = number(8, least=1, below=1025)
    step_ms: float | None = number(None, least=1e-3, below=1e9)
    step_batch: int | None = number(None, least=1, below=10**7)
    utilisation: float = number(0.43, least=1e-3, below=1.001)
    nic: float = number(400, least=1e-3, below=1e6)
    collectives: float = number(0.8, least=1e-3, below=1.001)
    latency: float = number(10, below=1e6)
    storage: float = number(2, least=1e-6, below=1e6)
    sample_bytes: int = number(0, below=10**10)
    images: int = number(0, below=10**14)
    saving: float = number(2, least=1e-6, below=1e6)
    failures: float = number(0.47, below=1e6)
    restart: float = number(10, below=1e6)
    price: float = number(2.5, below=1e6)

    @property
    def chip(self) -> Gpu:
        return GPUS[self.gpu]
