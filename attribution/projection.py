"""Random projections of gradients: `[images, p] -> [images, k]` with E<Pg, Pg'> = <g, g'>.

Four kinds. `count_sketch` is the default: no matrix, one pass over the gradient, the same numbers
on CPU and GPU. `normal` and `rademacher` are the dense projectors of traker, as in the paper's
code, with what they leave out (scale, checks) put around them. `none` keeps the gradient as it is.

A projector has an *identity*: everything that changes its numbers. Features may be compared only
when their identities are equal, see `require_same_identity`. docs/projection.md tells more.
"""

import importlib.metadata
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from attribution import randomness
from attribution.errors import ConfigurationError, NumericalError, StoreError

KINDS = ("count_sketch", "normal", "rademacher", "none")
BACKENDS = ("basic", "cuda")
FAST_JL_BATCHES = (8, 16, 32)
FAST_JL_DIM_STEP = 512
GATHER_BYTES = 2**28  # working memory of the count-sketch on a GPU


class Projector(ABC):
    """A fixed linear map from gradients of `source_dim` numbers to features of `dim` numbers.

    `identity` is a JSON-able dict of all that determines the numbers; `device` is where gradients
    are moved to and where features come out.
    """

    def __init__(self, identity: dict[str, Any], device: torch.device):
        self.identity = identity
        self.source_dim: int = identity["source_dim"]
        self.dim: int = identity["dim"]
        self.device = device

    @torch.no_grad()
    def project(self, gradients: Tensor) -> Tensor:
        """Features [B, dim], float32, of gradients [B, source_dim].

        Raises ConfigurationError for a wrong shape, and NumericalError, whose `rows` holds the
        indices in the batch, for gradients that are not finite or all zero and for features that
        come out so.
        """
        if gradients.ndim != 2 or gradients.shape[1] != self.source_dim:
            raise ConfigurationError(
                f"The projector takes gradients of shape [batch, {self.source_dim}], "
                f"but was given {list(gradients.shape)}."
            )
        gradients = gradients.to(self.device, torch.float32)  # [B, p]
        features = self._apply(gradients)  # [B, k]
        _check_rows(gradients, features)
        return features

    @abstractmethod
    def _apply(self, gradients: Tensor) -> Tensor:
        """The map itself, without checks: [B, p] -> [B, k]."""


def build_projector(
    kind: str,
    source_dim: int,
    dim: int,
    seed: int,
    device: str | torch.device = "cpu",
    max_batch: int = 32,
    backend: str | None = None,
) -> Projector:
    """The projector of `kind` from `source_dim` (p) to `dim` (k) numbers.

    kind: "count_sketch", "normal", "rademacher" or "none" (which ignores `dim`: features have p
        numbers).
    max_batch: rows that traker's CUDA kernel takes at once: 8, 16 or 32; smaller needs less of the
        GPU.
    backend: how the dense kinds are computed, "basic" (torch) or "cuda" (fast_jl); None means
        "cuda" on a GPU and "basic" elsewhere. The two draw different matrices, so there is never a
        fallback.

    Raises ConfigurationError for settings that cannot work, before any work is done.
    """
    device = torch.device(device)
    _check_settings(kind, source_dim, dim, device, max_batch, backend)
    if kind == "none":
        return NoProjection(source_dim, device)
    if kind == "count_sketch":
        return CountSketch(source_dim, dim, seed, device)
    if not 0 <= seed < 2**31:
        raise ConfigurationError(f"The projection's seed must lie in 0 ... 2^31 - 1, not {seed}.")
    backend = backend or ("cuda" if device.type == "cuda" else "basic")
    if backend == "cuda":
        return _build_fast_dense(kind, source_dim, dim, seed, device, max_batch)
    return BasicDense(kind, source_dim, dim, seed, device)


class NoProjection(Projector):
    """Features are the gradients themselves, k = p."""

    def __init__(self, source_dim: int, device: torch.device):
        super().__init__({"kind": "none", "source_dim": source_dim, "dim": source_dim}, device)

    def _apply(self, gradients: Tensor) -> Tensor:
        return gradients.detach()


