"""Predictor: from the tokens of visible patches to those of the target blocks, as published."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hjepa.models.positions import sincos_2d
from hjepa.models.recompute import Recomputing


class QueryOnlyBlock(Block):  # type: ignore[misc]  # timm has no types
    """The last block of the predictor: computes outputs for the mask tokens (the queries) only.

    The outputs at context tokens would be discarded, so they are not computed; context tokens serve as keys and values.
    Same parameters and same numbers as timm's ``Block``, without five sixths of the work on context tokens. Only for
    plain blocks: no gates, norms inside attention, layer scale or dropout.
    """

    def forward(self, tokens: Tensor, num_queries: int) -> Tensor:
        """Return the block's outputs [B, num_queries, D] for the last ``num_queries`` of tokens [B, N, D]."""
        attn, normed = self.attn, self.norm1(tokens)
        width = normed.shape[2]
        # Rows of one matrix: queries are asked of the mask tokens only, keys and values of all.
        (of_queries, of_others), (bias, other_biases) = (
            part.split([width, 2 * width]) for part in (attn.qkv.weight, attn.qkv.bias)
        )
        queries = (
            F.linear(normed[:, -num_queries:], of_queries, bias).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        )
        both = F.linear(normed, of_others, other_biases).unflatten(2, (2, attn.num_heads, -1))
        keys, values = both.permute(2, 0, 3, 1, 4).unbind()  # [B, heads, N, D / heads]
        if attn.fused_attn:
            found = F.scaled_dot_product_attention(queries, keys, values)
        else:
            found = ((queries * attn.scale) @ keys.transpose(-2, -1)).softmax(-1) @ values
        after = tokens[:, -num_queries:] + attn.proj(found.transpose(1, 2).flatten(2))
        return after + self.mlp(self.norm2(after))


class Predictor(Recomputing):
    """Predicts each target block in a sequence of its own: ``[context ; mask tokens]``.

    One learned mask token plus the position of the patch it stands for is the query; attention is
    joint over context and queries. Each level has its own linear head on the output
    (docs/decisions/0008). Parameter names are those of the released I-JEPA checkpoints.
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        encoder_width: int,
        target_widths: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.predictor_embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        table = sincos_2d(width, grid).to(torch.get_default_dtype())
        self.predictor_pos_embed = nn.Parameter(table[None], requires_grad=False)
        kinds = [Block] * (depth - 1) + [QueryOnlyBlock]
        self.predictor_blocks = nn.ModuleList(kind(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True) for kind in kinds)
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        # One head per level: the rows of one matrix.
        self.target_widths = list(target_widths)
        self.predictor_proj = nn.Linear(width, sum(target_widths))

    def forward(self, context: Tensor, context_index: Tensor, target_index: Tensor) -> list[Tensor]:
        """Predict the targets [B, K, T, D] of each level from context tokens [B, V, D].

        ``context_index`` [B, V] and ``target_index`` [B, K, T] are row-major patch indices.
        """
        images, blocks, size = target_index.shape
        table = self.predictor_pos_embed[0]  # [N, P]
        # Positions stay in float32, also under autocast, as in the encoder (docs/decisions/0007).
        seen = self.predictor_embed(context) + table[context_index]  # [B, V, P]
        queries = self.mask_token + table[target_index.flatten(0, 1)]  # [B*K, T, P]
        tokens = torch.cat([seen.repeat_interleave(blocks, dim=0), queries], dim=1)  # [B*K, V+T, P]
        *earlier, last = self.predictor_blocks
        for block in earlier:
            tokens = self.run_block(block, tokens)
        outputs = self.run_block(last, tokens, size)  # [B*K, T, P]
        predicted = self.predictor_proj(self.predictor_norm(outputs))  # [B*K, T, sum of D]
        return list(predicted.unflatten(0, (images, blocks)).split(self.target_widths, dim=-1))
