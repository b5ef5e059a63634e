"""What a configured method reads, opened from the files of its experiment."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attribution.kernels import Decomposition, RowSource, decompose, resolve_lambdas
from attribution.methods import Inputs, Method, Pool
from attribution.projection import require_same_identity
from attribution.provenance import MANIFEST, file_digest, read_manifest
from attribution.rows import COLUMNS, LatentRows, PixelRows, open_rows
from attribution.stores import Reader
from attribution.user_methods import is_users


def input_digests(paths: Iterable[str]) -> dict[str, str]:
    """The sha256 of the data behind each file that a job reads, by its path.

    A manifest stands for its artifact, any other file for itself.
    """
    return {
        str(path): read_manifest(Path(path).parent)["sha256"]
        if Path(path).name == MANIFEST
        else file_digest(Path(path))
        for path in paths
    }


class MethodInputs:
    """The sets that a method reads on one split, and what they have in common.

    sets: one `Inputs` for each pair of feature sets; one for methods that read no features.
    lambdas: [lambdas], their mean over the sets; NaN for a method without.
    mean_eigenvalue: its mean over the sets, or None; lambdas over it are those of the grid where
        the grid's unit is the mean eigenvalue.
    projection: the identity of the features' projection, or None.
    """

    def __init__(
        self,
        method: Method,
        settings: dict[str, Any],
        split: str,
        experiment: Path,
        paths: Iterable[Any],
        device: torch.device,
        decompositions: dict[str, Decomposition] | None = None,
    ):
        """
        Args:
            method: of which the needs count.
            settings: the sections `method` (its entry with its `sets`), `features` (the entries of
                these sets) and, with lambdas, `kernel`.
            split: of the queries.
            experiment: the folder results/{experiment}.
            paths: the job's input files. A decomposition is read from its store if that is among
                them, and otherwise computed.
            device: for decompositions and scores.
            decompositions: those that are known, by feature set; what is computed is added, so
                that another split can have it.
        """
        self.settings, self.split, self.experiment = settings, split, experiment
        self.entry, self.device = settings["method"], device
        self.files = set(map(str, paths))
        self.decompositions = {} if decompositions is None else decompositions
        self.projection: dict[str, Any] | None = None
        self.options = self.entry.get("options", {}) if is_users(self.entry) else self.entry
        if method.needs == "images":
            queries, train = self._images(split), self._images("train")
            self.sets = [Inputs(queries, train, self.options, split)]
        elif method.needs == "pool":
            outputs = experiment / "outputs" / "pool" / f"{split}.zarr"
            pool = read_pool(experiment / "data" / "pool.zarr", outputs)
            self.sets = [Inputs(None, None, self.options, split, pool=pool)]
        else:
            with_kernel = method.needs == "kernel"
            self.sets = [self._opened(*names, with_kernel) for names in self.entry["sets"]]
        self.lambdas = np.mean([one.lambdas for one in self.sets], axis=0)
        decompositions = [one.decomposition for one in self.sets if one.decomposition is not None]
        self.mean_eigenvalue = (
            float(np.mean([one.mean_eigenvalue for one in decompositions]))
            if decompositions
            else None
        )

    def _images(self, split: str) -> RowSource:
        """A split's pixels, or its latents where the job is given those."""
        latents = self.experiment / "latents" / f"{split}.zarr"
        if str(latents / MANIFEST) in self.files:
            return LatentRows(latents)
        folder = "generated" if split == "generation" else "data"
        return PixelRows(self.experiment / folder / f"{split}.zarr")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of lambdas, of queries and of training images."""
        return (len(self.lambdas), *self.sets[0].shape)

    def _opened(self, train_name: str, query_name: str, with_kernel: bool) -> Inputs:
        """One set; training rows, queries and decomposition must be of one projection."""
        features = self.settings["features"]
        train = open_rows(self.experiment, train_name, "train", features)
        queries = open_rows(self.experiment, query_name, self.split, features)
        require_same_identity(
            queries.identity,
            train.identity,
            str(self._store(query_name, self.split)),
            str(self._store(train_name, "train")),
        )
        self.projection = self.projection or train.identity
        common = {"residuals": train.residuals}
        if not with_kernel:
            return Inputs(queries, train, self.options, self.split, **common)
        decomposition = self._decomposition(train_name, train, train.identity)
        kernel = self.settings["kernel"]
        lambdas = resolve_lambdas(
            kernel["lambdas"], kernel["unit"], decomposition.mean_eigenvalue, train.shape[1]
        )
        return Inputs(queries, train, self.options, self.split, decomposition, lambdas, **common)

    def _store(self, name: str, split: str) -> Path:
        return self.experiment / "features" / name / f"{split}.zarr"

    def _decomposition(
        self, name: str, train: RowSource, identity: dict[str, Any]
    ) -> Decomposition:
        if name not in self.decompositions:
            folder = self.experiment / "kernels" / f"{name}.zarr"
            self.decompositions[name] = (
                read_decomposition(folder, identity, self._store(name, "train"), self.device)
                if str(folder / MANIFEST) in self.files
                else decompose(train, block_rows=COLUMNS, device=self.device)
            )
        return self.decompositions[name]


def read_decomposition(
    folder: Path, identity: dict[str, Any], features: Path, device: torch.device
) -> Decomposition:
    """A stored decomposition; StoreError unless it is of the projection of these features."""
    store = Reader(folder)
    require_same_identity(store.manifest["projection"], identity, str(folder), str(features))
    eigenvalues, eigenvectors, norms = (
        torch.from_numpy(store.read(name)).to(device)
        for name in ("eigenvalues", "eigenvectors", "feature_norms")
    )
    return Decomposition(
        kind=store.manifest["form"],
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
        feature_norms=norms,
        mean_eigenvalue=store.manifest["mean_eigenvalue"],
        shape=tuple(store.manifest["shape"]),
        block_rows=COLUMNS,
    )


def read_pool(masks: Path, outputs: Path) -> Pool:
    """The pool's masks and its models' outputs: means over noises, timestep groups and the seed.

    Args:
        masks: the store with `masks` [models, images].
        outputs: the store with `outputs` [models, seeds, noises, timestep groups, queries].
    """
    values = Reader(outputs).array("outputs")
    # A model at a time: all timestep groups of many models are large, and only means are wanted.
    means = [
        values[index : index + 1].astype(np.float64).mean((0, 1, 2, 3))
        for index in range(len(values))
    ]
    return Pool(Reader(masks).read("masks").astype(bool), np.array(means))
