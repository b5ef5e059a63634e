"""Random draws that depend on a key alone.

Every draw of the project names what it is for: `generator("training noise", seed, step)`. The key
is hashed to the 128-bit key of a counter-based generator (Philox), so the same key gives the same
numbers whatever was drawn before it, in whatever order, batch, shard or process.
"""

import hashlib

import numpy as np

KeyPart = str | int | None


def digest(*key: KeyPart) -> bytes:
    """16 bytes that depend on every part of the key, on its type, and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def generator(*key: KeyPart) -> np.random.Generator:
    """A NumPy generator at the start of the stream that belongs to `key`."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest(*key), "little")))


def normal(shape: tuple[int, ...], *key: KeyPart) -> np.ndarray:
    """Standard normal float32 draws of `shape` for `key`."""
    return generator(*key).standard_normal(shape, dtype=np.float32)


def seed(*key: KeyPart) -> int:
    """A 63-bit seed for what takes no key: torch's dropout and initialisation."""
    return int.from_bytes(digest(*key)[:8], "little") >> 1
