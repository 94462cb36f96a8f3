"""The report in Chromium: with mouse and keyboard, on a phone, in the dark, on paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from kit.runs import some_seconds, timed, write_runs
from kit.serving import served
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from normbench.analysis.loading import load_study
from normbench.analysis.report import write_report

BROWSERS = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
CHROMIUM = next((path for path in BROWSERS if path), None)
# Of one worker: the report is written once, and one browser starts.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

NORMS, BATCH_SIZES, SEEDS = ("bn", "gn", "in"), (1, 8, 64), (0, 1)
LOST = 2  # runs of bn at batch size 1, one for each seed

CONTRAST = """
element => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const background = node => {
    for (; node; node = node.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(node).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const luminance = rgb => rgb.slice(0, 3)
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ink = luminance(channels(getComputedStyle(element).color));
  const both = [ink, luminance(background(element))];
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
}
"""
STICKING_OUT = """
() => [...document.body.querySelectorAll("*")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.right > document.documentElement.clientWidth + 1
    && !element.closest(".scroll, .drawing") && !element.closest("svg svg, svg *");
}).map(element => element.outerHTML.slice(0, 100))
"""


class Open(Protocol):
    """Opens the report in a window of its own."""

    def __call__(self, **options: Any) -> AbstractContextManager[Page]: ...


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    ended = {("bn", 1): ("diverged", "the loss is <b>nan</b>")}
    runs = write_runs(folder / "runs", NORMS, BATCH_SIZES, SEEDS, ended=ended)
    return write_report(timed(load_study([runs]), some_seconds("bn", "gn")), folder / "report")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def window(browser: Browser, report: Path) -> Open:
    """In every test, no request leaves the machine, and the console stays empty."""

    @contextmanager
    def opened(*, width: int = 1400, **options: Any) -> Iterator[Page]:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(10_000)
        page = context.new_page()
        requests: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        try:
            page.goto(report.as_uri())
            yield page
            assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
            assert said == []
        finally:
            context.close()

    return opened


@pytest.fixture
def page(window: Open) -> Iterator[Page]:
    with window() as opened:
        yield opened


def runs_table(page: Page) -> Locator:
    return page.locator("table.runs")


def header(page: Page, name: str) -> Locator:
    return runs_table(page).locator("thead th").filter(has_text=re.compile(rf"^{name}$"))


def column(page: Page, name: str) -> list[str]:
    """The cells of the table of runs that are to be seen, from top to bottom."""
    names = runs_table(page).locator("thead th").all_inner_texts()
    place = [text.strip(" ↕↑↓") for text in names].index(name)
    cells = runs_table(page).locator(f"tbody tr:visible > :nth-child({place + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


def table_with(page: Page, name: str) -> Locator:
    """The table that has a column of this name."""
    heading = page.locator("thead th").filter(has_text=re.compile(rf"^{name}$"))
    return page.locator("section#tables table").filter(has=heading).first


def point(page: Page, label: str) -> Locator:
    """A mean in the figure of batch sizes that is to be seen."""
    return (
        page.locator("figure[aria-labelledby=figure-batch-size]")
        .get_by_label(label)
        .locator("visible=true")
        .first
    )


def visible_rows(page: Page, table: int) -> list[str]:
    """The first cells of the rows that are to be seen."""
    rows = page.locator("table").nth(table).locator("tbody tr:visible > th")
    return [text.strip() for text in rows.all_inner_texts()]


def test_a_heading_sorts_numbers_as_numbers_and_the_other_way_round_when_asked_again(
    page: Page,
) -> None:
    button, heading = header(page, "batch size").get_by_role("button"), header(page, "batch size")
    assert heading.get_attribute("aria-sort") == "none"
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, "batch size") == ["1"] * 6 + ["8"] * 6 + ["64"] * 6
    button.click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, "batch size") == ["64"] * 6 + ["8"] * 6 + ["1"] * 6
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"


def test_text_sorts_as_text_and_only_one_heading_is_said_to_sort(page: Page) -> None:
    header(page, "batch size").get_by_role("button").click()
    header(page, "norm").get_by_role("button").click()
    assert column(page, "norm") == sorted(column(page, "norm"))
    assert column(page, "batch size") == ["1", "1", "8", "8", "64", "64"] * 3
    sorts = [
        heading.get_attribute("aria-sort") for heading in runs_table(page).locator("thead th").all()
    ]
    assert (sorts.count("ascending"), sorts.count("descending"), sorts.count(None)) == (1, 0, 1)


@pytest.mark.parametrize("clicks", [1, 2])
def test_cells_without_a_number_stay_last(page: Page, clicks: int) -> None:
    headings = runs_table(page).locator("thead th").all_inner_texts()
    place = [text.strip(" ↕") for text in headings].index("test accuracy")
    page.evaluate(
        """place => {
          const rows = document.querySelectorAll("table.runs tbody tr");
          ["", "none finished"].forEach((text, index) => {
            rows[index].cells[place].textContent = text;
            delete rows[index].cells[place].dataset.sort;
          });
        }""",
        place,
    )
    for _ in range(clicks):
        header(page, "test accuracy").get_by_role("button").click()
    found = column(page, "test accuracy")
    assert found[-2:] == ["none finished", ""]
    numbers = [float(text.removesuffix(" %")) for text in found[:-2]]
    assert len(numbers) == 16
    assert numbers == sorted(numbers, reverse=clicks == 2)


def test_numbers_that_are_shown_alike_sort_by_what_was_measured(page: Page) -> None:
    """Every accuracy is written as 50.0 %; the order is that of the unrounded numbers."""
    page.evaluate(
        """() => {
          for (const cell of document.querySelectorAll("table.runs td[data-sort]")) {
            if (cell.textContent.includes("%")) cell.textContent = "50.0 %";
          }
        }"""
    )
    header(page, "test accuracy").get_by_role("button").click()
    cells = runs_table(page).locator("td", has_text="50.0 %")
    numbers = [float(cell.get_attribute("data-sort") or "nan") for cell in cells.all()]
    assert len({*numbers}) > 10
    assert numbers == sorted(numbers)


def test_how_runs_ended_is_no_figure_to_sort_by(page: Page) -> None:
    table = table_with(page, "batch size 1")
    heading = table.locator("thead th").nth(1)
    for _ in range(2):
        heading.get_by_role("button").click()
        assert table.locator("tbody tr > :nth-child(2)").all_inner_texts()[-1] == f"{LOST} diverged"


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("norm", "gn", 6),
        ("batch_size", "8", 6),
        ("status", "diverged", LOST),
        ("status", "done", 18 - LOST),
    ],
)
def test_a_filter_leaves_the_runs_it_names_and_counts_them(
    page: Page, field: str, value: str, left: int
) -> None:
    page.locator(f"select[name={field}]").select_option(value)
    assert column(page, field.replace("_", " ")) == [value] * left
    assert page.locator("#count").inner_text() == f"{left} of 18 runs"


def test_filters_hold_together_and_are_undone_together(page: Page) -> None:
    everything = [visible_rows(page, table) for table in range(page.locator("table").count())]
    page.locator("select[name=norm]").select_option("gn")
    page.locator("select[name=batch_size]").select_option("64")
    assert column(page, "norm") == ["gn"] * 2
    assert column(page, "batch size") == ["64"] * 2
    assert page.locator("#count").inner_text() == "2 of 18 runs"
    page.get_by_role("button", name="show all").click()
    page.wait_for_function("document.getElementById('count').value === '18 of 18 runs'")
    assert page.locator("select[name=norm]").input_value() == ""
    assert [
        visible_rows(page, table) for table in range(page.locator("table").count())
    ] == everything


def test_a_filter_by_norm_holds_in_every_table_and_keeps_pairs_that_have_it(page: Page) -> None:
    page.locator("select[name=norm]").select_option("gn")
    found = set()
    for table in page.locator("section#tables table").all():
        headings = [text.strip() for text in table.locator("thead th").all_inner_texts()]
        (name,) = {"norm", "pair"} & {*headings}
        place = headings.index(name) + 1
        shown = table.locator(f"tbody tr:visible > :nth-child({place})").all_inner_texts()
        assert shown
        for text in shown:
            assert "gn" in text.strip().split(" - ")
        found.add(tuple(headings))
    assert len(found) == 5


def test_a_filter_by_batch_size_holds_in_the_tables_that_have_it(page: Page) -> None:
    page.locator("select[name=batch_size]").select_option("8")
    assert (
        table_with(page, "pair").locator("tbody tr:visible > :nth-child(2)").all_inner_texts()
        == ["8"] * 3
    )
    assert table_with(page, "batch size 1").locator("tbody tr:visible").count() == 3


def test_choices_of_a_filter_are_what_runs_have_in_order(page: Page) -> None:
    options = {
        name: page.locator(f"select[name={name}] option").all_inner_texts()
        for name in ("norm", "batch_size", "status")
    }
    assert options["norm"] == ["all", *NORMS]
    assert options["batch_size"] == ["all", "1", "8", "64"]
    assert sorted(options["status"]) == ["all", "diverged", "done"]


@pytest.mark.parametrize("width", [1400, 400])
def test_a_click_on_a_point_shows_the_runs_behind_it(window: Open, width: int) -> None:
    with window(width=width) as page:
        page.locator("select[name=status]").select_option("diverged")
        point(page, "Runs of gn at batch size 64").click()
        assert column(page, "norm") == ["gn"] * 2
        assert column(page, "batch size") == ["64"] * 2
        assert page.locator("#count").inner_text() == "2 of 18 runs"
        assert page.evaluate(
            "document.querySelector('#runs').getBoundingClientRect().top < innerHeight"
        )


def test_the_keyboard_reaches_headings_and_sorts(page: Page) -> None:
    name = "batch size"
    for _ in range(200):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "document.activeElement.closest('table.runs th')?.textContent ?? ''"
        )
        if focused.strip() == name:
            break
    else:
        raise AssertionError("no heading was reached in 200 steps")
    page.keyboard.press("Enter")
    assert header(page, name).get_attribute("aria-sort") == "ascending"
    assert column(page, name)[0] == "1"
    page.keyboard.press("Space")
    assert header(page, name).get_attribute("aria-sort") == "descending"


def test_the_first_stop_of_the_keyboard_leads_past_the_head(page: Page) -> None:
    page.keyboard.press("Tab")
    skip = page.locator("a.skip")
    assert skip.evaluate("link => link === document.activeElement")
    box = skip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def test_a_run_opens_with_its_losses_its_end_and_its_command(page: Page) -> None:
    row = runs_table(page).locator("tbody tr[data-status=diverged]").first
    assert row.locator("svg.curve").is_hidden()
    row.locator("summary").click()
    assert row.locator("svg.curve").is_visible()
    assert row.locator("svg.curve path").get_attribute("d").startswith("M0,")  # type: ignore[union-attr]
    assert row.get_by_text("diverged: the loss is <b>nan</b>").is_visible()
    assert row.get_by_text("1 epoch on a processor").is_visible()
    assert row.locator("pre").is_visible()
    assert row.locator("svg.spark").get_attribute("aria-label")


@pytest.mark.parametrize("width", [400, 700, 1400])
def test_nothing_is_wider_than_the_window(window: Open, width: int) -> None:
    with window(width=width) as page:
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(STICKING_OUT) == []


def test_on_a_phone_a_figure_scrolls_in_its_frame_and_its_text_can_be_read(window: Open) -> None:
    with window(width=390) as page:
        frames = page.locator("figure .drawing")
        assert frames.count() == page.locator("figure").count() == 6
        for frame in frames.all():
            assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth")
        small = page.evaluate(
            """() => Math.min(...[...document.querySelectorAll("figure svg text, figcaption")]
              .map(text => text.getBoundingClientRect().height).filter(height => height > 0))"""
        )
        assert small >= 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(window: Open, scheme: str) -> None:
    with window(color_scheme=scheme, width=600) as page:
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        for what in (
            "body",
            ".caption",
            ".notes",
            ".brand",
            "nav a",
            "td",
            "tbody th",
            "thead button",
            "footer p",
        ):
            for element in page.locator(f"{what}:visible").all()[:3]:
                assert element.evaluate(CONTRAST) >= 4.5, what
        for what in ("form label", "select", "output", "pre", "dt", "dd", "summary", "figcaption"):
            assert page.locator(f"{what}:visible").first.evaluate(CONTRAST) >= 4.5, what


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_take_the_colours_of_the_page(window: Open, scheme: str) -> None:
    with window(color_scheme=scheme) as page:
        colour, background = page.evaluate(
            "() => [getComputedStyle(document.body).color,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        for label in (
            page.get_by_text("training loss (nats)", exact=True).locator("visible=true").all()
        ):
            assert label.evaluate("text => getComputedStyle(text).fill") == colour
        opaque = page.evaluate(
            """() => [...document.querySelectorAll("figure svg [id*=patch_]  path")]
              .map(path => getComputedStyle(path).fill)
              .filter(fill => /^rgb\\(255, 255, 255\\)$/.test(fill))"""
        )
        assert scheme == "light" or opaque == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_line_that_leads_to_runs_keeps_the_colour_of_text_and_is_no_blue_link(
    window: Open, scheme: str
) -> None:
    """The first look of one's own norms is the ink, which a page has as currentColor."""
    with window(color_scheme=scheme) as page:
        colours = page.evaluate(
            "() => [document.body, document.querySelector('figure svg a'),"
            " document.querySelector('nav a')].map(one => getComputedStyle(one).color)"
        )
        assert colours[0] == colours[1] != colours[2]


