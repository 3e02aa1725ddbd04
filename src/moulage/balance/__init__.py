"""Ways to treat imbalance; docs/rivals.md has the papers. A plug-in has a ``ROLE`` and one of three things.

``extend(config, train, samples, add, rng) -> Catalog``: rows that an arm adds. ``train`` is the training part, never
changed; ``samples`` what was drawn for the arm (held-back real images for a ``positive`` one), or None; ``add`` the
images to add by class; ``rng`` the only source of randomness. ``DataError`` says what is missing.

``treat(config, counts) -> Treatment``: how an arm trains. ``counts``, int64 [K], are the images of each class that an
epoch of it draws; where they matter, a class without an image is a ``DataError``.

``strength(config) -> float``: plain training, and the strength of the operating point in place of one that is chosen on
the validation part (``evaluation/operating_point.py``).
"""
