"""A real browser runs the page: no error, under its own policy, and every control works."""

import html
import json
import re
import shutil
import subprocess

import pytest

from chopmark.report import make_report, page
from tests.report.examples import Nearest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

LISTEN = """
window.errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
"""
DRIVE = """
const say = {};
const read = (name) => document.querySelector(`[data-read="${name}"]`).textContent;
const at = (input, value) => { input.value = value; input.dispatchEvent(new Event("input")); };
const slider = document.querySelector("input[type=range]");
at(slider, 0);
say.nothing = [read("caught"), read("precision"), read("threshold")];
at(slider, 120);
say.some = [read("caught"), read("falseAlarms"), read("recall")];
say.marks = [...document.querySelectorAll("circle.here")].map((mark) => mark.getAttribute("cx"));
document.querySelector("button.earn").click();
say.best = [slider.value, read("revenueAfter")];
at(document.querySelector("[data-assume=loss]"), 0);
document.querySelector("button.earn").click();
say.free = [slider.value, read("rateAfter")];
const rows = () => [...document.querySelectorAll(".cases tbody tr")].filter((row) => !row.hidden);
at(document.querySelector("input[type=search]"), "missed");
say.found = rows().map((row) => row.cells[0].textContent);
at(document.querySelector("input[type=search]"), "");
document.querySelectorAll(".cases th button")[3].click();
document.querySelectorAll(".cases th button")[3].click();
say.sorted = rows().map((row) => Number(row.cells[3].dataset.sort));
rows()[4].querySelector("a").click();
say.shown = [...document.querySelectorAll(".story")]
  .filter((story) => getComputedStyle(story).display !== "none").map((story) => story.id);
say.wanted = rows()[4].dataset.story;
say.errors = errors;
document.body.textContent = "";
document.body.dataset.said = JSON.stringify(say);
"""


def dom(text, folder):
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-extensions", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return ran.stdout


def driven(text, folder):
    """What the driver says after it used the page, whose policy is taken off for it."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    text = text.replace("<head>", f"<head><script>{LISTEN}</script>")
    text = text.replace("</body>", f"<script>{DRIVE}</script></body>")
    said = re.search(r'data-said="([^"]*)"', dom(text, folder))
    assert said, "the driver did not reach its end"
    return json.loads(html.unescape(said.group(1)))


def test_the_policy_lets_the_page_run_and_nothing_else(class_table, tmp_path):
    model = Nearest().fit(class_table, target="target")
    text = page(make_report(model, class_table, target="target"))
    stranger = "<script>document.title = 'taken'</script></body>"
    found = dom(text.replace("</body>", stranger), tmp_path)
    assert "<title>taken" not in found
    assert '<html lang="en" class="js">' in found
    # The page's own script picked the first of three classes.
    views = re.findall(r'<section class="view"( hidden="")?>', found)
    assert [bool(hidden) for hidden in views] == [False, True, True]


def test_every_control(model, later, tmp_path):
    report = make_report(model, later, target="target", amount="amount_usd")
    said = driven(page(report), tmp_path)
    assert said["errors"] == []
    assert said["nothing"] == ["0", "\N{EN DASH}", "nothing"]
    points = report.views[0].ranking.thinned(400)
    caught, wrong = points.bad[120], points.stopped[120] - points.bad[120]
    assert said["some"] == [
        f"{caught:.0f}", f"{wrong:.0f}", f"{100 * caught / points.num_bad:.1f} %",
    ]  # fmt: skip
    assert len(set(said["marks"])) == 3
    assert 0 < int(said["best"][0]) < len(points.stopped)
    assert said["free"] == ["0", "0.0"]  # where nothing is lost, nothing is stopped
    assert said["found"] == ["missed"] * 10
    assert said["sorted"] == sorted(said["sorted"])
    assert said["shown"] == [said["wanted"]]
