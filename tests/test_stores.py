"""Stores survive a kill at any moment, say what is damaged, and are read by any zarr reader."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from attribution.errors import StoreError
from attribution.provenance import read_manifest
from attribution.stores import Layout, Reader, Writer, chunk_name, chunk_names, write_store

SPEC = {"code": "abc", "settings": {"features": {"dim": 5}}}
REPAIR = "snakemake --cores all --forcerun x"
# 7 rows in chunks of 3 and 5 columns in chunks of 2: the last chunks hold less than a whole one.
LAYOUTS = {
    "features": Layout(("images", "k"), (7, 5), (3, 2)),
    "ids": Layout(("images",), (7,), (3,), "int64", compress=True),
}
VALUES = {
    "features": np.arange(35, dtype=np.float32).reshape(7, 5) - 11,
    "ids": np.arange(7) * 1_000_000_007,
}


def fill(writer: Writer, stop: int | None = None) -> None:
    """Write the chunks that are not there yet, up to the number `stop`."""
    for name in chunk_names(LAYOUTS)[:stop]:
        array, _, *position = name.split("/")
        chunk = tuple(map(int, position))
        if not writer.has(array, chunk):
            writer.write(array, chunk, VALUES[array][LAYOUTS[array].region(chunk)])


def finished(path: Path, spec: dict[str, Any] = SPEC) -> Reader:
    writer = Writer(path, spec, LAYOUTS, {"values": "numbers"})
    fill(writer)
    writer.finish("features", REPAIR, extra=[1, 2])
    return Reader(path)


def data_files(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in chunk_names(LAYOUTS)}


def damage(file: Path, position: int = 2) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)


def python(program: str, *arguments: Any, **more: Any) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], **more)


def test_the_grid_and_the_regions_of_chunks_cover_the_array_once():
    layout = LAYOUTS["features"]
    assert layout.grid == (3, 3)  # ceil(7 / 3), ceil(5 / 2)
    assert layout.region((2, 1)) == (slice(6, 7), slice(2, 4))
    counts = np.zeros(layout.shape, int)
    for name in chunk_names({"features": layout}):
        counts[layout.region(tuple(map(int, name.split("/")[2:])))] += 1
    assert (counts == 1).all()
    assert chunk_name("features", (2, 1)) == "features/c/2/1"


def test_what_was_written_is_read_with_partial_chunks_at_the_edges(tmp_path: Path):
    store = finished(tmp_path / "x.zarr")
    for name, values in VALUES.items():
        np.testing.assert_array_equal(store.read(name), values)
        assert store.array(name).dtype == values.dtype
    assert store.attributes["values"] == "numbers"
    assert store.attributes["spec"]["code"] == "abc"
    store.check_all()


@pytest.mark.parametrize(
    "selection",
    [3, -1, slice(2, 5), slice(None), (slice(1, 7), 4), (0, slice(3, 5)), (6, -2), slice(5, 5)],
)
def test_slices_are_those_of_numpy(tmp_path: Path, selection: Any):
    store = finished(tmp_path / "x.zarr")
    expected = VALUES["features"][selection]
    np.testing.assert_array_equal(store.array("features")[selection], expected)
    assert len(store.array("features")) == 7


def test_a_slice_checks_the_chunks_that_it_touches_and_no_others(tmp_path: Path):
    store = finished(tmp_path / "x.zarr")
    damage(store.path / "features/c/1/0")
    np.testing.assert_array_equal(store.array("features")[:3], VALUES["features"][:3])
    np.testing.assert_array_equal(store.array("features")[6], VALUES["features"][6])
    np.testing.assert_array_equal(
        store.array("features")[3:6, 2:], VALUES["features"][3:6, 2:]
    )  # columns 0 and 1 are the damaged chunk's
    for touching in (3, slice(2, 4), (slice(None), 1), (-2, slice(1, 3))):
        with pytest.raises(StoreError, match=r"features/c/1/0 is damaged"):
            store.array("features")[touching]


@pytest.mark.parametrize("position", [0, 5, -1])
def test_a_damaged_chunk_is_found_by_the_writer_and_made_again(tmp_path: Path, position: int):
    finished(tmp_path / "x.zarr")
    before = data_files(tmp_path / "x.zarr")
    damage(tmp_path / "x.zarr" / "features/c/1/1", position)
    writer = Writer(tmp_path / "x.zarr", SPEC, LAYOUTS)
    assert not writer.has("features", (1, 1))
    assert not (writer.path / "features/c/1/1").exists()
    fill(writer)
    assert data_files(writer.path) == before


@pytest.mark.parametrize("length", [0, 1, 11])
def test_a_truncated_chunk_is_found_by_the_writer(tmp_path: Path, length: int):
    finished(tmp_path / "x.zarr")
    for name in ("features/c/0/0", "ids/c/0"):
        os.truncate(tmp_path / "x.zarr" / name, length)
    writer = Writer(tmp_path / "x.zarr", SPEC, LAYOUTS)
    assert not writer.has("features", (0, 0))
    assert not writer.has("ids", (0,))
    assert writer.has("features", (0, 1))
    assert writer.has("ids", (1,))


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_the_reader_names_the_chunk_and_the_repair(tmp_path: Path, fault: str):
    store = finished(tmp_path / "x.zarr")
    file = store.path / "features/c/2/0"
    file.unlink() if fault == "missing" else damage(file)
    with pytest.raises(StoreError) as caught:
        store.check_all()
    assert f"x.zarr: chunk features/c/2/0 is {fault}" in str(caught.value)
    assert REPAIR in str(caught.value)
    with pytest.raises(StoreError, match="features/c/2/0"):
        store.read("features")
    np.testing.assert_array_equal(store.read("ids"), VALUES["ids"])


def test_a_chunk_swapped_for_another_whole_one_is_damage(tmp_path: Path):
    store = finished(tmp_path / "x.zarr")
    (store.path / "features/c/0/0").write_bytes((store.path / "features/c/0/1").read_bytes())
    with pytest.raises(StoreError, match="features/c/0/0 is damaged"):
        store.read("features")


def test_an_unfinished_store_cannot_be_read_nor_finished(tmp_path: Path):
    writer = Writer(tmp_path / "x.zarr", SPEC, LAYOUTS)
    fill(writer, stop=4)
    with pytest.raises(StoreError, match=r"no manifest\.json: it is unfinished"):
        Reader(tmp_path / "x.zarr")
    with pytest.raises(StoreError) as caught:
        writer.finish("features", REPAIR)
    assert f"chunk {chunk_names(LAYOUTS)[4]} is missing; make it with: {REPAIR}" in str(
        caught.value
    )
    assert not (writer.path / "manifest.json").exists()


def test_the_same_spec_keeps_whole_chunks(tmp_path: Path):
    writer = Writer(tmp_path / "x.zarr", SPEC, LAYOUTS)
    fill(writer, stop=4)
    for name in chunk_names(LAYOUTS)[:4]:
        os.utime(writer.path / name, (1000, 1000))
    fill(Writer(tmp_path / "x.zarr", json.loads(json.dumps(SPEC)), LAYOUTS))
    kept = [(writer.path / name).stat().st_mtime == 1000 for name in chunk_names(LAYOUTS)]
    assert kept == [True] * 4 + [False] * 8


@pytest.mark.parametrize("change", ["settings", "code", "shape", "dtype", "chunks", "array"])
def test_another_spec_removes_what_was_there(tmp_path: Path, change: str):
    finished(tmp_path / "x.zarr")
    spec, layouts = json.loads(json.dumps(SPEC)), dict(LAYOUTS)
    if change == "settings":
        spec["settings"]["features"]["dim"] = 6
    elif change == "code":
        spec["code"] = "abd"
    elif change == "shape":
        layouts["ids"] = Layout(("images",), (8,), (3,), "int64")
    elif change == "dtype":
        layouts["ids"] = Layout(("images",), (7,), (3,), "int32")
    elif change == "chunks":
        layouts["ids"] = Layout(("images",), (7,), (4,), "int64")
    else:
        layouts["scale"] = Layout(("images",), (7,), (3,))
    writer = Writer(tmp_path / "x.zarr", spec, layouts)
    assert not (writer.path / "manifest.json").exists()
    assert not any((writer.path / name).exists() for name in chunk_names(layouts))
    assert [file.name for file in tmp_path.iterdir()] == ["x.zarr"]


@pytest.mark.parametrize("rubbish", ["", "{", "{}"])
def test_a_folder_that_is_no_store_is_replaced(tmp_path: Path, rubbish: str):
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / "zarr.json").write_text(rubbish)
    np.testing.assert_array_equal(finished(tmp_path / "x.zarr").read("ids"), VALUES["ids"])


def test_a_store_left_half_created_is_replaced(tmp_path: Path):
    (tmp_path / ".x.zarr.new").mkdir()
    (tmp_path / ".x.zarr.new" / "zarr.json").write_text("{}")
    np.testing.assert_array_equal(finished(tmp_path / "x.zarr").read("ids"), VALUES["ids"])
    assert [file.name for file in tmp_path.iterdir()] == ["x.zarr"]


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from test_stores import LAYOUTS, SPEC, Writer, fill
fill(Writer(Path(sys.argv[2]), SPEC, LAYOUTS), stop=int(sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_the_work_goes_on_to_the_same_bytes(tmp_path: Path):
    finished(tmp_path / "undisturbed.zarr")
    path = tmp_path / "x.zarr"
    process = python(KILLED, Path(__file__).parent, path, 5)
    assert process.wait() == -signal.SIGKILL
    os.utime(path / chunk_names(LAYOUTS)[4], (1000, 1000))
    store = finished(path)
    assert (path / chunk_names(LAYOUTS)[4]).stat().st_mtime == 1000
    assert data_files(path) == data_files(tmp_path / "undisturbed.zarr")
    assert store.manifest["sha256"] == Reader(tmp_path / "undisturbed.zarr").manifest["sha256"]


SHARE = """
import sys, time
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from test_stores import LAYOUTS, SPEC, VALUES, Writer, chunk_names
shard = int(sys.argv[3])
print("ready", flush=True)
sys.stdin.read(1)
writer = Writer(Path(sys.argv[2]), SPEC, LAYOUTS)
for name in chunk_names(LAYOUTS)[shard::2]:
    array, _, *position = name.split("/")
    chunk = tuple(map(int, position))
    writer.write(array, chunk, VALUES[array][LAYOUTS[array].region(chunk)])
