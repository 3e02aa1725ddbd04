"""What was found, in sentences: what is there, which classes and why, what the study takes and what it can find."""

from moulage.evaluation.lesion_variance import FEW_LESIONS
from moulage.proposal.choice import Choice, lesions_to_make_scarce, rare
from moulage.proposal.cost import Clock
from moulage.proposal.ladder import Taken
from moulage.proposal.reach import EXPECTED, UNLIKELY, Reach, lesions_to_answer
from moulage.proposal.survey import Survey

LEAST_TOLD = 3.0
"""Core-seconds below which a kind of work is not named."""


def there(of: Survey) -> list[str]:
    """On the data themselves."""
    counted = ", ".join(f"{each.name} {each.images:,} ({each.lesions:,})" for each in of.classes)
    said = [f"{len(of):,} images of {len(of.classes)} classes, read as {of.source}. Images (lesions): {counted}."]
    if of.num_without_lesion == len(of):
        said.append(
            "No lesion or patient is known: every image counts as one of its own. Where several show the same one, "
            "test scores come out too good: add a groups.csv (docs/your-data.md)."
        )
    elif of.num_without_lesion:
        said.append(f"{of.num_without_lesion:,} images have no lesion or patient id, and count as one each.")
    if of.num_copies:
        across = f", {of.num_contradicting:,} of them under several labels" if of.num_contradicting else ""
        said.append(
            f"{of.num_copies:,} images are there a second time, byte for byte{across}. The audit of the study joins "
            "them, and looks for near-duplicates."
        )
    if of.num_unusable:
        said.append(
            f"{of.num_unusable} of {of.num_looked_at} images that were looked at cannot be used; `moulage prepare` "
            "names all of them."
        )
    if of.num_masks:
        said.append(f"{of.num_masks:,} images have a lesion mask; this recipe uses none (docs/masks.md).")
    return [*said, f"The shorter side of an image has {of.side} pixels in the median."]


def choice(of: Survey, of_rare: Choice | None, made_scarce: Choice | None, found: Choice | None) -> list[str]:
    """On which classes, and why."""
    said, known = list[str](), found or of_rare or made_scarce
    too_few = known.too_few if known else {each.name: each.lesions for each in rare(of.classes)}
    if too_few:
        said.append(
            f"Rare, but with fewer than {FEW_LESIONS} lesions, so no targets: {_counted(too_few)}. More "
            "photographs of the same lesions are no help; more lesions are."
        )
    if known and known.left_out:
        said.append(f"Left out, with too few lesions to be in every part of a split: {_counted(known.left_out)}.")
    if found is None:
        return [*said, *_no_answer(of, of_rare)]
    if found.is_scarce:
        why = "no class is rare here"
        if of_rare:
            why = f"of {', '.join(of_rare.targets)} {_finds_nothing()}"
        elif found.too_few:
            why = "no rare class has lesions enough"
        said.append(
            f"Made scarce, because {why}; lesions that stay in the training part: {_counted(found.scarcity)}. This "
            "tells what generated images of a class as scarce as that are worth, not what they do for a class that is "
            "rare by itself."
        )
    return said


def _no_answer(of: Survey, of_rare: Choice | None) -> list[str]:
    """That no study can answer, and what would."""
    why = f"No class is rare and has {FEW_LESIONS} lesions."
    if of_rare:
        why = f"Of {', '.join(of_rare.targets)} {_finds_nothing()}."
    most = max(of.classes, key=lambda each: each.lesions)
    return [
        f"No study of these data can answer, however many hours it has. {why}",
        f"What would: lesions, not photographs. A rare class needs about {lesions_to_answer():,} of them to show a "
        f"gain of {100 * UNLIKELY:.0f} points of its average precision; a frequent one that is made scarce needs "
        f"{lesions_to_make_scarce()} ({most.name} has {most.lesions:,}, the most).",
    ]


def _finds_nothing() -> str:
    return f"no study finds a gain below {100 * UNLIKELY:.0f} points of mean AP"


def cost(of: Taken, hours: float) -> list[str]:
    """On what the study takes."""
    parts = sorted(of.cost.core_seconds.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{kind} {seconds / 60:.1f}" for kind, seconds in parts if seconds >= LEAST_TOLD)
    workers = f"{of.cost.num_workers} worker{'s' * (of.cost.num_workers > 1)}"
    said = [
        f"About {of.cost.hours:.2f} hours with {workers} on this machine, if it does nothing else: "
        f"{of.cost.total / 60:.0f} core-minutes ({listed})."
    ]
    if of.is_all and of.cost.hours < 0.5 * hours:
        said.append(f"More of the {hours:g} hours would tell little more: lesions are the limit, not computation.")
    return said


def reach(of: Reach) -> list[str]:
    """On what it finds, and what not."""
    helps, seen, least = (_points(x) for x in (of.helps, of.seen, of.smallest_effect))
    said = [
        f"Generated images whose true gain is {helps} of mean AP are said to help in 80 % of such studies: they have "
        "to be better than none, than copies and than every rival. A true difference of "
        f"{seen} between two arms is seen."
    ]
    if of.helps <= of.smallest_effect:
        said.append(f"That is enough for {least}, the smallest gain that matters.")
    else:
        said.append(f'A smaller gain mostly ends as "not enough data", and so does {least}, the smallest that matters.')
        would = f"{least} would take {of.times_needed or 0:.1f} times the lesions: {_counted(of.lesions_needed)}."
        said.append(would if of.lesions_needed else f"With so few fits no number of lesions finds {least}.")
    if of.helps > EXPECTED:
        said.append(
            f"Beware: as many real images again brought {_points(EXPECTED)} on ISIC-2019 (docs/evidence.md); here it "
            "may be more or less. Generated images will hardly bring more than real ones."
        )
    if not of.has_control:
        said.append(
            "There is no positive control: of some class too few images can be held back in some training part. "
            "Nothing will show whether the study could have seen a gain."
        )
    if not of.can_answer:
        said.append("So this study can hardly answer. It was written because its classes were asked for.")
    return [*said, "By the planning constants of `moulage power`; a finished run knows better: `moulage power --run`."]


def paces(of: Clock) -> dict[str, float]:
    """What was timed of the study, in words, and CPU-seconds; of several networks that an image passes the sum."""
    found = {"reading and decoding, an image": of.decode_seconds}
    for words, seconds in (of.paces[key] for key in sorted(of.used)):
        found[words] = found.get(words, 0.0) + seconds
    return found


def _counted(of: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in of.items())


def _points(effect: float) -> str:
    return f"{100 * effect:.1f} points".replace(".0 ", " ")
