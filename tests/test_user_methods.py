"""Methods of a user's own file: found, run, and checked, each mistake answered in a sentence."""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attribution.errors import ConfigurationError, NumericalError
from attribution.user_methods import digest, load

QUERIES, IMAGES, BLOCK = 3, 10, 4
WHOLE = np.arange(2 * QUERIES * IMAGES, dtype=np.float64).reshape(2, QUERIES, IMAGES)
PRELUDE = "import numpy as np\nWHOLE = np.arange(60.0).reshape(2, 3, 10)\n"


def inputs(lambdas: int = 1) -> Any:
    """What the checks read of a method's inputs."""
    return SimpleNamespace(shape=(QUERIES, IMAGES), lambdas=np.ones(lambdas))


def user(folder: Path, body: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{PRELUDE}def score(inputs):\n{body}", encoding="utf-8")
    return path


def scored(folder: Path, body: str, lambdas: int = 1) -> np.ndarray:
    """The scores of a function with this body, from pieces that must be blocks of `BLOCK`."""
    user(folder, body)
    whole = np.full((lambdas, QUERIES, IMAGES), np.nan)
    for index, columns, values in load("mine:score", folder, BLOCK)(inputs(lambdas)):
        assert columns.start % BLOCK == 0
        assert columns.stop == min(columns.start + BLOCK, IMAGES)
        assert np.isnan(whole[index, :, columns]).all()
        whole[index, :, columns] = values
    return whole


def test_a_whole_array_without_lambda(tmp_path: Path):
    np.testing.assert_array_equal(scored(tmp_path, "    return WHOLE[0]\n"), WHOLE[:1])


def test_a_whole_array_with_lambdas(tmp_path: Path):
    np.testing.assert_array_equal(scored(tmp_path, "    return WHOLE\n", lambdas=2), WHOLE)


def test_a_tensor_of_whole_numbers(tmp_path: Path):
    body = "    import torch\n    return torch.arange(30).reshape(3, 10)\n"
    np.testing.assert_array_equal(scored(tmp_path, body), WHOLE[:1])


@pytest.mark.parametrize(
    "slices",
    [
        "[slice(0, 4), slice(4, 8), slice(8, 10)]",
        "[slice(0, 10)]",
        "[slice(None)]",
        "[slice(n, n + 1) for n in range(10)]",
        "[slice(7, 10), slice(0, 3), slice(3, 7)]",
        "[slice(None, 5), slice(5, None)]",
    ],
)
def test_pieces_of_any_width_and_order_come_out_in_blocks(tmp_path: Path, slices: str):
    body = (
        f"    for s in {slices}:\n        for i in 1, 0:\n            yield i, s, WHOLE[i][:, s]\n"
    )
    np.testing.assert_array_equal(scored(tmp_path, body, lambdas=2), WHOLE)


def test_a_list_of_pieces(tmp_path: Path):
    np.testing.assert_array_equal(
        scored(tmp_path, "    return [(0, slice(0, 10), WHOLE[0])]\n"), WHOLE[:1]
    )


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("    return WHOLE[0][:, :9]\n", r"shape \(3, 9\); 3 queries and 10 training images need"),
        ("    return WHOLE\n", r"shape \(2, 3, 10\); .* need \(3, 10\) or \(1, 3, 10\)"),
        ("    return 5\n", "gave int, neither an array nor pieces"),
        ("    return None\n", "gave NoneType, neither an array nor pieces"),
        ("    return [1, 2]\n", "yields int, not"),
        ("    yield 0, slice(0, 4), WHOLE[0]\n", r"shape \(3, 10\) for images 0 to 3; .* \(3, 4\)"),
        ("    yield 0, slice(0, 4), 'abc'\n", "scores that are no array of numbers"),
        ("    yield 0, [0, 1], WHOLE[0][:, :2]\n", r"the images \[0, 1\], not a slice of step 1"),
        ("    yield 0, slice(0, 10, 2), WHOLE[0]\n", "not a slice of step 1"),
        ("    yield 1, slice(0, 10), WHOLE[0]\n", "lambda number 1; there are 1, from 0"),
        ("    yield 0, slice(0, 11), WHOLE[0]\n", "images 0 to 10; there are 10 training images"),
        ("    yield 0, slice(-2, 10), WHOLE[0]\n", "there are 10 training images, from 0"),
        (
            "    for s in (slice(0, 5), slice(4, 10)):\n        yield 0, s, WHOLE[0][:, s]\n",
            "yields some of images 4 to 9 twice",
        ),
        (
            "    yield 0, slice(0, 7), WHOLE[0][:, :7]\n",
            r"no scores for 3 of 10 \(lambda, image\) pairs, the first being lambda 0, image 7",
        ),
        ("    if False:\n        yield\n", "no scores for 10 of 10"),
        ("    return WHOLE.missing\n", "failed: AttributeError: .*missing"),
        ("    yield 1 / 0\n", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_wrong_with_the_scores_is_said_in_a_sentence(
    tmp_path: Path, body: str, sentence: str
):
    with pytest.raises(ConfigurationError, match=rf"^mine:score .*{sentence}"):
        scored(tmp_path, body)


@pytest.mark.parametrize("value", ["np.nan", "np.inf"])
def test_a_score_that_is_not_finite_is_named(tmp_path: Path, value: str):
    body = f"    WHOLE[0, 1, 6] = {value}\n    for s in (slice(0, 5), slice(5, 10)):\n"
    with pytest.raises(NumericalError, match="for query 1 and training image 6"):
        scored(tmp_path, body + "        yield 0, s, WHOLE[0][:, s]\n")


def test_an_error_of_the_library_keeps_its_kind(tmp_path: Path):
    body = "    from attribution.errors import NumericalError\n    raise NumericalError('mine')\n"
    with pytest.raises(NumericalError, match=r"^mine$"):
        scored(tmp_path, body)


@pytest.mark.parametrize(
    ("function", "file"),
    [
        ("mine:score", "mine.py"),
        ("mine.py:score", "mine.py"),
        ("own/methods/mine.py:score", "own/methods/mine.py"),
        ("own.methods.mine:score", "own/methods/mine.py"),
    ],
)
def test_a_file_is_found_by_module_or_by_path(tmp_path: Path, function: str, file: str):
    path = user(tmp_path, "    return WHOLE[0]\n", file)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest(function, tmp_path) == expected
    ((_, _, values), *_) = load(function, tmp_path, IMAGES)(inputs())
    np.testing.assert_array_equal(values, WHOLE[0])
    assert digest(f"{path}:score", Path("/")) == expected


def test_the_digest_does_not_run_the_file(tmp_path: Path):
    (tmp_path / "mine.py").write_text("raise RuntimeError\ndef score(inputs): ...\n")
    assert digest("mine:score", tmp_path)
    with pytest.raises(ConfigurationError, match=r"mine.py cannot be imported: RuntimeError"):
        load("mine:score", tmp_path, BLOCK)


@pytest.mark.parametrize("find", [digest, lambda *where: load(*where, BLOCK)])
@pytest.mark.parametrize(
    ("function", "text", "sentence"),
    [
        ("mine:score", None, "'mine:score': there is no file .*mine.py"),
        ("mine:score", "def other(x): ...", "mine.py has no function 'score'"),
        ("mine:score", "def score(x:\n", r"mine.py is not valid Python \(line 1\)"),
        ("mine:", "", "names no function of a file: write my_module:score or"),
        (":score", "", "names no function of a file"),
        ("mine:a.b", "", "names no function of a file"),
    ],
)
def test_a_function_that_cannot_be_found_is_told_before_anything_runs(
    tmp_path: Path, find: Any, function: str, text: str | None, sentence: str
):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigurationError, match=sentence):
        find(function, tmp_path)


@pytest.mark.parametrize("signature", ["", "inputs, more", "*, inputs"])
def test_a_function_must_take_one_argument(tmp_path: Path, signature: str):
    (tmp_path / "mine.py").write_text(f"def score({signature}): ...\n")
    with pytest.raises(
        ConfigurationError, match=r"mine:score: the function must take one argument"
    ):
        load("mine:score", tmp_path, BLOCK)


@pytest.mark.parametrize(
    "text",
    [
        "score = lambda inputs: None",
        "from math import sqrt as score",
        "from math import *\nscore = exp",
    ],
)
def test_a_function_may_come_about_in_other_ways(tmp_path: Path, text: str):
    (tmp_path / "mine.py").write_text(text)
    digest("mine:score", tmp_path)
    assert load("mine:score", tmp_path, BLOCK)


def test_a_name_that_is_no_function_is_refused(tmp_path: Path):
    (tmp_path / "mine.py").write_text("score = 5\n")
    with pytest.raises(ConfigurationError, match=r"mine\.py has no function 'score'"):
        load("mine:score", tmp_path, BLOCK)


def test_a_file_may_define_dataclasses_and_an_edit_is_seen(tmp_path: Path):
    path = tmp_path / "mine.py"
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "import numpy as np\n@dataclass\nclass A:\n    x: int = 1\n"
        "def score(inputs):\n    return np.full((3, 10), A().x)\n"
    )
    path.write_text(text)
    assert next(load("mine:score", tmp_path, IMAGES)(inputs()))[2][0, 0] == 1
    path.write_text(text.replace("x: int = 1", "x: int = 12"))
    assert next(load("mine:score", tmp_path, IMAGES)(inputs()))[2][0, 0] == 12


def test_planning_imports_no_torch():
    program = "import attribution.user_methods, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
