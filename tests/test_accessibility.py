"""Every page of the book as axe-core, a checker of accessibility, sees it."""

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from satlib.tangle import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NPM = shutil.which("npm")
SITE = ROOT / "_build" / "html" / "chapters"
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and NPM), reason="needs chromium and npm"),
    pytest.mark.timeout(600),
]
AXE = "axe-core@4.14.1"
BAD = "serious", "critical"
# What cannot be corrected here: rule → (what it is about, why it stays).
ALLOWED = {}
# The rules whose outcome depends on the colours; all others see the same in the dark.
OF_COLOURS = ["color-contrast", "link-in-text-block"]
RUN = """rules => axe.run(document, {
    resultTypes: ["violations"],
    ...(rules && {runOnly: {type: "rule", values: rules}}),
}).then(found => found.violations.map(({id, impact, nodes}) =>
    [id, impact, nodes.map(node => `${node.target}: ${node.html.slice(0, 160)}`)]))"""

# Of the thousands of words of code, one of each colour is enough.
THIN = """() => {
    const seen = new Set();
    for (const span of document.querySelectorAll(".highlight span"))
        if (seen.has(span.className)) span.remove();
        else seen.add(span.className);
}"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The text of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    options = ["--prefix", str(folder), "--ignore-scripts", "--no-audit"]
    run = subprocess.run([NPM, "install", *options, AXE], capture_output=True)
    if run.returncode:
        pytest.skip("npm cannot get axe-core")
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def context():
    """A window of a browser without a network."""
    from playwright.sync_api import sync_playwright

    with ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        stack.callback(browser.close)
        size = {"width": 1280, "height": 800}
        context = browser.new_context(viewport=size, reduced_motion="reduce")
        context.route("http*://**", lambda route: route.abort())
        yield context


@pytest.fixture
def tab(context):
    tab = context.new_page()
    yield tab
    tab.close()


def bad(tab, axe, rules=None):
    """List what is wrong with a page that is open, unless it is allowed."""
    if not tab.evaluate("'axe' in window"):
        tab.evaluate(axe)
    return [
        (rule, node)
        for rule, impact, nodes in tab.evaluate(RUN, rules)
        if impact in BAD
        for node in nodes
        if not any(part in node for part in ALLOWED.get(rule, ())[:1])
    ]


def names():
    """List the pages of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [page["file"] for part in toc["parts"] for page in part["chapters"]]
    return [Path(name).name for name in [toc["root"], *files]]


@pytest.mark.skipif(not SITE.exists(), reason="the book is not built")
@pytest.mark.parametrize("name", names())
def test_a_page_is_accessible_in_both_themes(name, tab, axe):
    tab.emulate_media(color_scheme="light")
    tab.goto((SITE / f"{name}.html").as_uri(), wait_until="load")
    tab.evaluate(THIN)
    assert bad(tab, axe) == []
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert bad(tab, axe, OF_COLOURS) == []


WRONG = """<!doctype html><html lang="en"><title>x</title><main><h1>A page</h1>
<img src="data:,"><p style="color: #999; background: white">Hardly to be read</p>
<button aria-label="Other">Search</button></main></html>"""


def test_what_is_wrong_is_found(tab, axe):
    tab.set_content(WRONG)
    found = {rule for rule, _ in bad(tab, axe)}
    assert found == {"image-alt", "color-contrast", "label-content-name-mismatch"}
