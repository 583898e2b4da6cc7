"""What `dvc plots show` and `dvc plots diff` draw, seen in a browser that has no network."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dvc.cli import main as dvc
from playwright.sync_api import sync_playwright

from cnn.base.params import read_yaml
from cnn.results import metrics, suspects, tables
from tests.helpers.revisions import PROJECT, git, make_history
from tools import offline_plots

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --disable-quic --no-first-run"
)
STAGES = read_yaml(PROJECT / "dvc.yaml")["stages"]
# {table: path of its CSV} and {table: its template} of all charts, in the order of dvc.yaml.
PLOTS = {
    path: properties["template"]
    for stage in STAGES.values()
    for entry in stage.get("plots", [])
    for path, properties in entry.items()
    if "template" in properties
}
TABLES = {Path(path).stem: path for path in PLOTS}
TEMPLATES = {
    Path(path).stem: json.loads((PROJECT / f".dvc/plots/{template}.json").read_text())
    for path, template in PLOTS.items()
}
CHARTS = {chart: path.translate(str.maketrans("/.", "__")) for chart, path in TABLES.items()}
REVISIONS = {"show": ["workspace"], "diff": ["good", "poor", "other"]}


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    make_history(root)
    return root


@pytest.fixture(scope="module")
def browser(browser_path):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS.split())
        yield browser
        browser.close()


def opened(browser, path):
    """The page that DVC wrote, with what it asked for and complained of."""
    page = browser.new_context(offline=True, viewport={"width": 1700, "height": 1000}).new_page()
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(path.as_uri())
    page.locator(f"#{CHARTS['reliability']} svg.marks").wait_for()
    return page


@pytest.fixture(scope="module")
def pages(history, browser):
    """{"show", "diff"}: the page, open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(history)
        offline_plots.main([])
        assert dvc(["plots", "show", "--out", "show"]) == 0
        assert dvc(["plots", "diff", *REVISIONS["diff"], "--out", "diff"]) == 0
    return {name: opened(browser, history / name / "index.html") for name in REVISIONS}


@pytest.fixture(params=REVISIONS)
def name(request):
    return request.param


def rows(history, revision, table):
    revision = "HEAD" if revision == "workspace" else revision
    return list(csv.DictReader(git(history, "show", f"{revision}:{TABLES[table]}").splitlines()))


def test_nothing_is_fetched_and_nothing_complains(pages, name):
    page = pages[name]
    assert page.complaints == []
    schemes = {url.partition(":")[0] for url in page.requests}
    assert schemes <= {"file", "data", "blob"}


def test_these_charts_and_no_other(pages, history, name):
    page = pages[name]
    shown = [chart.get_attribute("id") for chart in page.locator(".vega-embed:visible").all()]
    assert sorted(shown) == sorted(CHARTS.values())
    for chart, template in TEMPLATES.items():
        text = page.locator(f"#{CHARTS[chart]}").inner_text()
        assert template["title"]["text"] in text
        assert all(revision in text for revision in REVISIONS[name])
    widths = page.evaluate("Array.from(document.images, image => image.naturalWidth)")
    pictures = len(list((history / "reports/evaluate/pictures").glob("*.png")))
    assert len(widths) == pictures * len(REVISIONS[name])
    assert min(widths) > 0
    assert (history / name / "index.html").stat().st_size < 2e6


def test_every_row_is_drawn(pages, history, name):
    """Count the marks of each chart against the rows of its tables."""

    def count(chart, mark):
        return pages[name].locator(f"#{CHARTS[chart]} {mark}").count()

    def total(table):
        return sum(len(rows(history, revision, table)) for revision in REVISIONS[name])

    n = len(REVISIONS[name])
    symbol, text = ".mark-symbol.role-mark path", ".mark-text.role-mark text"
    assert count("training", symbol) == 4 * total("training")  # two metrics, two sets of images
    assert count("per_class", symbol) == 3 * total("per_class") == 3 * 10 * n
    assert count("confusion", ".mark-rect.role-mark path") == total("confusion") == 100 * n
    assert count("confusion", text) == sum(
        row["count"] != "0"
        for revision in REVISIONS[name]
        for row in rows(history, revision, "confusion")
    )
    assert count("roc", ".mark-line.role-mark path") == count("roc", text) == 10 * n
    assert all("NaN" not in svg.inner_html() for svg in pages[name].locator("svg.marks").all())
    assert count("reliability", symbol) == count("reliability", text) == total("reliability")
    assert count("suspects", text) == total("suspects") > 0


def tooltips_in(node) -> list[set[str]]:
    """Return the names of the fields of each tooltip in a template."""
    if not isinstance(node, dict | list):
        return []
    found = [each for child in (node.values() if isinstance(node, dict) else node)
             for each in tooltips_in(child)]  # fmt: skip
    fields = node.get("tooltip") if isinstance(node, dict) else None
    if isinstance(fields, list):
        found.append({field.get("title", field["field"]) for field in fields})
    return found


