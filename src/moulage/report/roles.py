"""Which part each arm plays, and which arms the report shows first where there are many."""

from moulage.results import Arm, Results

TITLES = {
    "synthetic": "generated images",
    "reference": "references",
    "rival": "rivals without generated images",
    "positive": "control that must help",
    "null": "controls that must not help",
}
"""Roles in the order of the report, and what it calls them."""

EXPECTED = {"null": "must not help", "positive": "must help"}
"""What is expected of a control by its role."""

MOST_SHOWN = 6
"""Arms that a figure or a row of figures shows before the others are folded away."""


def with_role(results: Results, *roles: str) -> list[str]:
    """The arms of these roles, in the order of the study."""
    return [arm.name for arm in results.arms if arm.role in roles]


def plain_arm(results: Results) -> str | None:
    """The reference that adds nothing: the one that the verdicts name, else the first arm of the plug-in ``none``."""
    named = [verdict.references["none"] for verdict in results.verdicts if "none" in verdict.references]
    built = [arm.name for arm in results.arms if arm.balance == "none" and arm.role == "reference"]
    return next(iter([*named, *built]), None)


def best_rival(results: Results) -> str:
    """The rival that validation chose, or nothing."""
    return results.best_rival.arm if results.best_rival else ""


def by_importance(results: Results) -> list[str]:
    """All arms: ``none``, first duplicates, best rival, those with generated images, then the others by role."""
    references = [name for name in with_role(results, "reference") if name != plain_arm(results)]
    first = [plain_arm(results), *references[:1], best_rival(results)]
    others = [name for role in TITLES for name in with_role(results, role)]
    return list(dict.fromkeys(name for name in (*first, *others) if name))


def by_role(results: Results) -> list[tuple[str, list[Arm]]]:
    """What each role is called, and its arms; roles without an arm are left out."""
    found = [(title, [arm for arm in results.arms if arm.role == role]) for role, title in TITLES.items()]
    return [(title, arms) for title, arms in found if arms]
