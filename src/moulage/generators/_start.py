"""Where a fit begins that goes on from the weights of another one (transfer learning)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from moulage import checkpoints
from moulage.errors import RunError


def begin(game: Any, path: Path) -> dict[str, float]:
    """Give the networks of a new game the weights of a finished fit, where names and shapes agree.

    ``path`` is a generator's folder, or a file of the averaged weights that it draws with. Both the network that learns
    and its average start from these; of a GAN the discriminator starts from the fit's last checkpoint, where there is
    one, and anew otherwise. What has another name or shape (other classes, another size) starts anew.

    Returns:
        For each network the share of its weights that it takes over, 0..1.

    Raises:
        RunError: there are no such weights, or none that fit.
    """
    state = checkpoints.read_weights(checkpoints.weights_of(path))
    network = game.generator if hasattr(game, "generator") else game.network
    shares = {"generator": take(network, state)}
    take(game.ema.model, state)
    if not shares["generator"]:
        raise RunError(
            f"Nothing in {path} fits: no weight has the name and the shape that it has here.",
            "Start from a fit of the same plug-in with the same network.",
        )
    last = checkpoints.newest(path) if path.is_dir() else None
    if last and hasattr(game, "discriminator"):
        shares["discriminator"] = take(game.discriminator, last["game"]["discriminator"])
    return shares


def take(network: nn.Module, state: Mapping[str, Tensor]) -> float:
    """Load the tensors whose name and shape a network has; the share of its weights that they are, 0..1."""
    own = network.state_dict()
    fits = {name: state[name] for name, value in own.items() if name in state and state[name].shape == value.shape}
    network.load_state_dict(own | fits)
    sizes = {name: weight.numel() for name, weight in network.named_parameters()}
    return sum(size for name, size in sizes.items() if name in fits) / max(1, sum(sizes.values()))


class Frozen:
    """The first layers of a discriminator, which keep their weights: FreezeD (Mo et al. 2020, arXiv:2002.10964).

    They are the first ``num`` that a forward pass comes by, from the image on; a layer has a matrix or a filter, and
    norms belong to the layer before them.
    """

    def __init__(self, network: nn.Module, num: int) -> None:
        self.num, self._met = num, dict[nn.Module, None]()
        for module in network.modules() if num else ():
            if [*module.parameters(recurse=False)]:
                module.register_forward_hook(self._meet)

    def _meet(self, module: nn.Module, *_: Any) -> None:
        """Note a module that learns in this pass, as none does in the generator's phase."""
        if any(weight.requires_grad for weight in module.parameters(recurse=False)):
            self._met.setdefault(module)

    def drop_gradients(self) -> None:
        """Between a backward pass and the optimiser's step, which leaves alone what has no gradient."""
        num_layers = 0
        for module in self._met:
            weights = [*module.parameters(recurse=False)]
            num_layers += any(weight.ndim > 1 for weight in weights)
            if num_layers > self.num:
                break
            for weight in weights:
                weight.grad = None
        self._met.clear()
