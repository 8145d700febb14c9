"""The report's page and files, and the page in a real browser: light and dark, on a phone and on a wide screen."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.image import imread

from emulator.latency import machine
from hpo import report
from hpo.report import cost, holdout
from hpo.report.studies import read_studies
from tests.python import report_cases as cases
from tests.python.test_report_holdout import old_scheme


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The report on a study of 220 trials, with everything in it."""
    parent = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "NUM_TRIALS", 220)
        patch.setattr(cases, "FLAT", 150)
        folder = cases.make_study(parent / "study <1>", trials=220)
        patch.setattr(holdout, "baselines", lambda bundle: {"OLD": old_scheme})
        report.write_report([folder], parent / "out", latency=False)
    return parent / "out"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The report on three studies, one of them with a rung, without what the hold-out shows."""
    parent = tmp_path_factory.mktemp("several")
    folders = [cases.make_study(parent / f"p-{p}", p_subset=p, factor=0.1 / p) for p in (1.0, 0.1, 0.01)]
    description = json.loads((folders[1] / "study.json").read_text())
    description["config"]["search"] |= {"rungs": [0.02], "reduction": 2}
    description["prepared"]["num_train"]["rung1"], description["prepared"]["num_validation"]["rung1"] = 16, 4
    (folders[1] / "study.json").write_text(json.dumps(description))
    shutil.copytree(folders[1] / "step1", folders[1] / "rung1/step1")
    report.write_report(folders, parent / "out", latency=False, holdout=False)
    return parent / "out"


@pytest.fixture(scope="module")
def text(out):
    return (out / "report.html").read_text()


def test_every_panel_of_the_page_is_a_picture_and_a_pdf_too(out, text):
    names = re.findall(r'<figure><svg role="img" aria-label="[^"]+"[^>]*>.*?id="([\w-]+)-figure_1"', text, re.DOTALL)
    assert len(names) == len(set(names)) == text.count("<svg") > 25
    figures = out / "figures"
    assert (
        sorted(p.stem for p in figures.glob("*.png")) == sorted(p.stem for p in figures.glob("*.pdf")) == sorted(names)
    )
    for name in names:
        picture = imread(figures / f"{name}.png")
        assert picture.shape[0] > 250 and picture.shape[1] > 400
        coloured = np.ptp(picture[..., :3], axis=2) > 0.15  # axes and text are grey; data are not
        assert coloured.sum() > 30, name
        assert (figures / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"


def test_the_figures_of_the_paper_are_all_there(text):
    for name in (
        "cost",  # 1b
        "error-rank",  # 2a
        "error-steps",  # 2b
        "error-layers",  # 2c
        "error-parameters",  # 2d
        "rank-groups",  # 2e
        "parity-y-best",  # 3
        "curves-step1",  # S1
        "histogram-layers",  # S3
        "inference-time",  # S7
        "rank-rank",  # S8
        "trials-curves",  # S9
        "subset-layers-25",  # S10
        "subset-parameters-25",  # S11
        "error-latency",
        "map-y-b-a-network",
        "worst",
    ):
        assert f'id="{name}-figure_1"' in text, name
    assert "Not drawn" not in text


def test_several_studies_are_compared_first_and_told_apart_where_a_reader_opens_it(several):
    text = (several / "report.html").read_text()
    assert text.index("The studies") < text.index("<h2>Error against rank")
    assert "<p>A tick across a curve marks the end of its flat part.</p><div" in text
    assert re.search(r"<details><summary>In each study</summary><p>p = 1: 60 trials span", text)
    assert 'id="rungs-errors-2-figure_1"' in text and "p = 0.1: 60 trials began on p = 0.02" in text
    with open(several / "studies.csv", newline="") as stream:
        assert [r["study"] for r in csv.DictReader(stream)] == ["p = 1", "p = 0.1", "p = 0.01"]


def test_the_page_is_one_file_that_names_no_other(text):
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert "@import" not in text and "<script" not in text and "url(" not in text.replace("url(#", "")
    assert "study &lt;1&gt;" in text and "<1>" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="|url\()#([^")]+)', text):
        assert target in ids, target


def test_colours_of_figures_follow_the_page(text):
    svg = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    drawn = re.sub(r'href="data:[^"]*"', "", svg)
    fixed = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawn))
    assert len(fixed) == 0, fixed
    assert "var(--ink)" in drawn and "var(--step2)" in drawn


def test_tables_are_written_beside_the_page(out):
    with open(out / "models.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["trial"]) for r in rows] == sorted(cases.STEP2, key=cases.STEP2.get)
    assert all(float(r["holdout_mse"]) > 0 for r in rows)
    with open(out / "worst.csv", newline="") as stream:
        worst = list(csv.DictReader(stream))
    assert len(worst) == 100
    assert float(worst[0]["y true"]) - float(worst[0]["y network"]) == pytest.approx(0.1, abs=1e-6)
    assert float(worst[0]["y OLD"]) - float(worst[0]["y true"]) == pytest.approx(0.4)
    assert float(worst[0]["b"]) > 0.95
    assert (out / "top30.tex").read_text().count(r"\\") == 10
    assert len((out / "models.md").read_text().splitlines()) == 11


def test_latencies_are_measured_once_and_kept(tmp_path):
    folder = cases.make_study(tmp_path / "s", step2=(2,), latency=False)
    study = read_studies([folder])[0]
    measured = []
    assert cost.measure_latencies(study, measured.append) is None
    assert cost.measure_latencies(study, measured.append) is None
    assert measured == [2]
    study = read_studies([folder])[0]
    assert study.latency["machine"] == machine() and study.latency["trials"]["2"]["16"] > 0
    assert "1 of 1 network lies on the Pareto front" in " ".join(cost.error_against_latency([study]).sentences)


def test_a_network_that_is_gone_leaves_its_latency_out_with_a_reason(tmp_path):
    folder = cases.make_study(tmp_path / "s", step2=(2,), latency=False)
    shutil.rmtree(folder / "step2/models")
    study = read_studies([folder])[0]
    assert "no such file" in cost.measure_latencies(study, lambda trial: None)


# -- in a browser -----------------------------------------------------------------------------------------------------

# What a reader would stumble over: one line each. Nothing is drawn smaller than 7.5 pixels, cut off, or too pale.
LOOK = r"""
() => {
  const found = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width)
    found.push(`page is ${document.documentElement.scrollWidth} wide on a screen of ${width}`);
  document.querySelectorAll('details').forEach(d => d.open = true);
  for (const image of document.images)
    if (!image.complete || image.naturalWidth === 0) found.push(`missing image ${image.src.slice(0, 60)}`);
  const light = color => {
    const [r, g, b] = color.match(/[\d.]+/g).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\)$|transparent/.test(color)) return light(color);
    }
    return 1;
  };
  const slanted = (said, r) => said.length > 2 && r.height > 0.4 * r.width && r.width > 0.4 * r.height && r.height > 18;
  for (const svg of document.querySelectorAll('svg')) {
    const name = svg.getAttribute('aria-label').slice(0, 40), box = svg.getBoundingClientRect();
    if (box.width < 100 || box.height < 100) found.push(`${name}: drawn at ${box.width} x ${box.height}`);
    if (box.right > width + 1) found.push(`${name}: reaches beyond the screen`);
    const shown = [];
    for (const text of svg.querySelectorAll('text')) {
      const r = text.getBoundingClientRect(), said = text.textContent.trim();
      if (!said) continue;
      shown.push([said, r]);
      const size = parseFloat(getComputedStyle(text).fontSize) * box.width / svg.viewBox.baseVal.width;
      if (size < 7.5) found.push(`${name}: '${said}' is ${size.toFixed(1)} pixels high`);
      if (r.left < box.left - 2 || r.right > box.right + 2 || r.top < box.top - 2 || r.bottom > box.bottom + 2)
        found.push(`${name}: '${said}' is cut off`);
      const ratio = contrast(light(getComputedStyle(text).fill), behind(svg));
      if (ratio < 4.5) found.push(`${name}: '${said}' has a contrast of ${ratio.toFixed(1)}`);
    }
    shown.forEach(([a, r], k) => shown.slice(k + 1).forEach(([b, q]) => {
      if (slanted(a, r) || slanted(b, q)) return;
      const x = Math.min(r.right, q.right) - Math.max(r.left, q.left);
      const y = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
      if (x > 1 && y > 4) found.push(`${name}: '${a}' lies on '${b}'`);
    }));
  }
  for (const e of document.querySelectorAll('h1, h2, p, li, td, th, summary, a')) {
    const ratio = contrast(light(getComputedStyle(e).color), behind(e));
    if (ratio < 4.5) found.push(`'${e.textContent.slice(0, 30)}' has a contrast of ${ratio.toFixed(1)}`);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium (.ci/system-packages test installs it)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],  # as root, in a container
            timeout=300_000,  # milliseconds
        )
        yield started
        started.close()


