"""The random generators of a step: one for each consumer."""

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Streams:
    """The random generators of one step: one for each consumer, a function of (run seed, step, rank, consumer).

    So switching a plugin on changes no other draw: runs of one seed see the same batches, times, noise and dropped
    labels. And nothing has to be saved to resume exactly.
    """

    seed: int
    step: int
    rank: int = 0
    device: torch.device | str = "cpu"

    def own(self, consumer: str) -> torch.Generator:
        """This rank's generator."""
        return self._generator(f"{self.seed}/{self.step}/{self.rank}/{consumer}", self.device)

    def shared(self, consumer: str) -> torch.Generator:
        """A generator that draws alike on all ranks, on the CPU."""
        return self._generator(f"{self.seed}/{self.step}/shared/{consumer}", "cpu")

    @staticmethod
    def _generator(key: str, device: torch.device | str) -> torch.Generator:
        digest = hashlib.blake2b(key.encode(), digest_size=7).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))