@pytest.mark.parametrize("chart", CHARTS)
def test_a_tooltip_appears(pages, name, chart):
    page = pages[name]
    page.mouse.move(0, 0)
    points = page.locator(f"#{CHARTS[chart]} .mark-symbol.role-mark path")
    cells = page.locator(f"#{CHARTS[chart]} .mark-rect.role-mark path")
    lines = page.locator(f"#{CHARTS[chart]} .mark-text.role-mark text")
    next(each for each in (points, cells, lines) if each.count()).first.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    shown = {key.strip(": ") for key in tooltip.locator(".key").all_text_contents()}
    assert shown in tooltips_in(TEMPLATES[chart])
    text = tooltip.inner_text()
    assert REVISIONS[name][0] in text
    assert "undefined" not in text


def test_the_headings_say_which_is_better_and_what_is_weak(pages, history):
    for revision in REVISIONS["diff"]:
        errors = sum(
            int(row["count"])
            for row in rows(history, revision, "confusion")
            if row["actual"] != row["predicted"]
        )
        weakest = min(rows(history, revision, "per_class"), key=lambda row: float(row["f1"]))
        text = pages["diff"].locator(f"#{CHARTS['confusion']}").inner_text()
        assert f"{revision}: {errors} of 10,000 images read wrongly" in text
        text = pages["diff"].locator(f"#{CHARTS['per_class']}").inner_text()
        f1 = float(weakest["f1"])
        assert f"{revision}: weakest is {weakest['class']}, F1 {f1:.4f}" in text
        assert "these are the weakest" not in text
    text = pages["diff"].locator(f"#{CHARTS['confusion']}").inner_text()
    assert text.index("good:") < text.index("poor:") < text.index("other:")  # as they were named


def test_pointing_at_a_class_shows_its_curve_alone(pages):
    page = pages["show"]
    roc = page.locator(f"#{CHARTS['roc']}")
    roc.locator(".mark-symbol.role-mark path").nth(3).hover(force=True)
    faded = roc.locator(".mark-line.role-mark path[opacity='0.1']")
    faded.nth(8).wait_for(state="attached")
    assert faded.count() == 9


NAMES = ["zero or O", "Äpfel und Birnen", "日本語", 'a "quote", a comma', "it's", "10", "2", "🍎🍏"]
NAMES += [f"class {number} of a long name, the end tells {number}" for number in range(92)]


@pytest.fixture(scope="module")
def named(pages, history, browser, tmp_path_factory):
    """The page of a model that has 100 named classes."""
    folder = tmp_path_factory.mktemp("named") / "clone"
    shutil.copytree(history, folder, ignore=shutil.ignore_patterns("show", "diff"))
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 20)
    probabilities = rng.random((len(labels), 100), dtype=np.float32)
    probabilities[np.arange(len(labels)), labels] += 0.9
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    results = metrics.evaluate(labels, probabilities, NAMES, bins=15)
    results.tables["suspects"] = suspects.table(
        {"test": suspects.Split(labels, np.eye(100, dtype=np.float32)[labels], [""] * len(labels))},
        NAMES,
    )
    tables.write(*results, folder / "reports/evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert dvc(["plots", "show", "--out", "show"]) == 0
    return opened(browser, folder / "show/index.html")


def labels_along(page, chart, axis):
    """What stands along the axis of a title, in order."""
    axis = page.locator(f"#{CHARTS[chart]} [aria-label*=\"-axis titled '{axis}'\"]")
    return [text for text in axis.locator(".role-axis-label text").all_text_contents() if text]


def test_a_hundred_named_classes_are_drawn_without_a_complaint(named):
    """Of the matrix all cells, without counts; of the others the weakest classes."""
    assert named.complaints == []
    for chart, mark, n in (
        ("confusion", "rect.role-mark path", 100**2),
        ("confusion", "text.role-mark text", 0),
        ("per_class", "symbol.role-mark path", 3 * 26),
        ("roc", "line.role-mark path", 10),
    ):
        assert named.locator(f"#{CHARTS[chart]} .mark-{mark}").count() == n
    assert all("NaN" not in svg.inner_html() for svg in named.locator("svg.marks").all())
    text = named.locator(f"#{CHARTS['per_class']}").inner_text()
    assert "these are the weakest of 100" in text


def test_classes_stand_in_their_own_order_and_the_ends_of_long_names_are_seen(named):
    short = [name if len(name) <= 14 else f"{name[:8]}…{name[-5:]}" for name in NAMES]
    for axis in ("actual", "predicted"):
        assert labels_along(named, "confusion", axis) == short
    for chart, n in (("per_class", 26), ("roc", 10)):
        labels = labels_along(named, chart, "class")
        assert labels == [label for label in short if label in labels]
        assert len(labels) == n


def test_epochs_are_whole_numbers_that_stand_once(pages):
    """Vega's own ticks between 1 and 2 are 1, 1.5 and 2."""
    assert labels_along(pages["show"], "training", "epoch") == ["1", "2"] * 2


def test_each_template_is_used():
    assert {path.stem for path in (PROJECT / ".dvc/plots").glob("*.json")} == set(PLOTS.values())
