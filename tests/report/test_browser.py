"""The page in a browser: it is as wide as the window, on a phone and on a desk, and has nothing to complain about."""

import html
import re
import shutil
import subprocess

import pytest
from made_runs import detections, write_data, write_run

from jaxseg.report import build, folder

pytestmark = pytest.mark.slow
OFF = "gpu quic background-networking component-update sync"
FLAGS = ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars"]
FLAGS += [f"--disable-{name}" for name in OFF.split(" ")]
FLAGS += ["--enable-logging=stderr", "--v=0"]
MEASURE = """<script>
const root = document.documentElement, wide = [];
document.querySelectorAll("details").forEach((e) => { e.open = true; });
document.querySelectorAll("body *").forEach((e) => {
  const inner = e.parentElement.closest(".scroll, pre, svg");
  if (!inner && e.getBoundingClientRect().right > innerWidth + 1) wide.push(e.tagName + "." + e.className);
});
const words = [innerWidth, root.scrollWidth, ...wide.slice(0, 5)];
parent.document.documentElement.setAttribute("data-measured", words.join(" "));
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not found:
        pytest.skip("no Chromium here")
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory, finished):
    """name -> HTML: one run; several, with long and odd names and many classes, of which one is in progress."""
    base = tmp_path_factory.mktemp("pages")
    one = {"first": folder.read(finished)}
    root = base / "data"
    names = ["w" * 90, "<script>fail()</script>", "日本語" * 12, *(f"class {i}" for i in range(40))]
    dataset = write_data(root, names, images=30)
    runs = {
        f"a-run-with-a-name-that-does-not-end-{i}-" + "x" * 60: write_run(
            base / str(i),
            root,
            dataset,
            detections(dataset, kept=2 + i) if i < 3 else None,
            **{"seed": i},
        )
        for i in range(4)
    }
    several = one | {label: folder.read(path) for label, path in runs.items()}
    return {"one": build.build(one), "several": build.build(several)}


def opened(browser, text, width, folder):
    """(width of the window, of what is in it, elements that stick out, errors on the console) of a page."""
    path = folder / "page.html"
    inner = html.escape(text.replace("</body>", f"{MEASURE}</body>"))
    # A frame, since windows may have a least width.
    style = f"border: 0; width: {width}px; height: 900px"
    path.write_text(f'<!DOCTYPE html><iframe style="{style}" srcdoc="{inner}"></iframe>')
    options = [*FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    command = [browser, *options, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    measured = re.search(r'data-measured="([^"]*)"', done.stdout)
    assert measured, done.stderr[-2000:]
    inner, scroll, *wide = measured.group(1).split(" ")
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return int(inner), int(scroll), wide, complaints


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_the_window(tmp_path, browser, pages, name, width):
    inner, scroll, wide, complaints = opened(browser, pages[name], width, tmp_path)
    assert inner == width
    assert scroll <= inner and not wide
    assert not complaints


def test_the_check_finds_what_it_should(tmp_path, browser):
    text = "<html><body><p style='width: 2000px'>x</p><script>nosuch()</script></body></html>"
    inner, scroll, wide, complaints = opened(browser, text, 360, tmp_path)
    assert scroll > inner and wide == ["P."] and complaints
