"""Activation checkpointing: a block's activations are computed again in the backward pass instead of being kept."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """A network whose blocks may be recomputed (Chen et al. 2016, arXiv:1604.06174); the numbers stay the same."""

    recompute = False

    def run_block(self, block: nn.Module, tokens: Tensor, *others: object) -> Tensor:
        """Return ``block(tokens, *others)``; with ``recompute``, its activations are not kept for the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            # Blocks have no dropout, so there is no random state to repeat.
            result = checkpoint(block, tokens, *others, use_reentrant=False, preserve_rng_state=False)
        else:
            result = block(tokens, *others)
        assert isinstance(result, Tensor)
        return result


def set_activation_checkpointing(module: nn.Module, on: bool) -> None:
    """Switch recomputation on or off for all networks in ``module``."""
    for part in module.modules():
        if isinstance(part, Recomputing):
            part.recompute = on
