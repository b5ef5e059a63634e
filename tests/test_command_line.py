"""`python -m attribution`: what it prints of stores and models, and how it ends on damage."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_network import network_settings

from attribution.__main__ import main
from attribution.models import build, save
from attribution.provenance import Stopwatch
from attribution.stores import Layout, Writer

MODEL = network_settings(8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A feature store of 5 rows in chunks of 2; rows (3, 4), so that each norm is 5."""
    layout = Layout(("images", "k"), (5, 2), (2, 2))
    writer = Writer(
        tmp_path / "train.zarr", {"code": "abc", "settings": {"a": 1}}, {"features": layout}
    )
    writer.write_all("features", np.tile(np.float32([3, 4]), (5, 1)))
    writer.finish("features", "snakemake --cores all PART", projection={"kind": "none"})
    return tmp_path / "train.zarr"


def test_inspect_says_what_a_store_is_and_what_made_it(store: Path, capsys) -> None:
    assert main(["inspect", str(store)]) == 0
    printed = capsys.readouterr().out
    for expected in ("features", "code      abc", '{"a": 1}', "5 x 2 float32", "3 chunks of 2 x 2"):
        assert expected in printed
    assert "row norms from 5 to 5, median 5" in printed


def test_a_manifest_stands_for_its_store(store: Path, capsys) -> None:
    assert main(["inspect", str(store / "manifest.json"), "--verify"]) == 0
    assert "3 chunks are whole" in capsys.readouterr().out


def test_verify_ends_with_1_and_the_first_damaged_chunk(store: Path, capsys) -> None:
    for number in (1, 2):
        chunk = store / f"features/c/{number}/0"
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    assert main(["inspect", str(store), "--verify"]) == 1
    sentence = capsys.readouterr().err
    assert "chunk features/c/1/0 is damaged" in sentence
    assert "snakemake --cores all PART" in sentence


def test_inspect_says_what_a_model_is_and_finds_its_damage(tmp_path: Path, capsys) -> None:
    model = build(MODEL, 0.0, seed=3)
    save(model, tmp_path / "base", {"code": "abc", "settings": {}}, Stopwatch(), "snakemake MODEL")
    squares = sum(float(one.detach().double().square().sum()) for one in model.parameters())
    assert main(["inspect", str(tmp_path / "base"), "--verify"]) == 0
    printed = capsys.readouterr().out
    assert f"norm of the weights: {squares**0.5:.6g}" in printed
    assert "2 files are whole" in printed
    (tmp_path / "base/config.json").write_text("{}")
    assert main(["inspect", str(tmp_path / "base"), "--verify"]) == 1
    assert "config.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_artifact_is_said_in_a_sentence(tmp_path: Path, name: str, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["inspect", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.startswith("StoreError: ")


def test_summary_prints_the_table_and_the_places(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["summary", "mine"]) == 1
    assert "'run=[mine]'" in capsys.readouterr().err
    from reporting_data import lds_frame

    (tmp_path / "results/mine/tables").mkdir(parents=True)
    frame: pd.DataFrame = lds_frame()
    frame.to_csv(tmp_path / "results/mine/tables/lds.csv", index=False)
    assert main(["summary", "mine"]) == 0
    printed = capsys.readouterr().out
    assert "Ceiling" in printed
    assert str(Path("results/mine/tables")) in printed
