"""DINOv2 from lightly's building blocks, in the order of its examples/pytorch/dinov2.py: 4 epochs of 6 batches."""

import copy

import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models.modules import DINOv2ProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.utils import random_block_mask, update_drop_path_rate, update_momentum
from lightly.utils.scheduler import cosine_schedule, linear_warmup_schedule
from timm.models.vision_transformer import VisionTransformer

EPOCHS, BATCHES = 4, 6


class DINOv2(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        vit = VisionTransformer(
            img_size=64, patch_size=8, embed_dim=64, depth=2, num_heads=4, pos_embed="learn", dynamic_img_size=True,
            init_values=1e-5, num_classes=0,
        )  # fmt: skip
        self.teacher_backbone = MaskedVisionTransformerTIMM(vit=vit, antialias=False, pos_embed_initialization="skip")
        self.student_backbone = copy.deepcopy(self.teacher_backbone)
        update_drop_path_rate(self.student_backbone.vit, drop_path_rate=0.1, mode="uniform")
        sizes = {"input_dim": 64, "hidden_dim": 64, "bottleneck_dim": 32, "output_dim": 256}
        self.teacher_head, self.student_head = DINOv2ProjectionHead(**sizes), DINOv2ProjectionHead(**sizes)
        for module in (self.teacher_backbone, self.teacher_head):
            module.requires_grad_(False).eval()


torch.manual_seed(0)
model = DINOv2()
dino, ibot, koleo = DINOLoss(output_dim=256), IBOTPatchLoss(output_dim=256), KoLeoLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
total = EPOCHS * BATCHES
for step in range(total):
    both, local = torch.randn(8, 3, 64, 64), torch.randn(8, 3, 32, 32)
    blocks = random_block_mask(size=(8, 8, 8), device=both.device)
    mask = torch.cat([torch.zeros(8, 1, dtype=torch.bool), blocks.flatten(1)], dim=1)
    with torch.no_grad():
        seen = model.teacher_backbone.encode(both)
        teacher_cls, teacher_masked = model.teacher_head(seen[:, 0]), model.teacher_head(seen[mask])
    hidden = model.student_backbone.encode(both, mask=mask)
    cls = model.student_head(hidden[:, 0])
    local_cls = model.student_head(model.student_backbone.encode(local)[:, 0])
    temperature = linear_warmup_schedule(step=step, warmup_steps=total // 2, start_value=0.04, end_value=0.07)
    student_views = torch.cat([cls, local_cls]).chunk(4)
    loss = dino(teacher_out=teacher_cls.chunk(2), student_out=student_views, teacher_temp=temperature)
    loss = loss + ibot(
        teacher_out=teacher_masked, student_out=model.student_head(hidden[mask]), mask=blocks, teacher_temp=temperature
    )
    loss = loss + 0.1 * sum(koleo(part) for part in hidden[:, 0].chunk(2))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    momentum = cosine_schedule(step=step, max_steps=total, start_value=0.992, end_value=1.0)
    update_momentum(model.student_backbone, model.teacher_backbone, m=momentum)
    update_momentum(model.student_head, model.teacher_head, m=momentum)