class CountSketch(Projector):
    """Blockwise count-sketch: signs, a cyclic shift of each block of k coordinates, their sum.

    Coordinate j = k b + i (block b, place i) goes with a random sign z_j to bucket

        h(j) = pi((i + s_b) mod k),

    s_b uniform on 0 ... k-1 for each block, pi one random permutation of the buckets, all
    independent. (Pg)_u is the sum of z_j g_j over h(j) = u. The last block is padded with zeros,
    and so is the only block when k >= p, where the map is an isometry.

    Mean. <Pg, Pg'> = sum_jl z_j z_l [h(j) = h(l)] g_j g'_l. E z_j z_l = 0 unless j = l, so the mean
    is sum_j g_j g'_j = <g, g'>: the scale is 1.

    Variance. The error is X = sum_{j != l} z_j z_l [h(j) = h(l)] g_j g'_l. In E X^2 the signs leave
    only pairs that meet themselves, in either order. With c_jl = Pr[h(j) = h(l)],

        Var = sum_{j<l} c_jl (g_j g'_l + g_l g'_j)^2.

    Two coordinates of one block never meet (c = 0); two of different blocks meet when s_b - s_b'
    takes one value of k (c = 1/k). Every term is >= 0, so Var is at most that of an ordinary
    count-sketch, for which c = 1/k everywhere,

        Var <= (|g|^2 |g'|^2 + <g, g'>^2 - 2 sum_j g_j^2 g'_j^2) / k,

    which is at most the (|g|^2 |g'|^2 + <g, g'>^2) / k of a normal matrix scaled by 1/sqrt(k).

    Folding to k' = k/r buckets, h'(j) = h(j) mod k', is `fold`. For two different buckets u, v
    before it, pi makes Pr[pi(u) = pi(v) mod k'] = (r - 1)/(k - 1) <= 1/k'. So two coordinates of
    one block meet with c = (r - 1)/(k - 1) <= 1/k', and two of different blocks with

        c = 1/k + (1 - 1/k) (r - 1)/(k - 1) = r/k = 1/k':

    a count-sketch of k' buckets, with the mean and the bound above. Without pi the fold would let
    coordinates of a block that lie a multiple of k' apart meet always.

    Draws come from the raw words of Philox, whose stream NumPy guarantees, so the sketch does not
    depend on library versions. On a CPU blocks are added one after the other with exact products,
    so features are the same bits for every batch size and thread count; a GPU agrees to rounding.
    Memory: one byte a coordinate for the signs, and 2k floats a row.
    """

    def __init__(self, source_dim: int, dim: int, seed: int, device: torch.device):
        identity = {
            "kind": "count_sketch",
            "source_dim": source_dim,
            "dim": dim,
            "seed": seed,
            "scale": "1",
            "construction": "sign, shift of each block, permutation of buckets; version 1",
        }
        super().__init__(identity, device)
        blocks = math.ceil(source_dim / dim)
        bits = _words("count sketch signs", seed, dim, count=math.ceil(source_dim / 64))
        signs = np.unpackbits(bits.view(np.uint8), count=source_dim).view(np.int8)
        signs *= 2
        signs -= 1
        shifts = _words("count sketch shifts", seed, dim, count=blocks) % np.uint64(dim)
        order = np.argsort(_words("count sketch buckets", seed, dim, count=dim), kind="stable")
        self.signs = torch.from_numpy(signs).to(device)  # [p] of +-1
        self.shifts = torch.from_numpy(shifts.astype(np.int64)).to(device)  # [blocks]
        self.order = torch.from_numpy(order).to(device)  # [k]: pi^-1, the place bucket u takes
        self._shift_list: list[int] = self.shifts.tolist()

    def _apply(self, gradients: Tensor) -> Tensor:
        # A GPU has to be given much at once; a CPU is fastest when a block stays in its cache.
        summed = self._add_blocks if self.device.type == "cpu" else self._gather_blocks
        return summed(gradients)[:, self.order]

    def _add_blocks(self, gradients: Tensor) -> Tensor:
        """Sum of signed, shifted blocks, one fused multiply-add a block: [B, p] -> [B, k]."""
        dim = self.dim
        # Twice as wide as needed, so that a shifted block is one run of memory; wrapped at the end.
        total = gradients.new_zeros(len(gradients), 2 * dim)  # [B, 2k]
        blocks = zip(
            gradients.split(dim, dim=1), self.signs.split(dim), self._shift_list, strict=True
        )
        for block, signs, shift in blocks:  # [B, <= k], [<= k]
            total.narrow(1, shift, block.shape[1]).addcmul_(block, signs.float())
        return total[:, :dim] + total[:, dim:]

    def _gather_blocks(self, gradients: Tensor) -> Tensor:
        """The same sum by one gather for many blocks, without atomics: [B, p] -> [B, k]."""
        dim, rows = self.dim, len(gradients)
        total = gradients.new_zeros(rows, dim)  # [B, k]
        step = max(1, GATHER_BYTES // (4 * dim * max(rows, 1)))
        places = torch.arange(dim, device=self.device)  # [k]
        for first in range(0, len(self.shifts), step):
            shifts = self.shifts[first : first + step]  # [m]
            columns = slice(first * dim, (first + len(shifts)) * dim)
            signed = gradients[:, columns] * self.signs[columns]  # [B, <= m k]
            signed = torch.nn.functional.pad(signed, (0, len(shifts) * dim - signed.shape[1]))
            starts = dim * torch.arange(len(shifts), device=self.device)  # [m]
            source = (places - shifts[:, None]) % dim + starts[:, None]  # [m, k]
            total += signed[:, source.flatten()].view(rows, len(shifts), dim).sum(1)
        return total


class BasicDense(Projector):
    """traker's BasicProjector, times 1/sqrt(k).

    It holds p x min(k, 100) random numbers and draws every block of columns anew for every batch.
    Block i of model m has seed `seed + 1000 i + 100000 m`, so models share blocks once k > 10,000:
    the model id is always 0 here. CPU and CUDA generators differ, as do torch's builds with and
    without MKL.
    """

    def __init__(self, kind: str, source_dim: int, dim: int, seed: int, device: torch.device):
        from trak.projectors import BasicProjector, ProjectionType

        block = min(dim, 100)
        needed, available = 4 * source_dim * block, _available_bytes(device)
        if needed > available:
            raise ConfigurationError(
                f"traker's BasicProjector holds {block} columns of {source_dim:,} numbers, "
                f"{needed / 2**30:.1f} GiB, but {device} has {available / 2**30:.1f} GiB free: "
                "set projection kind 'count_sketch', or use a GPU with fast_jl."
            )
        identity = {
            **_dense_identity(kind, source_dim, dim, seed),
            "backend": "basic",
            "block_size": block,
            "generator": device.type,
            "mkl": device.type == "cpu" and torch.backends.mkl.is_available(),
            "torch": torch.__version__.split("+")[0],
        }
        super().__init__(identity, device)
        self.backend = BasicProjector(
            source_dim, dim, seed, ProjectionType(kind), device, block_size=block
        )

    def _apply(self, gradients: Tensor) -> Tensor:
        return self.backend.project(gradients, model_id=0) / math.sqrt(self.dim)


class FastDense(Projector):
    """traker's CudaProjector (fast_jl), times 1/sqrt(k), with guards.

    The kernel rounds its input to float16, which loses numbers below 6e-8 and overflows above
    65504, so every row is divided by its largest absolute value before and multiplied by it after.
    A launch that fails leaves zeros without an error; `project` finds such rows. The matrix depends
    on the number of multiprocessors of the GPU, which is part of the identity.
    """

    def __init__(self, identity: dict[str, Any], device: torch.device, backend: Any):
        super().__init__(identity, device)
        self.backend = backend

    def _apply(self, gradients: Tensor) -> Tensor:
        peak = torch.linalg.vector_norm(gradients, ord=math.inf, dim=1, keepdim=True)  # [B, 1]
        peak = torch.where(peak == 0, 1.0, peak)
        scaled = (gradients / peak).contiguous()  # [B, p], within -1 ... 1
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):  # fast_jl launches on the current device
                raw = self.backend.project(scaled, model_id=0)
        else:
            raw = self.backend.project(scaled, model_id=0)
        return raw * (peak / math.sqrt(self.dim))  # [B, k]


