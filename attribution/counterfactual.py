"""Counterfactual evaluation: remove images, train again, and see how a generated image changes.

For each query (a generated image) and each way of choosing r training images, a model is trained
without them from the base model's own seed, and the query is generated again from its own noise
(paper section 4.4, Appendix D.1). The further the image moves, the more the removed images mattered
to it. Two controls tell what that is worth: r images drawn at random, of all and of the query's own
class; and models of other seeds of which nothing was removed, the noise of retraining itself.

The query may also be generated again from a step of its own path only: the base model draws it as
far as x_t, and the model without the images goes on from there (Appendix E).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from attribution.diffusion import add_noise
from attribution.errors import ConfigurationError
from attribution.images import Split, to_model_range
from attribution.randomness import generator, normal

RANDOM = "random"
SAME_CLASS = "same_class"
RESEEDED = "reseeded"
CONTROLS = (RESEEDED, RANDOM, SAME_CLASS)
NEIGHBOURS = 15  # nearest training images that decide the class of a generated image
MEASURES = ("l2", "features", "clip")
FEATURE_SHARE = 0.1  # of the process: the timestep at which images are compared by the network


@dataclass(frozen=True)
class Case:
    """One regenerated image: which query, from where, what was removed, and by which model.

    start: the timestep from which the model draws it; the length of the process stands for the
    whole way, from noise. query: its row in the generation split; what: a method's name, or a
    control; removed: how many images; model: number of the model.
    """

    start: int
    query: int
    what: str
    removed: int
    model: int


def chosen_queries(images: int, settings: Mapping[str, Any]) -> np.ndarray:
    """The rows of the queries, in the order of the authors' code: scikit-learn's `train_test_split`
    with `query_seed`, its test part.

    Raises:
        ConfigurationError: there are not that many images.
    """
    from sklearn.model_selection import train_test_split

    count = settings["queries"]
    if count >= images:
        raise ConfigurationError(
            f"counterfactual.queries: {count} of {images} generated images; one must be left over"
        )
    seed = settings["query_seed"]
    return train_test_split(np.arange(images), test_size=count, random_state=seed)[1]


def classes_of(queries: Split, train: Split, rows: np.ndarray) -> np.ndarray:
    """The class of each query [queries]: its own label, or else the commonest of its nearest
    training images in pixels (ties: the smallest); -1 where training images have no labels."""
    known = to_model_range(train.images).flatten(1)
    found = np.full(len(rows), -1)
    for place, row in enumerate(rows.tolist()):
        if queries.labels[row] >= 0:
            found[place] = queries.labels[row]
        elif (train.labels >= 0).all():
            asked = to_model_range(queries.images[row : row + 1]).flatten(1)
            nearest = torch.cdist(asked, known)[0].argsort(stable=True)[:NEIGHBOURS]
            found[place] = np.bincount(train.labels[nearest.numpy()]).argmax()
    return found


def removals(
    rows: np.ndarray,
    classes: np.ndarray,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
) -> Iterator[tuple[int, str, int, np.ndarray]]:
    """(query, what, r, the r removed training images) of all queries.

    A method removes the images of its highest scores. A class with fewer than r images has no
    control of its own class.

    Args:
        rows: queries [queries]; classes: theirs; labels: of the training images [images].
        scores: of each method, [all generated images, training images].
    """
    images, seed = len(labels), settings["seed"]
    for query, own in zip(rows.tolist(), classes.tolist(), strict=True):
        for count in settings["removed"]:
            if RANDOM in settings["controls"]:
                draw = generator("counterfactual", seed, "any", query, count)
                yield query, RANDOM, count, draw.permutation(images)[:count]
            alike = np.flatnonzero(labels == own) if own >= 0 else np.array([], dtype=np.int64)
            if SAME_CLASS in settings["controls"] and len(alike) >= count:
                draw = generator("counterfactual", seed, "class", query, count)
                yield query, SAME_CLASS, count, draw.permutation(alike)[:count]
            for method, matrix in scores.items():
                yield query, method, count, np.argsort(-matrix[query], kind="stable")[:count]


def draw_cases(
    rows: np.ndarray,
    classes: np.ndarray,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    base_seed: int,
    process: int,
) -> tuple[list[Case], np.ndarray, np.ndarray]:
    """The cases, which training images each model keeps (bool [models, images]), and its seed.

    Equal sets of images are trained on once, from wherever their models draw.

    Args:
        process: length of the diffusion process, in timesteps.
    """
    cases, kept, seeds, known = [], [], [], {}

    def model_of(mask: np.ndarray, seed: int) -> int:
        key = (seed, mask.tobytes())
        if key not in known:
            known[key] = len(kept)
            kept.append(mask)
            seeds.append(seed)
        return known[key]

    whole = {"timestep": process, "methods": []}
    others = settings["reseeded"] if RESEEDED in settings["controls"] else 0
    for one in (whole, *settings["steps"]):
        start, asked = one["timestep"], slice(one.get("queries"))
        for number in range(1, others + 1):
            model = model_of(np.ones(len(labels), dtype=bool), base_seed + number)
            cases += [Case(start, query, RESEEDED, 0, model) for query in rows[asked].tolist()]
        chosen = {name: scores[name] for name in (*settings["methods"], *one["methods"])}
        for query, what, count, removed in removals(
            rows[asked], classes[asked], labels, chosen, settings
        ):
            mask = np.ones(len(labels), dtype=bool)
            mask[removed] = False
            cases.append(Case(start, query, what, count, model_of(mask, base_seed)))
    return cases, np.array(kept), np.array(seeds)


def case_frame(cases: list[Case]) -> pd.DataFrame:
    """The cases as a table."""
    return pd.DataFrame([asdict(case) for case in cases])


# --- distances ------------------------------------------------------------------------------------


def l2(original: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Euclidean distances of images as vectors in [-1, 1], or of latents: [images]."""
    return np.sqrt(np.square(original - again).reshape(len(original), -1).sum(1))