def test_on_paper_there_is_nothing_to_operate_and_every_row(window: Open) -> None:
    with window(color_scheme="dark") as page:
        assert page.locator("form").is_visible()
        page.emulate_media(media="print", color_scheme="dark")
        assert page.locator("form").is_hidden()
        assert page.locator("nav").is_hidden()
        assert page.locator("table.runs tbody tr:visible").count() == 18
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        )
        assert page.locator("body").evaluate(CONTRAST) >= 4.5


def test_without_a_script_all_is_there_and_nothing_that_would_not_work(window: Open) -> None:
    with window(java_script_enabled=False) as page:
        assert page.locator("form").is_hidden()
        assert page.locator("th button").count() == 0
        rows = page.locator("tbody tr")
        assert page.locator("tbody tr:visible").count() == rows.count() > 18
        target = point(page, "Runs of gn at batch size 8").get_attribute("href")
        assert target is not None
        run = page.locator(f"[id='{target[1:]}']")
        assert run.get_attribute("data-norm") == "gn"
        assert run.get_attribute("data-batch_size") == "8"


def test_a_link_to_a_run_marks_its_row(window: Open, report: Path) -> None:
    with window() as page:
        row = runs_table(page).locator("tbody tr").last
        before = row.locator("td").first.evaluate("cell => getComputedStyle(cell).backgroundColor")
        page.goto(f"{report.as_uri()}#{row.get_attribute('id')}")
        after = row.locator("td").first.evaluate("cell => getComputedStyle(cell).backgroundColor")
        assert before != after
        box = row.bounding_box()
        assert box is not None
        assert 0 <= box["y"] <= 900


def test_a_served_report_shows_a_run_as_it_ends_and_keeps_what_is_folded_open(
    browser: Browser, tmp_path: Path
) -> None:
    runs = write_runs(tmp_path / "runs", ["bn"], [8], [0])
    with served(runs) as (_, url), closing(browser.new_page()) as page:
        page.goto(url)
        expect(page.locator("h1")).to_be_visible(timeout=60_000)
        assert runs_table(page).locator("tbody tr").count() == 1
        fold = page.locator("details").first
        title = fold.locator("summary").inner_text()
        fold.evaluate("fold => fold.open = true")
        write_runs(runs, ["gn"], [8], [0])
        expect(runs_table(page).locator("tbody tr")).to_have_count(2, timeout=60_000)
        assert page.locator("details[open] > summary").all_inner_texts() == [title]
