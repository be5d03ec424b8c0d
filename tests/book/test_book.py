"""Gate 5: the site builds from the committed outputs without a warning, and anyone can read it.

A page loads nothing from another host (it works with no network), every figure has words for those who cannot
see it, links lead somewhere, and maths is markup. Below, proof that each rule can fail.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "notebooks/_config.yml"


def toc_pages(toc: dict) -> list[str]:
    """Every page of a _toc.yml, at any depth, without extension."""
    found = [toc[key] for key in ("root", "file") if key in toc]
    for part in ("parts", "chapters", "sections"):
        for entry in toc.get(part, []):
            found += toc_pages(entry)
    return [str(Path(page).with_suffix("")) for page in found]


PAGES = toc_pages(yaml.safe_load((ROOT / "_toc.yml").read_text()))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site, outside the repository; the build is strict."""
    out = tmp_path_factory.mktemp("site")
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    options = ["--config", CONFIG, "--path-output", str(out), "-W", "-n", "--keep-going"]
    run = subprocess.run([jupyter_book, "build", ".", *options], cwd=ROOT, capture_output=True, text=True)
    said = run.stdout + run.stderr
    told = [line for line in said.splitlines() if "WARNING" in line or "ERROR" in line]
    assert run.returncode == 0, "\n".join(told) or said[-4000:]
    return out / "_build" / "html"


@pytest.mark.parametrize("page", PAGES)
def test_page_is_there_and_readable(site, page):
    assert page_faults(site / f"{page}.html") == []


def test_every_notebook_is_in_the_site():
    notebooks = {f"notebooks/{path.stem}" for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb")}
    assert notebooks <= set(PAGES)


def test_styles_load_nothing_from_elsewhere(site):
    faults = [fault for path in site.rglob("*.css") for fault in style_faults(path.read_text(), path.name)]
    assert faults == []


def test_figures_came_along(site):
    """The rule on figures looks at something: notebooks that draw show pictures."""
    drawn = sum('"image/png"' in path.read_text() for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))
    shown = sum(bool(soup(site / f"{page}.html").select("figure img")) for page in PAGES)
    assert shown >= drawn > 0


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


def elsewhere(address: str) -> bool:
    return bool(urlsplit(address.strip()).netloc)


def page_faults(path: Path) -> list[str]:
    """Everything wrong with one page."""
    page = soup(path)
    return shape_faults(page) + figure_faults(page) + load_faults(page) + link_faults(page, path)


def shape_faults(page: BeautifulSoup) -> list[str]:
    """What phones and screen readers need of the page as a whole."""
    faults = []
    if not page.html.get("lang"):
        faults.append("no language")
    viewports = [meta["content"] for meta in page.select('meta[name="viewport"]')]
    if not viewports or any("width=device-width" not in content for content in viewports):
        faults.append(f"viewport {viewports}")
    if not page.title or not page.title.text.strip():
        faults.append("no title")
    if len(page.select("article h1")) != 1:
        faults.append(f"{len(page.select('article h1'))} main headings")
    faults += [f"maths left as text: {m.text[:60]}" for m in page.select(".math") if not m.find("math")]
    return faults


def figure_faults(page: BeautifulSoup) -> list[str]:
    """Figures have a caption, and every picture of the text has words in its place."""
    faults = []
    for img in page.select("article img"):
        alt = img.get("alt", "").strip()
        # without words docutils writes the file's name
        if not alt or re.search(r"\.(png|svg|jpe?g|gif)$", alt):
            faults.append(f"picture without alt text: {img.get('src')}")
        if img.find_parent(class_="cell_output") or img.find_parent("figure"):
            figure = img.find_parent("figure")
            caption = figure and figure.find("figcaption")
            if (
                not caption
                or not caption.select_one(".caption-text")
                or not caption.select_one(".caption-text").text
            ):
                faults.append(f"figure without caption: {img.get('src')}")
    return faults


