"""Manifests: written whole or not at all, and saying what made an artifact."""

import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import subprocess
import time
from pathlib import Path

import pytest

from attribution import provenance
from attribution.errors import StoreError

ROOT = Path(provenance.__file__).resolve().parent.parent
# sha256("abc"), FIPS 180-4's first example.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_file_digest_is_the_sha256_of_the_standard(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert provenance.file_digest(tmp_path / "abc") == ABC


def test_canonical_digest_is_blind_to_the_order_of_keys_only():
    digest = provenance.canonical_digest({"a": 1, "b": [1, {"c": 2, "d": 3}]})
    assert digest == provenance.canonical_digest({"b": [1, {"d": 3, "c": 2}], "a": 1})
    assert digest == hashlib.sha256(b'{"a":1,"b":[1,{"c":2,"d":3}]}').hexdigest()
    assert digest != provenance.canonical_digest({"b": [{"d": 3, "c": 2}, 1], "a": 1})


def test_combined_digest_sees_names_and_contents_and_not_their_order():
    whole = provenance.combined_digest({"a": "1", "b": "2"})
    assert whole == provenance.combined_digest({"b": "2", "a": "1"})
    others = [{"a": "2", "b": "1"}, {"a": "1"}, {"a": "1", "c": "2"}, {"a": "1", "b": "3"}, {}]
    assert len({whole, *map(provenance.combined_digest, others)}) == 6


def test_write_json_makes_the_folder_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "manifest.json"
    provenance.write_json(path, {"a": [1, "é"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, "é"]}
    assert [file.name for file in path.parent.iterdir()] == ["manifest.json"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path):
    path = tmp_path / "manifest.json"
    provenance.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        provenance.write_json(path, {"new": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def _write_for_ever(path: Path) -> None:
    for number in itertools.count():
        provenance.write_json(path, {"number": number, "filling": list(range(20_000))})


def test_a_reader_never_sees_half_a_file_and_a_kill_leaves_it_whole(tmp_path: Path):
    path = tmp_path / "manifest.json"
    writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
    writer.start()
    seen = set()
    end = time.monotonic() + 10
    while len(seen) < 5 and time.monotonic() < end:
        if path.exists():
            seen.add(json.loads(path.read_text(encoding="utf-8"))["number"])
    writer.kill()
    writer.join()
    assert len(seen) == 5
    assert len(json.loads(path.read_text(encoding="utf-8"))["filling"]) == 20_000


def test_a_missing_manifest_is_named_with_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(StoreError) as caught:
        provenance.read_manifest(tmp_path / "x.zarr")
    manifest = tmp_path / "x.zarr" / "manifest.json"
    assert f"snakemake --cores all {manifest}" in str(caught.value)
    assert "unfinished" in str(caught.value)


def test_a_damaged_manifest_is_named_with_the_command_that_makes_it(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"a": ')
    with pytest.raises(StoreError, match=r"manifest\.json is not JSON.*snakemake --cores all"):
        provenance.read_manifest(tmp_path)


def test_a_manifest_says_what_made_it():
    spec = {"code": "0123", "settings": {"a": 1}}
    record = provenance.manifest("features", spec, provenance.Stopwatch(), device="cpu", shape=[2])
    assert json.loads(json.dumps(record)) == record
    assert (record["kind"], record["spec"]) == ("features", spec)
    assert (record["device"], record["shape"]) == ("cpu", [2])
    made = record["made"]
    assert made["libraries"]["torch"] == importlib.metadata.version("torch")
    assert made["libraries"]["zarr"] == importlib.metadata.version("zarr")
    assert time.strptime(made["started"], "%Y-%m-%dT%H:%M:%SZ")
    assert 0 <= made["seconds"] < 5


def test_the_commit_is_the_one_that_git_names():
    head = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    commit = provenance.environment()["commit"]
    if head.returncode:
        assert commit is None
    else:
        assert commit.removesuffix("+changes") == head.stdout.strip()


def test_a_stopwatch_counts_seconds():
    watch, start = provenance.Stopwatch(), time.perf_counter()
    time.sleep(0.05)
    assert abs(watch.seconds - (time.perf_counter() - start)) < 0.02
