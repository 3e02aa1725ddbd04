"""What all tests share."""

from pathlib import Path

import pytest

LONGEST = (
    "test_study.py",
    "test_verdict_on_images.py",
    "test_science.py",
    "test_phantom.py",
    "test_unknown_study.py",
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


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the user's cache."""
    monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
