"""I-JEPA in one file: the whole method without the library, on synthetic images.

Run it:  python examples/minimal.py        (about a minute on two CPU cores)

Shape letters: B images, N patches (G*G grid), V visible patches, K target blocks, T patches per block,
D encoder width, P predictor width. The method: arXiv:2301.08243. Read `train_step` first.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

G, PATCH, D, P, K = 8, 4, 96, 48, 4  # 8x8 patches of 4 pixels: images of 32x32
B, STEPS, LR, MOMENTUM = 64, 200, 1e-3, 0.99


def positions(width: int) -> Tensor:
    """2-D sine-cosine table [N, width]: half for the column, half for the row."""
    frequency = 10000 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.outer(torch.arange(G).float(), frequency)
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # [G, width/2]
    return torch.cat([axis.repeat(G, 1), axis.repeat_interleave(G, 0)], dim=1)


def blocks(width: int, depth: int, heads: int) -> nn.Module:
    """A pre-norm transformer."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens [B, N, D] at index [B, V] -> [B, V, D]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class Encoder(nn.Module):
    """Encodes the visible patches; hidden ones are dropped before the first block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, D, PATCH, PATCH)
        self.blocks = blocks(D, depth=3, heads=3)
        self.register_buffer("table", positions(D))

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.table  # [B, N, D]
        return self.blocks(tokens if visible is None else pick(tokens, visible))


class Predictor(nn.Module):
    """Predicts each target block from [context ; mask tokens at the block's positions]."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.widen = nn.Linear(D, P), nn.Linear(P, D)
        self.mask_token = nn.Parameter(torch.zeros(P))
        self.blocks = blocks(P, depth=2, heads=2)
        self.register_buffer("table", positions(P))

    def forward(self, context: Tensor, visible: Tensor, targets: Tensor) -> Tensor:
        seen = self.narrow(context) + self.table[visible]  # [B, V, P]
        asked = self.mask_token + self.table[targets.flatten(0, 1)]  # [B*K, T, P]
        out = self.blocks(torch.cat([seen.repeat_interleave(K, 0), asked], dim=1))
        return self.widen(out[:, -targets.shape[2] :]).unflatten(0, targets.shape[:2])  # [B, K, T, D]


def draw_masks() -> tuple[Tensor, Tensor]:
    """One block size for the batch, K places per image; the context is what no block covers.

    All images keep the same number of visible patches, chosen at random, not by position.
    """
    height = int(torch.randint(2, 5, ()))
    width = max(2, 10 // height)
    tops, lefts = torch.randint(0, G - height + 1, (B, K)), torch.randint(0, G - width + 1, (B, K))
    offsets = (torch.arange(height)[:, None] * G + torch.arange(width)).flatten()
    targets = (tops * G + lefts)[..., None] + offsets  # [B, K, T]
    hidden = torch.zeros(B, G * G, dtype=torch.bool).scatter_(1, targets.flatten(1), True)
    count = int((~hidden).sum(1).min())
    return torch.rand(B, G * G).masked_fill(hidden, -1.0).topk(count).indices, targets


def draw_images() -> tuple[Tensor, Tensor]:
    """Coloured stripes [B, 3, 32, 32] at one of four angles; the angle is the label."""
    label = torch.randint(0, 4, (B,))
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    angle = (label * math.pi / 4)[:, None, None]
    phase, pitch = torch.rand(2, B, 1, 1) * 6
    wave = torch.sin((x * angle.cos() + y * angle.sin()) * (0.5 + pitch / 8) + phase)
    return wave[:, None] * torch.rand(B, 3, 1, 1) + 0.1 * torch.randn(B, 3, 32, 32), label


def train_step(student: Encoder, predictor: Predictor, teacher: Encoder, optimizer, step: int) -> float:
    """Targets -> prediction -> loss -> gradient step -> move the teacher, in this order."""
    images, _ = draw_images()
    visible, targets = draw_masks()
    for group in optimizer.param_groups:
        group["lr"] = LR * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / STEPS))

    with torch.no_grad():  # the teacher sees the whole image and is never trained by gradient
        full = F.layer_norm(teacher(images), (D,))
        wanted = pick(full, targets.flatten(1)).unflatten(1, targets.shape[1:])
    loss = F.smooth_l1_loss(predictor(student(images, visible), visible, targets), wanted)

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    momentum = MOMENTUM + (1.0 - MOMENTUM) * step / STEPS  # linear to 1
    with torch.no_grad():  # after the step, with the new weights, once
        for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1.0 - momentum)
    return loss.item()


def probe(encoder: Encoder) -> float:
    """Nearest-neighbour accuracy of the mean token, on fresh pictures; chance is 0.25."""
    with torch.no_grad():
        sets = [draw_images() for _ in range(10)]
        features = F.normalize(torch.cat([encoder(images).mean(1) for images, _ in sets]), dim=1)
    labels = torch.cat([label for _, label in sets])
    nearest = (features[:128] @ features[128:].T).argmax(1)
    return (labels[:128] == labels[128:][nearest]).float().mean().item()


def main() -> None:
    """Train, and compare the teacher with an untrained encoder."""
    torch.manual_seed(0)
    student, predictor = Encoder(), Predictor()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    untrained = probe(teacher)
    optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], weight_decay=0.04)
    for step in range(STEPS):
        loss = train_step(student, predictor, teacher, optimizer, step)
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step:4d}  loss {loss:.4f}")
    print(f"nearest neighbour: untrained {untrained:.2f}, pretrained {probe(teacher):.2f}, chance 0.25")


if __name__ == "__main__":
    main()
