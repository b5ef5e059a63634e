"""What a configuration implies: feature sets and rows, named, each once, whatever the order."""

import re
from typing import Any

import pytest
import torch
from configurations import load_mine, mine, shipped
from small_network import network

from attribution.configuration import load_experiments
from attribution.errors import ConfigurationError
from attribution.expansion import (
    NEEDS,
    SHOWN_ONLY,
    expand,
    is_users,
    kind,
    needs,
    obstacle,
    stored,
)
from attribution.methods import METHODS
from attribution.output_functions import output_function
from attribution.studies import STUDIES

NO_STUDIES = dict.fromkeys(STUDIES)


def sets(experiment: dict[str, Any], method: str = "m") -> list[list[str]]:
    return experiment["methods"][method]["sets"]


def rows(experiment: dict[str, Any], study: str) -> dict[str, list[dict[str, Any]]]:
    """Row names of a study, each with its places on the axes."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row, axes in experiment["study_rows"][study]:
        found.setdefault(row, []).append(axes)
    return found


def with_study(name: str, features: Any = None, methods: Any = None, **settings: Any) -> dict:
    """The experiment `mine` with one study only."""
    return mine(
        features=features or {},
        methods=methods or {},
        studies={**NO_STUDIES, name: settings},
        feature_defaults={"projection": {"dim": 64}},
        pool={"count": 4},
    )


def test_needs_are_those_of_the_registry():
    assert {name: method.needs for name, method in METHODS.items()} == NEEDS


def test_needs_of_a_users_function_are_told_or_follow_from_its_entry():
    assert is_users({"function": "my_module:score"})
    assert not is_users({"function": "kernel"})
    assert needs({"function": "mine:score"}) == "images"
    assert needs({"function": "mine:score", "features": "a"}) == "features"
    assert needs({"function": "mine:score", "features": "a", "needs": "kernel"}) == "kernel"
    assert needs({"function": "kernel", "features": "a"}) == "kernel"


def test_a_method_has_one_set_or_one_a_checkpoint_or_model():
    experiment = mine(
        training={"checkpoints": 3},
        features={"a": {"timesteps": 5}, "path": {"along": "trajectory"}},
        methods={
            "plain": {"function": "gradient_dot", "features": "a"},
            "over": {"function": "gradient_dot", "features": "a", "checkpoints": [1, 3]},
            "many": {"function": "kernel", "features": "a", "ensemble": 2},
            "journey": {"function": "kernel", "features": "a", "query_features": "path"},
            "pixels": {"function": "raw_pixel_dot"},
        },
        studies=NO_STUDIES,
    )
    assert sets(experiment, "plain") == [["a", "a"]]
    assert sets(experiment, "over") == [["simple__5__checkpoint-1"] * 2, ["a", "a"]]
    assert sets(experiment, "many") == [["simple__5__pool-0"] * 2, ["simple__5__pool-1"] * 2]
    assert sets(experiment, "journey") == [["a", "path"]]
    assert sets(experiment, "pixels") == []
    made = experiment["features"]["simple__5__pool-1"]
    assert made == {**experiment["features"]["a"], "model": {"pool": 1}}
    assert set(experiment["features"]) == {
        "a", "path", "simple__5__checkpoint-1", "simple__5__pool-0", "simple__5__pool-1"
    }  # fmt: skip


def test_queries_of_another_set_change_with_the_checkpoint_too():
    experiment = mine(
        generation={"steps": 20},
        features={"a": {}, "path": {"along": "trajectory"}},
        methods={
            "m": {
                "function": "gradient_dot",
                "features": "a",
                "query_features": "path",
                "checkpoints": [1, 4],
            }
        },
        studies=NO_STUDIES,
    )
    assert sets(experiment) == [
        ["simple__10__checkpoint-1", "simple__20__checkpoint-1__trajectory"],
        ["a", "path"],
    ]


@pytest.mark.parametrize("checkpoint", ["final", 2])
def test_the_last_checkpoint_is_the_final_model(checkpoint: Any):
    """However the set is written in config.yaml, nothing is computed twice."""
    experiment = mine(
        training={"checkpoints": 2},
        features={"a": {"checkpoint": checkpoint}},
        methods={"m": {"function": "gradient_dot", "features": "a", "checkpoints": [2]}},
        studies={**NO_STUDIES, "checkpoints": {"functions": ["simple"], "timesteps": [10]}},
    )
    assert sets(experiment) == [["a", "a"]]
    assert set(experiment["features"]) == {"a", "simple__10__checkpoint-1"}
    assert list(rows(experiment, "checkpoints")) == [
        "kernel__simple__10__checkpoint-1",
        "kernel__a",
    ]


def test_every_setting_that_differs_shows_in_the_name_and_no_two_sets_share_one():
    """A name shared by two sets would let one set's features stand for the other's."""
    changes: list[dict[str, Any]] = [
        {"strategy": "uniform"}, {"noises": 2}, {"noise": "one_for_all"}, {"bank": None},
        {"bank": 3}, {"seed": 1}, {"normalise": True}, {"residuals": True}, {"dtype": "float16"},
        {"projection": {"seed": 1}},
        {"projection": {"dim": 32}},
        {"projection": {"kind": "normal"}},
        {"seed": 1, "projection": {"seed": 1}}, {"function": "square"}, {"timesteps": 20},
    ]  # fmt: skip
    for model in ({"checkpoint": 1}, {"model": {"pool": 0}}, {"checkpoint": 4}):
        key = "ensemble" if "model" in model else "checkpoints"
        experiment = mine(
            # The sets are of checkpoint 2, so that no change gives the set itself.
            features={
                f"s{i}": {"checkpoint": 2 if key == "checkpoints" else "final", **change}
                for i, change in enumerate(changes)
            },
            methods={
                f"m{i}": {
                    "function": "gradient_dot",
                    "features": f"s{i}",
                    key: [model["checkpoint"]] if key == "checkpoints" else 1,
                }
                for i in range(len(changes))
            },
            studies=NO_STUDIES,
        )
        made = [sets(experiment, f"m{i}")[0][0] for i in range(len(changes))]
        assert len(set(made)) == len(changes)
        for i, name in enumerate(made):
            wanted = {**experiment["features"][f"s{i}"], **model}
            if model == {"checkpoint": 4}:
                wanted["checkpoint"] = "final"
            assert experiment["features"][name] == wanted
            assert re.fullmatch(r"[a-z][a-z0-9_-]*__[a-z0-9_-]+", name)  # rules/common.smk


def test_a_feature_set_of_no_gradients_has_no_checkpoints():
    for entry in ({"clip": None}, {"combine": {"b": 1.0}}):
        with pytest.raises(
            ConfigurationError, match=r"mine\.features\.a: only gradients have"
        ) as e:
            mine(
                features={"a": entry, "b": {}},
                methods={"m": {"function": "similarity_dot", "features": "a", "checkpoints": [1]}},
            )
        assert f"made by `{next(iter(entry))}`" in str(e.value)


def test_a_study_row_that_equals_a_method_is_that_method():
    experiment = with_study(
        "output_functions",
        features={"s": {"function": "square"}},
        methods={
            # Shown otherwise, but the same scores.
            "dtrak": {"function": "kernel", "features": "s", "label": "D", "deferred": True},
            "weighed": {"function": "relative_if", "features": "s"},
        },
        functions=["simple", "square"],
        timesteps=[10],
    )
    assert rows(experiment, "output_functions") == {
        "kernel__simple__10": [{"function": "simple", "timesteps": 10}],
        "dtrak": [{"function": "square", "timesteps": 10}],
    }
    assert list(experiment["variants"]) == ["kernel__simple__10"]
    variant = experiment["variants"]["kernel__simple__10"]
    assert variant["sets"] == [["simple__10", "simple__10"]]
    assert experiment["features"]["simple__10"]["function"] == "simple"


@pytest.mark.parametrize("key", SHOWN_ONLY)
def test_what_is_only_shown_keeps_a_method_the_row_of_a_study(key: str):
    value = {"label": "X", "readout": "square", "deferred": True, "paper": "trak"}[key]
    experiment = with_study(
        "output_functions",
        features={"a": {}},
        methods={
            "m": {"function": "kernel", "features": "a", key: value},
            "other": {"function": "random"},
        },
        functions=["simple"],
        timesteps=[10],
    )
    assert list(rows(experiment, "output_functions")) == ["m"]
    assert experiment["variants"] == {}


def test_one_row_serves_all_studies_that_ask_for_it():
    experiment = mine(
        studies={
            **NO_STUDIES,
            "output_functions": {"functions": ["square"], "timesteps": [10]},
            "self_influence": {"function": "square", "timesteps": 10},
            "timesteps": {"functions": ["square"], "strategies": ["midpoints"], "pairs": [[10, 1]]},
        }
    )
    assert list(experiment["variants"]) == ["kernel__square__10"]
    for study in ("output_functions", "self_influence", "timesteps"):
        assert list(rows(experiment, study)) == ["kernel__square__10"]
    assert set(experiment["study_rows"]) == {"output_functions", "self_influence", "timesteps"}


def test_ensembles_and_pool_methods_are_variants_of_their_size():
    experiment = with_study("retraining_based", ensembles=[1, 2], timesteps=[10], models=[2, 4])
    names = list(rows(experiment, "retraining_based"))
    assert names == [
        "kernel__simple__10__pool-0", "kernel__simple__10__pool-0__mean-of-2",
        "kernel__square__10__pool-0", "kernel__square__10__pool-0__mean-of-2",
        "empirical_influence__models-2", "empirical_influence__models-4",
        "datamodel__models-2", "datamodel__models-4",
    ]  # fmt: skip
    assert list(experiment["variants"]) == names
    assert experiment["variants"]["datamodel__models-4"] == {
        "function": "datamodel", "models": 4, "sets": []
    }  # fmt: skip


def test_studies_of_the_methods_themselves_have_the_methods_as_rows():
    experiment = mine(
        features={"a": {"timesteps": 5}},
        methods={
            "trak": {"function": "kernel", "features": "a", "label": "TRAK"},
            "pixels": {"function": "raw_pixel_dot"},
        },
        studies={**NO_STUDIES, "methods": {}, "cost": {}, "regularisation": {}, "convergence": {}},
    )
    of_trak = [{"label": "TRAK", "timesteps": 5}]
    both = {"trak": of_trak, "pixels": [{"label": "pixels", "timesteps": None}]}
    for study in ("methods", "cost", "convergence"):
        assert rows(experiment, study) == both
    assert rows(experiment, "regularisation") == {"trak": of_trak}  # only it has a lambda
    assert experiment["variants"] == {}


def test_a_smaller_dimension_is_a_view_of_the_stored_set():
    experiment = with_study(
        "projection_dimension", functions=["square"], timesteps=[10], dims=[16, 64]
    )
    assert rows(experiment, "projection_dimension") == {
        "kernel__square__10__k-16": [{"function": "square", "timesteps": 10, "dim": 16}],
        "kernel__square__10": [{"function": "square", "timesteps": 10, "dim": 64}],
    }
    features = experiment["features"]
    assert features["square__10__k-16"] == {"combine": {"square__10": 1.0}, "dim": 16}
    assert list(stored(features, "square__10__k-16")) == ["square__10"]


def test_stored_sets_are_the_set_itself_or_the_parts_of_a_mix():
    features = {"a": {"function": "simple"}, "b": {"function": "square"}, "c": {"clip": "x"}}
    features["mix"] = {"combine": {"a": 1.0, "b": -1.0}}
    assert [kind(features[name]) for name in features] == [
        "gradient",
        "gradient",
        "clip",
        "combine",
    ]
    assert stored(features, "a") == {"a": features["a"]}
    assert stored(features, "c") == {"c": features["c"]}
    assert stored(features, "mix") == {"a": features["a"], "b": features["b"]}


def interpolation(points: int) -> dict[float, dict[str, float]]:
    """Weights by stored feature set of each eta of study 2."""
    experiment = with_study("interpolation", points=points, timesteps=[10])
    found = {}
    for row, axes in experiment["study_rows"]["interpolation"]:
        name = experiment["variants"][row]["sets"][0][0]
        entry = experiment["features"][name]
        found[axes["eta"]] = entry.get("combine", {name: 1.0})
    return found


def test_interpolation_has_its_ends_and_middle_among_the_sets_themselves():
    assert interpolation(5) == {
        0.0: {"simple__10": 1.0, "square__10": -1.0},
        0.25: {"simple__10": 0.75, "square__10": -0.5},
        0.5: {"simple__10": 1.0},  # TRAK's, but for a factor of two
        0.75: {"simple__10": 0.25, "square__10": 0.5},
        1.0: {"square__10": 1.0},  # D-TRAK
    }


def test_every_eta_of_the_finest_grid_has_a_set_of_its_own():
    experiment = with_study("interpolation", points=101, timesteps=[10])
    names = [row.row for row in experiment["study_rows"]["interpolation"]]
    assert len(set(names)) == 101


def parameter_gradient(function, prediction, noise, model) -> torch.Tensor:
    values = function(prediction, noise)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(values.sum(), parameters, retain_graph=True)
    return torch.cat([one.flatten() for one in gradients])


def test_the_weighted_sets_of_interpolation_are_the_gradients_of_f_eta():
    """f_eta = eta |e|^2 - 2 (1 - eta) <eps, e> by autograd, e the predicted noise (section 3.2)."""
    model = network(8)
    random = torch.Generator().manual_seed(0)
    noisy, noise = (torch.randn(1, 1, 8, 8, generator=random) for _ in range(2))
    prediction = model(noisy, torch.tensor([300])).sample
    stored_gradients = {
        f"{name}__10": parameter_gradient(output_function(name), prediction, noise, model)
        for name in ("simple", "square")
    }
    weights = interpolation(11)
    assert len(weights) == 11
    for eta, combine in weights.items():

        def f_eta(e, eps, eta=eta):
            e, eps = e.flatten(1), eps.flatten(1)
            return (eta * e.square() - 2 * (1 - eta) * eps * e).mean(1)

        wanted = parameter_gradient(f_eta, prediction, noise, model)
        found = sum(weight * stored_gradients[name] for name, weight in combine.items())
        if eta == 0.5:
            found = found / 2  # a factor changes no LDS
        assert torch.linalg.norm(found - wanted) < 1e-5 * torch.linalg.norm(wanted)
        assert torch.linalg.norm(wanted) > 0


def reversed_order(value: Any) -> Any:
    """All mappings with their keys the other way round."""
    if not isinstance(value, dict):
        return value
    return {key: reversed_order(value[key]) for key in reversed(value)}


def test_names_do_not_depend_on_the_order_of_the_configuration():
    one = load_experiments(shipped())
    other = load_experiments(reversed_order(shipped()))
    for name in ("digits", "smoke"):
        for part in ("features", "methods", "variants"):
            assert one[name][part] == other[name][part]  # whatever the order of the keys
        for study, wanted in one[name]["study_rows"].items():
            found = other[name]["study_rows"][study]
            assert {repr(sorted(r.axes.items(), key=str)): r.row for r in wanted} == {
                repr(sorted(r.axes.items(), key=str)): r.row for r in found
            }


def test_every_row_of_the_shipped_studies_is_a_method_or_a_variant_on_known_sets():
    for experiment in load_experiments(shipped()).values():
        entries = {**experiment["methods"], **experiment["variants"]}
        asked = {row.row for study in experiment["study_rows"].values() for row in study}
        assert asked <= set(entries)
        assert set(experiment["variants"]) <= asked
        assert not set(experiment["variants"]) & set(experiment["methods"])
        for row in experiment["variants"]:
            assert re.fullmatch(r"[a-z][a-z0-9_-]*__[a-z0-9_-]+", row)  # rules/common.smk
        for entry in entries.values():
            for name in {name for pair in entry["sets"] for name in pair}:
                for part in stored(experiment["features"], name).values():
                    assert kind(part) in ("gradient", "clip")
        # No two gradient sets are the same set under two names.
        made = [entry for entry in experiment["features"].values() if kind(entry) == "gradient"]
        assert len({repr(sorted(entry.items())) for entry in made}) == len(made)


def test_expanding_leaves_the_experiment_as_it_was():
    experiment = load_mine({"features": {"a": {}}, "methods": {}})
    before = repr(experiment)
    expand(experiment)
    assert repr(experiment) == before


@pytest.fixture(scope="module")
def hindered() -> dict[str, Any]:
    return mine(
        pool={"count": 2},
        features={"a": {}, "path": {"along": "trajectory"}, "clip": {"clip": None}},
        methods={
            "plain": {"function": "kernel", "features": "a"},
            "journey": {"function": "kernel", "features": "a", "query_features": "path"},
            "clip": {"function": "similarity_dot", "features": "clip"},
            "two": {"function": "kernel", "features": "a", "ensemble": 2},
            "three": {"function": "kernel", "features": "a", "ensemble": 3},
            "datamodel": {"function": "datamodel", "models": 5},
            "all_models": {"function": "datamodel"},
        },
        studies=NO_STUDIES,
    )


@pytest.mark.parametrize(
    ("method", "validation", "generation"),
    [
        ("plain", None, None),
        ("journey", "validation images have no sampling trajectory", None),
        ("clip", *["needs the weights of a CLIP model: set features.clip.clip to a hub id"] * 2),
        ("two", None, None),
        ("three", *["needs 3 models of the pool, and pool.count is 2"] * 2),
        ("datamodel", *["needs 5 models of the pool, and pool.count is 2"] * 2),
        ("all_models", None, None),
    ],
)
def test_an_obstacle_is_a_sentence_and_only_where_there_is_one(
    hindered: dict[str, Any], method: str, validation: str | None, generation: str | None
):
    for split, wanted in (("validation", validation), ("generation", generation)):
        found = obstacle(hindered, hindered["methods"][method], split)
        assert (found is None) == (wanted is None)
        if wanted:
            assert found.startswith(wanted)


def test_without_a_pool_its_methods_are_hindered():
    experiment = mine(methods={"m": {"function": "empirical_influence"}}, studies=NO_STUDIES)
    found = obstacle(experiment, experiment["methods"]["m"], "validation")
    assert found == "needs 1 model of the pool, and pool.count is 0"
