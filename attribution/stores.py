"""Chunked zarr stores that survive a kill: chunks first, manifest last.

A store is a zarr 3 group with named dimensions, so `zarr.open` and `xarray.open_zarr` read it. Its
`spec` (code digest and settings, in the group's attributes) decides the content: a writer that
finds another spec removes the store, one that finds its own keeps the whole chunks and writes the
rest. Each chunk carries a checksum (crc32c) of its own; the manifest adds the sha256 of every chunk
file.
"""

import fcntl
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from attribution.errors import StoreError
from attribution.provenance import (
    MANIFEST,
    Stopwatch,
    combined_digest,
    file_digest,
    manifest,
    read_manifest,
    write_json,
)


@dataclass(frozen=True)
class Layout:
    """Shape, chunks, type and dimension names of one array of a store."""

    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str = "float32"
    compress: bool = False

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of chunks along each dimension."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    def region(self, chunk: tuple[int, ...]) -> tuple[slice, ...]:
        """The part of the array that a chunk holds."""
        return tuple(
            slice(index * size, min((index + 1) * size, whole))
            for index, size, whole in zip(chunk, self.chunks, self.shape, strict=True)
        )


def chunk_name(array: str, chunk: Sequence[int]) -> str:
    """The name of a chunk's file inside the store."""
    return "/".join([array, "c", *map(str, chunk)])


def chunk_names(layouts: dict[str, Layout]) -> list[str]:
    """The names of all chunk files of a store."""
    return [
        chunk_name(array, chunk)
        for array, layout in layouts.items()
        for chunk in product(*map(range, layout.grid))
    ]


class Writer:
    """Creates a store, or goes on with one of the same spec; several processes may do so."""

    def __init__(
        self,
        path: Path,
        spec: dict[str, Any],
        layouts: dict[str, Layout],
        attributes: dict[str, Any] | None = None,
        set_aside: Callable[[dict[str, Any]], Path | None] | None = None,
    ):
        """
        Args:
            path: the store's folder; its parent is made.
            spec: JSON-able; what decides the content.
            layouts: the arrays by name.
            attributes: further group attributes, for people (units, meaning of the values).
            set_aside: of the spec of a store that is in the way, gives the path to which that one
                is moved, or None to remove it.
        """
        self.path, self.spec, self.layouts = path, spec, layouts
        self.stopwatch = Stopwatch()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            if not self._is_mine():
                self._make_way(set_aside)
                self._create(attributes or {})
        self._group = zarr.open_group(path, mode="r+", use_consolidated=False)

    @classmethod
    def reopen(cls, path: Path) -> "Writer":
        """A writer for a store that other jobs have filled, to finish it."""
        try:
            group = zarr.open_group(path, mode="r", use_consolidated=False)
        except FileNotFoundError:
            raise StoreError(f"{path} does not exist; no job has written to it yet") from None
        writer = cls.__new__(cls)
        writer.path, writer.stopwatch, writer._group = path, Stopwatch(), group
        writer.spec = {key: value for key, value in group.attrs["spec"].items() if key != "arrays"}
        writer.layouts = {
            name: Layout(
                array.metadata.dimension_names, array.shape, array.chunks, str(array.dtype)
            )
            for name, array in ((name, group[name]) for name in group.attrs["spec"]["arrays"])
        }
        return writer

    def _is_mine(self) -> bool:
        try:
            group = zarr.open_group(self.path, mode="r", use_consolidated=False)
            return group.attrs["spec"] == self._spec_attribute()
        except (FileNotFoundError, KeyError, ValueError):
            return False

    def _make_way(self, set_aside: Callable[[dict[str, Any]], Path | None] | None) -> None:
        try:
            group = zarr.open_group(self.path, mode="r", use_consolidated=False)
            place = set_aside(dict(group.attrs["spec"])) if set_aside else None
        except (FileNotFoundError, KeyError, ValueError):
            return
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
            self.path.rename(place)

    def _spec_attribute(self) -> dict[str, Any]:
        arrays = {
            name: {"shape": list(one.shape), "chunks": list(one.chunks), "dtype": one.dtype}
            for name, one in self.layouts.items()
        }
        return {**self.spec, "arrays": arrays}

    def _create(self, attributes: dict[str, Any]) -> None:
        scratch = self.path.with_name(f".{self.path.name}.new")
        for stale in (scratch, self.path):
            if stale.exists():
                shutil.rmtree(stale)
        group = zarr.create_group(
            scratch, attributes={**attributes, "spec": self._spec_attribute()}, overwrite=True
        )
        for name, layout in self.layouts.items():
            group.create_array(
                name,
                shape=layout.shape,
                chunks=layout.chunks,
                dtype=layout.dtype,
                compressors=[*([ZstdCodec(level=3)] if layout.compress else []), Crc32cCodec()],
                dimension_names=layout.dimensions,
                fill_value=0,
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(scratch)
        scratch.rename(self.path)

    def has(self, array: str, chunk: Sequence[int]) -> bool:
        """Whether a chunk is there and whole: a damaged one (its checksum fails) is removed."""
        file = self.path / chunk_name(array, chunk)
        if not file.is_file():
            return False
        try:
            self._group[array][self.layouts[array].region(tuple(chunk))]
        except Exception:  # whatever a codec raises over damaged bytes
            file.unlink()
            return False
        return True

    def read(self, array: str, chunk: Sequence[int]) -> np.ndarray:
        """The values of one chunk that is there."""
        return np.asarray(self._group[array][self.layouts[array].region(tuple(chunk))])

    def row(self, array: str, row: int) -> np.ndarray:
        """The values of one row, of a chunk that is there."""
        return np.asarray(self._group[array][row])

    def write(self, array: str, chunk: Sequence[int], values: np.ndarray) -> None:
        """Write one whole chunk (the values of `Layout.region(chunk)`), atomically."""
        # Without this, zarr leaves out a chunk of zeros, which then counts as missing.
        with zarr.config.set({"array.write_empty_chunks": True}):
            self._group[array][self.layouts[array].region(tuple(chunk))] = values

    def write_all(self, array: str, values: np.ndarray) -> None:
        """Write a whole array, chunk by chunk."""
        layout = self.layouts[array]
        for chunk in product(*map(range, layout.grid)):
            self.write(array, chunk, values[layout.region(chunk)])

    def finish(
        self, kind: str, repair: str, seconds: float | None = None, **content: Any
    ) -> dict[str, Any]:
        """Check that every chunk is there, then write the manifest, which makes the store whole.

        Args:
            kind: what the store holds, e.g. `features`.
            repair: the command that makes missing or damaged chunks again.
            seconds: of all jobs that filled the store; this writer's own age if not given.
            content: what else the manifest should say.

        Raises:
            StoreError: a chunk is missing.
        """
        digests = {}
        for name in chunk_names(self.layouts):
            if not (self.path / name).is_file():
                raise StoreError(f"{self.path}: chunk {name} is missing; make it with: {repair}")
            digests[name] = file_digest(self.path / name)
        record = manifest(
            kind,
            self.spec,
            self.stopwatch,
            **content,
            repair=repair,
            arrays=self._spec_attribute()["arrays"],
            chunks=digests,
            sha256=combined_digest(digests),
        )
        if seconds is not None:
            record["made"]["seconds"] = round(seconds, 3)
        write_json(self.path / MANIFEST, record)
        return record


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Reader:
    """A finished store, read-only; each chunk is checked before its first use."""

    def __init__(self, path: Path):
        self.path = path
        self.manifest = read_manifest(path)
        if "chunks" not in self.manifest:
            raise StoreError(f"{path} is not a store but a {self.manifest.get('kind')}")
        self._group = zarr.open_group(path, mode="r", use_consolidated=False)
        self._checked: set[str] = set()

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self._group.attrs)

    def array(self, name: str) -> "CheckedArray":
        """One array of the store; StoreError names the arrays where none has that name."""
        if name not in self.manifest["arrays"]:
            known = ", ".join(sorted(self.manifest["arrays"]))
            raise StoreError(f"{self.path} has no array {name!r}; it has {known}")
        return CheckedArray(self, name)

    def read(self, name: str) -> np.ndarray:
        """A whole array."""
        return self.array(name)[:]

    def check(self, chunk: str) -> None:
        """Raise StoreError, with chunk and repair, unless the file is what was written."""
        if chunk in self._checked:
            return
        file = self.path / chunk
        expected = self.manifest["chunks"][chunk]
        fault = None
        if not file.is_file():
            fault = "missing"
        elif file_digest(file) != expected:
            fault = "damaged"
        if fault:
            raise StoreError(
                f"{self.path}: chunk {chunk} is {fault}; repair it with: {self.manifest['repair']}"
            )
        self._checked.add(chunk)

    def check_all(self) -> None:
        """`check` every chunk of the store."""
        for chunk in sorted(self.manifest["chunks"]):
            self.check(chunk)