"""


def test_two_processes_fill_one_store_at_the_same_time(tmp_path: Path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [
        python(SHARE, Path(__file__).parent, tmp_path / "x.zarr", shard, **pipes)
        for shard in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both create, or join, the store now
        process.stdin.write("g")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    Writer.reopen(tmp_path / "x.zarr").finish("features", REPAIR)
    for name, values in VALUES.items():
        np.testing.assert_array_equal(Reader(tmp_path / "x.zarr").read(name), values)


def test_reopen_finishes_with_the_spec_and_layout_of_those_that_wrote(tmp_path: Path):
    expected = finished(tmp_path / "a" / "x.zarr").manifest
    fill(Writer(tmp_path / "b" / "x.zarr", SPEC, LAYOUTS))
    record = Writer.reopen(tmp_path / "b" / "x.zarr").finish("features", REPAIR, extra=[1, 2])
    for key in ("kind", "spec", "arrays", "chunks", "sha256", "repair", "extra"):
        assert record[key] == expected[key]
    with pytest.raises(StoreError, match=r"none\.zarr does not exist"):
        Writer.reopen(tmp_path / "none.zarr")


def test_the_manifest_says_shapes_types_and_the_digest_of_every_chunk(tmp_path: Path):
    record = finished(tmp_path / "x.zarr").manifest
    assert record == read_manifest(tmp_path / "x.zarr")
    assert record["spec"] == SPEC
    assert record["arrays"]["features"] == {"shape": [7, 5], "chunks": [3, 2], "dtype": "float32"}
    listed = subprocess.run(
        ["sha256sum", *chunk_names(LAYOUTS)],
        cwd=tmp_path / "x.zarr",
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert record["chunks"] == dict(zip(listed[1::2], listed[::2], strict=True))


def test_equal_specs_give_equal_bytes(tmp_path: Path):
    a, b = finished(tmp_path / "a.zarr"), finished(tmp_path / "b.zarr")
    assert data_files(a.path) == data_files(b.path)
    assert a.manifest["sha256"] == b.manifest["sha256"]


OPENED = """
import sys, warnings
import numpy, xarray, zarr
warnings.simplefilter("error")
group = zarr.open(sys.argv[1], mode="r")
dataset = xarray.open_zarr(sys.argv[1])
assert dict(dataset.sizes) == {"images": 7, "k": 5}, dataset.sizes
print(group["features"][:].tolist() == dataset["features"].values.tolist(),
      group["ids"].metadata.dimension_names, dataset.attrs["values"],
      dataset["features"].sum().item())
