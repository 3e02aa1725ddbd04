"""``python -m moulage.cli``."""

from moulage.cli import main

main()
