"""Attribution methods: tau[query, training image], positive where the image helps the query.

Each method is a function from `Inputs` to pieces of the score matrix, with the needs it declares;
the workflow computes what it needs and nothing else. A method over several sets of features
(checkpoints, models of an ensemble) is the mean of its scores, see `scores`. Sources: the paper's
Appendix A.3, TRAK (Park et al. 2023), and those that the functions name. docs/methods.md has the
formulas side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attribution import user_methods
from attribution.errors import ConfigurationError, StoreError
from attribution.kernels import (
    Decomposition,
    RowSource,
    inverse_norms,
    kernel_scores,
    leverage,
)
from attribution.randomness import generator
from attribution.retraining_based import Datamodel, mean_difference
from attribution.rows import COLUMNS

LARGEST_SAMPLE = 2000  # training images whose distances give the Gaussian's default width

# The index of the lambda (0 without one), the training images, their scores [queries, images].
Piece = tuple[int, slice, np.ndarray]


@dataclass(frozen=True)
class Pool:
    """What is known of the models retrained on random subsets, one seed each.

    masks: bool [models, images]. outputs: float64 [models, queries], the benchmark's F, a loss.
    """

    masks: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Inputs:
    """What a method may read of one set; which fields are set follows from its needs.

    queries, train: rows of the split and of the training set, images flattened in [-1, 1] (need
    `images`) or features (needs `features`, `kernel`), as row sources [rows, values].
    decomposition: of the training features (need `kernel`), with `lambdas` [lambdas].
    residuals: [images], the root mean squared error of the model's prediction on each training
    image, where the feature set has them. pool: the retrained models (need `pool`).
    options: the method's entry in config.yaml (of a user's function: its `options`).
    split: `validation` or `generation`.
    """

    queries: RowSource | None
    train: RowSource | None
    options: dict[str, Any]
    split: str
    decomposition: Decomposition | None = None
    lambdas: np.ndarray = field(default_factory=lambda: np.array([np.nan]))
    residuals: np.ndarray | None = None
    pool: Pool | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of queries and of training images."""
        if self.pool is not None:
            return self.pool.outputs.shape[1], self.pool.masks.shape[1]
        assert self.queries is not None and self.train is not None
        return self.queries.shape[0], self.train.shape[0]

    @cached_property
    def query_rows(self) -> np.ndarray:
        """All query rows, [queries, values] float64: few enough to hold."""
        assert self.queries is not None
        return np.asarray(self.queries[slice(0, self.queries.shape[0])], dtype=np.float64)

    def columns(self) -> Iterator[slice]:
        """The training images in blocks of `COLUMNS`."""
        images = self.shape[1]
        for start in range(0, images, COLUMNS):
            yield slice(start, min(start + COLUMNS, images))

    def train_blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The training rows in blocks of `COLUMNS`, [block, values] float64."""
        assert self.train is not None
        for columns in self.columns():
            yield columns, np.asarray(self.train[columns], dtype=np.float64)


@dataclass(frozen=True)
class Method:
    """A method: `score(inputs)` yields pieces; `needs` is images, features, kernel or pool."""

    name: str
    needs: str
    score: Callable[[Inputs], Iterator[Piece]]


METHODS: dict[str, Method] = {}


def register(name: str, needs: str) -> Callable:
    """Make a function known as the method `name`."""

    def known(score: Callable[[Inputs], Iterator[Piece]]) -> Callable:
        METHODS[name] = Method(name, needs, score)
        return score

    return known


def method(name: str) -> Method:
    """The library's method of that name; ConfigurationError names the known ones."""
    if name not in METHODS:
        raise ConfigurationError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def configured(entry: dict[str, Any], folder: Path) -> Method:
    """The method of an entry of config.yaml: one of the library, or of a file of the user's.

    A user's function (`module:function`, looked up from `folder`) reads what its entry `needs`;
    if it does not say, features where it names some, and otherwise images.
    """
    name = entry["function"]
    if not user_methods.is_users(entry):
        return method(name)
    load = user_methods.load(name, folder, COLUMNS)
    return Method(name, user_methods.declared_needs(entry), load)


