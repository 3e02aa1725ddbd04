"""moulage: do generated images help a classifier of rare diseases? The whole experiment, with its controls.

    from pathlib import Path
    import moulage

    recipe = moulage.load_recipe(Path("studies/thesis2020.toml"), budget="cpu")
    outcome = moulage.run_study(recipe, Path("runs/thesis2020"), workers=2)
    print(outcome.results.answer)
    moulage.write_report(outcome.run)

Names are imported when they are first used: ``import moulage`` is quick. Not for clinical use.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moulage.data.audit import Audit, audit
    from moulage.data.catalog import Catalog
    from moulage.data.split import Split, folds, holdout, official, prove
    from moulage.data.training_view import Examples, TrainingView
    from moulage.errors import MoulageError
    from moulage.evaluation.compare import Comparison, compare
    from moulage.evaluation.model_comparison import compare_models
    from moulage.evaluation.power import Plan
    from moulage.evaluation.prediction_files import read as read_predictions
    from moulage.evaluation.predictions import Predictions
    from moulage.evaluation.scores import scores
    from moulage.recipe import Recipe
    from moulage.recipe import load as load_recipe
    from moulage.report import write as write_report
    from moulage.results import Results
    from moulage.results import load as load_results
    from moulage.study import run_study

__version__ = version("moulage")

_WHERE = {
    "Audit": "data.audit",
    "audit": "data.audit",
    "Catalog": "data.catalog",
    "Split": "data.split",
    "folds": "data.split",
    "holdout": "data.split",
    "official": "data.split",
    "prove": "data.split",
    "Examples": "data.training_view",
    "TrainingView": "data.training_view",
    "MoulageError": "errors",
    "Comparison": "evaluation.compare",
    "compare": "evaluation.compare",
    "read_predictions": "evaluation.prediction_files:read",
    "compare_models": "evaluation.model_comparison",
    "Plan": "evaluation.power",
    "Predictions": "evaluation.predictions",
    "scores": "evaluation.scores",
    "Recipe": "recipe",
    "load_recipe": "recipe:load",
    "write_report": "report:write",
    "Results": "results",
    "load_results": "results:load",
    "run_study": "study",
}

__all__ = [
    "Audit",
    "Catalog",
    "Comparison",
    "Examples",
    "MoulageError",
    "Plan",
    "Predictions",
    "Recipe",
    "Results",
    "Split",
    "TrainingView",
    "audit",
    "compare",
    "compare_models",
    "folds",
    "holdout",
    "load_recipe",
    "load_results",
    "official",
    "prove",
    "read_predictions",
    "run_study",
    "scores",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'moulage' has no attribute '{name}'")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(f"moulage.{module}"), attribute or name)