def fold(features: Any, dim: int) -> Any:
    """Features [n, k] of a count-sketch made features [n, dim] of a smaller one; `dim` divides k.

    Adds buckets that are equal modulo `dim`. Works on NumPy arrays and tensors. Folding in steps
    equals folding at once. `CountSketch` shows that the result is a count-sketch with the mean and
    the variance bound of `dim` buckets. Raises ConfigurationError when `dim` does not divide k.
    """
    rows, wide = features.shape
    if dim < 1 or wide % dim:
        raise ConfigurationError(f"Count-sketch features of {wide} numbers do not fold to {dim}.")
    return features.reshape(rows, wide // dim, dim).sum(1)  # [n, k / dim, dim] -> [n, dim]


def prefix(features: Any, dim: int) -> Any:
    """Features [n, k] of a dense projection cut to their first `dim` columns, and scaled for them.

    The columns of a dense matrix are drawn independently of k, so this is what the projector of
    `dim` gives (traker's BasicProjector: for `dim` >= 100, its block). The paper's code reads
    32,768 of 65,536.
    """
    wide = features.shape[1]
    if not 1 <= dim <= wide:
        raise ConfigurationError(f"Dense features of {wide} numbers have no first {dim}.")
    return features[:, :dim] * math.sqrt(wide / dim)


def shrink(features: Any, dim: int, identity: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Features [n, k] and their identity brought to a smaller `dim`, by `fold` or `prefix`."""
    if dim == identity["dim"]:
        return features, identity
    if identity["kind"] == "count_sketch":
        origin = identity.get("folded_from", identity["dim"])
        return fold(features, dim), {**identity, "dim": dim, "folded_from": origin}
    if identity["kind"] == "none":
        raise ConfigurationError("Gradients that were not projected have no smaller projection.")
    if dim < identity.get("block_size", 1):
        raise ConfigurationError(
            f"traker's BasicProjector draws other numbers below {identity['block_size']} columns; "
            f"project to {dim} directly."
        )
    return prefix(features, dim), {**identity, "dim": dim}


def require_same_identity(a: dict, b: dict, what_a: str, what_b: str) -> None:
    """Raise StoreError, naming the keys that differ, unless two projector identities are equal."""
    missing = object()
    keys = [key for key in {**a, **b} if a.get(key, missing) != b.get(key, missing)]
    if keys:
        pairs = "; ".join(f"{k}: {a.get(k, 'not given')} | {b.get(k, 'not given')}" for k in keys)
        raise StoreError(
            f"{what_a} and {what_b} were not projected alike ({pairs}): "
            "make both with the same projection settings and, for fast_jl, on the same GPU model."
        )


def _check_settings(
    kind: str, source_dim: int, dim: int, device: torch.device, max_batch: int, backend: str | None
) -> None:
    """Raise ConfigurationError for the first setting that is out of range."""
    if kind not in KINDS:
        raise ConfigurationError(f"Unknown projection {kind!r}: choose one of {', '.join(KINDS)}.")
    if source_dim < 1 or (kind != "none" and dim < 1):
        raise ConfigurationError(
            f"Cannot project {source_dim} numbers to {dim}: both must be >= 1."
        )
    if max_batch not in FAST_JL_BATCHES:
        raise ConfigurationError(
            f"max_batch must be 8, 16 or 32, not {max_batch}: fast_jl has no other kernels."
        )
    if backend not in (None, *BACKENDS):
        raise ConfigurationError(f"Unknown projection backend {backend!r}: 'basic' or 'cuda'.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("The projection asks for a CUDA device, but torch finds none.")
    if backend == "cuda" and kind in ("normal", "rademacher") and device.type != "cuda":
        raise ConfigurationError(
            f"The backend 'cuda' of {kind!r} needs a CUDA device, not {device}."
        )


def _build_fast_dense(
    kind: str, source_dim: int, dim: int, seed: int, device: torch.device, max_batch: int
) -> FastDense:
    """A FastDense on the given GPU, or ConfigurationError when fast_jl cannot do it."""
    _check_fast_jl_sizes(source_dim, dim, max_batch)
    from trak.projectors import CudaProjector, ProjectionType

    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        with torch.cuda.device(device):
            backend = CudaProjector(source_dim, dim, seed, ProjectionType(kind), device, max_batch)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{kind!r} on a GPU needs fast_jl, which cannot be imported: install it "
            "(docs/projection.md), or set the backend 'basic', which draws another matrix."
        ) from error
    return FastDense(_fast_identity(kind, source_dim, dim, seed, backend.num_sms), device, backend)


def _check_fast_jl_sizes(source_dim: int, dim: int, max_batch: int) -> None:
    """Raise ConfigurationError for sizes that fast_jl refuses or, worse, miscounts."""
    if dim % FAST_JL_DIM_STEP:
        raise ConfigurationError(
            f"fast_jl projects to multiples of {FAST_JL_DIM_STEP} numbers only, not to {dim}."
        )
    if source_dim * max_batch >= 2**32:  # its indices are 32-bit
        raise ConfigurationError(
            f"fast_jl cannot address {max_batch} gradients of {source_dim:,} numbers: "
            "lower max_batch or set projection kind 'count_sketch'."
        )


def _fast_identity(
    kind: str, source_dim: int, dim: int, seed: int, multiprocessors: int
) -> dict[str, Any]:
    """Identity of a FastDense. The batch size of the kernel is not in it: it changes no number."""
    return {
        **_dense_identity(kind, source_dim, dim, seed),
        "backend": "cuda",
        "multiprocessors": multiprocessors,
        "input": "float16 after division by the largest absolute value of the row",
        "fast_jl": _version("fast-jl"),
    }


def _dense_identity(kind: str, source_dim: int, dim: int, seed: int) -> dict[str, Any]:
    """What both backends of traker's matrices have in common."""
    return {
        "kind": kind,
        "source_dim": source_dim,
        "dim": dim,
        "seed": seed,
        "scale": "1/sqrt(dim)",
        "model_id": 0,
        "traker": _version("traker"),
    }


def _version(package: str) -> str:
    """Installed version of a package, "unknown" for a module that no package installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _words(purpose: str, seed: int, dim: int, count: int) -> np.ndarray:
    """`count` random 64-bit words, little-endian on every machine."""
    words = randomness.generator(purpose, seed, dim).bit_generator.random_raw(count)
    return words.astype("<u8", copy=False)


def _available_bytes(device: torch.device) -> int:
    """Free memory of a device, bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _check_rows(gradients: Tensor, features: Tensor) -> None:
    """Raise NumericalError for rows whose features [B, k] are not finite or all zero.

    A gradient that is not finite, or zero, cannot leave other features, so that the short features
    are looked at and the long gradients [B, p] only to say what was wrong.
    """
    peak = features.abs().amax(1) if features.numel() else features.new_ones(len(features))  # [B]
    rows = torch.nonzero(~torch.isfinite(peak) | (peak == 0)).flatten().tolist()
    if not rows:
        return
    causes: dict[str, list[int]] = {}
    for row in rows:
        if not torch.isfinite(gradients[row]).all():
            cause = "the gradient is not finite"
        elif not gradients[row].any():
            cause = "the gradient is zero"
        elif peak[row] == 0:
            cause = (
                "the projection is zero but the gradient is not (a failed GPU launch leaves zeros)"
            )
        else:
            cause = "the projection of a finite gradient is not finite"
        causes.setdefault(cause, []).append(row)
    text = "; ".join(f"rows {_some(rows)}: {cause}" for cause, rows in causes.items())
    error = NumericalError(f"Gradients of a batch of {len(gradients)} cannot be used: {text}.")
    error.rows = rows
    raise error


def _some(rows: list[int]) -> str:
    """The first ten of a list of numbers, as text."""
    return ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
