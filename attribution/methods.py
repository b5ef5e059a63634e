"""Attribution methods: tau[query, training image], positive where the image helps the query.

Each method is a function from `Inputs` to pieces of the score matrix, with the needs it declares;
the workflow computes what it needs and nothing else. Sources: the paper's Appendix A.3, and TRAK
(Park et al. 2023).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from attribution.errors import ConfigurationError
from attribution.kernels import Decomposition, RowSource, kernel_scores
from attribution.randomness import generator
from attribution.rows import COLUMNS

LARGEST_SAMPLE = 2000  # training images whose distances give the Gaussian's default width

# The index of the lambda (0 without one), the training images, their scores [queries, images].
Piece = tuple[int, slice, np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """What a method may read; which fields are set follows from the needs that it declares.

    queries, train: rows of the split and of the training set, images flattened in [-1, 1] (need
    `images`) or features (need `features`), as row sources [rows, values].
    decomposition: of the training features (need `kernel`), with `lambdas` [lambdas].
    options: the method's entry in config.yaml. split: `validation` or `generation`.
    """

    queries: RowSource
    train: RowSource
    options: dict[str, Any]
    split: str
    decomposition: Decomposition | None = None
    lambdas: np.ndarray = field(default_factory=lambda: np.array([np.nan]))

    @cached_property
    def query_rows(self) -> np.ndarray:
        """All query rows, [queries, values] float64: few enough to hold."""
        return np.asarray(self.queries[slice(0, self.queries.shape[0])], dtype=np.float64)

    def train_blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The training rows in blocks of `COLUMNS`, [block, values] float64."""
        for start in range(0, self.train.shape[0], COLUMNS):
            columns = slice(start, min(start + COLUMNS, self.train.shape[0]))
            yield columns, np.asarray(self.train[columns], dtype=np.float64)


@dataclass(frozen=True)
class Method:
    """A method: `score(inputs)` yields pieces; `needs` is `images`, `features` or `kernel`."""

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
    """The method of that name; ConfigurationError names the known ones."""
    if name not in METHODS:
        raise ConfigurationError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their norms; a row of zeros stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


@register("raw_pixel_dot", needs="images")
@register("gradient_dot", needs="features")
def dot_product(inputs: Inputs) -> Iterator[Piece]:
    """tau = phi_q . phi_n, over pixels or over projected gradients (Charpiat et al. 2019)."""
    for columns, block in inputs.train_blocks():
        yield 0, columns, inputs.query_rows @ block.T


@register("raw_pixel_cosine", needs="images")
@register("gradient_cosine", needs="features")
def cosine(inputs: Inputs) -> Iterator[Piece]:
    """tau = phi_q . phi_n / (|phi_q| |phi_n|), over pixels or over projected gradients."""
    queries = _unit(inputs.query_rows)
    for columns, block in inputs.train_blocks():
        yield 0, columns, queries @ _unit(block).T


@register("raw_pixel_gaussian", needs="images")
def gaussian(inputs: Inputs) -> Iterator[Piece]:
    """tau = exp(-|x_q - x_n|^2 / (2 width^2)) over pixels in [-1, 1].

    The width is the option `width`, or the median distance between training images (of the first
    2,000 where there are more).
    """
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

    On gradients of `simple` this is TRAK with its weights dropped, on those of `square` D-TRAK.
    """
    assert inputs.decomposition is not None
    return kernel_scores(inputs.decomposition, inputs.queries, inputs.train, inputs.lambdas)


@register("random", needs="images")
def random(inputs: Inputs) -> Iterator[Piece]:
    """Standard normal scores: the control that any method has to beat."""
    queries = inputs.queries.shape[0]
    for start in range(0, inputs.train.shape[0], COLUMNS):
        columns = slice(start, min(start + COLUMNS, inputs.train.shape[0]))
        draws = generator("random scores", inputs.options.get("seed", 0), inputs.split, start)
        yield 0, columns, draws.standard_normal((queries, columns.stop - columns.start))
