"""The methods paragraph of a study, from what was really done: text that can be pasted, with numbered references."""

from collections.abc import Sequence
from typing import Any

from moulage.evaluation.measures.expected_calibration_error import NUM_BINS
from moulage.report.exports import FOLDER
from moulage.report.literature import BALANCE, GENERATORS, INTERVALS, REFERENCES
from moulage.report.roles import plain_arm
from moulage.report.run_files import Run
from moulage.report.tables import amount, word
from moulage.results import Arm, Count, Results
from moulage.runs import write_text

TITLE = "Methods, to paste"
ARMS = {
    "reference": "Arms to compare with",
    "synthetic": "Arms with generated images",
    "rival": "Rivals that need no generated images",
    "positive": "Control that must help",
    "null": "Controls that must not help",
}
"""How each role is introduced, in the order of the paragraph."""


def show(run: Run) -> dict[str, Any] | None:
    if not run.results.arms:
        return None
    written = text(run.results, str(run.environment.get("moulage", "")))
    write_text(run.folder / FOLDER / "methods.txt", written)
    return {"text": written}


class _Citations:
    """Numbers works in the order of their first mention."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, *keys: str) -> str:
        """ " [1, 3]" for works, or nothing."""
        self.keys += [key for key in dict.fromkeys(keys) if key not in self.keys]
        numbers = sorted(self.keys.index(key) + 1 for key in keys)
        return f" [{', '.join(map(str, numbers))}]" if numbers else ""


def text(results: Results, version: str = "") -> str:
    """What was done, in paragraphs, and the works that it names; nothing of the outcome. ``version`` is moulage's."""
    cite = _Citations()
    parts = [
        _data(results),
        _trials(results),
        *(_arms(results, role, start, cite) for role, start in ARMS.items()),
        _fidelity(results, cite),
        _operating_point(results, cite),
        _question(results),
        _intervals(results, cite),
        _decisions(results, cite),
        f"The study was run with moulage{f' {version}' if version else ''}.",
    ]
    references = [f"[{k}] {REFERENCES[key]}" for k, key in enumerate(cite.keys, 1)]
    return "\n\n".join(filter(None, [*parts, "\n".join(references)])) + "\n"


def _data(results: Results) -> str:
    data, classes = results.study.data, results.study.classes
    said = f"The data were {data.name} ({data.num_images:,} images of {len(classes)} classes: {', '.join(classes)})."
    for found in data.data_sets[1:]:
        where = " in the training part alone" if set(found.parts) <= {"train", "reserve"} else ""
        weight = f", shown {found.weight:g} times as often" if found.weight != 1 else ""
        said += f" Of {found.name} ({found.source}) {sum(found.counts.values()):,} images were used{where}{weight}"
        said += f", after {found.num_set_aside:,} were set aside, among them those that the main data hold too."
    if _scheme(results) == "folds":
        return said
    parts = [f"{part} {_size(counts)}" for part, counts in results.split.items() if counts]
    drawn = "those of the data set" if _scheme(results) == "official" else "drawn by lesion"
    return f"{said} The parts were {drawn}, so that no lesion was in two of them: {_listed(parts)}."


def _size(counts: dict[str, Count]) -> str:
    images, lesions = (sum(getattr(count, what) for count in counts.values()) for what in ("images", "lesions"))
    return f"{images:,} images of {lesions:,} lesions"


def _trials(results: Results) -> str:
    trials = results.trials
    number = trials.num_trials
    if _scheme(results) == "folds":
        said = (
            f"Every arm was trained and tested in {trials.num_folds}-fold cross-validation, stratified by class and "
            f"grouped by lesion, {_times(trials.num_repeats)} over ({number} trials); predictions for the left-out "
            "folds were pooled."
        )
    else:
        said = f"Every arm was trained {_times(number)} and tested on the same images."
    seen = {arm.images_seen for arm in results.arms}
    if len(seen) == 1:
        said += f" All arms saw the same number of images, {next(iter(seen)):,}."
    return f"{said} {trials.random}"