def scores(chosen: Method, sets: Sequence[Inputs]) -> Iterator[Piece]:
    """The mean of a method's scores over its sets, as pieces.

    One set a checkpoint gives TracInCP (Pruthi et al. 2020) and GAS (Hammoudeh and Lowd 2022), one
    a retrained model gives ensembles. Lambdas are averaged at equal index: in the unit of each
    set's own mean eigenvalue. The sets advance together, a block of columns each, so that no score
    matrix is held.
    """
    if not sets:
        raise ConfigurationError(f"{chosen.name} was given nothing to read")
    if len({one.shape for one in sets}) > 1:
        shapes = ", ".join(map(str, (one.shape for one in sets)))
        raise StoreError(
            f"{chosen.name} is a mean over sets of the same queries and training images, but their "
            f"numbers differ: {shapes}"
        )
    for pieces in zip(*map(chosen.score, sets), strict=True):
        index, columns, _ = pieces[0]
        if any(piece[:2] != (index, columns) for piece in pieces):
            raise ConfigurationError(
                f"{chosen.name} yields its pieces in another order for each set; their mean needs "
                "one order"
            )
        total = pieces[0][2]
        for _, _, values in pieces[1:]:
            total = total + values
        yield index, columns, total / len(sets)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their norms; a row of zeros stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


@register("raw_pixel_dot", needs="images")
@register("similarity_dot", needs="features")
@register("gradient_dot", needs="features")
def dot_product(inputs: Inputs) -> Iterator[Piece]:
    """tau = phi_q . phi_n, over pixels, embeddings or gradients (Charpiat et al. 2019)."""
    for columns, block in inputs.train_blocks():
        yield 0, columns, inputs.query_rows @ block.T


@register("raw_pixel_cosine", needs="images")
@register("similarity_cosine", needs="features")
@register("gradient_cosine", needs="features")
def cosine(inputs: Inputs) -> Iterator[Piece]:
    """tau = phi_q . phi_n / (|phi_q| |phi_n|), over pixels, embeddings or gradients."""
    queries = _unit(inputs.query_rows)
    for columns, block in inputs.train_blocks():
        yield 0, columns, queries @ _unit(block).T


@register("raw_pixel_gaussian", needs="images")
def gaussian(inputs: Inputs) -> Iterator[Piece]:
    """tau = exp(-|x_q - x_n|^2 / (2 width^2)) over pixels in [-1, 1].

    The width is the option `width`, or the median distance between training images (of the first
    2,000 where there are more).
    """
    assert inputs.train is not None
    width = inputs.options.get("width") or median_distance(inputs.train)
    for columns, block in inputs.train_blocks():
        yield 0, columns, np.exp(-_squared_distances(inputs.query_rows, block) / (2 * width**2))


def median_distance(train: RowSource) -> float:
    """The median Euclidean distance between two different training images."""
    sample = np.asarray(train[slice(0, min(train.shape[0], LARGEST_SAMPLE))], dtype=np.float64)
    distances = np.sqrt(_squared_distances(sample, sample))
    return float(np.median(distances[np.triu_indices(len(sample), k=1)]))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a_i - b_j|^2, [rows of a, rows of b]."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.maximum(squares, 0)


@register("kernel", needs="kernel")
def kernel(inputs: Inputs) -> Iterator[Piece]:
    """tau = phi_q (Phi^T Phi + lambda I)^-1 Phi^T for every lambda (paper Eq. 7).

    On gradients of `simple` this is TRAK with its weights dropped, on those of `square` D-TRAK;
    with queries along their sampling trajectories it is Journey TRAK (Georgiev et al. 2023).
    """
    assert inputs.decomposition is not None
    assert inputs.queries is not None and inputs.train is not None
    return kernel_scores(inputs.decomposition, inputs.queries, inputs.train, inputs.lambdas)


