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
    generator, a generator that is called as a series that every curve has, a name that is not plain, two arms of one.
    """
    found: dict[str, ArmOptions] = {}
    for name, curve in curves.items():
        for arm in _arms(name, curve, generators, targets):
            key = f"{name}-{arm.series}-{f'{arm.dose:.0f}' if curve.images else percent(arm.dose)}"
            if key in found:
                raise ValueError(f'curves.{name}: two arms would be called "{key}"; rename a curve or a generator')
            found[key] = arm
    return found


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
        if generator in (REAL, COPIES):
            raise ValueError(f'{where}: every curve has a series "{generator}"; give that generator another name')
        for label in classes:
            if label not in (learns := generators[generator].classes):
                raise ValueError(
                    f'{where}: the generator "{generator}" does not learn "{label}", it learns {", ".join(learns)}'
                )

    used = {"use": curve.use, "weight": curve.weight, "share": curve.share}

    def arm(series: str, balance: str, dose: float, generator: str = "", selection: str = "") -> ArmOptions:
        return ArmOptions(
            balance=balance,
            add=dict.fromkeys(classes, round(dose)) if curve.images else {},
            ratio={} if curve.images else dict.fromkeys(classes, dose),
            generator=generator,
            selection=selection,
            curve=name,
            series=series,
            dose=dose,
            **({} if balance == "oracle" else used),
        )  # pyright: ignore[reportCallIssue]

    doses = curve.images or curve.doses
    yield from (arm(REAL, "oracle", dose) for dose in curve.real_doses or doses)
    yield from (arm(COPIES, "duplicates", dose) for dose in doses)
    for generator in curve.generators:
        for selection in curve.selections:
            series = "-".join(filter(None, [generator, selection]))
            yield from (arm(series, "synthesize", dose, generator, selection) for dose in doses)