def _arms(results: Results, role: str, start: str, cite: _Citations) -> str:
    """What the arms of one role did."""
    said = [_arm(results, arm, cite) for arm in results.arms if arm.role == role]
    return f"{start}: {'; '.join(said)}." if said else ""


def _arm(results: Results, arm: Arm, cite: _Citations) -> str:
    added = _listed([f"{number:,} {name}" for name, number in arm.extra.items() if number])
    if arm.generator:
        did = f"{added or 'no'} images drawn by {_generator(results, arm.generator, cite)}{_selected(results, arm)}"
    elif arm.balance == "none":
        did = "the training part as it is"
    elif arm.balance == "duplicates":
        did = f"{added} copies of real training images" if added else "copies of real training images"
    elif arm.balance == "oracle":
        did = f"{added} real images that had been held back{_reserve(results)} from all other arms"
    elif arm.balance == "permuted":
        did = f"real images of any class under wrong labels, {added}"
    elif arm.balance == "synthesize":
        did = f"{added} given generated images"
    else:
        did = _balance(arm.balance, cite)
    did = " ".join(filter(None, [did, arm.use]))
    if arm.treatment:
        treatment = _balance(arm.treatment, cite)
        did = treatment if arm.balance == "none" else f"{did}, with {treatment}"
    return f"{arm.name} ({did})"


def _reserve(results: Results) -> str:
    """How much was held back, in words; empty where it was not declared."""
    declared = results.registration.declared if results.registration else None
    if declared and declared.scarcity:
        stayed = _listed([f"{number:,} of {name}" for name, number in declared.scarcity.items()])
        return f", all but {stayed} of the training lesions,"
    return (
        f", {100 * declared.reserve:g} % of the lesions of the target classes," if declared and declared.reserve else ""
    )


def _selected(results: Results, arm: Arm) -> str:
    """By which rules an arm's images were chosen; empty for none."""
    made = next((made for made in results.selections if arm.name in made.arms), None)
    if made is None:
        return ""
    return f" and selected on the training part by the rules {_listed([rule.plugin for rule in made.rules])}"


def _fidelity(results: Results, cite: _Citations) -> str:
    """How generators were chosen and scored."""
    if not results.fidelity:
        return ""
    first = results.fidelity[0]
    return (
        f"Of each generator {first.num_drawn:,} further images of each class were scored against the real images of "
        "the test part, beside real images of other lesions and copies of training images, in features of "
        f"{first.features}; the main score was the kernel distance{cite('binkowski')}. The weights that drew were "
        "those whose images were nearest to the validation part, where it had enough images."
    )


def _balance(plugin: str, cite: _Citations) -> str:
    name, keys = BALANCE.get(plugin, (plugin or "a treatment of its own", ()))
    return name + cite(*keys)


def _generator(results: Results, name: str, cite: _Citations) -> str:
    runs = list({made.folder: made for made in results.generators if made.generator == name}.values())
    plugin = runs[0].plugin if runs else name
    called, keys = GENERATORS.get(plugin, (plugin, ()))
    number = results.trials.num_trials
    fitted = " fitted to the training part"
    if number > 1 and runs:
        once = " in each trial" if len(runs) == number else " once"
        fitted += " of each trial" if _scheme(results) == "folds" else once
    return called + cite(*keys) + (fitted if runs else "")


def _operating_point(results: Results, cite: _Citations) -> str:
    if results.study.operating_point == "argmax":
        return ""
    means = [f"{arm.name} {sum(arm.strength) / len(arm.strength):.2f}" for arm in results.arms]
    return (
        "Which class an arm says of an image was set after training, by one rule for all arms that do not fix it: the "
        f"log of the class shares was taken off the logits{cite('menon')}, in each trial as strongly as balanced "
        f"accuracy on the validation part wanted it (mean strength: {', '.join(means)}). Ranking and calibration were "
        "measured on the logits as they were."
    )


