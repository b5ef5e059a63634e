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
STUDIES = {"studies", "study_tables", "study_figures", "paper", "convergence", "cost"}
STUDIES |= {"differences", "self_influence"}
REPORTING = {"tables", "figures", "galleries", "report"} | STUDIES
EVALUATION = {"lds", "evaluation"} | REPORTING
PREDICTION = {"predictions", "readouts"} | EVALUATION
METHODS = {"methods", "method_inputs", "user_methods", "retraining_based"}
SCORING = {"kernels", "rows"} | METHODS
GRADIENTS = {"gradients", "projection", "features"}
ENCODING = {"clip"}
FUNCTIONS = {"outputs", "output_functions"}
MODELS = {"training", "models", "diffusion", "sampling"} | FUNCTIONS
DATA = {"datasets", "subsets"}
AFTER_FEATURES = PREDICTION | SCORING
AFTER_MODELS = AFTER_FEATURES | GRADIENTS | ENCODING
BEFORE_TABLES = AFTER_MODELS - REPORTING | MODELS | DATA
BEFORE_EVALUATION = BEFORE_TABLES - {"lds", "evaluation"}
FOREIGN = {
    "prepare_data": AFTER_MODELS | MODELS | {"subsets"},
    "encode_latents": AFTER_MODELS | DATA | FUNCTIONS | {"training", "sampling"},
    "draw_cases": MODELS - {"diffusion"} | DATA | STUDIES | {"gradients", "features", "clip"},
    "retrain_cases": AFTER_MODELS | DATA | FUNCTIONS | {"sampling"},
    "regenerate_images": AFTER_MODELS | DATA | FUNCTIONS | {"training"},
    "compare_images": {
        "training",
        "sampling",
        "datasets",
        "subsets",
        "gradients",
        "features",
        "lds",
    },
    "draw_subsets": AFTER_MODELS | MODELS,
    "train_base": AFTER_MODELS | DATA | FUNCTIONS | {"sampling"},
    "retrain_subsets": AFTER_MODELS | DATA | FUNCTIONS | {"sampling"},
    "collect_losses": AFTER_MODELS | MODELS | DATA,
    "generate_images": AFTER_MODELS | DATA | FUNCTIONS | {"training"},
    "record_trajectories": AFTER_MODELS | DATA | FUNCTIONS | {"training"},
    "evaluate_outputs": AFTER_MODELS | DATA | {"training", "sampling"},
    "encode_images": AFTER_FEATURES | GRADIENTS | MODELS | DATA,
    "extract_gradients": AFTER_FEATURES | ENCODING | DATA | {"training", "sampling", "outputs"},
    "adopt_model": AFTER_MODELS | DATA | FUNCTIONS | {"training", "sampling"},
    "read_images": AFTER_MODELS | MODELS | {"subsets"},
    "answer_queries": MODELS | DATA | STUDIES | {"gradients", "features", "clip", "lds"},
    "assemble_store": AFTER_MODELS | MODELS | DATA,
    "decompose_kernel": PREDICTION | METHODS | MODELS | DATA | {"gradients", "features", "clip"},
    "score_method": PREDICTION | MODELS | DATA | {"gradients", "features", "clip"},
    "predict_outputs": EVALUATION | SCORING | GRADIENTS | ENCODING | MODELS | DATA,
    "predict_variant": EVALUATION | MODELS | DATA | {"gradients", "features", "clip"},
    "evaluate_method": REPORTING | BEFORE_EVALUATION | {"tabulation"},
    "tabulate_lds": (REPORTING | BEFORE_EVALUATION) - {"paper", "differences"},
    "write_tables": BEFORE_TABLES | REPORTING - {"tables"},
    "draw_figures": BEFORE_TABLES | REPORTING - {"tables", "figures"},
    "draw_gallery": BEFORE_TABLES | REPORTING - {"tables", "figures", "galleries"},
    "write_report": BEFORE_TABLES | STUDIES,
    "tabulate_study": BEFORE_EVALUATION | {"self_influence", "cost", "convergence", "report"},
    "study_benchmark_outputs": BEFORE_EVALUATION | {"self_influence", "cost", "convergence"},
    "study_convergence": BEFORE_EVALUATION | {"self_influence", "differences", "report"},
    "study_cost": BEFORE_TABLES | {"self_influence", "differences", "convergence"},
    "study_self_influence": PREDICTION - REPORTING | MODELS | DATA | {"gradients", "features"},
}


def reached(name: str) -> set[str]:
    """The modules that count as the code of a script."""
    return {path.stem for path in fingerprint.modules(ROOT / "workflow_scripts" / f"{name}.py")}


def test_every_script_is_held_to_its_own_modules():
    assert set(FOREIGN) == {script.stem for script in SCRIPTS}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_stage_reaches_no_module_of_a_stage_that_it_does_not_need(name: str):
    assert all((ROOT / "attribution" / f"{module}.py").is_file() for module in FOREIGN[name])
    assert not reached(name) & FOREIGN[name]


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("lds", {"score_method", "predict_outputs", "predict_variant", "extract_gradients"}),
        ("evaluation", {"score_method", "predict_outputs", "predict_variant", "tabulate_study"}),
        (
            "methods",
            {"extract_gradients", "decompose_kernel", "predict_outputs", "evaluate_method"},
        ),
        ("readouts", {"score_method", "evaluate_method", "tabulate_lds"}),
        ("clip", {"extract_gradients", "score_method", "predict_variant"}),
        ("features", {"encode_images", "score_method", "predict_variant", "decompose_kernel"}),
        ("sampling", {"extract_gradients", "evaluate_outputs"}),
        ("tables", {"tabulate_lds", "evaluate_method", "score_method"}),
        ("studies", {"predict_variant", "evaluate_method", "score_method"}),
    ],
)
def test_an_edit_of_a_module_does_not_reach_these_stages(module: str, stages: set[str]):
    assert (ROOT / "attribution" / f"{module}.py").is_file()
    assert not {stage for stage in stages if module in reached(stage)}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("retrain_subsets", {"training", "diffusion", "models", "randomness", "stores"}),
        ("extract_gradients", {"features", "gradients", "projection", "diffusion", "stores"}),
        ("encode_images", {"clip", "stores"}),
        ("record_trajectories", {"sampling", "diffusion", "models", "stores"}),
        ("evaluate_outputs", {"outputs", "output_functions", "diffusion", "models"}),
        ("score_method", {"methods", "method_inputs", "kernels", "rows", "stores"}),
        ("score_method", {"user_methods", "retraining_based"}),
        ("predict_outputs", {"predictions", "readouts", "stores"}),
        ("predict_variant", {"predictions", "readouts", "method_inputs", "methods", "kernels"}),
        ("evaluate_method", {"evaluation", "lds", "stores", "randomness"}),
        ("tabulate_lds", {"evaluation"}),
        ("tabulate_study", {"studies", "study_tables", "study_figures", "differences", "paper"}),
    ],
)
def test_a_stage_reaches_its_own_modules(name: str, own: set[str]):
    assert own <= reached(name)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_script_reaches_snakemake_s_side_of_the_library(script: Path):
    """The digest itself is no part of a result, nor are the checks of config.yaml."""
    assert not reached(script.stem) & {"fingerprint", "configuration", "expansion"}


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