@register("relative_if", needs="kernel")
def relative_if(inputs: Inputs) -> Iterator[Piece]:
    """tau = kernel / |(Phi^T Phi + lambda I)^-1 phi_n| (Barshan et al. 2020).

    A training image whose features are zero has no influence: its scores are 0.
    """
    assert inputs.decomposition is not None and inputs.train is not None
    norms = inverse_norms(inputs.decomposition, inputs.train, inputs.lambdas)  # [lambdas, images]
    for index, columns, values in kernel(inputs):
        yield index, columns, values * _inverse(norms[index, columns])


@register("renormalised_if", needs="kernel")
def renormalised_if(inputs: Inputs) -> Iterator[Piece]:
    """tau = kernel / |phi_n| (Hammoudeh and Lowd 2022); 0 where phi_n is 0."""
    assert inputs.decomposition is not None
    norms = inputs.decomposition.feature_norms.cpu().numpy()  # [images]
    for index, columns, values in kernel(inputs):
        yield index, columns, values * _inverse(norms[columns])


def _inverse(norms: np.ndarray) -> np.ndarray:
    """1 / norms, and 0 for a norm of 0."""
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)


@register("das", needs="kernel")
def das(inputs: Inputs) -> Iterator[Piece]:
    """t = kernel * r_n / (1 - h_nn), the signed root of the Diffusion Attribution Score.

    r_n is the root mean squared error of the noise prediction on the training image, h_nn =
    phi_n^T (Phi^T Phi + lambda I)^-1 phi_n its leverage: together one Newton step of the model that
    was trained without the image. The published score (Lin et al. 2025) is t^2, which the readout
    `square` gives. The option `leverage: false` leaves the denominator out.
    """
    assert inputs.decomposition is not None and inputs.train is not None
    if inputs.residuals is None:
        raise ConfigurationError("das needs a feature set with `residuals: true`")
    residuals = np.asarray(inputs.residuals, dtype=np.float64)  # [images]
    weights = np.broadcast_to(residuals, (len(inputs.lambdas), len(residuals)))  # [lambdas, images]
    if inputs.options.get("leverage", True):
        rest = 1 - leverage(inputs.decomposition, inputs.train, inputs.lambdas)
        weights = weights / np.maximum(rest, np.finfo(np.float64).eps)  # rounding may leave none
    for index, columns, values in kernel(inputs):
        yield index, columns, values * weights[index, columns]


@register("empirical_influence", needs="pool")
def empirical_influence(inputs: Inputs) -> Iterator[Piece]:
    """tau = mean output of the models without n less that of those with n (Feldman and Zhang 2020).

    Outputs are losses, so this is positive where training on n lowers the loss. The option `models`
    takes the first ones of the pool.
    """
    pool = _first_models(inputs)
    for columns in inputs.columns():
        yield 0, columns, mean_difference(pool.masks[:, columns], pool.outputs)


@register("datamodel", needs="pool")
def datamodel(inputs: Inputs) -> Iterator[Piece]:
    """tau = -w_q of the ridge regressions F_q(S) = w_q . 1_S + b_q (Ilyas et al. 2022).

    `attribution.retraining_based.Datamodel` tells how; the option `models` takes the first ones of
    the pool, `alphas` is `wide` or `paper`.
    """
    pool = _first_models(inputs)
    model = Datamodel.fit(pool.masks, pool.outputs, inputs.options.get("alphas", "wide"))
    for columns in inputs.columns():
        yield 0, columns, -model.coefficients(pool.masks[:, columns])


def _first_models(inputs: Inputs) -> Pool:
    """The pool, or as many of its first models as the option `models` says."""
    assert inputs.pool is not None
    known = len(inputs.pool.masks)
    wanted = inputs.options.get("models") or known
    if wanted > known:
        raise ConfigurationError(f"{wanted} models are asked for, and the pool has {known}")
    return Pool(inputs.pool.masks[:wanted], inputs.pool.outputs[:wanted])


@register("random", needs="images")
def random(inputs: Inputs) -> Iterator[Piece]:
    """Standard normal scores: the control that any method has to beat."""
    queries = inputs.shape[0]
    for columns in inputs.columns():
        seed = inputs.options.get("seed", 0)
        draws = generator("random scores", seed, inputs.split, columns.start)
        yield 0, columns, draws.standard_normal((queries, columns.stop - columns.start))
