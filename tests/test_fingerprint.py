"""What a job depends on: the meaning of the code that it reaches, and the settings it reads."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from attribution import fingerprint

ROOT = Path(fingerprint.__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "workflow_scripts").glob("*.py"))

SCRIPT = '''
"""A script."""
from attribution.alpha import f
import numpy as np

print(f(1))
'''
ALPHA = '''
"""Alpha."""
from attribution import beta

def f(x):
    """Adds one."""
    # a comment
    return beta.g(x) + 1
'''
BETA = "def g(x):\n    return x * 2\n"
GAMMA = "def h(x):\n    return x\n"


class Library:
    """A copy of the module under test among three small ones: script -> alpha -> beta; gamma."""

    def __init__(self, folder: Path):
        self.package = folder / "attribution"
        self.package.mkdir()
        shutil.copy(fingerprint.__file__, self.package / "fingerprint.py")
        self.script = folder / "script.py"
        self.write("script", SCRIPT)
        for name, text in (("alpha", ALPHA), ("beta", BETA), ("gamma", GAMMA)):
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.script if name == "script" else self.package / f"{name}.py"
        path.write_text(text, encoding="utf-8")

    def module(self) -> ModuleType:
        """A fresh import, as every run of the workflow makes one."""
        spec = importlib.util.spec_from_file_location("copy", self.package / "fingerprint.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def digest(self) -> str:
        return self.module().code_digest(self.script)

    def closure(self) -> set[str]:
        return {path.stem for path in self.module().modules(self.script)}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def test_the_closure_follows_imports_of_imports_and_leaves_the_rest(library: Library):
    assert library.closure() == {"script", "alpha", "beta"}


@pytest.mark.parametrize(
    "statement",
    [
        "import attribution.gamma",
        "import attribution.gamma as other",
        "from attribution import gamma",
        "from attribution.gamma import h as k",
        "def late():\n    from attribution import gamma",
        "if False:\n    import json, attribution.gamma",
    ],
)
def test_every_form_of_import_is_followed(library: Library, statement: str):
    library.write("beta", f"{statement}\n{BETA}")
    assert "gamma" in library.closure()


def test_a_relative_import_is_refused_and_not_overlooked(library: Library):
    library.write("beta", f"from . import gamma\n{BETA}")
    with pytest.raises(ImportError, match=r"beta\.py.*import absolutely"):
        library.closure()


@pytest.mark.parametrize("statement", ["import gamma", "from gamma import load_dataset"])
def test_another_library_with_the_name_of_a_module_is_not_taken_for_it(
    library: Library, statement: str
):
    """For instance Hugging Face's `datasets` beside `attribution.datasets`."""
    library.write("beta", f"{statement}\n{BETA}")
    assert "gamma" not in library.closure()


def test_modules_that_import_each_other_are_found_once(library: Library):
    library.write("beta", f"from attribution import alpha\n{BETA}")
    found = library.module().modules(library.script)
    assert [path.name for path in found] == ["alpha.py", "beta.py", "script.py"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("alpha", ALPHA.replace("# a comment", "# another\n    # and one more")),
        ("alpha", ALPHA.replace("Adds one.", "Adds 1 to the double.")),
        ("alpha", ALPHA.replace('"""Alpha."""', "")),
        ("beta", 'def g(\n    x,\n):\n\n    """Doubles."""\n    return (x\n            * 2)\n'),
        ("script", SCRIPT.replace("A script.", "The script.") + "\n\n# end\n"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_digest(
    library: Library, name: str, text: str
):
    before = library.digest()
    library.write(name, text)
    assert library.digest() == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("script", SCRIPT.replace("f(1)", "f(2)")),
        ("alpha", ALPHA.replace("+ 1", "- 1")),
        ("alpha", ALPHA.replace("+ 1", "+ 1.0")),
        ("alpha", ALPHA.replace("+ 1", "+ True")),
        ("beta", BETA.replace("2", "3")),
        ("beta", BETA.replace("return x * 2", "return None")),
        ("beta", BETA.replace("return x * 2", "return")),
        ("beta", BETA.replace("(x)", "(x, y=None)")),
        ("beta", BETA.replace("(x)", "(x, /)")),
        ("beta", BETA + "\nname = 'not a docstring'\n"),
        ("beta", BETA.replace("x * 2", "'x * 2'")),
    ],
)
def test_a_change_of_meaning_anywhere_in_the_closure_changes_the_digest(
    library: Library, name: str, text: str
):
    before = library.digest()
    library.write(name, text)
    assert library.digest() != before


def test_return_and_return_none_and_a_missing_default_are_told_apart(library: Library):
    digests = set()
    for body in (
        "return",
        "return None",
        "return 0",
        "pass",
        "return ''",
        "return ()",
        "return []",
    ):
        library.write("beta", f"def g(x):\n    {body}\n")
        digests.add(library.digest())
    assert len(digests) == 7


def test_an_unrelated_module_does_not_change_the_digest(library: Library):
    before = library.digest()
    library.write("gamma", GAMMA.replace("return x", "return -x"))
    library.write("delta", "x = 1\n")
    assert library.digest() == before


