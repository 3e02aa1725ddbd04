"""From a curve of a recipe to its arms: each series of images at each dose.

All doses of a series are nested (a larger one contains the smaller), since an arm takes the first of one order: real
and copied images by the trial's seed, drawn ones by theirs. Selected images are nested too: a curve selects once, as
many as its largest dose takes.
"""

from collections.abc import Iterator, Mapping

from moulage.errors import nearest
from moulage.recipe_tables import ArmOptions, CurveOptions, GeneratorOptions, is_plain

REAL, COPIES = "real", "copies"
"""Series that every curve has: held-back real images, and copies of the training images."""


def arms_of_curves(
    curves: Mapping[str, CurveOptions], generators: Mapping[str, GeneratorOptions], targets: tuple[str, ...]
) -> dict[str, ArmOptions]:
    """The arms of all curves by name, such as ``gan-real-25`` and ``gan-dcgan-strict-400``: the dose in percent of the
    real images, or the number of images where the curve gives numbers.

    ``ValueError`` names the key: no class, one that is no target class or that a generator does not learn, an unknown
    generator, a name that is not plain.
    """
    return {
        f"{name}-{arm.series}-{arm.dose:.0f}" if curve.images else f"{name}-{arm.series}-{percent(arm.dose)}": arm
        for name, curve in curves.items()
        for arm in _arms(name, curve, generators, targets)
    }


def percent(dose: float) -> str:
    """A dose as the end of an arm's name: 0.25 is ``25``, 0.125 is ``12_5``."""
    return f"{100 * dose:.6g}".replace(".", "_")


def _arms(
    name: str, curve: CurveOptions, generators: Mapping[str, GeneratorOptions], targets: tuple[str, ...]
) -> Iterator[ArmOptions]:
    classes, where = curve.classes or targets, f"curves.{name}"
    if not is_plain(name):
        raise ValueError(f'curves."{name}": names of curves are letters, digits, - and _')
    if not classes:
        raise ValueError(f"{where} adds images of study.target_classes, and there are none")
    for label in classes:
        if label not in targets:
            raise ValueError(
                f'{where}.classes: "{label}" is none of study.target_classes, so nothing of it is held back. '
                f"{nearest(label, targets)}"
            )
    for generator in curve.generators:
        if generator not in generators:
            raise ValueError(f'{where}: there is no generator "{generator}". {nearest(generator, generators)}')
        for label in classes:
            if label not in (learns := generators[generator].classes):
                raise ValueError(
                    f'{where}: the generator "{generator}" does not learn "{label}", it learns {", ".join(learns)}'
                )

    def arm(series: str, balance: str, dose: float, generator: str = "", selection: str = "") -> ArmOptions:
        counts = (
            {"add": dict.fromkeys(classes, round(dose))} if curve.images else {"ratio": dict.fromkeys(classes, dose)}
        )
        return ArmOptions(
            balance=balance,
            **counts,
            generator=generator,
            selection=selection,
            curve=name,
            series=series,
            dose=dose,
        )  # pyright: ignore[reportCallIssue]

    doses = curve.images or curve.doses
    yield from (arm(REAL, "oracle", dose) for dose in curve.real_doses or doses)
    yield from (arm(COPIES, "duplicates", dose) for dose in doses)
    for generator in curve.generators:
        for selection in curve.selections:
            series = "-".join(filter(None, [generator, selection]))
            yield from (arm(series, "synthesize", dose, generator, selection) for dose in doses)