def load_faults(page: BeautifulSoup) -> list[str]:
    """Scripts, styles, fonts, pictures, frames from another host. Links in prose may lead anywhere."""
    faults = []
    for tag in page.find_all(True):
        names = ["src", "srcset", "data", "poster"] + (
            ["href"] if tag.name in ("link", "use", "image") else []
        )
        faults += [
            f"<{tag.name}> loads {tag[name]}" for name in names if tag.get(name) and elsewhere(tag[name])
        ]
        if tag.name == "script" and re.search(r"https?://", tag.text):
            faults.append(f"a script names another host: {tag.text.strip()[:80]}")
        if tag.name == "style" or tag.get("style"):
            faults += style_faults(tag.get("style") or tag.text, f"<{tag.name}>")
    return faults


def style_faults(css: str, name: str) -> list[str]:
    found = re.findall(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^'")\s]+)""", css)
    return [f"{name} loads {address}" for address in found]


def link_faults(page: BeautifulSoup, path: Path) -> list[str]:
    """Links and loads inside the site lead to a file, and to a place in it where one is named."""
    faults = []
    for tag in page.find_all(True):
        for name in ("href", "src"):
            parts = urlsplit(tag.get(name, ""))
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                faults.append(f"<{tag.name}> leads nowhere: {tag[name]}")
            elif tag.name == "a" and parts.fragment and target.suffix == ".html":
                if not soup(target).find(id=unquote(parts.fragment)):
                    faults.append(f"no such place: {tag[name]}")
    return faults


GOOD = """<!DOCTYPE html>
<html lang="en">
<head>
<title>A page</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="a.css"><script src="a.js"></script>
</head>
<body><article id="top">
<h1>A page</h1>
<p><a href="https://example.org">a</a> <a href="#top">b</a> <span class="math"><math>x</math></span>
<div class="cell_output"><figure>
<img src="a.png" alt="A dot."><figcaption><p><span class="caption-text">A dot, drawn.</span></p></figcaption>
</figure></div>
</article></body></html>
"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        (' lang="en"', "", "no language"),
        ("width=device-width", "width=980", "viewport"),
        ("<title>A page</title>", "", "no title"),
        ("<h1>A page</h1>", "", "0 main headings"),
        ("<math>x</math>", r"\(x\)", "maths left as text"),
        ('alt="A dot."', 'alt=" "', "picture without alt text"),
        ('alt="A dot."', 'alt="../_images/a.png"', "picture without alt text"),
        ("A dot, drawn.", "", "figure without caption"),
        ("figure>", "section>", "figure without caption"),
        ('src="a.js"', 'src="https://cdn.example.org/a.js"', "<script> loads"),
        ('src="a.js"', 'src="//cdn.example.org/a.js"', "<script> loads"),
        ('href="a.css"', 'href="https://cdn.example.org/a.css"', "<link> loads"),
        ('src="a.png"', 'src="https://img.example.org/a.png"', "<img> loads"),
        ("<h1>", '<h1 style="background: url(https://example.org/a.png)">', "<h1> loads"),
        (
            "</head>",
            "<script>load('https://example.org/a.js')</script></head>",
            "a script names another host",
        ),
        ('href="a.css"', 'href="b.css"', "leads nowhere"),
        ("#top", "#bottom", "no such place"),
    ],
)
def test_a_broken_rule_is_found(tmp_path, old, new, fault):
    for name in ("a.js", "a.css", "a.png"):
        (tmp_path / name).touch()
    path = tmp_path / "page.html"
    path.write_text(GOOD.replace(old, new) if old else GOOD)
    found = page_faults(path)
    assert (fault is None and found == []) or (fault and any(fault in one for one in found)), found


def test_a_style_from_elsewhere_is_found():
    assert style_faults("@import 'https://fonts.example.org/a.css'; p { background: url(b.png) }", "a.css")
    assert not style_faults("@font-face { src: url('a.woff2') }", "a.css")
