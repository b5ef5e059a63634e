"""What a configuration implies: the feature sets of checkpoints, ensembles and studies' rows.

Users name feature sets and methods; checkpoints, ensembles and studies need more of them. What
already has a name keeps it, so nothing is computed twice; a new one is named after its settings
(`square__50__own-noise__seed-1`). Double underscores tell such names from those of users.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from attribution.errors import ConfigurationError
from attribution.studies import STUDIES, Wanted
from attribution.user_methods import declared_needs, is_users
from attribution.workflow import merged

NEEDS = {
    "raw_pixel_dot": "images",
    "raw_pixel_cosine": "images",
    "raw_pixel_gaussian": "images",
    "similarity_dot": "features",
    "similarity_cosine": "features",
    "gradient_dot": "features",
    "gradient_cosine": "features",
    "kernel": "kernel",
    "relative_if": "kernel",
    "renormalised_if": "kernel",
    "das": "kernel",
    "empirical_influence": "pool",
    "datamodel": "pool",
    "random": "images",
}
# Options that change no score: how a method is named and shown.
SHOWN_ONLY = ("label", "readout", "deferred", "paper")
ALL_ROWS = ("methods", "cost", "convergence", "regularisation")  # studies of the methods themselves


class StudyRow(NamedTuple):
    """A row of a study: its name under predictions/ and evaluations/, and its place on the axes."""

    row: str
    axes: dict[str, Any]


def is_finished(experiment: dict[str, Any]) -> bool:
    """Whether the experiment's model is someone's finished one, of which nothing is retrained."""
    return experiment["pretrained"] is not None and "lora" not in experiment["pretrained"]


def is_latent(experiment: dict[str, Any]) -> bool:
    """Whether the network works on latents of images: a Stable Diffusion, trained here or not."""
    pretrained = experiment["pretrained"] or {}
    return "lora" in pretrained or pretrained.get("kind") == "stable_diffusion"


def needs(method: dict[str, Any]) -> str:
    """What a configured method reads: `images`, `features`, `kernel` (features and more) or `pool`.

    The registry (`attribution.methods`) declares the same; it is not asked, because it imports
    torch and every run of the workflow would wait for that. A test holds the two together.
    """
    return declared_needs(method) if is_users(method) else NEEDS[method["function"]]


def expand(experiment: dict[str, Any]) -> dict[str, Any]:
    """The experiment with `sets` in its methods, all feature sets, `variants` and `study_rows`.

    methods[name]["sets"]: pairs of feature sets (of the training images, of the queries), one for
    each checkpoint or model of an ensemble. variants: {row: method entry} that only studies use.
    study_rows: {study: [StudyRow]}.
    """
    names = _Names(experiment)
    methods = {name: names.resolved(method) for name, method in experiment["methods"].items()}
    known = {_identity(method): name for name, method in methods.items()}
    variants: dict[str, dict[str, Any]] = {}
    study_rows: dict[str, list[StudyRow]] = {}
    for study, settings in experiment["studies"].items():
        if settings is None:
            continue
        rows = study_rows[study] = []
        if study in ALL_ROWS:
            rows += _method_rows(study, methods, names.features)
        for wanted in STUDIES[study].wanted(settings, experiment):
            method = names.method(wanted)
            row = known.setdefault(_identity(method), _row_name(method))
            if row not in methods:
                variants[row] = method
            rows.append(StudyRow(row, wanted.axes))
    return {
        **experiment,
        "features": names.features,
        "methods": methods,
        "variants": variants,
        "study_rows": study_rows,
    }


def _method_rows(study: str, methods: dict, features: dict) -> Iterator[StudyRow]:
    """The experiment's own methods as a study's rows."""
    for name, method in methods.items():
        if study == "regularisation" and needs(method) != "kernel":
            continue
        first = features.get(method["sets"][0][0], {}) if method["sets"] else {}
        yield StudyRow(
            name, {"label": method.get("label", name), "timesteps": first.get("timesteps")}
        )


def _identity(method: dict[str, Any]) -> str:
    shown = {key: value for key, value in method.items() if key not in SHOWN_ONLY}
    for key in ("features", "query_features", "checkpoints", "ensemble"):
        shown.pop(key, None)  # `sets` says the same
    return repr(sorted(shown.items()))


def _row_name(method: dict[str, Any]) -> str:
    parts = [method["function"]]
    if method["sets"]:
        parts.append(method["sets"][0][0])
    if len(method["sets"]) > 1:
        parts.append(f"mean-of-{len(method['sets'])}")
    if "models" in method:
        parts.append(f"models-{method['models']}")
    return "__".join(parts)


class _Names:
    """The feature sets of an experiment, by name, and the names of those that are asked for."""

    def __init__(self, experiment: dict[str, Any]):
        self.experiment, self.defaults = experiment, experiment["feature_defaults"]
        self.features: dict[str, dict[str, Any]] = dict(experiment["features"])

    def resolved(self, method: dict[str, Any]) -> dict[str, Any]:
        """The method's entry with its `sets`."""
        if "features" not in method:
            return {**method, "sets": []}
        train = method["features"]
        queries = method.get("query_features", train)
        changes: list[dict[str, Any]] = [{}]
        if "checkpoints" in method:
            changes = [{"checkpoint": number} for number in method["checkpoints"]]
        if "ensemble" in method:
            changes = [{"model": {"pool": index}} for index in range(method["ensemble"])]
        sets = [
            [self._changed(train, change), self._changed(queries, change)] for change in changes
        ]
        return {**method, "sets": sets}

    def method(self, wanted: Wanted) -> dict[str, Any]:
        """The entry of a row that a study wants."""
        if wanted.features is None:
            return self.resolved(dict(wanted.method))
        return self.resolved({**wanted.method, "features": self.of(wanted.features)})

    def of(self, wanted: dict[str, Any]) -> str:
        """The name of a gradient set with these settings, or of a mix of such sets."""
        if "mix" not in wanted:
            return self._named(merged(self.defaults, wanted))
        combine = {self.of(part): float(weight) for part, weight in wanted["mix"]}
        if "dim" not in wanted and len(combine) == 1:
            return next(iter(combine))  # a factor changes no LDS
        derived: dict[str, Any] = {"combine": combine}
        if "dim" in wanted:
            derived["dim"] = wanted["dim"]
        self.features.setdefault(wanted["name"], derived)
        return wanted["name"]

    def _changed(self, name: str, change: dict[str, Any]) -> str:
        entry = self.features.get(name)
        if not change or entry is None:
            return name
        if kind(entry) != "gradient":
            raise ConfigurationError(
                f"features.{name}: only gradients have checkpoints and ensembles, and this set is "
                f"made by `{kind(entry)}`; name a set of gradients"
            )
        return self._named(merged(entry, change))

    def _named(self, settings: dict[str, Any]) -> str:
        settings = self._with_final(settings)
        for name, entry in self.features.items():
            if kind(entry) == "gradient" and self._with_final(entry) == settings:
                return name
        name = "__".join([settings["function"], str(settings["timesteps"]), *self._tags(settings)])
        self.features[name] = settings
        return name

    def _with_final(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings with the last checkpoint called what it is, the final model."""
        last = settings["checkpoint"] == self.experiment["training"]["checkpoints"]
        return {**settings, "checkpoint": "final"} if last else settings

    def _tags(self, settings: dict[str, Any]) -> Iterator[str]:
        """What tells the settings from the defaults, a word each."""
        words = {
            "strategy": lambda value: value,
            "noises": lambda value: f"noises-{value}",
            "noise": lambda value: value.replace("_", "-"),
            "bank": lambda value: f"bank-{value}" if value else "own-noise",
            "seed": lambda value: f"seed-{value}",
            "checkpoint": lambda value: f"checkpoint-{value}",
            "model": lambda value: f"pool-{value['pool']}" if value != "base" else "base",
            "along": lambda value: value,
            "at": lambda value: f"at-{value}",
            "normalise": lambda value: "normalised" if value else "plain",
            "residuals": lambda value: "residuals" if value else "no-residuals",
            "dtype": lambda value: value,
        }
        for key, word in words.items():
            if settings[key] != self.defaults[key]:
                yield word(settings[key])
        for key, value in settings["projection"].items():
            if value != self.defaults["projection"][key]:
                yield f"projection-{key}-{value}".replace("_", "-")


def kind(entry: dict[str, Any]) -> str:
    """The kind of a feature set: `gradient`, `clip` or `combine`."""
    return next((key for key in ("clip", "combine") if key in entry), "gradient")


def stored(features: dict[str, dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """The sets that lie in stores of their own behind a set: itself, or the parts of a mix."""
    entry = features[name]
    if kind(entry) != "combine":
        return {name: entry}
    found: dict[str, dict[str, Any]] = {}
    for part in entry["combine"]:
        found |= stored(features, part)
    return found


def counterfactual_methods(experiment: dict[str, Any]) -> list[str]:
    """The methods by which the counterfactual evaluation removes images, each once."""
    own = experiment["counterfactual"]
    named = [*own["methods"], *(name for one in own["steps"] for name in one["methods"])]
    return list(dict.fromkeys(named))


def obstacle(experiment: dict[str, Any], method: dict[str, Any], split: str) -> str | None:
    """Why a method cannot run on a split, as a sentence, or None."""
    if is_finished(experiment) and split != "generation":
        return "has only the queries that were given"
    pool, features = experiment["pool"]["count"], experiment["features"]
    wanted = method.get("models", 1) if needs(method) == "pool" else method.get("ensemble", 0)
    if wanted > pool:
        models = "model" if wanted == 1 else "models"
        return f"needs {wanted} {models} of the pool, and pool.count is {pool}"
    for name in {name for pair in method["sets"] for name in pair}:
        for part, entry in stored(features, name).items():
            if kind(entry) == "clip" and entry["clip"] is None:
                return (
                    f"needs the weights of a CLIP model: set features.{part}.clip to a hub id or "
                    "a folder"
                )
            along = entry.get("along") == "trajectory"
            if along and split != "generation":
                return f"{split} images have no sampling trajectory"
    return None
