"""The interactive page, opened in a real browser."""

import html
import io
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import falling, write_run
from rich.console import Console

from diffx.compare import compare
from diffx.compare.shown.page import write_page
from diffx.compare.shown.published import read_published
from diffx.compare.shown.table import make_tables
from diffx.compare.study import make_study

PUBLISHED = Path(__file__).parents[2] / "experiments" / "published.csv"
NAMES = ("chromium", "chromium-browser", "google-chrome")
HIDE = "document.querySelectorAll('#methods button')[1].click();"
HOVER = """
  const line = document.querySelector('.curve[data-method="repa"][data-metric="fd_embedded_sup_1k"]');
  const box = line.ownerSVGElement.getBoundingClientRect();
  const move = new PointerEvent("pointermove", { bubbles: true, clientX: box.left, clientY: box.top });
  line.dispatchEvent(move);
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("install Debian's chromium to run this test")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    for seed in (0, 1):
        for label, start in (("plain", 100), ("repa", 80)):
            values = {"fd_embedded_sup_1k": falling(start + seed, 0.8), "fd_embedded_ssl_1k": falling(2, 0.8)}
            write_run(root, label, seed, {**values, "nearest_train": falling(3, 0)})
    write_run(root, "tread", 0, config={"batch_size": 128})
    return compare([root], console=Console(file=io.StringIO())) / "compare.html"


def run_in(browser: str, page: Path, script: str, answer: str) -> Any:
    """Runs a script in the opened page and returns its answer, a JavaScript expression."""
    report = f"document.body.dataset.answer = JSON.stringify({answer});"
    failure = "document.body.dataset.answer = JSON.stringify({ error: String(error) });"
    probe = page.with_name("probe.html")
    extra = f"<script>try {{ {script} {report} }} catch (error) {{ {failure} }}</script></body>"
    probe.write_text(page.read_text().replace("</body>", extra))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1300,1000",
        f"--user-data-dir={page.parent}/browser",
    ]
    done = subprocess.run(
        [browser, *flags, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'data-answer="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found.group(1)))


@pytest.mark.slow
def test_every_method_is_drawn_in_every_panel_without_an_error(browser: str, page: Path):
    drawn = "[...document.querySelectorAll('.curve')].map((one) => [one.dataset.method, one.dataset.metric])"
    answer = run_in(browser, page, "", drawn)
    assert sorted(map(tuple, answer)) == sorted(
        (method, metric)
        for method in ("plain", "repa", "tread")
        for metric in ("fd_embedded_sup_1k", "fd_embedded_ssl_1k")
    )


@pytest.mark.slow
def test_a_method_is_hidden_by_its_button_and_shown_again(browser: str, page: Path):
    drawn = "[...new Set([...document.querySelectorAll('.curve')].map((one) => one.dataset.method))]"
    pressed = "document.querySelectorAll('#methods button')[1].getAttribute('aria-pressed')"
    assert run_in(browser, page, HIDE, f"[{drawn}, {pressed}]") == [["plain", "tread"], "false"]
    assert run_in(browser, page, HIDE + HIDE, f"[{drawn}, {pressed}]") == [["plain", "repa", "tread"], "true"]


@pytest.mark.slow
def test_hovering_a_line_shows_its_value_its_seeds_and_its_settings(browser: str, page: Path):
    """At the left edge the nearest point is the first evaluation: cost 1, where the seeds have 80 and 81."""
    lines = "[tooltip.hidden, [...tooltip.children].map((one) => one.textContent)]"
    hidden, said = run_in(browser, page, HOVER, lines)
    assert hidden is False
    assert said[0] == "repa"
    assert said[1] == "FD embedded sup (1k samples) 80.5 [80 – 81], 2 seeds"
    assert said[2] == "1 CPU-hours"
    assert "plugins.repa.weight: 0.5" in said


@pytest.mark.slow
def test_a_ring_says_how_much_sooner_a_method_met_the_baselines_final_value(browser: str, page: Path):
    """The baseline ends with 101 / 8 ** 0.8, which seeds that start at 80 and 81 meet at 8 (80 / 101) ** 1.25 and
    8 (81 / 101) ** 1.25."""
    script = """
      const ring = document.querySelector('.ring[data-method="repa"]');
      ring.dispatchEvent(new PointerEvent("pointerenter", { clientX: 10, clientY: 10 }));
    """
    said = run_in(browser, page, script, "[...tooltip.children].map((one) => one.textContent)")
    assert said[0] == "repa"
    assert said[1] == "19.1 after 6.02 CPU-hours"
    assert said[2].startswith("1.3× sooner than the baseline [")


@pytest.mark.slow
def test_a_published_number_names_its_source(browser: str, root: Path, tmp_path: Path):
    """experiments/published.csv has SiT + REPA XL/2 at 400,000 steps of 256 images."""
    settings = {
        "backbone": {"hidden_size": 1152, "depth": 28, "patch_size": 2},
        "data": {"name": "imagenet256"},
        "guidance": {"scale": 1.0},
    }
    for label in ("plain", "repa"):
        folder = write_run(root, label, 0, {"fid_50k": falling(80, 0.1)}, config=settings)
        curve = (
            (folder / "curve.jsonl")
            .read_text()
            .replace('"step": 400, "images": 25600', '"step": 400000, "images": 102400000')
        )
        (folder / "curve.jsonl").write_text(curve)
    found = replace(make_study([root]), published=tuple(read_published(PUBLISHED)))
    page = tmp_path / "compare.html"
    page.write_text(write_page(found, [], {}, []))
    script = """
      document.querySelector('input[value="step"]').click();
      const marks = [...document.querySelectorAll('.mark')];
      marks.forEach((mark) => mark.dispatchEvent(new PointerEvent("pointerenter", { clientX: 9, clientY: 9 })));
    """
    said = run_in(browser, page, script, "[marks.length, ...[...tooltip.children].map((one) => one.textContent)]")
    assert said[0] > 3
    assert said[2].startswith("published: ")
    assert "paper" in said[3] or "sources" in said[3]


@pytest.mark.slow
def test_a_line_can_be_walked_with_the_keyboard(browser: str, page: Path):
    script = """
      const line = document.querySelector('.curve[data-method="repa"]');
      line.focus();
      line.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
    """
    assert run_in(browser, page, script, "tooltip.children[2].textContent") == "4 CPU-hours"


@pytest.mark.slow
def test_the_axis_can_be_switched(browser: str, page: Path):
    script = "document.querySelector('input[value=\"images\"]').click();" + HOVER
    answer = "[document.getElementById('xlabel').textContent.trim(), tooltip.children[2].textContent]"
    assert run_in(browser, page, script, answer) == ["images", "6400 images"]


@pytest.mark.slow
def test_other_measurements_can_be_drawn_too(browser: str, page: Path):
    script = "document.querySelector('input[value=\"nearest_train\"]').click();"
    assert run_in(browser, page, script, "document.querySelectorAll('#panels figure').length") == 3


@pytest.mark.slow
def test_the_caption_is_of_the_panels_that_are_shown_on_the_axis_that_is_chosen(browser: str, page: Path):
    script = """
      const caption = document.getElementById("caption");
      const first = caption.textContent;
      for (const name of ["fd_embedded_sup_1k", "fd_embedded_ssl_1k", "nearest_train"]) {
        document.querySelector(`input[value="${name}"]`).click();
      }
    """
    before, after = run_in(browser, page, script, "[first, caption.textContent]")
    assert "rings and factors: CPU-hours to reach it" in before
    assert "Held-out real images score 1.2 in FD embedded sup (1k samples)." in before
    assert "rings" not in after
    assert "Held-out" not in after
    steps = "document.querySelector('input[value=\"step\"]').click();"
    assert "rings and factors: steps to reach it" in run_in(browser, page, steps, "caption.textContent")


@pytest.mark.slow
def test_a_tap_opens_the_tooltip_a_lifted_finger_leaves_it_and_a_tap_elsewhere_closes_it(browser: str, page: Path):
    script = """
      const line = document.querySelector(".curve");
      const tell = (on, kind) => on.dispatchEvent(new PointerEvent(kind, { bubbles: true, pointerType: "touch" }));
      const seen = [];
      tell(line, "pointerdown");
      seen.push(tooltip.hidden);
      tell(line, "pointerleave");
      seen.push(tooltip.hidden);
      tell(document.querySelector("h1"), "pointerdown");
      seen.push(tooltip.hidden);
    """
    assert run_in(browser, page, script, "seen") == [False, False, True]


@pytest.mark.slow
def test_a_table_is_sorted_by_the_column_that_is_pressed(browser: str, page: Path):
    script = """
      const table = [...document.querySelectorAll("table")].find((one) => one.textContent.includes("images/s"));
      const column = [...table.tHead.rows[0].cells].findIndex((one) => one.textContent === "training");
      const press = () => table.tHead.rows[0].cells[column].querySelector("button").click();
      const read = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
      press();
      const up = read();
      press();
    """
    up, down = run_in(browser, page, script, "[up, read()]")
    assert (up[0], down[-1]) == ("plain", "plain")  # 1.8M; the others train 100k more
    assert up == down[::-1]


@pytest.mark.slow
def test_the_page_links_the_numbers_and_the_pictures_beside_it(browser: str, page: Path):
    links = run_in(browser, page, "", "[...document.querySelectorAll('#links a')].map((one) => one.textContent)")
    assert {"compare.csv", "compare.png", "answer.png", "compare_steps.png"} <= set(links)
    assert all((page.parent / name).is_file() for name in links)


@pytest.mark.slow
def test_on_a_telephone_letters_are_large_enough_and_cells_are_not_broken(browser: str, page: Path):
    letters = """[...document.querySelectorAll("svg text")].map((one) =>
      parseFloat(getComputedStyle(one).fontSize) * one.ownerSVGElement.getScreenCTM().a)"""
    script = """
      document.documentElement.style.width = "390px";  // the browser's own window is not narrower than 500
      for (const one of document.querySelectorAll("details")) one.open = true;
    """
    lines = """[...document.querySelectorAll("td")].filter((one) => !one.parentNode.textContent.includes("\\n"))
      .map((one) => one.getBoundingClientRect().height)"""
    right = """Math.max(...[...document.querySelectorAll("main *")]
      .filter((one) => !one.closest(".scroll table, svg *")).map((one) => one.getBoundingClientRect().right))"""
    sizes, heights, width = run_in(browser, page, script, f"[{letters}, {lines}, {right}]")
    assert min(sizes) > 8.5
    assert max(heights) - min(heights) < 8
    assert width <= 390


@pytest.mark.slow
def test_labels_do_not_overlap(browser: str, page: Path):
    labels = """[...document.querySelectorAll('#panels figure:first-child [id^="curve-"][id$="-name"] text')]"""
    heights = sorted(run_in(browser, page, "", f"{labels}.map((one) => one.getBoundingClientRect().y)"))
    assert len(heights) == 3
    assert all(low + 10 <= high for low, high in itertools.pairwise(heights))


def test_the_page_loads_nothing_from_outside(page: Path):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"<(link|img|iframe)\b|<script[^>]+src=|@import|url\((?!#)", text)
    addresses = set(re.findall(r"https?://[^\"'\s<\\]+", text)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert addresses == set()


def test_text_of_a_run_cannot_become_markup(root: Path):
    write_run(root, "plain")
    write_run(root, "</script><b>hi</b>", plugins={"x": {}}, identity="odd")
    found = make_study([root])
    assert "</script><b>" not in write_page(found, make_tables(found), {}, [])
