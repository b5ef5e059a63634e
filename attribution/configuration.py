"""config.yaml: merged, checked against the closed schema and for what a schema cannot say."""

import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from attribution.errors import ConfigurationError
from attribution.workflow import merged

SCHEMA = Path(__file__).resolve().parent.parent / "schemas" / "config.schema.yaml"
SPLITS = ("validation", "generation")
NEEDS = {
    "raw_pixel_dot": "images",
    "raw_pixel_cosine": "images",
    "raw_pixel_gaussian": "images",
    "gradient_dot": "features",
    "gradient_cosine": "features",
    "kernel": "kernel",
    "random": "images",
}
NO_TARGET_OPTIONS = {"width": "raw_pixel_gaussian", "seed": "random"}


def load_experiments(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The experiments of a configuration by name, each merged over the defaults and checked.

    Raises:
        ConfigurationError: an unknown or misspelt key, a value that does not fit its description,
        or
            settings that contradict each other; the message names the place.
    """
    _check_schema(config)
    experiments = {
        name: _complete(merged(config["defaults"], own))
        for name, own in config["experiments"].items()
    }
    for name in config["run"]:
        if name not in experiments:
            raise ConfigurationError(f"run: {_unknown('experiment', name, experiments)}")
    for name, experiment in experiments.items():
        for problem in _problems(experiment):
            raise ConfigurationError(f"experiments.{name}.{problem}")
    return experiments


def needs(method: dict[str, Any]) -> str:
    """What a configured method reads: `images`, `features`, or `kernel` (features and more).

    The registry (`attribution.methods`) declares the same; it is not asked, because it imports
    torch and every run of the workflow would wait for that. A test holds the two together.
    """
    return NEEDS[method["function"]]


def computes_on_cuda(experiment: dict[str, Any]) -> bool:
    """Whether an experiment's jobs take a GPU; asked without torch, which is slow to import."""
    device = experiment["compute"]["device"]
    return device == "cuda" or (device == "auto" and Path("/dev/nvidia0").exists())


def _complete(experiment: dict[str, Any]) -> dict[str, Any]:
    features = {
        name: merged(experiment["feature_defaults"], own)
        for name, own in experiment["features"].items()
        if own is not None
    }
    methods = {name: own for name, own in experiment["methods"].items() if own is not None}
    data = dict(experiment["data"])
    data["image_size"] = data["image_size"] or experiment["model"]["sample_size"]
    data["channels"] = experiment["model"]["in_channels"]
    return {**experiment, "features": features, "methods": methods, "data": data}


def _check_schema(config: dict[str, Any]) -> None:
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    errors = list(Draft202012Validator(schema).iter_errors(config))
    if not errors:
        return
    error = best_match(errors)
    place = ".".join(map(str, error.absolute_path)) or "the top level"
    raise ConfigurationError(f"{place}: {_explanation(error)}")


def _explanation(error: ValidationError) -> str:
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        extra = sorted(set(error.instance) - set(known))[0]
        return _unknown("key", extra, known)
    if error.validator == "enum":
        return _unknown("value", error.instance, error.validator_value)
    if error.validator == "type" and _is_number_as_text(error.instance):
        number = float(error.instance)
        return (
            f"{error.instance!r} is text in YAML; write it as {number!r}, or as 1.0e-4 is written"
        )
    described = error.schema.get("description")
    return error.message + (f" ({described})" if described else "")


def _is_number_as_text(value: Any) -> bool:
    """Whether it is like 1e-4, which YAML reads as text for want of a dot."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def _unknown(what: str, value: Any, known: Any) -> str:
    close = difflib.get_close_matches(str(value), list(map(str, known)), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {what} {value!r}{hint} Known: {', '.join(map(str, known))}"


def _problems(experiment: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one merged experiment, each as `section.key: sentence`."""
    yield from _problems_of_data(experiment)
    yield from _problems_of_model(experiment)
    for name, feature in experiment["features"].items():
        yield from _problems_of_timesteps(f"features.{name}", feature, experiment)
        number = feature["checkpoint"]
        if number != "final" and number > experiment["training"]["checkpoints"]:
            yield (
                f"features.{name}.checkpoint: there is no checkpoint {number}; "
                f"training.checkpoints keeps {experiment['training']['checkpoints']}"
            )
    yield from _problems_of_training(experiment)
    yield from _problems_of_timesteps("outputs", experiment["outputs"], experiment)
    outputs = experiment["outputs"]
    if outputs["groups"] > outputs["timesteps"]:
        yield (
            f"outputs.groups: {outputs['groups']} groups cannot be made of "
            f"{outputs['timesteps']} timesteps"
        )
    yield from _problems_of_methods(experiment)


def _problems_of_data(experiment: dict[str, Any]) -> Iterator[str]:
    data, subsets = experiment["data"], experiment["subsets"]
    if data["source"] == "digits":
        if data["train"] + data["validation"] > 1797:
            yield (
                f"data: digits has 1797 images; train ({data['train']}) and validation "
                f"({data['validation']}) need {data['train'] + data['validation']}"
            )
        if (data["image_size"], data["channels"]) != (8, 1):
            yield "model: digits are 8x8 with 1 channel; set sample_size 8 and in_channels 1"
    elif data["path"] is None:
        yield f"data.path: the source {data['source']} needs the folder of the images"
    elif not Path(data["path"]).is_dir():
        yield f"data.path: {data['path']} is not a folder"
    if int(subsets["fraction"] * data["train"]) < 1:
        yield (
            f"subsets.fraction: {subsets['fraction']} of {data['train']} training images "
            "is no image"
        )
    if experiment["evaluation"] and subsets["count"] < 4:
        yield (
            f"subsets.count: {subsets['count']} subsets cannot be ranked and halved; use 4 or more"
        )
    if experiment["generation"]["steps"] > experiment["diffusion"]["timesteps"]:
        yield (
            f"generation.steps: {experiment['generation']['steps']} steps do not fit "
            f"diffusion.timesteps {experiment['diffusion']['timesteps']}"
        )


def _problems_of_model(experiment: dict[str, Any]) -> Iterator[str]:
    model = experiment["model"]
    blocks = len(model["block_out_channels"])
    for key in ("down_block_types", "up_block_types"):
        if len(model[key]) != blocks:
            yield f"model.{key}: {len(model[key])} blocks, but block_out_channels has {blocks}"
    groups = model.get("norm_num_groups", 32)
    for channels in model["block_out_channels"]:
        if channels % groups:
            yield f"model.norm_num_groups: {groups} does not divide a block's {channels} channels"
    if experiment["data"]["image_size"] % 2 ** (blocks - 1):
        yield (
            f"data.image_size: {experiment['data']['image_size']} cannot be halved {blocks - 1} "
            "times, as the model's blocks do"
        )
    if experiment["data"]["image_size"] != model["sample_size"]:
        yield (
            f"data.image_size: {experiment['data']['image_size']} is not the model's sample_size "
            f"{model['sample_size']}; leave it out, or make them equal"
        )
    if model["out_channels"] != model["in_channels"]:
        yield (
            f"model.out_channels: {model['out_channels']}, but the noise of images with "
            f"{model['in_channels']} channels (in_channels) is predicted; make them equal"
        )
    if experiment["diffusion"]["beta_start"] >= experiment["diffusion"]["beta_end"]:
        yield "diffusion.beta_start: must be below beta_end"


def _problems_of_training(experiment: dict[str, Any]) -> Iterator[str]:
    training, images = experiment["training"], experiment["data"]["train"]
    steps = training["epochs"] * math.ceil(images / training["batch_size"])
    if training["checkpoints"] > steps:
        yield (
            f"training.checkpoints: {training['checkpoints']} cannot be spaced over a training of "
            f"{steps} steps"
        )


def _problems_of_timesteps(place: str, entry: dict[str, Any], experiment: dict) -> Iterator[str]:
    whole, count = experiment["diffusion"]["timesteps"], entry["timesteps"]
    if count > whole:
        yield f"{place}.timesteps: {count} do not fit the schedule of {whole} timesteps"
    elif entry["strategy"] == "uniform" and whole % count:
        yield (
            f"{place}.timesteps: uniform needs a divisor of the schedule's {whole} timesteps, "
            f"and {count} is none; use another number or strategy midpoints"
        )


def _problems_of_methods(experiment: dict[str, Any]) -> Iterator[str]:
    for name, method in experiment["methods"].items():
        place, function = f"methods.{name}", method["function"]
        if NEEDS[function] != "images":
            if "features" not in method:
                yield f"{place}: {function} needs `features`, the name of a feature set"
            elif method["features"] not in experiment["features"]:
                known = experiment["features"]
                yield f"{place}.features: {_unknown('set', method['features'], known)}"
        elif "features" in method:
            yield f"{place}.features: {function} reads no features"
        for option, owner in NO_TARGET_OPTIONS.items():
            if option in method and function != owner:
                yield f"{place}.{option}: only {owner} has this option"
    for name in experiment["galleries"]["methods"]:
        if name not in experiment["methods"]:
            yield f"galleries.methods: {_unknown('method', name, experiment['methods'])}"
