"""One line that says what is running and what is left: `snakemake --logger progress`.

On a terminal the line is rewritten in place; elsewhere (a file, CI) a line is printed when a job
ends. What Snakemake says of errors is printed as it is; its full log stays in .snakemake/log.
"""

import shutil
import sys
import time
from collections import Counter
from logging import WARNING, LogRecord
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

SHOWN_KINDS = 4


class LogHandler(LogHandlerBase):
    """Turns Snakemake's events into the progress line."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.described: dict[int, tuple[str, str]] = {}  # job to (rule, description)
        self.running: dict[int, float] = {}  # job to the time of its start
        self.left: Counter[str] = Counter()  # rule to jobs that have not finished
        self.total = 0
        self.dry = False

    def emit(self, record: LogRecord) -> None:
        event = getattr(record, "event", None)
        handle = {
            LogEvent.RUN_INFO: self._run,
            LogEvent.JOB_INFO: self._describe,
            LogEvent.JOB_STARTED: self._start,
            LogEvent.JOB_FINISHED: self._finish,
            LogEvent.JOB_ERROR: self._fail,
        }.get(event)
        if handle:
            handle(record)
        elif event == LogEvent.ERROR or (event is None and record.levelno >= WARNING):
            self._print(record.getMessage())

    def _run(self, record: LogRecord) -> None:
        self.left = Counter(getattr(record, "stats", {}))
        self.total = self.left.pop("total", sum(self.left.values()))
        kinds = ", ".join(f"{count} {rule}" for rule, count in self.left.most_common())
        self._print(f"{self.total} jobs to do: {kinds}")

    def _describe(self, record: Any) -> None:
        wildcards = dict(record.wildcards or {}) if hasattr(record, "wildcards") else {}
        wildcards.pop("experiment", None)
        values = " ".join(map(str, wildcards.values()))
        self.described[record.jobid] = (record.rule_name, f"{record.rule_name} {values}".strip())

    def _start(self, record: Any) -> None:
        for job in record.jobs:
            self.running[job] = time.monotonic()
        self._show()

    def _finish(self, record: Any) -> None:
        started = self.running.pop(record.job_id, time.monotonic())
        rule, description = self.described.get(record.job_id, ("", f"job {record.job_id}"))
        self.left[rule] -= 1
        if sys.stderr.isatty():
            self._show()
        else:
            seconds = time.monotonic() - started
            print(f"{self._counts()} {description}, {seconds:.0f} s", file=sys.stderr, flush=True)

    def _fail(self, record: Any) -> None:
        job = record.jobid
        _, description = self.described.get(job, ("", f"job {job}"))
        self.running.pop(job, None)
        logs = ", ".join(map(str, getattr(record, "log", None) or []))
        self._print(f"failed: {description}" + (f" (log: {logs})" if logs else ""))

    def _counts(self) -> str:
        done = self.total - sum(self.left.values())
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"[{done}/{self.total} jobs, {minutes}:{seconds:02d}]"

    def _show(self) -> None:
        """Rewrite the line on a terminal: counts, what runs, what is left."""
        if not sys.stderr.isatty():
            return
        names = Counter(self.described[job][1] for job in self.running if job in self.described)
        waiting = Counter(self.left)
        waiting.subtract(self.described[job][0] for job in self.running if job in self.described)
        kinds = [f"{count} {rule}" for rule, count in waiting.most_common() if count > 0]
        more = f" and {len(kinds) - SHOWN_KINDS} more kinds" if len(kinds) > SHOWN_KINDS else ""
        left = f"; left: {', '.join(kinds[:SHOWN_KINDS])}{more}" if kinds else ""
        line = f"{self._counts()} running: {', '.join(names) or 'nothing'}{left}"
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\033[K{line[:width]}")
        sys.stderr.flush()

    def _print(self, text: str) -> None:
        """Print lines of their own, above the progress line."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")
        print(text, file=sys.stderr, flush=True)
