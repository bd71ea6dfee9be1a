"""The last block of the predictor answers as timm's block does."""

import pytest
import torch
from timm.models.vision_transformer import Block

from hjepa.models.encoder import set_attention
from hjepa.models.initialisation import initialise
from hjepa.models.predictor import QueryOnlyBlock


@pytest.mark.parametrize("kernel", ["plain", "fused"])
@pytest.mark.parametrize("answers", [1, 3, 7])
def test_the_last_block_gives_what_timms_block_gives_and_the_same_gradients(kernel, answers):
    whole, last = (kind(16, 2, qkv_bias=True).double() for kind in (Block, QueryOnlyBlock))
    initialise(whole, seed=3, kind="xavier")
    last.load_state_dict(whole.state_dict())
    for block in (whole, last):
        set_attention(block, kernel)
    tokens = torch.randn(5, 7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = [tokens.clone().requires_grad_(True) for _ in range(2)]
    expected, found = whole(inputs[0])[:, -answers:], last(inputs[1], answers)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for output in (expected, found):
        output.sin().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-10, atol=1e-12)
    for (name, one), two in zip(whole.named_parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-10, atol=1e-12, msg=name)
