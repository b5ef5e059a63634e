"""The paper's numbers: spot checks against its tables, and what has no counterpart."""

import pytest

from attribution.errors import ConfigurationError
from attribution.output_functions import OUTPUT_FUNCTIONS
from attribution.paper import SETTINGS, STUDY_TABLES, Published, method_row, published, study_row


@pytest.mark.parametrize(
    ("setting", "split", "method", "timesteps", "models", "expected"),
    [
        ("cifar2", "validation", "dtrak", 100, None, Published(33.74, 0.37, 2)),
        ("cifar10", "generation", "raw_pixel_dot", None, None, Published(2.25, 0.39, 2)),
        ("cifar10", "generation", "clip_dot", None, None, Published(1.11, 0.47, 2)),
        ("celeba", "generation", "raw_pixel_dot", None, None, Published(-4.94, 1.58, 6)),
        ("celeba", "generation", "raw_pixel_cosine", 10, None, Published(-4.38, 1.63, 6)),
        ("artbench5", "generation", "journey_trak", 10, None, Published(7.59, 0.78, 3)),
        ("artbench2", "validation", "gas", 100, None, Published(18.04, 0.62, 3)),
        ("artbench2", "generation", "dtrak_ensemble", 10, 8, Published(25.09, 0.69, 7)),
        ("celeba", "generation", "datamodel", None, 512, Published(12.43, 0.36, 8)),
        ("cifar2", "validation", "empirical_influence", None, 64, Published(6.0, 0.5, 7)),
    ],
)
def test_methods_have_the_numbers_of_their_table(
    setting, split, method, timesteps, models, expected
):
    assert method_row(setting, split, method, timesteps, models) == expected


def test_studies_have_the_numbers_of_their_table():
    def value(study, axes, split="validation", method=None):
        found = study_row("cifar2", study, axes, split, method)
        return found and (found.lds, found.table)

    assert value("output_functions", {"function": "linf_norm", "timesteps": 1000}) == (22.25, 1)
    assert value("output_functions", {"function": "square", "timesteps": 10}, "generation") == (
        16.2,
        1,
    )
    pair = {"function": "simple", "strategy": "cumulative", "timesteps": 20, "noises": 5}
    assert value("timesteps", pair) == (14.12, 5)
    assert value("timesteps", {**pair, "strategy": "midpoints"}) is None
    assert value("benchmark_output", {"function": "square", "output": "elbo"}) == (27.06, 4)
    ensemble = {"method": "TRAK (ensemble)", "models": 4, "timesteps": 100}
    assert value("retraining_based", ensemble, "generation") == (20.12, 7)
    pool = {"method": "Datamodel", "models": 256, "timesteps": None}
    assert value("retraining_based", pool) == (12.25, 7)
    labelled = {"label": "TRAK", "timesteps": 10}
    assert value("methods", labelled, method="trak") == (11.42, 2)
    assert value("methods", labelled) is None
    assert value("noise_sharing", {"function": "simple"}) is None
    assert value("output_functions", {"function": "simple", "timesteps": 10, "dim": 512}) is None


def test_other_experiments_have_nothing_beside_and_typos_are_told():
    assert method_row(None, "validation", "dtrak", 100) is None
    assert study_row(None, "output_functions", {"function": "simple"}, "validation") is None
    assert method_row("cifar2", "validation", "journey_trak", 100) is None
    assert method_row("cifar2", "validation", "dtrak", 50) is None
    with pytest.raises(ConfigurationError, match="no setting 'cifar'; it has cifar2"):
        method_row("cifar", "validation", "dtrak", 100)
    with pytest.raises(ConfigurationError, match="no row 'd-trak'"):
        method_row("cifar2", "validation", "d-trak", 100)


def test_the_csv_is_whole():
    frame = published()
    assert set(frame["setting"]) == set(SETTINGS)
    assert set(frame["table"]) == set(range(1, 9))
    assert {table for tables in STUDY_TABLES.values() for table in tables} == set(range(1, 9))
    assert set(frame["split"]) == {"validation", "generation"}
    assert set(frame["function"]) - {""} <= set(OUTPUT_FUNCTIONS)
    assert set(frame["output_of_benchmark"]) <= set(OUTPUT_FUNCTIONS)
    assert not frame.drop(columns=["lds", "std"]).duplicated().any()
    deviations = frame["std"].notna()
    assert deviations.equals(frame["table"].isin([2, 3, 6, 7, 8]))
