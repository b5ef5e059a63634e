"""config.yaml: experiments merge over defaults; a mistake is named with its place and a remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from configurations import mine, nested, shipped, with_experiment
from jsonschema import Draft202012Validator

from attribution.configuration import SCHEMA, load_experiments
from attribution.errors import ConfigurationError
from attribution.studies import STUDIES
from attribution.workflow import merged


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

    # `options` are for the user's own function; a condition (`if`) describes nothing.
    free = {"schema.$defs.method.properties.options"}

    def objects(node: Any, place: str) -> list[str]:
        if isinstance(node, list):
            return [found for i, one in enumerate(node) for found in objects(one, f"{place}[{i}]")]
        if not isinstance(node, dict):
            return []
        kinds = node.get("type")
        is_open = "object" in (kinds if isinstance(kinds, list) else [kinds]) and (
            "additionalProperties" not in node and not place.endswith(".if")
        )
        mine = [place] if is_open and place not in free else []
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
        studies__projection_dimension=None,
    )
    projections = [experiment["features"][name]["projection"] for name in "ab"]
    assert [projection["dim"] for projection in projections] == [64, 32]
    assert {projection["kind"] for projection in projections} == {"count_sketch"}
    assert experiment["features"]["a"]["function"] == "square"
    assert experiment["features"]["b"]["timesteps"] == 5


def test_null_takes_an_inherited_feature_set_or_method_away():
    config = with_experiment({"features": {"a": None}, "methods": {"x": None}})
    config["defaults"]["features"] = {"a": {}, "b": {}}
    config["defaults"]["studies"] = {}
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


def test_a_feature_set_of_another_kind_has_only_its_own_keys():
    experiment = mine(
        features={"c": {"clip": None}, "a": {}, "m": {"combine": {"a": 2}, "dim": 64}}
    )
    assert experiment["features"]["c"] == {"clip": None}
    assert experiment["features"]["m"] == {"combine": {"a": 2}, "dim": 64}
    assert experiment["features"]["a"] == shipped()["defaults"]["feature_defaults"]


def test_a_set_along_trajectories_has_a_timestep_for_each_step_of_the_sampler():
    experiment = mine(
        generation={"steps": 17},
        features={"path": {"along": "trajectory", "timesteps": 3, "strategy": "uniform"}},
    )
    assert experiment["features"]["path"]["timesteps"] == 17


def test_a_study_that_is_null_is_left_out():
    config = with_experiment({"studies": dict.fromkeys(STUDIES) | {"methods": {}}})
    assert list(load_experiments(config)["mine"]["study_rows"]) == ["methods"]


def test_the_schema_has_every_study_and_no_other():
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    known = schema["$defs"]["experiment"]["properties"]["studies"]["properties"]
    assert set(known) == set(STUDIES) == set(shipped()["defaults"]["studies"])


def test_a_function_of_a_users_file_is_found_and_takes_options(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def score(inputs):\n    return 0\n")
    experiment = mine(
        features={"a": {}},
        methods={
            "m": {"function": "mine:score", "options": {"any": [1, {"thing": None}]}},
            "n": {"function": "mine.py:score", "features": "a", "needs": "kernel"},
            "p": {"function": "mine:score", "needs": "pool"},
        },
    )
    assert experiment["methods"]["m"]["sets"] == []
    assert experiment["methods"]["n"]["sets"] == [["a", "a"]]


def counterfactual(**more: Any) -> dict[str, Any]:
    """A whole section `counterfactual` by a method `random`, with these changes."""
    section = {
        "queries": 4, "query_seed": 0, "methods": ["random"], "removed": [5], "controls": [],
        "reseeded": 1, "steps": [], "seed": 0,
    }  # fmt: skip
    random = {"random": {"function": "random"}}
    return {"methods": random, "counterfactual": {**section, **more}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"function": "mine:scores"}, "methods.m.function: {}/mine.py has no function 'scores'"),
        (
            {"function": "other:score"},
            "methods.m.function: 'other:score': there is no file {}/other",
        ),
        (
            {"function": "broken:score"},
            "methods.m.function: {}/broken.py is not valid Python (line 1",
        ),
        ({"function": "mine:"}, "methods.m.function: 'mine:' names no function of a file: write"),
        ({"function": "mine:score", "needs": "kernel"}, "methods.m: mine:score needs `features`"),
        (
            {"function": "mine:score", "needs": "images", "features": "a"},
            "methods.m.features: mine:score reads no features",
        ),
        (
            {"function": "mine:score", "needs": "images", "seed": 1},
            "methods.m.seed: only random has",
        ),
    ],
    ids=str,
)
def test_a_users_function_that_cannot_run_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch, entry: dict[str, Any], message: str
):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def score(inputs):\n    return 0\n")
    Path("broken.py").write_text("def score(:\n")
    found = complaint(with_experiment({"features": {"a": {}}, "methods": {"m": entry}}))
    assert found.startswith(f"experiments.mine.{message.format(tmp_path)}")
    assert "\n" not in found


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
        (
            "qwertz",
            1,
            "experiments.mine",
            "unknown key 'qwertz'. Known: paper, pretrained, compute, data",
        ),
        ("paper", "cifar", "mine.paper", "unknown value 'cifar'; did you mean 'cifar2'?"),
        ("pool.cont", 4, "mine.pool", "unknown key 'cont'; did you mean 'count'?"),
        ("outputs.others", ["elbow"], "outputs.others.0", "did you mean 'elbo'?"),
        ("evaluation.readouts", ["linear", "sqare"], "readouts.1", "did you mean 'square'?"),
        ("studies.checkpoint", {}, "mine.studies", "did you mean 'checkpoints'?"),
        ("studies.cost.x", 1, "mine.studies.cost", "unknown key 'x'"),
        ("studies.timesteps.pair", [[1, 1]], "studies.timesteps", "did you mean 'pairs'?"),
        ("studies.noise_sharing.sharings", ["non"], "sharings.0", "did you mean 'none'?"),
        ("features.a.along", "trajectories", "features.a.along", "did you mean 'trajectory'?"),
        ("features.a.model.pol", 1, "features.a.model", "not valid under any"),
        ("features.a", {"clip": None, "timesteps": 3}, "features.a", "unknown key 'timesteps'"),
        (
            "features.a",
            {"combine": {"b": 1}, "dimm": 3},
            "features.a",
            "unknown key 'dimm'; did you mean 'dim'?",
        ),
        ("methods.x", {"function": "random", "readout": "squar"}, "x.readout", "mean 'square'?"),
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
    assert "experiments: 'My own' cannot be a name; names are" in complaint(
        {**config, "experiments": {"My own": {}}}
    )
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
        ("features.two__parts", {}),
        ("features.a", 3),
        ("features.a.combine", {}),
        ("features.a.combine", {"b": "heavy"}),
        ("features.a.clip", 3),
        ("features.a.model", "final"),
        ("features.a.model.pool", -1),
        ("methods.x/y", {"function": "random"}),
        ("methods.two__parts", {"function": "random"}),
        ("methods.x", {"function": 3}),
        ("methods.x", {"function": ""}),
        ("methods.x", {"function": "kernel", "checkpoints": []}),
        ("methods.x", {"function": "kernel", "checkpoints": [0]}),
        ("methods.x", {"function": "kernel", "ensemble": 0}),
        ("methods.x", {"function": "random", "options": 3}),
        ("methods.x", {"function": "random", "needs": "time"}),
        ("methods.x", {"function": "datamodel", "alphas": []}),
        ("methods.x", {"function": "datamodel", "alphas": "narrow"}),
        ("pool.count", -1),
        ("pool.fraction", 1),
        ("evaluation.readouts", ["square"]),
        ("evaluation.top_fraction", 0),
        ("outputs.others", ["square", "square"]),
        ("studies.interpolation.points", 1),
        ("studies.timesteps.pairs", [[10]]),
        ("studies.checkpoints.timesteps", []),
        ("studies.methods", True),
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
        (
            {"features": {"a": {"model": {"pool": 0}}}},
            "features.a.model: there is no model 0 in the pool; pool.count is 0",
        ),
        (
            {"pool": {"count": 2}, "features": {"a": {"model": {"pool": 1}, "checkpoint": 2}}},
            "features.a.checkpoint: models of the pool keep only their final one",
        ),
        (
            {"features": {"square": {}, "a": {"combine": {"squar": 1.0}}}},
            "features.a.combine: unknown set of gradients 'squar'; did you mean 'square'?",
        ),
        (
            {"features": {"b": {"clip": None}, "a": {"combine": {"b": 1.0}}}},
            "features.a.combine: unknown set of gradients 'b'",
        ),
        (
            {
                "features": {
                    "b": {},
                    "c": {"projection": {"seed": 1}},
                    "a": {"combine": {"b": 1, "c": 1}},
                }
            },
            "features.a.combine: b and c are projected differently",
        ),
        (
            {"features": {"b": {}, "a": {"combine": {"b": 1}, "dim": 10000}}},
            "features.a.dim: 10000 is above the stored 8192 dimensions",
        ),
        (
            {"features": {"b": {}, "a": {"combine": {"b": 1}, "dim": 100}}},
            "features.a.dim: 100 does not divide 8192",
        ),
        (
            {
                "features": {
                    "b": {"projection": {"kind": "none"}},
                    "a": {"combine": {"b": 1}, "dim": 64},
                }
            },
            "features.a.dim: features of projection kind none cannot be brought to 64",
        ),
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
        ({"methods": {"x": {"function": "kernl"}}}, "methods.x.function: unknown function 'kernl'"),
        (
            {"methods": {"x": {"function": "random", "models": 2}}},
            "methods.x.models: only empirical_influence and datamodel have this option",
        ),
        (
            {"methods": {"x": {"function": "random", "options": {}}}},
            "methods.x: only functions of a user's own file have `options` and `needs`",
        ),
        (
            {"methods": {"x": {"function": "random", "needs": "images"}}},
            "methods.x: only functions of a user's own file have `options` and `needs`",
        ),
        (
            {
                "methods": {
                    "x": {"function": "datamodel", "ensemble": 2},
                    "y": {"function": "raw_pixel_dot"},
                }
            },
            "methods.x.ensemble: datamodel reads no features",
        ),
        (
            {
                "features": {"a": {}},
                "methods": {"x": {"function": "kernel", "features": "a", "query_features": "b"}},
            },
            "methods.x.query_features: unknown set 'b'. Known: a",
        ),
        (
            {"methods": {"x": {"function": "random", "deferred": True}}},
            "methods: all are deferred to the studies",
        ),
        (
            {"features": {"a": {"at": 400}}},
            "features.a.at: only a set `along: trajectory` has a step",
        ),
        (
            {"features": {"a": {"along": "trajectory", "at": 1000}}},
            "features.a.at: 1000 is beyond the process's 1000 timesteps",
        ),
        (
            counterfactual(steps=[{"timestep": 1000, "methods": []}]),
            "counterfactual.steps: 1000 is beyond the process's 1000 timesteps",
        ),
        (
            counterfactual(steps=[{"timestep": 4, "methods": []}] * 2),
            "counterfactual.steps: a timestep stands there twice",
        ),
        (
            counterfactual(steps=[{"timestep": 400, "methods": ["dtrakk"]}]),
            "counterfactual: unknown method 'dtrakk'",
        ),
        (
            counterfactual(queries=200),
            "counterfactual.queries: 200 of generation.images 200; one must be left over",
        ),
        (
            {
                "features": {"a": {}, "path": {"along": "trajectory", "at": 400}},
                "methods": {
                    "x": {
                        "function": "kernel",
                        "features": "a",
                        "query_features": "path",
                        "ensemble": 8,
                    }
                },
                "counterfactual": counterfactual(methods=["x"])["counterfactual"],
            },
            "counterfactual: x cannot choose images: it needs 8 models of the pool, and pool.count",
        ),
        (
            {
                "features": {"path": {"along": "trajectory"}},
                "methods": {"x": {"function": "kernel", "features": "path"}},
            },
            "methods.x.features: training images have no sampling trajectory; name path under",
        ),
        (
            {
                "features": {"a": {}},
                "methods": {
                    "x": {"function": "kernel", "features": "a", "ensemble": 2, "checkpoints": [1]}
                },
            },
            "methods.x: a mean over `checkpoints` and over an `ensemble` at once is not made",
        ),
        (
            {
                "features": {"a": {}},
                "methods": {"x": {"function": "kernel", "features": "a", "checkpoints": [4, 5]}},
            },
            "methods.x.checkpoints: there is no checkpoint 5; training.checkpoints keeps 4",
        ),
        (
            {
                "features": {"a": {"checkpoint": 2}},
                "methods": {"x": {"function": "kernel", "features": "a", "ensemble": 2}},
            },
            "methods.x.ensemble: models of the pool keep only their final checkpoint",
        ),
        (
            {
                "pool": {"count": 1},
                "features": {"a": {"model": {"pool": 0}}},
                "methods": {"x": {"function": "kernel", "features": "a", "checkpoints": [1]}},
            },
            "methods.x.checkpoints: models of the pool keep only their final one",
        ),
        (
            {"features": {"a": {}}, "methods": {"x": {"function": "das", "features": "a"}}},
            "methods.x.features: das needs a feature set with `residuals: true`",
        ),
        (
            {
                "methods": {"x": {"function": "random", "readout": "square"}},
                "evaluation": {"readouts": ["linear"]},
            },
            "methods.x.readout: square is not evaluated; add it to evaluation.readouts (linear)",
        ),
        (
            {"studies": {"projection_dimension": {"dims": [64, 16384]}}},
            "studies.projection_dimension.dims: 16384 is above the stored 8192 dimensions",
        ),
        (
            {"studies": {"projection_dimension": {"dims": [100]}}},
            "studies.projection_dimension.dims: 100 does not divide 8192",
        ),
        (
            {"studies": {"checkpoints": {"timesteps": [2000]}}},
            "studies: features simple__2000__checkpoint-1.timesteps: 2000 do not fit the schedule",
        ),
        (
            {"studies": {"timesteps": {"strategies": ["uniform"], "pairs": [[30, 1]]}}},
            "studies: features simple__30__uniform.timesteps: uniform needs a divisor",
        ),
        (
            {"studies": {"interpolation": {"points": 102}}},
            "studies.interpolation.points: 102 values of eta are closer than a hundredth",
        ),
        (
            {
                "methods": {
                    "x": {"function": "random", "deferred": True},
                    "y": {"function": "random"},
                },
                "galleries": {"methods": ["x"]},
            },
            "galleries.methods: x is deferred, and galleries are drawn before studies",
        ),
        (
            {
                "features": {"clip": {"clip": None}},
                "methods": {"x": {"function": "similarity_dot", "features": "clip"}},
                "galleries": {"methods": ["x"]},
            },
            "galleries.methods: x has no scores of the validation split: it needs the weights",
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
    found = complaint(with_experiment(changes))
    assert found.startswith(f"experiments.mine.{message}")
    assert "\n" not in found


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
        {
            "methods": {
                "x": {"function": "datamodel", "models": 9, "alphas": "paper"},
                "y": {"function": "raw_pixel_dot"},
            }
        },
        {
            "methods": {
                "x": {"function": "datamodel", "alphas": [0.1, 1]},
                "y": {"function": "raw_pixel_dot"},
            }
        },
        {
            "features": {"a": {"residuals": True, "normalise": True}},
            "methods": {
                "x": {"function": "das", "features": "a", "leverage": False, "readout": "square"},
                "y": {"function": "kernel", "features": "a", "checkpoints": [4]},
                "z": {"function": "kernel", "features": "a", "ensemble": 8},
            },
        },
        {"pool": {"count": 1}, "features": {"a": {"model": {"pool": 0}}}},
        {"features": {"path": {"along": "trajectory", "timesteps": 999, "strategy": "uniform"}}},
        {"features": {"b": {}, "a": {"combine": {"b": -1.5}, "dim": 8192}}},
        {"features": {"clip": {"clip": "openai/clip-vit-base-patch32"}}},
        {"studies": {"interpolation": {"points": 101}}},
        {
            "feature_defaults": {"projection": {"dim": 64}},
            "studies": {"projection_dimension": None},
        },
        {"paper": "artbench5"},
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
