"""The environments agree: the lock, the conda file, and the package's own requirements."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str]) -> dict[str, str]:
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {normal(name): version for name, version in pairs}


LOCK = pins((ROOT / "envs/requirements.lock").read_text().splitlines())


def test_the_conda_file_has_the_versions_of_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "envs/attribution.yaml").read_text())
    conda = pins(
        next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    )
    assert conda
    assert conda == {name: LOCK[name] for name in conda}


def test_the_lock_holds_all_that_the_package_and_its_tests_require() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {normal(re.split(r"[\[<>=!~ ]", requirement)[0]) for requirement in required}
    assert names <= set(LOCK)


def test_the_lock_names_no_index_and_no_local_file() -> None:
    text = (ROOT / "envs/requirements.lock").read_text()
    assert "://" not in text
    assert " @ " not in text