class CheckedArray:
    """An array of a finished store: `.shape`, `.dtype` and slices, checked chunk by chunk."""

    def __init__(self, store: Reader, name: str):
        self._store, self._name = store, name
        self._array = store._group[name]
        self.shape: tuple[int, ...] = self._array.shape
        self.dtype = self._array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, selection: Any) -> np.ndarray:
        """The selected values; integers and slices of step 1 along any leading dimensions."""
        selection = selection if isinstance(selection, tuple) else (selection,)
        touched = []
        for index, size in enumerate(self.shape):
            chunk = self._array.chunks[index]
            chosen = selection[index] if index < len(selection) else slice(None)
            if isinstance(chosen, slice):
                start, stop, _ = chosen.indices(size)
            else:
                start, stop = chosen % size, chosen % size + 1
            touched.append(range(start // chunk, -(-stop // chunk)))
        for position in product(*touched):
            self._store.check(chunk_name(self._name, position))
        return np.asarray(self._array[selection])


def write_store(
    path: Path,
    kind: str,
    spec: dict[str, Any],
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray]],
    repair: str,
    attributes: dict[str, Any] | None = None,
    **content: Any,
) -> dict[str, Any]:
    """Write a small store in one go, one compressed chunk an array; returns its manifest.

    Args:
        arrays: name to (dimension names, values).
        repair: the command that makes the store again.
    """
    layouts = {
        name: Layout(
            dims, values.shape, tuple(max(n, 1) for n in values.shape), str(values.dtype), True
        )
        for name, (dims, values) in arrays.items()
    }
    writer = Writer(path, spec, layouts, attributes)
    for name, (_, values) in arrays.items():
        writer.write_all(name, values)
    return writer.finish(kind, repair, **content)
