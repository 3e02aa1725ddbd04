"""The words of a study's evidence: what an arm did, and the answer in one line."""

from dataclasses import replace

from moulage import recipe
from moulage.arm import Design
from moulage.conclusions import headline
from moulage.results import Verdict

RECIPE = {
    "study": {"name": "words", "target_classes": ["AK", "DF"]},
    "generators": {"gan": {"plugin": "dcgan", "classes": ["AK", "DF"]}},
    "arms": {
        "none": {"balance": "none"},
        "copies": {"balance": "duplicates", "like": "both"},
        "softmaxed": {"balance": "duplicates", "like": "both", "treatment": "balanced_softmax"},
        "gan": {"balance": "synthesize", "generator": "gan", "add": {"AK": 80}},
        "both": {"balance": "synthesize", "generator": "gan", "ratio": {"AK": 2, "DF": 1}},
        "instead": {"balance": "synthesize", "generator": "gan", "like": "both", "use": "replace"},
        "copied_instead": {"balance": "duplicates", "add": {"AK": 80}, "use": "replace"},
        "weighed": {"balance": "synthesize", "generator": "gan", "like": "gan", "use": "weight", "weight": 0.5},
        "first": {"balance": "synthesize", "generator": "gan", "like": "gan", "use": "pretrain", "share": 0.25},
        "shared": {"balance": "synthesize", "generator": "gan", "like": "gan", "use": "batch_share", "share": 0.3},
        "treated": {"balance": "synthesize", "generator": "gan", "like": "both", "treatment": "balanced_softmax"},
    },
}
PARSED = recipe.parse(RECIPE)
GENERATED = ("gan", "both", "instead", "weighed", "first", "shared", "treated")
AS_GAN = ("gan", "weighed", "first", "shared")
DESIGN = Design(PARSED, {"AK": 600, "DF": 10, "NV": 90}, "softmaxed")


def test_what_an_arm_did_in_words():
    assert DESIGN.change("gan") == "Adding 80 generated AK images (gan)"
    assert DESIGN.change("both") == "Adding 1,210 generated images (both; 1,200 AK, 10 DF; drawn by gan)"
    short = replace(DESIGN, kept={"gan": {"AK": (31, 40)}, "both": {"DF": (7, 7)}})
    assert short.change("gan") == "Adding 31 to 40 generated AK images (gan)"
    assert short.change("both") == "Adding 1,207 generated images (both; 1,200 AK, 7 DF; drawn by gan)"
    assert DESIGN.change("copies") == "Adding 1,210 images (copies; 1,200 AK, 10 DF)"
    instead = "Putting 1,210 generated images in place of 610 real ones (instead; 1,200 AK, 10 DF; drawn by gan)"
    assert DESIGN.change("instead") == instead, "all that there are leave, and no more"
    assert DESIGN.change("copied_instead") == "Putting 80 AK images in place of as many real ones (copied_instead)"
    assert DESIGN.change("weighed") == "Adding 80 generated AK images with a loss weight of 0.5 (weighed; drawn by gan)"
    assert DESIGN.change("first").startswith("Adding 80 generated AK images in the first 25 % of the epochs (first")
    assert DESIGN.change("shared").startswith("Adding 80 generated AK images as 30 % of each batch (shared")
    kept = replace(DESIGN, kept={"instead": {"AK": (31, 700)}})
    assert kept.change("instead").startswith("Putting 41 to 710 generated images in place of 41 to 610 real ones (")
    assert DESIGN.change("treated").endswith("drawn by gan; with balanced_softmax)")


def test_who_is_compared_with_whom():
    assert DESIGN.references("gan") == {"none": "none", "rival": "softmaxed"}  # no arm adds 80 copies of AK
    assert DESIGN.references("both") == {"none": "none", "duplicates": "copies", "rival": "softmaxed"}
    assert DESIGN.references("treated")["duplicates"] == "softmaxed"  # copies with the arm's own treatment
    assert DESIGN.rival_pairs() == [(arm, "softmaxed") for arm in GENERATED]
    assert DESIGN.family == GENERATED


def test_copies_that_are_used_alike_are_what_an_arm_is_judged_against():
    """Else those that are added, and none that are used in yet another way: these may be worse than added ones."""
    alike = {"balance": "duplicates", "like": "gan", "use": "weight", "weight": 0.5}
    added = {"balance": "duplicates", "like": "gan"}
    arms = [{"alike": alike}, {"added": added}, {"added": added, "alike": alike}]
    for more, expected in zip(arms, ({"weighed": "alike"}, dict.fromkeys(AS_GAN, "added"), ...), strict=True):
        design = Design(recipe.parse({**RECIPE, "arms": RECIPE["arms"] | more}), DESIGN.counts, "softmaxed")
        of = {arm: design.references(arm).get("duplicates") for arm in AS_GAN}
        wanted = {"gan": "added", "weighed": "alike", "first": "added", "shared": "added"}
        assert of == (wanted if expected is ... else dict.fromkeys(AS_GAN) | expected)
        assert {design.roles[arm] for arm in more} == {"reference"}, "copies stay what others are judged by"


def test_the_answer_names_one_change_or_groups_several_arms():
    asked = Verdict.model_construct
    found = [asked(arm=arm, change=f"Adding {arm}", outcome="not enough data") for arm in ("a", "b", "c")]
    assert headline([]) == "No arm adds generated images, so nothing is answered."
    assert headline(found[:1]) == "Adding a: not enough data."
    found[1] = asked(arm="b", change="", outcome="helps")
    assert headline(found) == "Not enough data: a, c; helps: b."
