"""Plain training; afterwards tau times the log of the class shares is taken off the logits (Menon et al. 2021).

argmax_j z_j - tau log pi_j (equation 9). Tau is chosen on the validation part (``evaluation/adjust.py``). Any other arm
can have the same with ``logit_adjustment = true``.
"""

from moulage.plugins import Options

ROLE = "rival"
POSTHOC = True


class Config(Options):
    """No options."""
