"""What in a recipe goes by lesion masks, and whether the data have them."""

from moulage import contracts
from moulage.data import masks
from moulage.data.catalog import Catalog
from moulage.data.split import Split
from moulage.errors import DataError, RecipeError
from moulage.recipe import Recipe

REGIONS: tuple[contracts.Edit, ...] = ("lesion", "surround")
"""What is edited of an image by its lesion mask."""
WITHOUT_MASKS = "Predict masks with `moulage masks predict` and set data.masks to their folder (docs/masks.md)."


def learns_masks(recipe: Recipe) -> bool:
    """Whether the recipe's classifier learns lesion masks as a second task."""
    plug = contracts.classifier(recipe.classifier.plugin)
    return bool(recipe.arms) and plug.learns_masks(plug.configure(recipe.classifier.options, "classifier.options"))


def wants_masks(recipe: Recipe) -> bool:
    """Whether a generator or the classifier learns from lesion masks, or images are edited by them.

    Filters only look at masks.
    """
    generators = (contracts.generator(options.plugin) for options in recipe.generators.values())
    return learns_masks(recipe) or any(plug.needs_masks for plug in generators) or bool(_edited_by_mask(recipe))


def _edited_by_mask(recipe: Recipe) -> dict[str, str]:
    """The places in a recipe that ask for images which are edited by lesion masks, each with its generator."""
    asked = {f"generators.{name}.drawing": (name, options.drawing) for name, options in recipe.generators.items()}
    for arm, options in recipe.arms.items():
        if options.generator:
            own = {**recipe.generators[options.generator].drawing, **options.drawing}
            asked[f"arms.{arm}.drawing"] = (options.generator, own)
    plugs = {name: contracts.generator(options.plugin) for name, options in recipe.generators.items()}
    return {place: name for place, (name, drawing) in asked.items() if plugs[name].edit(drawing) in REGIONS}


def check_masks(recipe: Recipe, catalog: Catalog, splits: tuple[Split, ...]) -> None:
    """Training images have masks: all of a generator that draws from them, some where they are learned or edited by."""
    for split in splits if learns_masks(recipe) else ():
        if (split.part(catalog, "train").table["mask"] == "").all():
            raise RecipeError(
                f"classifier.options.mask_task learns lesion masks, and {catalog.name} has none of a training image.",
                WITHOUT_MASKS,
            )
    for place, name in _edited_by_mask(recipe).items():
        for split in splits:
            has = masks.with_masks(split.part(catalog, "train")).counts
            bare = [label for label in recipe.generators[name].classes if not has[label]]
            if bare:
                raise RecipeError(
                    f"{place}.edit goes by lesion masks, and {catalog.name} has none of a training image of {bare[0]}.",
                    WITHOUT_MASKS,
                )
    for name, options in recipe.generators.items():
        for split in splits if contracts.generator(options.plugin).needs_masks else ():
            try:
                masks.check(split.part(catalog, "train").only(label=options.classes))
            except DataError as error:
                raise RecipeError(
                    f"generators.{name}: {options.plugin} draws from lesion masks. {error.message}",
                    "Use data that come with masks, such as the source ham10000, or leave this generator out.",
                ) from None