@torch.inference_mode()
def network_features(
    model: torch.nn.Module,
    alphas_cumprod: torch.Tensor,
    images: torch.Tensor,
    batch: int = 100,
) -> np.ndarray:
    """What the base network's middle block makes of images with a little noise: [images, values].

    All images meet the same noise, at a tenth of the process. A distance that needs no download:
    images between which the network sees little difference are close.

    Args:
        images: [images, channels, height, width] in [-1, 1].
    """
    step = int(FEATURE_SHARE * len(alphas_cumprod))
    device = next(model.parameters()).device
    noise = torch.from_numpy(normal(tuple(images.shape[1:]), "counterfactual features", step))
    found: list[torch.Tensor] = []
    handle = model.mid_block.register_forward_hook(
        lambda module, given, output: found.append(output.flatten(1).cpu())
    )
    try:
        for some in images.split(batch):
            level = alphas_cumprod[[step] * len(some)]
            model(add_noise(some, noise.expand_as(some), level).to(device), step)
    finally:
        handle.remove()
    return torch.cat(found).numpy()


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarities of rows: [rows]."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / norms


# --- tables ---------------------------------------------------------------------------------------


def summarise(frame: pd.DataFrame, bootstrap: Mapping[str, Any]) -> pd.DataFrame:
    """Mean and median of each measure for each way of removing, with intervals over queries.

    Args:
        frame: one row a case: query, what, removed and the measures. Cases of several seeds of one
            query are averaged first.
        bootstrap: the section `evaluation.bootstrap`.
    """
    records = []
    for (removed, what), part in frame.groupby(["removed", "what"], sort=False):
        by_query = part.groupby("query")[list(MEASURES)].mean()
        for measure in MEASURES:
            values = by_query[measure].to_numpy()
            if np.isnan(values).all():
                continue
            record = {"removed": removed, "what": what, "measure": measure, "queries": len(values)}
            for name, statistic in (("mean", np.mean), ("median", np.median)):
                low, high = _interval(values, statistic, bootstrap)
                record |= {name: statistic(values), f"{name}_low": low, f"{name}_high": high}
            records.append(record)
    return pd.DataFrame(records)


def compare(frame: pd.DataFrame, bootstrap: Mapping[str, Any]) -> pd.DataFrame:
    """Paired differences, over the same queries, of every two ways of removing as many images, and
    of each to the noise of retraining: the mean of `what` minus that of `against`."""
    records = []
    noise = frame[frame["what"] == RESEEDED]
    for removed in sorted(set(frame["removed"]) - {0}):
        part = pd.concat([noise, frame[frame["removed"] == removed]])
        order = list(dict.fromkeys(part["what"]))
        for measure in MEASURES:
            wide = part.pivot_table(index="query", columns="what", values=measure, aggfunc="mean")
            for place, what in enumerate(order):
                for against in order[:place]:
                    if what not in wide or against not in wide:
                        continue
                    values = (wide[what] - wide[against]).dropna().to_numpy()
                    if not len(values):
                        continue
                    low, high = _interval(values, np.mean, bootstrap)
                    records.append({
                        "removed": removed, "measure": measure, "what": what, "against": against,
                        "difference": values.mean(), "ci_low": low, "ci_high": high,
                        "queries": len(values),
                    })  # fmt: skip
    return pd.DataFrame(records)


def _interval(
    values: np.ndarray, statistic: Any, bootstrap: Mapping[str, Any]
) -> tuple[float, float]:
    """The percentile interval of a statistic over resampled queries."""
    draw = np.random.default_rng(bootstrap["seed"])
    rows = draw.integers(len(values), size=(bootstrap["interval_resamples"], len(values)))
    tail = 50 * (1 - bootstrap["confidence"])
    low, high = np.percentile(statistic(values[rows], axis=1), [tail, 100 - tail])
    return float(low), float(high)
