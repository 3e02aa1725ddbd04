"""docs/adding.md says which files a new thing touches: each is there, and no other file knows the thing."""

import re
from pathlib import Path

import pytest

from moulage.report.sections import SECTIONS
from moulage.stages.plan import KINDS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "moulage"
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
TRACES = {
    "A generator": r"\b{name}\b",
    "A measure": r"(?i)\b{name}\b|PartialAuc",
    "A stage": r"\bGallery\b|\"{name}\"|\b{name}:",
    "A section of the report": r"sections[./]{name}|\"{name}\"",
    "An engine": r"\bLocal\b|engines\.{name}",
    "A verb": r"run[_-]stage",
}
"""Heading -> what a file says that knows the example; words that have other meanings too are narrowed."""


def examples() -> list[tuple[str, str, list[str]]]:
    """Heading, example and listed files of each part of the page."""
    parts = re.findall(r"^## (.+?)\nFor example: `(.+?)`(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return [(heading, name, re.findall(r"^- `(.+?)`:", text, re.MULTILINE)) for heading, name, text in parts]


def files() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*")) if path.suffix in (".py", ".j2", ".toml")]


@pytest.mark.parametrize(("heading", "name", "listed"), examples())
def test_what_the_page_lists_is_all_that_a_new_one_touches(heading: str, name: str, listed: list[str]):
    trace = re.compile(TRACES[heading].format(name=name))
    own = {path for path in files() if path.name.split(".")[0] == name}
    found = own | {path for path in files() if trace.search(path.read_text(encoding="utf-8"))}
    assert sorted(str(path.relative_to(ROOT)) for path in found) == sorted(listed)


def test_every_part_of_the_page_is_read():
    assert [heading for heading, _, _ in examples()] == re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == [*TRACES]
    assert all(listed for _, _, listed in examples())


@pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])
def test_a_kind_of_stage_is_a_file_and_nobody_else_asks_for_it(kind: str):
    """The verb, the scheduler, the engines, the screen and the proof name no kind of stage."""
    assert (SOURCE / "stages" / f"{kind}.py").exists()
    ask = ["study.py", "screen.py", "cli/studies.py", "stages/stage.py", "stages/witness.py"]
    named = re.compile(rf"stages\.{kind}\b|kind\s*(==|in|!=).*[\"']{kind}[\"']")
    everyone = [*(SOURCE / name for name in ask), *(SOURCE / "engines").glob("*.py")]
    assert not [path.name for path in everyone if named.search(path.read_text(encoding="utf-8"))]


def test_a_section_is_a_module_and_a_template_that_no_other_module_imports():
    folder = SOURCE / "report" / "sections"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert modules == {path.name.split(".")[0] for path in folder.glob("*.j2")} == set(SECTIONS)
    imports = re.compile(rf"^\s*from moulage\.report\.sections(\.| import .*\b)({'|'.join(modules)})\b", re.MULTILINE)
    assert not [path.name for path in files() if imports.search(path.read_text(encoding="utf-8"))]
