"""Random streams that are functions of (seed, purpose, index), so that none depends on what came before.

Iteration k draws the same batch and the same latents whether or not the run was stopped, evaluated or
sampled in between; nothing has to be stored to resume.
"""

import zlib

import numpy as np
import torch


def stream(seed: int, purpose: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose at one index, e.g. `stream(0, "latents", iteration, 1)`.

    Different arguments give statistically independent streams (numpy's SeedSequence mixes them), where those
    of one purpose have equally many indices: zeros at the end count for nothing. On the CPU torch keeps 32
    bits of a seed, so that among n streams about n²/2³³ pairs are the same.
    """
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, *index))


def seed_of(seed: int, purpose: str, *index: int) -> int:
    """What seeds the generator of a stream, for who draws from many with one generator."""
    entropy = [seed, zlib.crc32(purpose.encode()), *index]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
