"""Which device a job computes on, and what it says when the device's memory is full."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attribution.devices import claim, set_up
from attribution.errors import ConfigurationError
from attribution.workflow import MEMORY_SETTINGS

COMPUTE = {"device": "cpu", "threads": 1, "tf32": False}
ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys
from pathlib import Path
from attribution.devices import claim
print(claim(3, Path(sys.argv[1]), patience=0), flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that claims one of three GPUs and holds it until its input is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_jobs_side_by_side_get_a_gpu_each_and_a_freed_one_is_taken_again(tmp_path: Path):
    processes = [holder(tmp_path) for _ in range(3)]
    held = [int(process.stdout.readline()) for process in processes]
    assert sorted(held) == [0, 1, 2]
    fourth = holder(tmp_path)
    assert int(fourth.stdout.readline()) == 0  # more jobs than GPUs: the first one is shared
    processes[1].kill()
    processes[1].wait()
    fifth = holder(tmp_path)
    assert int(fifth.stdout.readline()) == held[1]
    for process in (*processes, fourth, fifth):
        process.kill()
        process.communicate()


def test_a_single_gpu_needs_no_lock(tmp_path: Path):
    assert claim(1, tmp_path) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ConfigurationError, match=r"compute\.device is cuda"):
        set_up({**COMPUTE, "device": "cuda"})
    assert set_up({**COMPUTE, "device": "auto"}) == torch.device("cpu")


FAIL = """
import sys
from types import SimpleNamespace
import torch
from attribution.workflow import job
fake = SimpleNamespace(rule=sys.argv[2], log=[sys.argv[1]], params=SimpleNamespace(settings="{}"))
with job(fake):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. And more")
"""


@pytest.mark.parametrize("rule", ["retrain_subsets", "decompose_kernel"])
def test_a_full_gpu_is_one_sentence_with_the_setting_to_lower(tmp_path: Path, rule: str):
    ended = subprocess.run(
        [sys.executable, "-c", FAIL, str(tmp_path / "log"), rule],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "the GPU's memory is full (CUDA out of memory)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert MEMORY_SETTINGS.get(rule, "use a larger GPU") in ended.stderr
