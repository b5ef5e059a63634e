"""The studies: which rows each one compares, and how its table and figure are laid out.

A study is a list of rows; a row is an attribution method on some feature set, with its place on the
study's axes. Rows that are methods of the experiment are those very methods; all others are
variants, which are evaluated but whose scores are not stored. This module is plain Python and
quick to import: the workflow asks it for its jobs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

SHARINGS = {
    "all": {"noise": "one_for_all", "bank": 1},
    "timestep": {"noise": "per_timestep", "bank": 1},
    "batch": {"noise": "per_timestep"},  # with the bank that the study names
    "none": {"noise": "per_timestep", "bank": None},
}


class Wanted(NamedTuple):
    """A row that a study asks for, before it has a name.

    method: the function and options of a method's entry. features: settings that differ from the
    feature defaults (a gradient set), or `{"combine": ...}`; None for methods that read none.
    axes: where the row stands.
    """

    method: dict[str, Any]
    features: dict[str, Any] | None
    axes: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study and the layout of its table and figure.

    title: what it shows, as a sentence. source: where the paper has it. kind: `rows` (each row is
    an attribution method, evaluated), `comparison` (the same, with paired differences between
    rows), `curves` (its rows' lambda curves), or what its own script computes from the rows.
    index, columns: the axes down and across the table. x, series: the axes of the figure.
    """

    name: str
    title: str
    source: str
    kind: str
    index: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    x: str | None = None
    series: tuple[str, ...] = ()
    wanted: Callable[[dict[str, Any], dict[str, Any]], Iterator[Wanted]] | None = None


STUDIES: dict[str, Study] = {}


def _study(name: str, title: str, source: str, kind: str = "rows", **layout: Any) -> Callable:
    """Make the function that lists a study's rows known, with its layout."""

    def known(wanted: Callable) -> Callable:
        STUDIES[name] = Study(name, title, source, kind, **layout, wanted=wanted)
        return wanted

    return known


KERNEL = {"function": "kernel"}


@_study(
    "output_functions",
    "Which function of the predicted noise should the gradients be of?",
    "Table 1",
    kind="comparison",
    index=("function",),
    columns=("timesteps",),
    x="function",
    series=("timesteps",),
)
def _output_functions(settings: dict, experiment: dict) -> Iterator[Wanted]:
    for function in settings["functions"]:
        for count in settings["timesteps"]:
            axes = {"function": function, "timesteps": count}
            yield Wanted(KERNEL, dict(axes), axes)


@_study(
    "interpolation",
    "From TRAK's loss (eta = 0.5) to D-TRAK's square (eta = 1), and beyond",
    "Figure 1",
    index=("eta",),
    columns=("timesteps",),
    x="eta",
    series=("timesteps",),
)
def _interpolation(settings: dict, experiment: dict) -> Iterator[Wanted]:
    """Gradients of f_eta = eta |e|^2 - 2 (1 - eta) <eps, e>, e the predicted noise (section 3.2).

    With s = |e - eps|^2 (simple) and q = |e|^2 (square), both divided by the number of elements,
    grad s = grad q - 2 grad <eps, e>, so grad f_eta = (1 - eta) grad s + (2 eta - 1) grad q: every
    point is a weighted sum of two feature sets, and the projection is linear.
    """
    for count in settings["timesteps"]:
        for index in range(settings["points"]):
            eta = index / (settings["points"] - 1)
            weights = {"simple": round(1 - eta, 9), "square": round(2 * eta - 1, 9)}
            mix = [
                ({"function": function, "timesteps": count}, weight)
                for function, weight in weights.items()
                if weight
            ]
            axes = {"eta": round(eta, 6), "timesteps": count}
            yield Wanted(KERNEL, {"mix": mix, "name": f"eta-{100 * eta:.0f}__{count}"}, axes)


@_study(
    "methods",
    "How well does each method predict what retraining does?",
    "Tables 2, 3 and 6",
    index=("label",),
    columns=("timesteps",),
    x="label",
    series=("timesteps",),
)
def _methods(settings: dict, experiment: dict) -> Iterator[Wanted]:
    return iter(())  # its rows are the experiment's methods, by name


@_study(
    "benchmark_output",
    "Which output function F can a linear prediction explain?",
    "Table 4",
    kind="benchmark_outputs",
    index=("function",),
    columns=("output",),
)
def _benchmark_output(settings: dict, experiment: dict) -> Iterator[Wanted]:
    for function in settings["functions"]:
        features = {"function": function, "timesteps": settings["timesteps"]}
        yield Wanted(KERNEL, features, {"function": function})


