"""Configurations made up for tests: the shipped defaults and an experiment `mine`."""

import json
from pathlib import Path
from typing import Any

import yaml

from attribution.configuration import SCHEMA, load_experiments
from attribution.workflow import merged

CONFIG = Path(SCHEMA).parent.parent / "config.yaml"


def shipped() -> dict[str, Any]:
    """The project's own configuration; through JSON, so that YAML's anchors share nothing."""
    return json.loads(json.dumps(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))))


def with_experiment(experiment: dict[str, Any]) -> dict[str, Any]:
    """The shipped defaults and one experiment `mine`."""
    return {"run": ["mine"], "defaults": shipped()["defaults"], "experiments": {"mine": experiment}}


def nested(path: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for the path a.b."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def load_mine(experiment: dict[str, Any]) -> dict[str, Any]:
    """The experiment `mine`, checked and expanded."""
    return load_experiments(with_experiment(experiment))["mine"]


def mine(**changes: Any) -> dict[str, Any]:
    """The experiment `mine` with dotted paths (dots as `__`) set."""
    experiment: dict[str, Any] = {}
    for path, value in changes.items():
        experiment = merged(experiment, nested(path.replace("__", "."), value))
    return load_mine(experiment)
