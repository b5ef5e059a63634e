"""config.yaml: merged, checked against the closed schema and for what a schema cannot say."""

import difflib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from attribution.errors import ConfigurationError
from attribution.expansion import (
    NEEDS,
    counterfactual_methods,
    expand,
    is_finished,
    is_latent,
    kind,
    needs,
    obstacle,
)
from attribution.user_methods import digest, is_users
from attribution.workflow import merged

SCHEMA = Path(__file__).resolve().parent.parent / "schemas" / "config.schema.yaml"
SPLITS = ("validation", "generation")
# Options that only some functions have.
OPTIONS = {
    "width": ("raw_pixel_gaussian",),
    "seed": ("random",),
    "models": ("empirical_influence", "datamodel"),
    "alphas": ("datamodel",),
    "leverage": ("das",),
}
COUNTERFACTUAL = (
    "queries", "query_seed", "methods", "removed", "controls", "reseeded", "steps", "seed",
)  # fmt: skip
MOST_IN_GALLERY = 3  # methods of an experiment that names none
MOST_POINTS = 101  # of study 2, whose feature sets are named by whole percents of eta


def load_experiments(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The experiments of a configuration by name, each merged over the defaults and checked.

    Raises:
        ConfigurationError: an unknown or misspelt key, a value that does not fit its description,
            or settings that contradict each other; the message names the place.
    """
    _check_schema(config)
    experiments = {
        name: _complete(merged(_base(config, own), own))
        for name, own in config["experiments"].items()
    }
    for name in config["run"]:
        if name not in experiments:
            raise ConfigurationError(f"run: {unknown('experiment', name, experiments)}")
    for name, experiment in experiments.items():
        for problem in _problems(experiment):
            raise ConfigurationError(f"experiments.{name}.{problem}")
        try:
            experiments[name] = _with_galleries(expand(experiment))
        except ConfigurationError as error:
            raise ConfigurationError(f"experiments.{name}.{error}") from None
        for problem in _problems_of_generated(experiments[name]):
            raise ConfigurationError(f"experiments.{name}.{problem}")
    return experiments


def _with_galleries(experiment: dict[str, Any]) -> dict[str, Any]:
    """The experiment with methods in its galleries: its first ones, where it names none."""
    galleries = experiment["galleries"]
    if galleries["methods"]:
        return experiment
    fit = [
        name
        for name, method in experiment["methods"].items()
        if not method.get("deferred")
        and not any(obstacle(experiment, method, split) for split in SPLITS)
    ]
    return {**experiment, "galleries": {**galleries, "methods": fit[:MOST_IN_GALLERY]}}


def computes_on_cuda(experiment: dict[str, Any]) -> bool:
    """Whether an experiment's jobs take a GPU; asked without torch, which is slow to import."""
    device = experiment["compute"]["device"]
    return device == "cuda" or (device == "auto" and Path("/dev/nvidia0").exists())


def _base(config: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What an experiment's own settings are laid over."""
    pretrained = own.get("pretrained")
    if pretrained is None or "lora" in pretrained:
        return config["defaults"]
    return {**merged(config["defaults"], config.get("own_model", {})), "studies": {}}


def _complete(experiment: dict[str, Any]) -> dict[str, Any]:
    features = {
        name: merged(experiment["feature_defaults"], own) if kind(own) == "gradient" else own
        for name, own in experiment["features"].items()
        if own is not None
    }
    for entry in features.values():
        if entry.get("along") == "trajectory":  # one gradient a step of the sampler
            entry["timesteps"] = experiment["generation"]["steps"] if entry["at"] is None else 1
    methods = {name: own for name, own in experiment["methods"].items() if own is not None}
    data = dict(experiment["data"])
    data["image_size"] = data["image_size"] or experiment["model"]["sample_size"]
    data["channels"] = 3 if is_latent(experiment) else experiment["model"]["in_channels"]
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
        return unknown("key", extra, known)
    if error.validator == "enum":
        return unknown("value", error.instance, error.validator_value)
    if error.validator == "pattern":
        return (
            f"{error.instance!r} cannot be a name; names are lower-case letters and digits, "
            "words joined by one - or _, such as trak_10"
        )
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


def unknown(what: str, value: Any, known: Any) -> str:
    """That there is no such value, what was perhaps meant, and what there is."""
    close = difflib.get_close_matches(str(value), list(map(str, known)), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {what} {value!r}{hint} Known: {', '.join(map(str, known))}"


def _problems(experiment: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one merged experiment, each as `section.key: sentence`."""
    if is_finished(experiment):
        yield from _problems_of_finished(experiment)
        return
    if experiment["generation"]["path"] is not None:
        yield "generation.path: only experiments with `pretrained` are given their queries"
    yield from _problems_of_data(experiment)
    yield from (_problems_of_latents if is_latent(experiment) else _problems_of_model)(experiment)
    yield from _problems_of_features(experiment)
    yield from _problems_of_training(experiment)
    yield from _problems_of_timesteps("outputs", experiment["outputs"], experiment)
    outputs = experiment["outputs"]
    if outputs["groups"] > outputs["timesteps"]:
        yield (
            f"outputs.groups: {outputs['groups']} groups cannot be made of "
            f"{outputs['timesteps']} timesteps"
        )
    yield from _problems_of_methods(experiment)
    yield from _problems_of_counterfactual(experiment)


def _problems_of_counterfactual(experiment: dict[str, Any]) -> Iterator[str]:
    own = experiment["counterfactual"]
    if own is None:
        return
    missing = [key for key in COUNTERFACTUAL if key not in own]
    if missing:
        yield f"counterfactual: {missing[0]} is missing; the experiment digits has all of them"
        return
    if own["queries"] >= experiment["generation"]["images"]:
        yield (
            f"counterfactual.queries: {own['queries']} of generation.images "
            f"{experiment['generation']['images']}; one must be left over"
        )
    for count in own["removed"]:
        if count >= experiment["data"]["train"]:
            yield f"counterfactual.removed: {count} of {experiment['data']['train']} leave no image"
    at, methods = [one["timestep"] for one in own["steps"]], experiment["methods"]
    if len(at) > len(set(at)):
        yield "counterfactual.steps: a timestep stands there twice"
    for timestep in at:
        yield from _problems_of_step("counterfactual.steps", timestep, experiment)
    for name in counterfactual_methods(experiment):
        if name not in methods:
            yield f"counterfactual: {unknown('method', name, methods)}"


def _problems_of_finished(experiment: dict[str, Any]) -> Iterator[str]:
    """What is wrong with an experiment whose model is given, and of which nothing is retrained."""
    model = experiment["pretrained"]["model"]
    if not _may_be_there(model, "hub"):
        yield f"pretrained.model: {model} is neither a folder nor a hub id"
    given = experiment["pretrained"]
    for key in ("adapter", "prompts"):
        if given.get(key) is None:
            continue
        if not is_latent(experiment):
            yield f"pretrained.{key}: only kind stable_diffusion has it"
        if not Path(given[key]).expanduser().exists():
            yield f"pretrained.{key}: {given[key]} does not exist"
    if experiment["data"]["source"] != "files":
        yield (
            f"data.source: {experiment['data']['source']} cannot be the training images of a "
            "finished model; use files, and their folder as data.path"
        )
    for place, path in (
        ("data.path", experiment["data"]["path"]),
        ("generation.path", experiment["generation"]["path"]),
    ):
        if path is None:
            yield f"{place}: a finished model needs a folder of images here"
        elif not Path(path).expanduser().is_dir():
            yield f"{place}: {path} is not a folder"
    for name, feature in experiment["features"].items():
        if kind(feature) != "gradient":
            continue
        if feature["checkpoint"] != "final" or feature["model"] != "base":
            yield f"features.{name}: a finished model has one checkpoint and no pool"
        if feature["along"] == "trajectory":
            yield f"features.{name}.along: queries that are given have no sampling trajectory"
    for name, method in experiment["methods"].items():
        if not is_users(method) and NEEDS.get(method["function"]) == "pool":
            yield f"methods.{name}: {method['function']} needs retrained models, and there are none"
        for key in ("checkpoints", "ensemble"):
            if key in method:
                yield f"methods.{name}.{key}: a finished model has one checkpoint and no pool"
    if not experiment["galleries"]["methods"]:
        yield "galleries.methods: name the methods that answer"
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
        for key in ("labels", "crop"):
            if data[key] is not None:
                yield f"data.{key}: the source digits has no such choice; leave it out"
    elif data["source"] == "files":
        yield "data.source: files has no held-out images; only experiments with `pretrained` use it"
    elif data["path"] is None:
        if data["source"] not in ("cifar10", "artbench"):
            yield f"data.path: the source {data['source']} needs the folder of the images"
    elif not _may_be_there(data["path"], data["source"]):
        kinds = "a folder" if data["source"] == "image_folder" else "a folder, archive or hub id"
        yield f"data.path: {data['path']} is not {kinds}"
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


def _may_be_there(path: str, source: str) -> bool:
    """Whether there is such a folder or archive, or it has the form of a hub id."""
    place = Path(path).expanduser()
    if source == "image_folder":
        return place.is_dir()
    hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not path.startswith((".", "~"))
    return place.exists() or bool(hub_id)


def _problems_of_latents(experiment: dict[str, Any]) -> Iterator[str]:
    """What is wrong with LoRA on a published Stable Diffusion."""
    for key in ("kind", "adapter", "prompts"):
        if key in experiment["pretrained"]:
            yield f"pretrained.{key}: only finished models have it, and `lora` trains one"
    model, caption = experiment["pretrained"]["model"], experiment["data"]["caption"]
    if not _may_be_there(model, "hub"):
        yield f"pretrained.model: {model} is neither a folder nor a hub id"
    if experiment["data"]["source"] == "digits":
        yield "data.source: digits are too small for an autoencoder; name images of colours"
    if caption is None:
        yield 'data.caption: LoRA is trained with captions; write one, such as "a {label} painting"'
    else:
        try:
            caption.format(label="")
        except (KeyError, IndexError, ValueError):
            yield f"data.caption: {caption!r} may hold {{label}} and no other braces"


def _problems_of_model(experiment: dict[str, Any]) -> Iterator[str]:
    model = experiment["model"]
    if experiment["data"]["caption"] is not None:
        yield "data.caption: only LoRA on Stable Diffusion (`pretrained.lora`) reads captions"
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
    if entry.get("along") == "trajectory":
        return
    whole, count = experiment["diffusion"]["timesteps"], entry["timesteps"]
    if count > whole:
        yield f"{place}.timesteps: {count} do not fit the schedule of {whole} timesteps"
    elif entry["strategy"] == "uniform" and whole % count:
        yield (
            f"{place}.timesteps: uniform needs a divisor of the schedule's {whole} timesteps, "
            f"and {count} is none; use another number or strategy midpoints"
        )


def _problems_of_step(place: str, timestep: int, experiment: dict[str, Any]) -> Iterator[str]:
    whole = experiment["diffusion"]["timesteps"]
    if timestep >= whole:
        yield f"{place}: {timestep} is beyond the process's {whole} timesteps"


def _problems_of_features(experiment: dict[str, Any]) -> Iterator[str]:
    features, checkpoints = experiment["features"], experiment["training"]["checkpoints"]
    for name, feature in features.items():
        if kind(feature) == "combine":
            yield from _problems_of_combination(name, feature, features)
        elif kind(feature) == "gradient":
            yield from _problems_of_timesteps(f"features.{name}", feature, experiment)
            if feature["at"] is not None and feature["along"] != "trajectory":
                yield f"features.{name}.at: only a set `along: trajectory` has a step"
            if feature["at"] is not None:
                yield from _problems_of_step(f"features.{name}.at", feature["at"], experiment)
            if feature["checkpoint"] != "final" and feature["checkpoint"] > checkpoints:
                yield (
                    f"features.{name}.checkpoint: there is no checkpoint {feature['checkpoint']}; "
                    f"training.checkpoints keeps {checkpoints}"
                )
            if feature["model"] == "base":
                continue
            if feature["checkpoint"] != "final":
                yield f"features.{name}.checkpoint: models of the pool keep only their final one"
            number, count = feature["model"]["pool"], experiment["pool"]["count"]
            if number >= count:
                yield (
                    f"features.{name}.model: there is no model {number} in the pool; pool.count "
                    f"is {count}, and they are counted from 0"
                )


def _problems_of_combination(name: str, feature: dict, features: dict) -> Iterator[str]:
    place = f"features.{name}"
    known = [other for other, entry in features.items() if kind(entry) == "gradient"]
    strange = [part for part in feature["combine"] if part not in known]
    for part in strange:
        yield f"{place}.combine: {unknown('set of gradients', part, known)}"
    if strange:
        return
    first, *others = feature["combine"]
    projection = features[first]["projection"]
    for other in others:
        if features[other]["projection"] != projection:
            yield f"{place}.combine: {first} and {other} are projected differently; make them alike"
    if "dim" in feature:
        for problem in _problems_of_dimension(feature["dim"], projection):
            yield f"{place}.dim: {problem}"


def _problems_of_dimension(dim: int, projection: dict[str, Any]) -> Iterator[str]:
    """Why features of this projection cannot be brought to `dim` numbers."""
    if projection["kind"] == "none":
        yield f"features of projection kind none cannot be brought to {dim} dimensions"
    elif dim > projection["dim"]:
        yield f"{dim} is above the stored {projection['dim']} dimensions"
    elif projection["kind"] == "count_sketch" and projection["dim"] % dim:
        yield (
            f"{dim} does not divide {projection['dim']}, and a count_sketch folds to divisors only"
        )


def _problems_of_generated(experiment: dict[str, Any]) -> Iterator[str]:
    """What only shows when checkpoints, ensembles and studies are written out."""
    for name, feature in experiment["features"].items():
        if kind(feature) == "gradient" and "__" in name:
            yield from _problems_of_timesteps(f"studies: features {name}", feature, experiment)
    dims = (experiment["studies"].get("projection_dimension") or {}).get("dims", [])
    for dim in dims:
        for problem in _problems_of_dimension(dim, experiment["feature_defaults"]["projection"]):
            yield (
                f"studies.projection_dimension.dims: {problem}; name others, or set the study to "
                "null"
            )
    points = (experiment["studies"].get("interpolation") or {}).get("points", 0)
    if points > MOST_POINTS:
        yield (
            f"studies.interpolation.points: {points} values of eta are closer than a hundredth; "
            f"use {MOST_POINTS} or fewer"
        )
    for name in counterfactual_methods(experiment) if experiment["counterfactual"] else []:
        if why := obstacle(experiment, experiment["methods"][name], "generation"):
            yield (
                f"counterfactual: {name} cannot choose images: it {why}; take it out, or set "
                "counterfactual to null"
            )
    for name in experiment["galleries"]["methods"]:
        method = experiment["methods"][name]
        if method.get("deferred"):
            yield f"galleries.methods: {name} is deferred, and galleries are drawn before studies"
        for split in SPLITS if not is_finished(experiment) else SPLITS[1:]:
            if why := obstacle(experiment, method, split):
                yield f"galleries.methods: {name} has no scores of the {split} split: it {why}"


def _problems_of_methods(experiment: dict[str, Any]) -> Iterator[str]:
    features, methods = experiment["features"], experiment["methods"]
    if methods and all(method.get("deferred") for method in methods.values()):
        yield "methods: all are deferred to the studies, and the tables would be empty; keep one"
    for name, method in methods.items():
        place, function = f"methods.{name}", method["function"]
        if is_users(method):
            yield from _problems_of_users_method(place, method)
        elif function not in NEEDS:
            yield f"{place}.function: {unknown('function', function, NEEDS)}"
            continue
        elif "options" in method or "needs" in method:
            yield f"{place}: only functions of a user's own file have `options` and `needs`"
        if needs(method) in ("features", "kernel"):
            if "features" not in method:
                yield f"{place}: {function} needs `features`, the name of a feature set"
            for key in ("features", "query_features"):
                if key in method and method[key] not in features:
                    yield f"{place}.{key}: {unknown('set', method[key], features)}"
            if method.get("features") in features:
                yield from _problems_of_sets(place, method, features)
        else:
            for key in ("features", "query_features", "checkpoints", "ensemble"):
                if key in method:
                    yield f"{place}.{key}: {function} reads no features"
        if "checkpoints" in method and "ensemble" in method:
            yield f"{place}: a mean over `checkpoints` and over an `ensemble` at once is not made"
        for number in method.get("checkpoints", []):
            if number > experiment["training"]["checkpoints"]:
                yield (
                    f"{place}.checkpoints: there is no checkpoint {number}; training.checkpoints "
                    f"keeps {experiment['training']['checkpoints']}"
                )
        readouts = experiment["evaluation"]["readouts"]
        if method.get("readout", "linear") not in readouts:
            yield (
                f"{place}.readout: {method['readout']} is not evaluated; add it to "
                f"evaluation.readouts ({', '.join(readouts)})"
            )
        if function == "das":
            entry = features.get(method.get("features"), {})
            if not entry.get("residuals"):
                yield f"{place}.features: das needs a feature set with `residuals: true`"
        for option, owners in OPTIONS.items():
            if option in method and function not in owners:
                have = "has" if len(owners) == 1 else "have"
                yield f"{place}.{option}: only {' and '.join(owners)} {have} this option"
    for name in experiment["galleries"]["methods"]:
        if name not in methods:
            yield f"galleries.methods: {unknown('method', name, methods)}"


def _problems_of_sets(place: str, method: dict, features: dict) -> Iterator[str]:
    """What a method cannot do with the training images' features that it names."""
    name = method["features"]
    parts = [name, *features[name].get("combine", {})]
    if any(features.get(part, {}).get("along") == "trajectory" for part in parts):
        yield (
            f"{place}.features: training images have no sampling trajectory; name {name} under "
            "query_features"
        )
    for key in ("features", "query_features"):
        entry = features.get(method.get(key), {})
        if "ensemble" in method and entry.get("checkpoint", "final") != "final":
            yield (
                f"{place}.ensemble: models of the pool keep only their final checkpoint, and "
                f"{method[key]} is of checkpoint {entry['checkpoint']}"
            )
        if "checkpoints" in method and entry.get("model", "base") != "base":
            yield (
                f"{place}.checkpoints: models of the pool keep only their final one, and "
                f"{method[key]} is of such a model"
            )


def _problems_of_users_method(place: str, method: dict[str, Any]) -> Iterator[str]:
    try:
        digest(method["function"], Path.cwd())
    except ConfigurationError as error:
        yield f"{place}.function: {error}"
