"""Modules of a package import each other downward only: two that need each other are one idea in two files."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import moulage

ROOT = Path(moulage.__file__).parent
PACKAGES = sorted(path.parent for path in ROOT.rglob("__init__.py"))


def imported(path: Path, typing_too: bool) -> set[str]:
    """Names of what a module imports, anywhere in it; ``typing_too``: under ``if TYPE_CHECKING`` as well."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not typing_too:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def circles(package: Path, typing_too: bool = False) -> Iterator[str]:
    """Each way from a module of a package through its siblings back to itself."""
    dotted = ".".join((ROOT.name, *package.relative_to(ROOT).parts))
    names = {path.stem: f"{dotted}.{path.stem}" for path in package.glob("*.py") if path.stem != "__init__"}
    needs = {}
    for name in names:
        seen = imported(package / f"{name}.py", typing_too)
        needs[name] = [other for other in names if other != name and names[other] in seen]

    def walk(way: tuple[str, ...]) -> Iterator[str]:
        for other in needs[way[-1]]:
            if other == way[0]:
                yield " -> ".join((*way, other))
            elif other not in way and other > way[0]:  # each circle once, from its first name
                yield from walk((*way, other))

    for name in names:
        yield from walk((name,))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_no_two_modules_need_each_other(package: Path):
    assert not list(circles(package))


def test_networks_of_generators_know_no_plugin_even_in_their_types():
    assert not list(circles(ROOT / "generators", typing_too=True))


def test_a_circle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "moulage"
    package.mkdir()
    (package / "a.py").write_text("def late():\n    from moulage import b\n")
    (package / "b.py").write_text("from moulage.c import thing\nfrom typing import TYPE_CHECKING\n")
    (package / "c.py").write_text("if TYPE_CHECKING:\n    from moulage.a import late\n")
    monkeypatch.setattr("test_imports.ROOT", package)
    assert not list(circles(package))
    assert list(circles(package, typing_too=True)) == ["a -> b -> c -> a"]
