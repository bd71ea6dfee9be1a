"""Hidden patches cost nothing, and the visible ones are embedded as if they had been."""

import pytest
import torch

from hjepa.models.encoder import build_encoder
from hjepa.models.initialisation import initialise


@pytest.mark.parametrize(("rows", "seen", "alone"), [(1, 3, True), (2, 3, True), (2, 8, False)])
def test_visible_patches_are_embedded_as_among_all_of_them(rows, seen, alone, monkeypatch):
    sizes = {"patch_size": 4, "channels": 3, "width": 16, "depth": 1, "heads": 2}
    encoder = build_encoder(image_size=(8, 16), **sizes).double()  # 2 x 4 patches
    initialise(encoder, seed=0, kind="released")
    random = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 8, 16, generator=random, dtype=torch.float64)
    visible = torch.stack([torch.randperm(8, generator=random)[:seen] for _ in range(3 * rows)])
    all_of_them = encoder.embed(images).repeat_interleave(rows, 0)
    expected = all_of_them.gather(1, visible[..., None].expand(-1, -1, 16))
    whole = []
    monkeypatch.setattr(
        encoder.vit.patch_embed, "forward", lambda x, kept=encoder.vit.patch_embed.forward: whole.append(x) or kept(x)
    )
    gradients = []
    for tokens in (expected, encoder.embed(images, visible)):
        encoder.zero_grad()
        tokens.sin().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.vit.patch_embed.proj.parameters()])
    torch.testing.assert_close(encoder.embed(images, visible), expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    assert bool(whole) is not alone  # several rows that see more patches than there are: each is embedded once
