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
        "treated": {"balance": "synthesize", "generator": "gan", "like": "both", "treatment": "balanced_softmax"},
    },
}
PARSED = recipe.parse(RECIPE)
DESIGN = Design(PARSED, {"AK": 600, "DF": 10, "NV": 90}, "softmaxed")


def test_what_an_arm_did_in_words():
    assert DESIGN.change("gan") == "Adding 80 generated AK images (gan)"
    assert DESIGN.change("both") == "Adding 1,210 generated images (both; 1,200 AK, 10 DF; drawn by gan)"
    short = replace(DESIGN, kept={"gan": {"AK": (31, 40)}, "both": {"DF": (7, 7)}})
    assert short.change("gan") == "Adding 31 to 40 generated AK images (gan)"
    assert short.change("both") == "Adding 1,207 generated images (both; 1,200 AK, 7 DF; drawn by gan)"
    assert DESIGN.change("copies") == "Adding 1,210 images (copies; 1,200 AK, 10 DF)"
    assert DESIGN.change("treated").endswith("drawn by gan; with balanced_softmax)")


def test_who_is_compared_with_whom():
    assert DESIGN.references("gan") == {"none": "none", "rival": "softmaxed"}  # no arm copies 80 AK
    assert DESIGN.references("both") == {"none": "none", "duplicates": "copies", "rival": "softmaxed"}
    assert DESIGN.references("treated")["duplicates"] == "softmaxed"  # copies with the arm's own treatment
    assert DESIGN.rival_pairs() == [(arm, "softmaxed") for arm in ("gan", "both", "treated")]
    assert DESIGN.family == ("gan", "both", "treated")


def test_the_answer_names_one_change_or_groups_several_arms():
    asked = Verdict.model_construct
    found = [asked(arm=arm, change=f"Adding {arm}", outcome="not enough data") for arm in ("a", "b", "c")]
    assert headline([]) == "No arm adds generated images, so nothing is answered."
    assert headline(found[:1]) == "Adding a: not enough data."
    found[1] = asked(arm="b", change="", outcome="helps")
    assert headline(found) == "Not enough data: a, c; helps: b."
