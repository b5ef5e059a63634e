"""Projections against their definition, their mean and variance, traker's own, and their guards."""

import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from trak.projectors import BasicProjector, CudaProjector, ProjectionType

from attribution import projection, randomness
from attribution.errors import ConfigurationError, NumericalError, StoreError
from attribution.projection import build_projector


def gradients(rows: int, dim: int) -> torch.Tensor:
    """Correlated gradients [rows, dim] with coordinates of very different size."""
    scale = np.exp(randomness.normal((dim,), "scale"))
    shared = randomness.normal((1, dim), "shared")
    return torch.from_numpy((randomness.normal((rows, dim), "gradients") + shared) * scale)


def matrix(projector: projection.Projector) -> torch.Tensor:
    """The map as a matrix [p, k], from the rows of the identity."""
    return projector.project(torch.eye(projector.source_dim))


# --- count-sketch ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("source_dim", "dim"), [(96, 16), (103, 16), (50, 7), (5, 16), (16, 16)])
def test_count_sketch_is_its_definition(source_dim, dim):
    """h(j) = pi((i + s_b) mod k), with signs, shifts and pi drawn here from the same keys."""

    def words(purpose: str, count: int) -> np.ndarray:
        return randomness.generator(purpose, 3, dim).bit_generator.random_raw(count)

    bits = np.unpackbits(words("count sketch signs", -(-source_dim // 64)).view(np.uint8))
    shifts = [int(word) % dim for word in words("count sketch shifts", -(-source_dim // dim))]
    order = np.argsort(words("count sketch buckets", dim)).tolist()
    expected = torch.zeros(source_dim, dim)
    for j in range(source_dim):
        block, place = divmod(j, dim)
        expected[j, order.index((place + shifts[block]) % dim)] = 1.0 if bits[j] else -1.0
    assert torch.equal(matrix(build_projector("count_sketch", source_dim, dim, 3)), expected)


def test_count_sketch_equals_its_matrix():
    g, projector = gradients(6, 1000), build_projector("count_sketch", 1000, 64, 0)
    features = projector.project(g)
    assert features.shape == (6, 64)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, g @ matrix(projector), rtol=1e-5, atol=1e-4)


def test_coordinates_of_a_block_never_meet():
    dense = matrix(build_projector("count_sketch", 64, 16, 1))
    for block in dense.split(16):
        torch.testing.assert_close(block @ block.T, torch.eye(16))


def test_count_sketch_without_loss_when_it_is_wide_enough():
    g = gradients(4, 30)
    features = build_projector("count_sketch", 30, 40, 0).project(g)
    torch.testing.assert_close(features @ features.T, g @ g.T)


@pytest.mark.parametrize("working_bytes", [1, 4 * 64 * 6 * 5, 2**28])
def test_the_way_of_gpus_gives_the_same_numbers(monkeypatch, working_bytes):
    monkeypatch.setattr(projection, "GATHER_BYTES", working_bytes)
    g, projector = gradients(6, 1000), build_projector("count_sketch", 1000, 64, 0)
    torch.testing.assert_close(
        projector._gather_blocks(g), projector._add_blocks(g), rtol=1e-5, atol=1e-4
    )


def test_count_sketch_is_the_same_bits_for_every_batch_and_time():
    g = gradients(9, 3000)
    features = build_projector("count_sketch", 3000, 128, 5).project(g)
    again = build_projector("count_sketch", 3000, 128, 5)
    for size in (1, 2, 4):
        assert torch.equal(torch.cat([again.project(part) for part in g.split(size)]), features)
    strided = torch.stack([g, g], dim=2)[:, :, 0]
    assert not strided.is_contiguous()
    assert torch.equal(again.project(strided), features)
    other = build_projector("count_sketch", 3000, 128, 6).project(g)
    assert not torch.allclose(other, features)


def test_it_is_linear():
    g, projector = gradients(2, 700), build_projector("count_sketch", 700, 32, 0)
    mean = projector.project(g.mean(0, keepdim=True))[0]
    torch.testing.assert_close(projector.project(g).mean(0), mean, rtol=1e-4, atol=1e-4)


def sketched_products(g: torch.Tensor, dim: int, seeds: int, folded_to: int) -> np.ndarray:
    """Gram matrices [seeds, B, B] of folded count-sketches."""
    grams = []
    for seed in range(seeds):
        features = build_projector("count_sketch", g.shape[1], dim, seed).project(g)
        features = projection.fold(features, folded_to).double()
        grams.append((features @ features.T).numpy())
    return np.stack(grams)


@pytest.mark.parametrize(("dim", "folded_to"), [(32, 32), (128, 32), (64, 16)])
def test_mean_and_variance_of_inner_products(dim, folded_to):
    """The exact variance, from the probabilities that two coordinates meet; folded ones too."""
    source_dim, seeds = 300, 2000
    g = gradients(3, source_dim)
    grams = sketched_products(g, dim, seeds, folded_to)
    exact = g.double().numpy()
    block = np.arange(source_dim) // dim
    within = (dim // folded_to - 1) / (dim - 1)
    meet = np.where(block[:, None] == block[None, :], within, 1 / folded_to)  # c_jl, [p, p]
    np.fill_diagonal(meet, 0)
    truth = exact @ exact.T
    for a in range(3):
        for b in range(3):
            cross = np.outer(exact[a], exact[b])
            variance = 0.5 * np.sum(meet * (cross + cross.T) ** 2)
            standard_error = math.sqrt(variance / seeds)
            assert abs(grams[:, a, b].mean() - truth[a, b]) < 4.5 * standard_error
            assert grams[:, a, b].var() == pytest.approx(variance, rel=0.25)
            bound = (truth[a, a] * truth[b, b] + truth[a, b] ** 2) / folded_to
            assert variance <= bound  # that of a normal matrix


def test_folding_is_safe_for_coordinates_that_lie_a_bucket_count_apart():
    """Without the permutation of buckets these four would always meet: variance 24, not 0.57."""
    g = torch.zeros(1, 512)
    g[0, [0, 32, 64, 96]] = 1.0
    squares = sketched_products(g, 128, 2000, 32)[:, 0, 0]
    meet = (128 / 32 - 1) / (128 - 1)
    variance = 0.5 * 12 * meet * 2**2
    assert squares.mean() == pytest.approx(4, abs=4.5 * math.sqrt(variance / 2000))
    assert squares.var() == pytest.approx(variance, rel=0.25)


def test_error_of_the_gram_matrix_is_that_of_a_dense_projection():
    g = gradients(12, 2000)
    truth = g.double() @ g.double().T
    errors = {}
    for kind in ("count_sketch", "normal", "rademacher"):
        found = []
        for seed in range(12):
            features = build_projector(kind, 2000, 256, seed).project(g).double()
            found.append(((features @ features.T - truth).norm() / truth.norm()).item() ** 2)
        errors[kind] = math.sqrt(np.mean(found))
    assert errors["count_sketch"] < 1.3 * min(errors["normal"], errors["rademacher"])


# --- folding and prefixes -------------------------------------------------------------------------


def test_folding_in_steps_is_folding_at_once():
    features = build_projector("count_sketch", 900, 64, 0).project(gradients(3, 900))
    at_once = projection.fold(features, 16)
    torch.testing.assert_close(projection.fold(projection.fold(features, 32), 16), at_once)
    np.testing.assert_allclose(projection.fold(features.numpy(), 16), at_once, rtol=1e-5, atol=1e-4)
    assert torch.equal(projection.fold(features, 64), features)
    for dim in (48, 0, 128):
        with pytest.raises(ConfigurationError, match="do not fold"):
            projection.fold(features, dim)


def test_a_folded_matrix_has_one_sign_a_coordinate():
    folded = projection.fold(matrix(build_projector("count_sketch", 200, 32, 0)), 8)
    assert torch.equal(folded.abs().sum(1), torch.ones(200))


def test_a_prefix_is_the_smaller_dense_projection():
    g = gradients(4, 500)
    wide, narrow = (build_projector("normal", 500, dim, 7) for dim in (350, 250))
    features, identity = projection.shrink(wide.project(g), 250, wide.identity)
    torch.testing.assert_close(features, narrow.project(g))
    projection.require_same_identity(identity, narrow.identity, "cut", "direct")
    with pytest.raises(ConfigurationError, match="project to 60 directly"):
        projection.shrink(wide.project(g), 60, wide.identity)
    with pytest.raises(ConfigurationError, match="no first 400"):
        projection.shrink(wide.project(g), 400, wide.identity)


def test_shrinking_a_count_sketch_marks_it():
    g, wide = gradients(4, 500), build_projector("count_sketch", 500, 64, 7)
    features, identity = projection.shrink(wide.project(g), 16, wide.identity)
    assert torch.equal(features, projection.fold(wide.project(g), 16))
    direct = build_projector("count_sketch", 500, 16, 7).identity
    with pytest.raises(StoreError, match="folded_from"):  # other draws
        projection.require_same_identity(identity, direct, "folded", "direct")
    halfway, halfway_identity = projection.shrink(wide.project(g), 32, wide.identity)
    _, in_steps = projection.shrink(halfway, 16, halfway_identity)
    projection.require_same_identity(identity, in_steps, "at once", "in steps")
    assert projection.shrink(features, 16, identity)[1] is identity
    none = build_projector("none", 500, 0, 0).identity
    with pytest.raises(ConfigurationError, match="no smaller"):
        projection.shrink(g, 16, none)


# --- traker's projectors --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "rademacher"])
@pytest.mark.parametrize("dim", [40, 250])
def test_dense_kinds_are_trakers_scaled(kind, dim):
    g = gradients(5, 400)
    raw = BasicProjector(400, dim, 11, ProjectionType(kind), torch.device("cpu")).project(g, 0)
    projector = build_projector(kind, 400, dim, 11)
    torch.testing.assert_close(projector.project(g), raw / math.sqrt(dim))
    assert torch.equal(projector.project(g), projector.project(g))


@pytest.mark.parametrize("kind", ["normal", "rademacher"])
def test_dense_kinds_keep_norms(kind):
    g = gradients(1, 400)
    norms = [
        build_projector(kind, 400, 128, 10**6 * seed).project(g).square().sum()
        for seed in range(60)
    ]
    assert np.mean(norms) == pytest.approx(g.square().sum().item(), rel=0.1)


def test_no_projection():
    g, projector = gradients(3, 50), build_projector("none", 50, 8, 0)
    assert projector.dim == 50
    assert torch.equal(projector.project(g), g)


def test_basic_projector_is_refused_when_it_does_not_fit(monkeypatch):
    monkeypatch.setattr(projection, "_available_bytes", lambda device: 10**6)
    with pytest.raises(ConfigurationError, match="holds 100 columns of 10,000 numbers"):
        build_projector("rademacher", 10_000, 4096, 0)
    build_projector("count_sketch", 10_000, 4096, 0)


# --- fast_jl, by a stand-in for the module that only GPUs can run ---------------------------------


class StandIn(types.ModuleType):
    """fast_jl as far as its callers see it: float16 input, unscaled output, zeros when it fails."""

    def __init__(self, matrix: torch.Tensor):
        super().__init__("fast_jl")
        self.matrix, self.calls, self.failed_rows = matrix, [], []

    def __getattr__(self, name: str):
        if name not in {f"project_normal_{size}" for size in (8, 16, 32)}:
            raise AttributeError(name)  # as for the kernels that traker asks for and nobody wrote

        def kernel(grads: torch.Tensor, dim: int, seed: int, multiprocessors: int) -> torch.Tensor:
            assert grads.is_contiguous()
            assert (dim, seed, multiprocessors) == (512, 4, 132)
            self.calls.append((name, len(grads)))
            result = grads.half().float() @ self.matrix
            result[self.failed_rows] = 0
            return result

        return kernel


@pytest.fixture
def fast(monkeypatch):
    """A FastDense of 300 -> 512 around traker's own CudaProjector, and the stand-in it calls."""
    stand_in = StandIn(torch.from_numpy(randomness.normal((300, 512), "matrix")))
    monkeypatch.setitem(sys.modules, "fast_jl", stand_in)

    def build(max_batch: int) -> projection.FastDense:
        backend = object.__new__(CudaProjector)  # its __init__ needs a GPU
        backend.__dict__.update(
            grad_dim=300,
            proj_dim=512,
            seed=4,
            proj_type=ProjectionType.normal,
            max_batch_size=max_batch,
            num_sms=132,
        )
        identity = projection._fast_identity("normal", 300, 512, 4, backend.num_sms)
        return projection.FastDense(identity, torch.device("cpu"), backend)

    return build, stand_in


def test_fast_dense_passes_the_batch_rule_on(fast):
    build, stand_in = fast
    for max_batch, rows in [(8, 20), (16, 9), (16, 40), (32, 8), (32, 17), (32, 33)]:
        build(max_batch).project(gradients(rows, 300))
    sizes = [name.rsplit("_", 1)[1] for name, _ in stand_in.calls]
    assert sizes == ["8", "16", "16", "8", "32", "32"]


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1.0, 1e6, 1e30])
def test_fast_dense_is_not_hurt_by_float16(fast, size):
    build, stand_in = fast
    g = torch.from_numpy(randomness.normal((6, 300), "g")) * size
    expected = g.double() @ stand_in.matrix.double() / math.sqrt(512)
    found = build(32).project(g).double()
    assert (found - expected).norm() / expected.norm() < 1e-3
    assert torch.equal(g, torch.from_numpy(randomness.normal((6, 300), "g")) * size)  # untouched


def test_fast_dense_finds_silent_zeros(fast):
    build, stand_in = fast
    stand_in.failed_rows = [1, 4]
    with pytest.raises(NumericalError, match=r"rows 1, 4: .*failed GPU launch") as caught:
        build(32).project(gradients(6, 300))
    assert caught.value.rows == [1, 4]


def test_fast_dense_refuses_bad_gradients(fast):
    g = gradients(6, 300)
    g[2, 7], g[3, 1], g[5] = math.nan, math.inf, 0
    with pytest.raises(NumericalError, match=r"rows 2, 3: .*not finite; rows 5: .*zero") as caught:
        fast[0](32).project(g)
    assert caught.value.rows == [2, 3, 5]


def test_fast_jl_sizes():
    projection._check_fast_jl_sizes(35_700_000, 32_768, 32)
    with pytest.raises(ConfigurationError, match="multiples of 512 numbers only, not to 1000"):
        projection._check_fast_jl_sizes(10_000, 1000, 32)
    with pytest.raises(ConfigurationError, match="lower max_batch"):
        projection._check_fast_jl_sizes(140_000_000, 512, 32)
    projection._check_fast_jl_sizes(140_000_000, 512, 16)


def test_features_of_different_gpus_refuse_to_meet(fast):
    here = fast[0](32).identity
    assert fast[0](8).identity == here
    there = projection._fast_identity("normal", 300, 512, 4, 108)
    with pytest.raises(StoreError, match=r"Training.*queries.*\(multiprocessors: 132 \| 108\)"):
        projection.require_same_identity(here, there, "Training features", "queries")


# --- settings, inputs and identities --------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sjlt"}, "Unknown projection 'sjlt'"),
        ({"dim": 0}, "both must be >= 1"),
        ({"source_dim": 0}, "both must be >= 1"),
        ({"max_batch": 24}, "8, 16 or 32, not 24"),
        ({"max_batch": 40}, "8, 16 or 32, not 40"),
        ({"backend": "fast"}, "Unknown projection backend"),
        ({"kind": "normal", "backend": "cuda"}, "needs a CUDA device"),
        ({"kind": "normal", "seed": -1}, "seed"),
    ],
)
def test_settings_that_cannot_work(change, message):
    settings = {"kind": "count_sketch", "source_dim": 100, "dim": 10, "seed": 0} | change
    with pytest.raises(ConfigurationError, match=message):
        build_projector(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ConfigurationError, match="torch finds none"):
        build_projector("count_sketch", 100, 10, 0, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_count_sketch():
    g = gradients(5, 10_000)
    found = build_projector("count_sketch", 10_000, 256, 0, device="cuda").project(g).cpu()
    expected = build_projector("count_sketch", 10_000, 256, 0).project(g)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", projection.KINDS)
def test_bad_gradients_are_named(kind):
    projector = build_projector(kind, 300, 64, 0)
    g = gradients(7, 300)
    g[1, 299], g[4, 0], g[6] = math.inf, math.nan, 0
    with pytest.raises(NumericalError) as caught:
        projector.project(g)
    assert caught.value.rows == [1, 4, 6]
    assert "rows 1, 4: the gradient is not finite; rows 6: the gradient is zero" in str(
        caught.value
    )
    assert len(projector.project(g[[0, 2, 3, 5]])) == 4


@pytest.mark.parametrize("kind", projection.KINDS)
def test_shapes_and_identity(kind):
    projector = build_projector(kind, 300, 64, 3)
    for shape in [(300,), (2, 299), (1, 2, 300)]:
        with pytest.raises(ConfigurationError, match=r"\[batch, 300\]"):
            projector.project(torch.ones(shape))
    assert projector.project(torch.ones(0, 300)).shape == (0, projector.dim)
    assert projector.project(torch.ones(2, 300, dtype=torch.float64)).dtype == torch.float32
    assert not projector.project(torch.ones(2, 300, requires_grad=True)).requires_grad
    identity = projector.identity
    assert json.loads(json.dumps(identity)) == identity
    assert (identity["kind"], identity["source_dim"]) == (kind, 300)
    projection.require_same_identity(identity, dict(identity), "a", "b")


def test_identities_that_differ():
    a = build_projector("count_sketch", 300, 64, 3).identity
    b = build_projector("count_sketch", 300, 32, 4).identity
    with pytest.raises(StoreError) as caught:
        projection.require_same_identity(a, b, "Training features", "Query features")
    assert "(dim: 64 | 32; seed: 3 | 4)" in str(caught.value)
    with pytest.raises(StoreError, match=r"scale: 1 \| not given"):
        none = build_projector("none", 300, 64, 3).identity
        projection.require_same_identity(a, none, "a", "b")
