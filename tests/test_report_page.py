"""The report in a real browser: pictures load, tables sort, choices work, nothing complains."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from reporting_data import lds_frame, loss_frame, pair_frame, split

from attribution.figures import plot_lds_by_method, plot_training_loss, save
from attribution.galleries import gallery
from attribution.report import markdown_blocks, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is here")
STUDY = """## Does it | matter \\& hold?

| Which | Value |
| --- | ---: |
| a \\| b | **1.5** \\[1, 2\\] |
| c <d> | 2 |

A note in **bold**.
"""
# What a person would do, and what they would then see; the answers end up in an element.
PROBE = """<script>
const found = {};
try {
  const images = [...document.images];
  const visible = one => one.offsetParent !== null;
  found.broken = images.filter(one => visible(one) && !one.naturalWidth).length;
  found.images = images.length;
  found.wide = document.documentElement.scrollWidth - window.innerWidth;
  const rows = () => [...document.querySelectorAll("#scores tbody tr")];
  const column = () => rows().map(row => row.cells[4].dataset.sort);
  const head = document.querySelectorAll("#scores thead th")[4];
  head.querySelector("button").click();
  found.down = column(); found.said = head.getAttribute("aria-sort");
  head.querySelector("button").click();
  found.up = column();
  const shown = () => [...document.querySelectorAll(".query")].filter(one => !one.hidden)
    .map(one => [one.dataset.split, one.dataset.title]);
  found.first = shown();
  const query = document.getElementById("query"), split = document.getElementById("split");
  query.selectedIndex = 1; query.dispatchEvent(new Event("change"));
  found.second = shown();
  split.selectedIndex = 1; split.dispatchEvent(new Event("change"));
  found.other = shown();
  const strips = () => [...document.querySelectorAll(".method")]
    .filter(one => one.offsetParent !== null).map(one => one.dataset.method);
  found.methods = strips();
  const method = document.getElementById("method");
  method.selectedIndex = 2; method.dispatchEvent(new Event("change"));
  found.only = strips();
  method.selectedIndex = 0; method.dispatchEvent(new Event("change"));
  found.again = strips();
  found.study = document.querySelector("#studies table.study").textContent;
  found.behind = document.querySelector("#behind table.study").textContent;
} catch (error) { found.error = String(error); }
const answer = document.createElement("pre");
answer.id = "probe"; answer.textContent = JSON.stringify(found);
document.body.append(answer);
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything on it."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "study.md").write_text(STUDY)
    save(plot_lds_by_method(lds_frame()), folder / "lds_by_method")
    save(plot_training_loss(loss_frame()), folder / "training_loss")
    draw = np.random.default_rng(0).standard_normal
    scores = {name: draw((3, 9)) for name in ("TRAK, 10 timesteps", "D-TRAK, 10 timesteps")}
    write_report(
        folder / "report.html",
        lds=lds_frame(),
        pairs=pair_frame(lds_frame()),
        figures={name: folder / f"{name}.svg" for name in ("lds_by_method", "training_loss")},
        galleries={
            name: [gallery(split(3), split(9), scores, row, 2) for row in (0, 2)]
            for name in ("validation", "generation")
        },
        settings={"seed": 42},
        versions={"python": "3"},
        commit="abc",
        stages=[("train_base", 3.0)],
        sections=[(folder / "study.md", [folder / "training_loss.svg"])],
    )
    return folder / "report.html"


def in_browser(page: Path, width: int, *options: str) -> tuple[dict, list[str]]:
    """What the probe found in the page at this width, and what the console said."""
    probed = page.with_name(f"probed-{width}.html")
    probed.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    ended = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--virtual-time-budget=4000", f"--window-size={width},900",
            f"--user-data-dir={page.parent / 'profile'}", *options, "--dump-dom", probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    answer = re.search(r'<pre id="probe">(.*?)</pre>', ended.stdout, flags=re.DOTALL)
    assert answer, ended.stderr
    console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    text = answer[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    return json.loads(text), console


@needs_browser
@pytest.mark.parametrize(
    ("width", "options"),
    [(1280, ()), (500, ()), (1280, ("--blink-settings=preferredColorScheme=0",))],
)
def test_the_page_works_in_a_browser(page: Path, width: int, options: tuple[str, ...]):
    found, console = in_browser(page, width, *options)
    assert "error" not in found, found
    assert not console
    assert found["images"] > 10
    assert found["broken"] == 0
    assert found["wide"] <= 0  # nothing sticks out of the page
    down, up = (list(map(float, found[name])) for name in ("down", "up"))
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)
    assert found["said"] == "descending"
    assert [len(found[name]) for name in ("first", "second", "other")] == [1, 1, 1]
    assert found["first"] != found["second"]
    assert found["first"][0][0] == found["second"][0][0] == "validation"
    assert found["other"][0][0] == "generation"
    assert found["methods"] == found["again"] == ["TRAK, 10 timesteps", "D-TRAK, 10 timesteps"]
    assert found["only"] == ["D-TRAK, 10 timesteps"]
    assert "c <d>" in found["study"]
    assert "best" in found["behind"]


def test_tables_of_studies_are_taken_as_they_are():
    heading, table, note = markdown_blocks(STUDY)
    assert heading == {"kind": "heading", "text": "Does it | matter &amp; hold?"}
    assert table["heads"] == ["Which", "Value"]
    assert table["numeric"] == [False, True]
    assert table["rows"] == [["a | b", "<b>1.5</b> [1, 2]"], ["c &lt;d&gt;", "2"]]
    assert note["text"] == "A note in <b>bold</b>."


def test_the_page_needs_no_network(page: Path):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["\'](?!data:|#)[^"\']*""", text)
    assert not re.findall(r"url\((?!data:)", text)
    assert len(text) < 10_000_000
