"""What `dvc plots show` and `dvc plots diff` draw, seen in a browser that has no network."""

import csv
import json

import pytest
from dvc.cli import main as dvc
from playwright.sync_api import sync_playwright

from tests.revisions import PROJECT, git, make_history
from tools import offline_plots

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --disable-quic --no-first-run"
)
CHARTS = ["training", "per_class", "confusion", "roc", "reliability"]
REVISIONS = {"show": ["workspace"], "diff": ["good", "poor", "other"]}
TITLES = {
    "training": "Learning curves",
    "per_class": "Precision, recall and F1 by digit",
    "confusion": "Confusion matrix",
    "roc": "ROC of each digit against the rest",
    "reliability": "Reliability",
}
# What stands under the pointer when it rests on a mark of the chart.
MARKS = {
    "training": (".mark-symbol.role-mark path", ("images", "training", "epoch", "learning rate")),
    "per_class": (".mark-symbol.role-mark path", ("digit", "precision", "recall", "F1", "images")),
    "confusion": (".mark-rect.role-mark path", ("actual", "read as", "images", "of this digit")),
    "roc": (".mark-symbol.role-mark path", ("digit", "AUC")),
    "reliability": (".mark-symbol.role-mark path", ("mean confidence", "accuracy", "95 %")),
}


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


@pytest.fixture(scope="module")
def pages(history, browser):
    """{"show", "diff"}: the page that DVC wrote, open, with what it asked for and complained of."""
    pages = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(history)
        offline_plots.main([])
        assert dvc(["plots", "show", "--out", "show"]) == 0
        assert dvc(["plots", "diff", *REVISIONS["diff"], "--out", "diff"]) == 0
    for name in REVISIONS:
        context = browser.new_context(offline=True, viewport={"width": 1700, "height": 1000})
        page = pages[name] = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message, page=page: page.complaints.append(message.text))
        page.on("pageerror", lambda error, page=page: page.complaints.append(str(error)))
        page.on("request", lambda request, page=page: page.requests.append(request.url))
        page.goto((history / name / "index.html").as_uri())
        page.locator("#reports_reliability_csv svg.marks").wait_for()
    return pages


@pytest.fixture(params=REVISIONS)
def name(request):
    return request.param


def rows(history, revision, table):
    path = f"reports/{table}.csv"
    revision = "HEAD" if revision == "workspace" else revision
    return list(csv.DictReader(git(history, "show", f"{revision}:{path}").splitlines()))


def test_nothing_is_fetched_and_nothing_complains(pages, name):
    page = pages[name]
    assert page.complaints == []
    schemes = {url.partition(":")[0] for url in page.requests}
    assert schemes <= {"file", "data", "blob"}


def test_these_charts_and_no_other(pages, history, name):
    page = pages[name]
    shown = [chart.get_attribute("id") for chart in page.locator(".vega-embed:visible").all()]
    assert shown == [f"reports_{chart}_csv" for chart in CHARTS]
    for chart in CHARTS:
        text = page.locator(f"#reports_{chart}_csv").inner_text()
        assert TITLES[chart] in text
        assert all(revision in text for revision in REVISIONS[name])
    widths = page.evaluate("Array.from(document.images, image => image.naturalWidth)")
    pictures = len(list((history / "reports").glob("*.png")))
    assert len(widths) == pictures * len(REVISIONS[name])
    assert min(widths) > 0
    assert (history / name / "index.html").stat().st_size < 2e6


def test_every_row_is_drawn(pages, history, name):
    """Count the marks of each chart against the rows of its tables."""

    def count(chart, mark):
        return pages[name].locator(f"#reports_{chart}_csv {mark}").count()

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


@pytest.mark.parametrize("chart", CHARTS)
def test_a_tooltip_appears(pages, name, chart):
    page = pages[name]
    mark, words = MARKS[chart]
    page.mouse.move(0, 0)
    page.locator(f"#reports_{chart}_csv {mark}").first.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    text = tooltip.inner_text()
    assert all(word in text for word in (*words, REVISIONS[name][0]))
    assert "undefined" not in text


def test_the_headings_say_which_is_better_and_what_is_weak(pages, history):
    for revision in REVISIONS["diff"]:
        errors = sum(
            int(row["count"])
            for row in rows(history, revision, "confusion")
            if row["actual"] != row["predicted"]
        )
        weakest = min(rows(history, revision, "per_class"), key=lambda row: float(row["f1"]))
        text = pages["diff"].locator("#reports_confusion_csv").inner_text()
        assert f"{revision}: {errors} of 10,000 images read wrongly" in text
        text = pages["diff"].locator("#reports_per_class_csv").inner_text()
        f1 = float(weakest["f1"])
        assert f"{revision}: weakest is {weakest['digit']}, F1 {f1:.4f}" in text


def test_revisions_stand_in_the_order_they_were_named(pages):
    text = pages["diff"].locator("#reports_confusion_csv").inner_text()
    assert text.index("good:") < text.index("poor:") < text.index("other:")


def test_pointing_at_a_digit_shows_its_curve_alone(pages):
    page = pages["show"]
    page.locator("#reports_roc_csv .mark-symbol.role-mark path").nth(3).hover(force=True)
    faded = page.locator("#reports_roc_csv .mark-line.role-mark path[opacity='0.1']")
    faded.nth(8).wait_for(state="attached")
    assert faded.count() == 9


def test_each_template_has_a_title_and_a_use():
    dvc_yaml = (PROJECT / "dvc.yaml").read_text()
    for path in (PROJECT / ".dvc/plots").glob("*.json"):
        assert f"template: {path.stem}\n" in dvc_yaml
        assert json.loads(path.read_text())["title"]["text"]
