"""What all tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from call_cli import Result, caller

LONGEST = (
    "test_study.py",
    "test_verdict_on_images.py",
    "test_science.py",
    "test_phantom.py",
    "test_unknown.py",
    "test_generators.py",
    "test_cli.py",
    "test_compare_verb.py",
    "test_report.py",
)
"""These files begin, so that no worker is left alone with one of them at the end (with ``--no-loadscope-reorder``)."""
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; the test is skipped, and counted as such, where it is not there."""
    if not SHARED.is_dir():
        pytest.skip(f"the real images are not at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the user's cache; what is drawn or decoded for one test serves all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOULAGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """``moulage ...`` in this process, in a folder of its own."""
    return caller(capsys, monkeypatch, tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