def look(browser, path, width, scheme):
    """What is wrong with a page: console errors, requests, and what `LOOK` sees."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong = []
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    own = path.as_uri()
    page.on(
        "request", lambda r: None if r.url == own or r.url.startswith("data:") else wrong.append(f"asks for {r.url}")
    )
    page.goto(own, timeout=300_000)
    wrong += page.evaluate(LOOK)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.close()
    return wrong, background


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_reads_well_in_a_browser(browser, out, width, scheme):
    wrong, background = look(browser, out / "report.html", width, scheme)
    assert wrong == []
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_of_several_studies_reads_well_too(browser, several, width):
    wrong, _ = look(browser, several / "report.html", width, "light")
    assert wrong == []


def test_the_page_prints_on_white(browser, out):
    page = browser.new_page(color_scheme="dark")
    page.goto((out / "report.html").as_uri())
    page.emulate_media(media="print")
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{k}") for k in ("color", "backgroundColor"))
    assert paper == "rgb(255, 255, 255)" and ink == "rgb(34, 39, 46)"
    assert len(page.pdf()) > 50_000
    page.close()


def test_the_look_sees_what_is_wrong(browser, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<!doctype html><meta charset=utf-8><style>p{color:#ccc}</style><img src=gone.png>"
        "<div style='width:3000px'>wide</div><p>pale</p><script>console.error('bad')</script>"
        "<svg aria-label='f' viewBox='0 0 1000 1000' style='width:300px'><text x='990' y='500' font-size='10'>cut off"
        "</text><text x='100' y='100' font-size='40'>10,000</text><text x='150' y='100' font-size='40'>20,000</text>"
        "</svg>"
    )
    wrong, _ = look(browser, tmp_path / "bad.html", 400, "light")
    for sign in (
        "console: bad",
        "asks for ",
        "missing image",
        "3008 wide",
        "cut off",
        "pixels high",
        "contrast of 1.6",
        "'10,000' lies on '20,000'",
    ):
        assert any(sign in w for w in wrong), (sign, wrong)