def _question(results: Results) -> str:
    study, registration = results.study, results.registration
    targets = f" of {_listed(study.target_classes)}" if study.target_classes and ":" not in study.primary else ""
    said = f"The primary measure was {word(study.primary)}"
    if study.primary.startswith("mean_"):
        said += targets
    elif targets:
        said += f"; the target {'class was' if len(study.target_classes) == 1 else 'classes were'}{targets[3:]}"
    said += f". The smallest effect that matters was set to {amount(study.smallest_effect, study.primary)}"
    if registration:
        mark = f" (digest {registration.digest}, {registration.date})"
        if registration.before_test:
            said += f". This was fixed{mark} before any prediction for the test part was opened"
        else:
            said += f". This was set{mark} after the test part had been opened, so that the study is exploratory"
    return said + "."


def _intervals(results: Results, cite: _Citations) -> str:
    if not results.comparisons:
        return ""
    mean = "repeats, the predictions of whose folds were pooled" if _scheme(results) == "folds" else "fits"
    first = results.comparisons[0]
    sizes = f" ({first.num_images:,} test images of {first.num_lesions:,} lesions)"
    said = (
        f"Arms were compared in pairs on the same images{sizes}, by the mean of a measure over the {mean}. 95 % "
        f"intervals take lesions and fits as random{cite('owen', 'nadeau')}: to the variance over lesions"
    )
    used = dict.fromkeys(c.method for c in results.comparisons if c.method in INTERVALS)
    if used:
        ways = [INTERVALS[name][0] + cite(*INTERVALS[name][1]) for name in sorted(used)]
        said += f", estimated {' or '.join(ways)},"
    said += (
        " the variance between fits is added, pooled over the arms (an arm whose fits vary more, by an F test at 10 %, "
        "has its own), with Satterthwaite's degrees of freedom"
        f"{cite('satterthwaite')}."
    )
    if any(c.cautious_low is not None for c in results.comparisons):
        said += f" A second, cautious interval is that of Nadeau and Bengio{cite('nadeau')}."
    if results.reliability:
        said += f" Calibration error is the mean gap between confidence and accuracy over {NUM_BINS} bins{cite('guo')}."
    return said


def _decisions(results: Results, cite: _Citations) -> str:
    if not results.verdicts:
        return ""
    roles = {role for verdict in results.verdicts for role in verdict.references}
    names = [plain_arm(results) or "none", "copies of as many real images"]
    rivals = sum(arm.role == "rival" for arm in results.arms) if "rival" in roles else 0
    hurdle = [*names, f"every one of {rivals} rivals" if rivals > 1 else "the rival"] if rivals else names
    number = len(results.verdicts)
    said = (
        f"An arm is said to help if it is better than {_listed(hurdle)}, to hurt if it is worse than {_listed(names)}, "
        f"each time than all of them (intersection-union test{cite('berger')}), and to be practically equal if it is "
        f"equivalent to copies and not worse than {names[0]} within the smallest effect that matters (two one-sided "
        f"tests{cite('schuirmann')}). All else is called not enough data. Tests of a difference are two-sided at 5 %"
    )
    said += f", after Holm's correction over {number} arms{cite('holm')}." if number > 1 else "."
    if not rivals:
        said += " There was no rival to choose from, and without one no arm is said to help."
    if results.controls or results.controls_missing:
        said += (
            " No arm is said to help, or to be practically equal, where a control misbehaves or cannot be judged, or "
            "the gain of one that must help is not shown."
        )
    if results.controls_missing:
        said += f" The study had no control {_listed(results.controls_missing, 'or')}."
    return said


def _scheme(results: Results) -> str:
    return results.registration.declared.scheme if results.registration else results.trials.scheme


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _listed(names: Sequence[str], link: str = "and") -> str:
    return f" {link} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
