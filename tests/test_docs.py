"""What the pages say of the code is so: the picture of the rooms, files that are named, lists of what to touch."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("[gp]*/*.md"))]
"""What is said of the code as it is; the log and the decisions have dates."""
ELSEWHERE = {"train.py"}
"""Files of other projects."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "LOG.md"], ids=lambda page: page.stem)
def test_files_and_modules_that_a_page_names_are_there(page: Path):
    text = page.read_text(encoding="utf-8")
    known = {path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")}
    shown = {Path(name) for name in re.findall(r"^`(\w+\.py)`:$", text, re.MULTILINE)}  # whole plug-ins, in the page
    files = {Path(name) for name in re.findall(r"`([\w./]+\.py)`", text)} - shown
    ends = {Path(*path.parts[-length:]) for path in known for length in range(1, len(path.parts))}
    missing = {str(path) for path in files - ends} - ELSEWHERE - {"src/moulage/generators/mine.py"}
    for name in re.findall(r"`moulage\.([a-z_.]+)", text):
        *module, last = name.split(".")
        base = ROOT / "src" / "moulage" / Path(*module)
        there = (base / f"{last}.py").exists() or (base / last).is_dir()
        within = base.with_suffix(".py") if module else base / "__init__.py"
        if not there and not (within.exists() and re.search(rf"\b{last}\b", within.read_text(encoding="utf-8"))):
            missing.add(f"moulage.{name}")
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, *sorted((DOCS / "decisions").glob("*.md"))], ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_picture_of_the_rooms_is_that_of_the_imports():
    spec = importlib.util.spec_from_file_location("draw_rooms", DOCS / "draw_rooms.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    same = drawing.draw() == drawing.PICTURE.read_text(encoding="utf-8")
    assert same, "The rooms or their imports have changed. Draw them again: python docs/draw_rooms.py"
