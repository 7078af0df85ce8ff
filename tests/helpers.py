"""What several tests use: randomised norms, so that exactness is not vacuous."""

import torch
from torch import nn

from resnet_paths.provenance import Provenance


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm random scale, shift and statistics, so that exactness is not vacuous."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low
        tensor.data.copy_(values)

    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), torch.Tensor):
            draw(module.running_mean, -0.3, 0.3)
            draw(module.running_var, 0.5, 1.5)
        if "norm" in type(module).__name__.lower():
            for name, parameter in module.named_parameters(recurse=False):
                draw(parameter, 0.5, 1.5) if name == "weight" else draw(parameter, -0.3, 0.3)
    return model


def source(model: str = "model", data: str = "data") -> Provenance:
    """Where a record that was made by hand comes from."""
    return Provenance(model, data, "float64", 0, "", "", "made")
