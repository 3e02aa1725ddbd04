"""What a stage will take on this machine, told from a few steps of it."""

from moulage.stages.stage import Stage


def time_steps(stage: Stage, num_images: int, device: str) -> float:
    """Core-seconds that a stage will take on a CPU, whoever else uses it; seconds on another device."""
    from moulage.devices import pick_device
    from moulage.randomness import reproducible

    with reproducible():
        return stage.seconds(num_images, str(pick_device(device)))
