"""The progress line of `snakemake --logger progress`, fed with Snakemake's events."""

import logging
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_progress import LogHandler


def record(event: LogEvent | None = None, level: int = logging.INFO, text: str = "", **values):
    made = logging.LogRecord("snakemake", level, "", 0, text, None, None)
    made.event = event
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def handler() -> LogHandler:
    made = LogHandler(SimpleNamespace(), None)
    made.emit(record(LogEvent.RUN_INFO, stats={"train": 1, "score": 2, "total": 3}))
    for job, rule in ((1, "train"), (2, "score"), (3, "score")):
        wildcards = {"experiment": "digits", "split": f"part{job}"}
        made.emit(record(LogEvent.JOB_INFO, jobid=job, rule_name=rule, wildcards=wildcards))
    return made


def test_away_from_a_terminal_each_finished_job_is_a_line(capsys, handler: LogHandler) -> None:
    handler.emit(record(LogEvent.JOB_STARTED, jobs=[1, 2]))
    handler.emit(record(LogEvent.JOB_FINISHED, job_id=2))
    handler.emit(record(LogEvent.JOB_FINISHED, job_id=1))
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "3 jobs to do: 2 score, 1 train"
    assert second.startswith("[1/3 jobs, 0:00] score part2, ")
    assert third.startswith("[2/3 jobs, 0:00] train part1, ")


def test_on_a_terminal_the_line_says_what_runs_and_what_is_left(
    handler: LogHandler, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    handler.emit(record(LogEvent.JOB_STARTED, jobs=[1, 2]))
    line = capsys.readouterr().err.split("\r")[-1]
    assert "[0/3 jobs, 0:00] running: train part1, score part2; left: 1 score" in line
    assert "\n" not in line


def test_failures_and_errors_are_printed(handler: LogHandler, capsys) -> None:
    handler.emit(record(LogEvent.JOB_ERROR, jobid=1, log=["results/digits/logs/train.log"]))
    handler.emit(record(LogEvent.ERROR, logging.ERROR, "something broke"))
    handler.emit(record(None, logging.WARNING, "take care"))
    handler.emit(record(None, logging.INFO, "chatter"))
    printed = capsys.readouterr().err
    assert "failed: train part1 (log: results/digits/logs/train.log)" in printed
    assert "something broke" in printed
    assert "take care" in printed
    assert "chatter" not in printed
