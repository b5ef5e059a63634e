"""config.yaml: experiments merge over defaults; a mistake is named with its place and a remedy."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from attribution.configuration import SCHEMA, load_experiments, needs
from attribution.errors import ConfigurationError
from attribution.workflow import merged

CONFIG = Path(SCHEMA).parent.parent / "config.yaml"


def shipped() -> dict[str, Any]:
    """The project's own configuration; through JSON, so that YAML's anchors share nothing."""
    return json.loads(json.dumps(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))))


def with_experiment(experiment: dict[str, Any]) -> dict[str, Any]:
    """The shipped defaults and one experiment `mine`."""
    return {"run": ["mine"], "defaults": shipped()["defaults"], "experiments": {"mine": experiment}}


def nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def mine(**changes: Any) -> dict[str, Any]:
    """The experiment `mine` with dotted paths (dots as `__`) set."""
    experiment: dict[str, Any] = {}
    for path, value in changes.items():
        experiment = merged(experiment, nested(path.replace("__", "."), value))
    return load_experiments(with_experiment(experiment))["mine"]


def complaint(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_experiments(config)
    return str(caught.value)


def test_the_shipped_configuration_is_accepted():
    config = shipped()
    experiments = load_experiments(config)
    assert set(experiments) == set(config["experiments"])
    assert set(config["run"]) <= set(experiments)


def test_the_schema_is_a_schema_and_closed_at_every_level():
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)

    def objects(node: Any, place: str) -> list[str]:
        if isinstance(node, list):
            return [found for i, one in enumerate(node) for found in objects(one, f"{place}[{i}]")]
        if not isinstance(node, dict):
            return []
        mine = (
            [place] if node.get("type") == "object" and "additionalProperties" not in node else []
        )
        return mine + [
            found for key, one in node.items() for found in objects(one, f"{place}.{key}")
        ]

    assert objects(schema, "schema") == []


def test_mappings_merge_and_everything_else_is_replaced():
    base = {"a": {"b": 1, "c": {"d": [1, 2], "e": None}}, "f": 1, "g": {"h": 1}}
    over = {"a": {"c": {"d": [3]}, "i": 2}, "g": None}
    assert merged(base, over) == {
        "a": {"b": 1, "c": {"d": [3], "e": None}, "i": 2},
        "f": 1,
        "g": None,
    }
    assert base["a"]["c"]["d"] == [1, 2]
    assert merged({"a": None}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_an_experiment_says_what_differs_and_has_the_rest_from_the_defaults():
    experiment, defaults = mine(training__epochs=3), shipped()["defaults"]
    assert experiment["training"] == {**defaults["training"], "epochs": 3}
    assert experiment["kernel"] == defaults["kernel"]
    assert load_experiments(with_experiment({}))["mine"]["training"] == defaults["training"]


def test_feature_sets_get_the_feature_defaults_of_their_experiment():
    experiment = mine(
        feature_defaults={"projection": {"dim": 64}, "timesteps": 5},
        features={"a": {"function": "square"}, "b": {"projection": {"dim": 32}}},
    )
    projections = [experiment["features"][name]["projection"] for name in "ab"]
    assert [projection["dim"] for projection in projections] == [64, 32]
    assert {projection["kind"] for projection in projections} == {"count_sketch"}
    assert experiment["features"]["a"]["function"] == "square"
    assert experiment["features"]["b"]["timesteps"] == 5


def test_null_takes_an_inherited_feature_set_or_method_away():
    config = with_experiment({"features": {"a": None}, "methods": {"x": None}})
    config["defaults"]["features"] = {"a": {}, "b": {}}
    config["defaults"]["methods"] = {"x": {"function": "random"}, "y": {"function": "random"}}
    experiment = load_experiments(config)["mine"]
    assert (list(experiment["features"]), list(experiment["methods"])) == (["b"], ["y"])


def test_the_images_take_size_and_channels_from_the_model(tmp_path: Path):
    experiment = mine(
        data={"source": "image_folder", "path": str(tmp_path)},
        model={"sample_size": 16, "in_channels": 3, "out_channels": 3},
    )
    assert (experiment["data"]["image_size"], experiment["data"]["channels"]) == (16, 3)


def test_loading_leaves_the_configuration_as_it_was():
    config = shipped()
    load_experiments(config)
    assert config == shipped()


def test_needs_are_those_of_the_function():
    assert needs({"function": "kernel", "features": "a"}) == "kernel"
    assert needs({"function": "gradient_cosine", "features": "a"}) == "features"
    assert needs({"function": "raw_pixel_dot"}) == "images"


@pytest.mark.parametrize(
    ("path", "value", "place", "explanation"),
    [
        ("trainng", {}, "mine", "unknown key 'trainng'; did you mean 'training'?"),
        ("training.epoch", 3, "mine.training", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("data.sorce", "digits", "mine.data", "unknown key 'sorce'; did you mean 'source'?"),
        ("data.source", "digit", "mine.data.source", "'digit'; did you mean 'digits'?"),
        ("model.norm_num_group", 4, "mine.model", "did you mean 'norm_num_groups'?"),
        ("compute.device", "coda", "mine.compute.device", "did you mean 'cuda'?"),
        ("kernel.unit", "absolut", "mine.kernel.unit", "did you mean 'absolute'?"),
        ("evaluation.heldout.split", 2, "mine.evaluation.heldout", "did you mean 'splits'?"),
        ("execution.batch.feature", 2, "mine.execution.batch", "did you mean 'features'?"),
        ("features.a", {"functon": "simple"}, "mine.features.a", "did you mean 'function'?"),
        ("features.a.function", "sqare", "features.a.function", "did you mean 'square'?"),
        ("features.a.projection.dimm", 9, "features.a.projection", "did you mean 'dim'?"),
        ("methods.x", {"function": "kernl"}, "methods.x.function", "did you mean 'kernel'?"),
        (
            "methods.x",
            {"function": "kernel", "featurs": "a"},
            "mine.methods.x",
            "unknown key 'featurs'; did you mean 'features'?",
        ),
        ("methods.x", {"label": "X"}, "mine.methods.x", "'function' is a required property"),
        ("qwertz", 1, "experiments.mine", "unknown key 'qwertz'. Known: compute, data"),
    ],
)
def test_a_misspelt_key_or_value_is_named_with_what_was_meant(
    path: str, value: Any, place: str, explanation: str
):
    message = complaint(with_experiment(nested(path, value)))
    assert place in message.split(":")[0]
    assert explanation in message


def test_a_misspelt_section_or_experiment_is_named_too():
    config = shipped()
    assert "did you mean 'experiments'?" in complaint({**config, "experimnts": {}})
    assert "run: unknown experiment 'digts'; did you mean 'digits'?" in complaint(
        {**config, "run": ["digts"]}
    )
    assert "'run' is a required property" in complaint(
        {"defaults": config["defaults"], "experiments": {}}
    )
    assert "does not match" in complaint({**config, "experiments": {"My own": {}}})
    assert "defaults.training: unknown key 'epoch'" in complaint(
        {**config, "defaults": merged(config["defaults"], {"training": {"epoch": 1}})}
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.epochs", 0),
        ("training.epochs", 2.5),
        ("training.epochs", "3"),
        ("training.epochs", True),
        ("training.learning_rate", 0),
        ("training.dropout", 1.0),
        ("training.warmup_fraction", 1.1),
        ("training.betas", [0.9]),
        ("training.seed", -1),
        ("subsets.fraction", 1.0),
        ("subsets.fraction", 0),
        ("generation.eta", -0.1),
        ("kernel.lambdas", []),
        ("kernel.lambdas", [0.0]),
        ("kernel.lambdas", [1.0, 1.0]),
        ("outputs.bank", 0),
        ("evaluation.bootstrap.confidence", 1),
        ("features.a.checkpoint", 0),
        ("features.a.checkpoint", "last"),
        ("features.a.projection.seed", None),
        ("features.Upper", {}),
        ("methods.x/y", {"function": "random"}),
        ("execution.save_seconds", 0),
    ],
)
def test_a_value_out_of_range_or_of_another_type_is_refused_at_its_place(path: str, value: Any):
    message = complaint(with_experiment(nested(path, value)))
    assert message.startswith("experiments.mine.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": 1700, "validation": 98}}, "data: digits has 1797 images"),
        ({"model": {"sample_size": 16}}, "model: digits are 8x8 with 1 channel"),
        ({"model": {"in_channels": 3}}, "model: digits are 8x8 with 1 channel"),
        ({"data": {"source": "image_folder"}}, "data.path: the source image_folder needs"),
        (
            {"data": {"source": "image_folder", "path": "/no/such"}},
            "data.path: /no/such is not a folder",
        ),
        (
            {"data": {"train": 3}, "subsets": {"fraction": 0.3}},
            "subsets.fraction: 0.3 of 3 training images is no image",
        ),
        ({"subsets": {"count": 3}}, "subsets.count: 3 subsets cannot be ranked and halved"),
        (
            {"generation": {"steps": 50}, "diffusion": {"timesteps": 40}},
            "generation.steps: 50 steps do not fit diffusion.timesteps 40",
        ),
        (
            {"model": {"block_out_channels": [8, 8, 8]}},
            "model.down_block_types: 2 blocks, but block_out_channels has 3",
        ),
        (
            {"model": {"up_block_types": ["UpBlock2D"]}},
            "model.up_block_types: 1 blocks, but block_out_channels has 2",
        ),
        (
            {"model": {"block_out_channels": [8, 12]}},
            "model.norm_num_groups: 8 does not divide",
        ),
        (
            {
                "model": {
                    "block_out_channels": [8] * 5,
                    "down_block_types": ["DownBlock2D"] * 5,
                    "up_block_types": ["UpBlock2D"] * 5,
                }
            },
            "data.image_size: 8 cannot be halved 4 times",
        ),
        ({"diffusion": {"beta_start": 0.02}}, "diffusion.beta_start: must be below beta_end"),
        ({"features": {"a": {"timesteps": 1001}}}, "features.a.timesteps: 1001 do not fit"),
        (
            {"features": {"a": {"timesteps": 30, "strategy": "uniform"}}},
            "features.a.timesteps: uniform needs a divisor",
        ),
        (
            {"features": {"a": {"checkpoint": 5}}},
            "features.a.checkpoint: there is no checkpoint 5; training.checkpoints keeps 4",
        ),
        ({"outputs": {"timesteps": 2000, "groups": 1}}, "outputs.timesteps: 2000 do not fit"),
        (
            {"outputs": {"timesteps": 300, "strategy": "uniform", "groups": 1}},
            "outputs.timesteps: uniform needs a divisor",
        ),
        ({"outputs": {"timesteps": 10, "groups": 11}}, "outputs.groups: 11 groups cannot be made"),
        ({"methods": {"x": {"function": "kernel"}}}, "methods.x: kernel needs `features`"),
        (
            {
                "features": {"simple": {}},
                "methods": {"x": {"function": "kernel", "features": "simpl"}},
            },
            "methods.x.features: unknown set 'simpl'; did you mean 'simple'?",
        ),
        (
            {"features": {"a": {}}, "methods": {"x": {"function": "random", "features": "a"}}},
            "methods.x.features: random reads no features",
        ),
        (
            {"methods": {"x": {"function": "raw_pixel_dot", "width": 2.0}}},
            "methods.x.width: only raw_pixel_gaussian has this option",
        ),
        (
            {"methods": {"x": {"function": "raw_pixel_dot", "seed": 2}}},
            "methods.x.seed: only random has this option",
        ),
        (
            {"methods": {"pixels": {"function": "random"}}, "galleries": {"methods": ["pixel"]}},
            "galleries.methods: unknown method 'pixel'; did you mean 'pixels'?",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_do_not_fit_each_other_are_explained(changes: dict[str, Any], message: str):
    assert f"experiments.mine.{message}" in complaint(with_experiment(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"train": 1700, "validation": 97}},
        {"subsets": {"count": 4}},
        {"outputs": {"timesteps": 10, "strategy": "midpoints", "groups": 10}},
        {"features": {"a": {"timesteps": 30, "strategy": "midpoints"}}},
        {"features": {"a": {"timesteps": 1000, "strategy": "uniform", "checkpoint": 4}}},
        {"generation": {"steps": 1000}},
        {"methods": {"x": {"function": "raw_pixel_gaussian", "width": 2.0}}},
        {"methods": {"x": {"function": "random", "seed": 2}}},
    ],
    ids=str,
)
def test_settings_at_the_edge_of_what_fits_are_accepted(changes: dict[str, Any]):
    load_experiments(with_experiment(changes))


def test_the_number_of_predicted_channels_must_be_that_of_the_images():
    """Otherwise the loss broadcasts one noise over all predicted channels, without an error."""
    assert "out_channels" in complaint(with_experiment({"model": {"out_channels": 2}}))


def test_images_of_another_size_than_the_generated_ones_are_refused(tmp_path: Path):
    """Generated images have the model's sample_size, and methods compare them with training's."""
    data = {"source": "image_folder", "path": str(tmp_path), "image_size": 16}
    assert "image_size" in complaint(with_experiment({"data": data}))


def test_more_checkpoints_than_steps_are_refused():
    """2 epochs of one step cannot keep 4 checkpoints, so some number would never be written."""
    training = {"epochs": 2, "batch_size": 1000, "checkpoints": 4}
    assert "training.checkpoints" in complaint(with_experiment({"training": training}))


def test_a_problem_of_an_experiment_that_is_not_run_is_found_too():
    config = with_experiment({})
    config["experiments"]["other"] = {"subsets": {"count": 1}}
    assert complaint(config).startswith("experiments.other.subsets.count")
