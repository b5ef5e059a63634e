"""Methods from a user's own file: `my_module:score` or `path/to/file.py:score` in config.yaml.

The function takes one argument, `attribution.methods.Inputs`, and gives scores, positive for
images that help the query: either a whole array, [queries, images] or [lambdas, queries, images],
or pieces (index of the lambda, slice of training images, [queries, images of the slice]) that
cover all images, in any order and of any width. What it gives is checked.

Only the named file counts as the method's code, so that a change in it, and nothing unseen, makes
its scores anew: what the function needs from the user has to be in that file.
"""

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attribution.errors import AttributionError, ConfigurationError, NumericalError


def is_users(entry: dict[str, Any]) -> bool:
    """Whether a method's entry names a function of the user's own file, `module:function`."""
    return ":" in entry["function"]


def declared_needs(entry: dict[str, Any]) -> str:
    """What a user's function reads: as its entry says, else features where it names some."""
    return entry.get("needs", "features" if "features" in entry else "images")


def digest(function: str, folder: Path) -> str:
    """The sha256 of the file that holds a user's function, in hexadecimal.

    The file is read, not run: this is for the planning of the workflow. `folder` is where relative
    paths begin, the folder in which snakemake runs.

    Raises:
        ConfigurationError: the name is no `module:function`, there is no such file, it is not
            Python, or it does not define that function.
    """
    path, name = _place(function, folder)
    text = path.read_bytes()
    try:
        tree = ast.parse(text, str(path))
    except (SyntaxError, ValueError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        raise ConfigurationError(f"{path} is not valid Python{line}: {error}") from None
    defined = _defined(tree)
    if name not in defined and "*" not in defined:
        raise ConfigurationError(_no_function(path, name))
    return hashlib.sha256(text).hexdigest()


def load(
    function: str, folder: Path, columns: int
) -> Callable[[Any], Iterator[tuple[int, slice, np.ndarray]]]:
    """A user's function as a method's `score`: it yields checked pieces of `columns` images.

    Raises:
        ConfigurationError: as for `digest`; the file cannot be imported, or the function does not
            take one argument. Later, from the pieces: scores of a wrong shape or place, or not of
            all images; NumericalError: scores that are not finite.
    """
    digest(function, folder)
    path, name = _place(function, folder)
    score = getattr(_imported(path), name, None)
    if not callable(score):
        raise ConfigurationError(_no_function(path, name))
    try:
        inspect.signature(score).bind(None)
    except TypeError:
        raise ConfigurationError(
            f"{function}: the function must take one argument, the inputs, and not {name}"
            f"{inspect.signature(score)}"
        ) from None
    except ValueError:  # some callables made in C have no signature
        pass
    return _Checked(function, score, columns)


class _Checked:
    """A user's function, whose scores are checked and cut into blocks of columns."""

    def __init__(self, function: str, score: Callable[[Any], Any], columns: int):
        self.function, self.score, self.columns = function, score, columns

    def __call__(self, inputs: Any) -> Iterator[tuple[int, slice, np.ndarray]]:
        lambdas, (queries, images) = len(inputs.lambdas), inputs.shape
        covered = np.zeros((lambdas, images), dtype=bool)
        blocks: dict[tuple[int, int], np.ndarray] = {}  # begun and not yet full
        for index, columns, values in self._pieces(inputs):
            self._check_piece(index, columns, values, covered, queries)
            covered[index, columns] = True
            for block in range(columns.start // self.columns, -(-columns.stop // self.columns)):
                whole = slice(block * self.columns, min((block + 1) * self.columns, images))
                part = slice(max(columns.start, whole.start), min(columns.stop, whole.stop))
                width = whole.stop - whole.start
                if (index, block) not in blocks:
                    blocks[index, block] = np.empty((queries, width))
                blocks[index, block][:, _shifted(part, whole)] = values[:, _shifted(part, columns)]
                if covered[index, whole].all():
                    yield index, whole, blocks.pop((index, block))
        if not covered.all():
            index, image = np.argwhere(~covered)[0]
            raise ConfigurationError(
                f"{self.function} gave no scores for {int((~covered).sum())} of {covered.size} "
                f"(lambda, image) pairs, the first being lambda {index}, image {image}"
            )

    def _pieces(self, inputs: Any) -> Iterator[tuple[int, slice, np.ndarray]]:
        """The pieces as the function gives them, slices with both ends, arrays of float64."""
        lambdas, (queries, images) = len(inputs.lambdas), inputs.shape
        result = self._run(lambda: self.score(inputs))
        if hasattr(result, "__array__"):
            whole = self._numbers(result)
            if whole.shape == (queries, images) and lambdas == 1:
                whole = whole[None]
            if whole.shape != (lambdas, queries, images):
                raise ConfigurationError(
                    f"{self.function} gave scores of shape {whole.shape}; {queries} queries and "
                    f"{images} training images need {self._wanted(lambdas, queries, images)}"
                )
            for index, values in enumerate(whole):
                yield index, slice(0, images), values
            return
        if not isinstance(result, Iterable):
            raise ConfigurationError(
                f"{self.function} gave {type(result).__name__}, neither an array nor pieces"
            )
        pieces, end = iter(result), object()
        while (piece := self._run(lambda: next(pieces, end))) is not end:
            try:
                index, columns, values = piece
            except (TypeError, ValueError):
                raise ConfigurationError(
                    f"{self.function} yields {type(piece).__name__}, not (index of the lambda, "
                    "slice of images, scores)"
                ) from None
            if not (isinstance(columns, slice) and columns.step in (None, 1)):
                raise ConfigurationError(
                    f"{self.function} yields the images {columns!r}, not a slice of step 1"
                )
            first, last = columns.start or 0, images if columns.stop is None else columns.stop
            yield index, slice(first, last), self._numbers(values)

    def _check_piece(
        self, index: int, columns: slice, values: np.ndarray, covered: np.ndarray, queries: int
    ) -> None:
        lambdas, images = covered.shape
        if not (isinstance(index, int | np.integer) and 0 <= index < lambdas):
            raise ConfigurationError(
                f"{self.function} yields lambda number {index!r}; there are {lambdas}, from 0"
            )
        place = f"images {columns.start} to {columns.stop - 1}"
        if not 0 <= columns.start < columns.stop <= images:
            raise ConfigurationError(
                f"{self.function} yields {place}; there are {images} training images, from 0"
            )
        wanted = (queries, columns.stop - columns.start)
        if values.shape != wanted:
            raise ConfigurationError(
                f"{self.function} yields scores of shape {values.shape} for {place}; {queries} "
                f"queries need {wanted}"
            )
        if covered[index, columns].any():
            raise ConfigurationError(f"{self.function} yields some of {place} twice")
        finite = np.isfinite(values)
        if not finite.all():
            query, image = np.argwhere(~finite)[0]
            raise NumericalError(
                f"{self.function} gave {values[query, image]} for query {query} and training image "
                f"{columns.start + image}"
            )

    def _numbers(self, values: Any) -> np.ndarray:
        try:
            return np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{self.function} gave scores that are no array of numbers: {error}"
            ) from error

    def _run(self, part: Callable[[], Any]) -> Any:
        """Run a part of the user's code; its failure becomes one sentence, traceback in the log."""
        try:
            return part()
        except AttributionError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"{self.function} failed: {type(error).__name__}: {error}"
            ) from error

    @staticmethod
    def _wanted(lambdas: int, queries: int, images: int) -> str:
        shapes = [(lambdas, queries, images)]
        if lambdas == 1:
            shapes.insert(0, (queries, images))
        return " or ".join(map(str, shapes))


def _shifted(part: slice, whole: slice) -> slice:
    """`part`, counted from the start of `whole`."""
    return slice(part.start - whole.start, part.stop - whole.start)


def _place(function: str, folder: Path) -> tuple[Path, str]:
    """The file and the name of a `module:function`; ConfigurationError if there is no such file."""
    module, _, name = function.rpartition(":")
    if not module or not name.isidentifier():
        raise ConfigurationError(
            f"{function!r} names no function of a file: write my_module:score or path/file.py:score"
        )
    relative = (
        Path(module) if module.endswith(".py") else Path(*module.split(".")).with_suffix(".py")
    )
    path = folder / relative
    if not path.is_file():
        raise ConfigurationError(f"{function!r}: there is no file {path}")
    return path, name


def _defined(tree: ast.AST) -> set[str]:
    """The names that a file may define; `*` where it imports unknown ones."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return names


def _no_function(path: Path, name: str) -> str:
    return f"{path} has no function {name!r}"


def _imported(path: Path) -> Any:
    """The file as a module of a name that no other has."""
    name = f"attribution_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigurationError(
            f"{path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module
