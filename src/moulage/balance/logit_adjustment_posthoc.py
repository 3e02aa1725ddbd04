"""Plain training, and an operating point by the theory: argmax_k z_k - tau log pi_k (Menon et al. 2021, equation 9).

z are the logits, pi the class shares of the images that were trained on, tau is 1 in the paper. Nothing is chosen on
the validation part, on which the study sets every other arm's operating point. Logits are those of plain training, and
so are all measures of them.
"""

from pydantic import Field

from moulage.plugins import Options

ROLE = "rival"


class Config(Options):
    """How strongly the logits are adjusted."""

    tau: float = Field(default=1.0, ge=-10, le=10, description="strength; 1: what calibrated logits want")


def strength(config: Config) -> float:
    """Tau."""
    return config.tau