@_study(
    "timesteps",
    "More timesteps or more noises, and which timesteps?",
    "Table 5",
    kind="comparison",
    index=("function", "strategy"),
    columns=("timesteps", "noises"),
    x="strategy",
    series=("function", "timesteps", "noises"),
)
def _timesteps(settings: dict, experiment: dict) -> Iterator[Wanted]:
    for function in settings["functions"]:
        for strategy in settings["strategies"]:
            for count, noises in settings["pairs"]:
                axes = {
                    "function": function,
                    "strategy": strategy,
                    "timesteps": count,
                    "noises": noises,
                }
                yield Wanted(KERNEL, dict(axes), axes)


@_study(
    "projection_dimension",
    "How many projected dimensions are enough?",
    "Figure 5",
    index=("dim",),
    columns=("function", "timesteps"),
    x="dim",
    series=("function", "timesteps"),
)
def _projection_dimension(settings: dict, experiment: dict) -> Iterator[Wanted]:
    largest = experiment["feature_defaults"]["projection"]["dim"]
    for function in settings["functions"]:
        for count in settings["timesteps"]:
            base = {"function": function, "timesteps": count}
            for dim in settings["dims"]:
                axes = {**base, "dim": dim}
                if dim == largest:
                    yield Wanted(KERNEL, dict(base), axes)
                else:
                    mix = {
                        "mix": [(base, 1.0)],
                        "dim": dim,
                        "name": f"{function}__{count}__k-{dim}",
                    }
                    yield Wanted(KERNEL, mix, axes)


@_study(
    "checkpoints",
    "Which checkpoint, and how many timesteps?",
    "Figures 2, 6, 7 and 8",
    index=("function", "checkpoint"),
    columns=("timesteps",),
    x="checkpoint",
    series=("function", "timesteps"),
)
def _checkpoints(settings: dict, experiment: dict) -> Iterator[Wanted]:
    for function in settings["functions"]:
        for number in range(1, experiment["training"]["checkpoints"] + 1):
            for count in settings["timesteps"]:
                axes = {"function": function, "checkpoint": number, "timesteps": count}
                yield Wanted(KERNEL, dict(axes), axes)


@_study(
    "regularisation",
    "How does the LDS depend on lambda?",
    "Figures 9 and 10",
    kind="curves",
    index=("label",),
    columns=("timesteps",),
)
def _regularisation(settings: dict, experiment: dict) -> Iterator[Wanted]:
    return iter(())  # its rows are the experiment's methods that have a lambda


@_study(
    "retraining_based",
    "What do retrained models buy?",
    "Tables 7 and 8",
    index=("method", "models"),
    columns=("timesteps",),
    x="models",
    series=("method", "timesteps"),
)
def _retraining_based(settings: dict, experiment: dict) -> Iterator[Wanted]:
    for label, function in (("TRAK (ensemble)", "simple"), ("D-TRAK (ensemble)", "square")):
        for models in settings["ensembles"]:
            for count in settings["timesteps"]:
                axes = {"method": label, "models": models, "timesteps": count}
                features = {"function": function, "timesteps": count}
                yield Wanted({**KERNEL, "ensemble": models}, features, axes)
    for label, function in (
        ("Empirical Influence", "empirical_influence"),
        ("Datamodel", "datamodel"),
    ):
        for models in settings["models"]:
            axes = {"method": label, "models": models, "timesteps": None}
            yield Wanted({"function": function, "models": models}, None, axes)


@_study(
    "self_influence",
    "Which training images does the model know by heart?",
    "Appendix D.3",
    kind="self_influence",
)
def _self_influence(settings: dict, experiment: dict) -> Iterator[Wanted]:
    features = {"function": settings["function"], "timesteps": settings["timesteps"]}
    yield Wanted(KERNEL, features, {"function": settings["function"]})


@_study("cost", "What does each method cost, and what does it bring?", "Appendix A.4", kind="cost")
def _cost(settings: dict, experiment: dict) -> Iterator[Wanted]:
    return iter(())  # its rows are the experiment's methods


@_study(
    "noise_sharing",
    "Should images share the noise that they meet?",
    "beyond the paper",
    kind="comparison",
    index=("function", "sharing"),
    columns=("timesteps",),
    x="sharing",
    series=("function", "timesteps"),
)
def _noise_sharing(settings: dict, experiment: dict) -> Iterator[Wanted]:
    for function in settings["functions"]:
        for sharing in settings["sharings"]:
            for count in settings["timesteps"]:
                for seed in range(settings["seeds"]):
                    axes = {
                        "function": function,
                        "sharing": sharing,
                        "timesteps": count,
                        "seed": seed,
                    }
                    features = {"bank": settings["batch"], **SHARINGS[sharing], "seed": seed}
                    yield Wanted(
                        KERNEL, {"function": function, "timesteps": count, **features}, axes
                    )


@_study(
    "convergence",
    "How small may the benchmark be?",
    "beyond the paper",
    kind="convergence",
)
def _convergence(settings: dict, experiment: dict) -> Iterator[Wanted]:
    return iter(())  # its rows are the experiment's methods
