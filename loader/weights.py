"""The weights of a loaded base, for what cannot be done without them."""

from __future__ import annotations

import torch

from adaptrix.compose.baking import BaseWeights
from adaptrix.loader.base import BaseModel
from adaptrix.schema.errors import IncompatibleAdapter


def weights_of(base: BaseModel) -> BaseWeights:
    """Weights by module path."""

    def weight(path: str) -> torch.Tensor:
        try:
            return base.model.get_parameter(f"{path}.weight").detach().cpu()
        except AttributeError as error:
            raise IncompatibleAdapter("the base has no such module", where=path) from error

    return BaseWeights(name=base.name, config_digest=base.config_digest, weight=weight)