"""


def test_zarr_and_xarray_open_it_without_a_warning(tmp_path: Path):
    finished(tmp_path / "x.zarr")
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path / "x.zarr")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"True ('images',) numbers {VALUES['features'].sum()}\n"
    assert done.stderr == ""


def test_chunks_of_zeros_are_files_too(tmp_path: Path):
    """Otherwise a chunk that was never written could not be told from one of zeros."""
    write_store(tmp_path / "x.zarr", "x", SPEC, {"a": (("n",), np.zeros(3))}, REPAIR)
    assert (tmp_path / "x.zarr" / "a/c/0").is_file()
    (tmp_path / "x.zarr" / "a/c/0").unlink()
    with pytest.raises(StoreError, match="a/c/0 is missing"):
        Reader(tmp_path / "x.zarr").read("a")


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint64", "int64", "float16", "float64"])
def test_a_small_store_is_written_in_one_go(tmp_path: Path, dtype: str):
    values = np.array([[0, 1, 2], [200, 3, 1]]).astype(dtype)
    record = write_store(
        tmp_path / "x.zarr", "masks", SPEC, {"a": (("m", "n"), values)}, REPAIR, names=["é"]
    )
    store = Reader(tmp_path / "x.zarr")
    assert store.manifest == record
    assert record["names"] == ["é"]
    assert store.read("a").dtype == values.dtype
    np.testing.assert_array_equal(store.read("a"), values)


def test_an_empty_array_is_stored(tmp_path: Path):
    arrays = {"a": (("n",), np.zeros(0, np.float32)), "b": (("m",), np.ones(2))}
    write_store(tmp_path / "x.zarr", "x", SPEC, arrays, REPAIR)
    assert Reader(tmp_path / "x.zarr").read("a").shape == (0,)


def test_special_values_come_back_bit_for_bit(tmp_path: Path):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
    write_store(tmp_path / "x.zarr", "x", SPEC, {"a": (("n",), values)}, REPAIR)
    assert Reader(tmp_path / "x.zarr").read("a").tobytes() == values.tobytes()


def test_an_unknown_array_and_a_folder_of_another_kind_are_refused_in_words(tmp_path: Path):
    store = finished(tmp_path / "x.zarr")
    with pytest.raises(StoreError, match="has no array 'feature'; it has features, ids"):
        store.array("feature")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text('{"kind": "model"}')
    with pytest.raises(StoreError, match="is not a store but a model"):
        Reader(tmp_path / "model")


def test_arrays_are_plain_zarr_with_a_checksum(tmp_path: Path):
    finished(tmp_path / "x.zarr")
    group = zarr.open_group(tmp_path / "x.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    for name in LAYOUTS:
        codecs = [codec["name"] for codec in group[name].metadata.to_dict()["codecs"]]
        assert codecs[-1] == "crc32c"
    # A raw float32 chunk of 3 x 2 numbers and 4 bytes of checksum.
    assert (tmp_path / "x.zarr" / "features/c/0/0").stat().st_size == 3 * 2 * 4 + 4