def test_the_digest_does_not_depend_on_where_the_project_lies(tmp_path: Path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    assert Library(tmp_path / "here").digest() == Library(tmp_path / "there").digest()


# What an edit of each script's stage must not rerun: modules that its closure must not hold.
REPORTING = {"lds", "evaluation", "tables", "figures", "galleries", "report", "configuration"}
SCORING = {"methods", "kernels"}
GRADIENTS = {"gradients", "projection", "features"}
TRAINING = {"training", "models", "sampling", "outputs", "diffusion", "subsets", "datasets"}
FOREIGN = {
    "prepare_data": REPORTING | SCORING | GRADIENTS | {"training", "models", "sampling", "outputs"},
    "draw_subsets": REPORTING | SCORING | GRADIENTS | {"training", "models", "sampling", "outputs"},
    "train_base": REPORTING | SCORING | GRADIENTS | {"sampling", "outputs", "subsets"},
    "retrain_subsets": REPORTING | SCORING | GRADIENTS | {"sampling", "outputs", "subsets"},
    "generate_images": REPORTING | SCORING | GRADIENTS | {"training", "outputs", "subsets"},
    "evaluate_outputs": REPORTING | SCORING | GRADIENTS | {"training", "sampling", "subsets"},
    "extract_gradients": REPORTING | SCORING | {"training", "sampling", "outputs", "subsets"},
    "decompose_kernel": REPORTING | {"methods", "gradients", "training", "sampling", "outputs"},
    "score_method": REPORTING | {"gradients", "training", "sampling", "outputs", "subsets"},
    "predict_outputs": REPORTING | SCORING | GRADIENTS | TRAINING,
    "predict_variant": REPORTING | {"gradients", "features"} | TRAINING - {"models"},
    "evaluate_method": SCORING | GRADIENTS | TRAINING | {"tables", "figures", "predictions"},
    "tabulate_lds": SCORING | GRADIENTS | TRAINING | {"figures", "predictions"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_stage_reaches_no_module_of_a_stage_that_it_does_not_need(name: str):
    reached = {path.stem for path in fingerprint.modules(ROOT / "workflow_scripts" / f"{name}.py")}
    assert not reached & FOREIGN[name]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("retrain_subsets", {"training", "diffusion", "models", "randomness", "stores"}),
        ("extract_gradients", {"features", "gradients", "projection", "diffusion", "stores"}),
        ("evaluate_outputs", {"outputs", "output_functions", "diffusion", "models"}),
        ("score_method", {"methods", "kernels", "rows", "stores"}),
        ("predict_outputs", {"predictions", "readouts", "stores"}),
        ("predict_variant", {"predictions", "method_inputs", "methods", "kernels"}),
        ("evaluate_method", {"evaluation", "lds", "stores", "randomness"}),
    ],
)
def test_a_stage_reaches_its_own_modules(name: str, own: set[str]):
    script = ROOT / "workflow_scripts" / f"{name}.py"
    assert own <= {path.stem for path in fingerprint.modules(script)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_script_reaches_snakemake_s_side_of_the_library(script: Path):
    """The digest itself is no part of a result, nor are the checks of config.yaml."""
    reached = {path.stem for path in fingerprint.modules(script)}
    assert not reached & {"fingerprint", "configuration"}


SETTINGS = {
    "training": {"epochs": 3, "batch_size": 20},
    "features": {"a": {"dim": 1, "label": "A"}, "b": {"dim": 2}},
    "compute": {"threads": 1},
}


def test_select_takes_sections_and_dotted_paths():
    assert fingerprint.select(SETTINGS, ["compute", "features.a", "training.epochs"]) == {
        "compute": {"threads": 1},
        "features": {"a": {"dim": 1, "label": "A"}},
        "training": {"epochs": 3},
    }


def test_select_leaves_out_what_changes_nothing():
    chosen = fingerprint.select(
        SETTINGS, ["features", "training"], without=("features.a.label", "training.x", "x.y.z")
    )
    assert chosen == {
        "training": {"epochs": 3, "batch_size": 20},
        "features": {"a": {"dim": 1}, "b": {"dim": 2}},
    }


def test_select_copies_and_leaves_the_settings_as_they_are():
    before = json.dumps(SETTINGS)
    chosen = fingerprint.select(SETTINGS, ["features"], without=("features.a",))
    chosen["features"]["b"]["dim"] = 9
    assert json.dumps(SETTINGS) == before


def test_select_of_a_setting_that_does_not_exist_fails():
    with pytest.raises(KeyError):
        fingerprint.select(SETTINGS, ["training.epoch"])


def test_canonical_json_is_blind_to_order_and_sees_every_value():
    a = fingerprint.canonical_json({"x": 1, "y": {"b": [1, 2], "a": "é"}})
    assert a == fingerprint.canonical_json({"y": {"a": "é", "b": [1, 2]}, "x": 1})
    assert a == '{"x":1,"y":{"a":"é","b":[1,2]}}'
    assert a != fingerprint.canonical_json({"x": 1, "y": {"b": [2, 1], "a": "é"}})
