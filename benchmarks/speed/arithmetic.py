"""How the arithmetic of a step grows: counted, not timed, so that it is the same on every machine.

    python -m benchmarks.speed.arithmetic > benchmarks/results/speed/arithmetic.md

Forward and backward passes run on PyTorch's meta device, which computes nothing; torch.utils.flop_counter counts the
matrix products. The optimizer and the average are not counted. Exponents are slopes of log(GFLOP).
"""

from dataclasses import replace

import torch
from benchmarks.speed.plain_loop import Encoder, pick
from benchmarks.speed.plain_loop import Predictor as PlainPredictor
from benchmarks.speed.scaling import QUESTIONS, amount, label, slope
from benchmarks.speed.sizes import LARGE, SIZES, Size
from torch.utils.flop_counter import FlopCounterMode

from hjepa.masking import MaskSettings, MultiBlockSampler
from hjepa.models.encoder import build_encoder, set_attention
from hjepa.models.hjepa import HJEPA
from hjepa.models.levels import Level, last_level, level_widths
from hjepa.models.predictor import Predictor
from hjepa.models.target import TargetEncoder
from hjepa.training.objective import levels_loss

Masks = tuple[torch.Tensor, torch.Tensor]


def masks_of(size: Size) -> Masks:
    """Return context [B, V] and target blocks [B, K, T] of our sampler, without their numbers."""
    side = size.image // size.patch
    drawn = MultiBlockSampler((side, side), MaskSettings(), seed=0).sample(0, size.batch)
    return tuple(torch.empty(part.shape, dtype=torch.int64, device="meta") for part in (drawn.context, drawn.targets))


def product(size: Size) -> HJEPA:
    """Build the product's model, without weights."""
    width, depth, heads = size.encoder
    levels = [Level(*level) for level in size.levels or ()] or last_level(depth)
    encoder = build_encoder(
        image_size=(size.image, size.image), patch_size=size.patch, channels=3, width=width, depth=depth, heads=heads
    )
    narrow, shallow, predictor_heads = size.predictor
    widths = level_widths(levels, encoder_width=width, patch_size=size.patch, channels=3)
    predictor = Predictor(
        grid=encoder.grid((size.image, size.image)),
        encoder_width=width,
        target_widths=widths,
        width=narrow,
        depth=shallow,
        heads=predictor_heads,
    )
    return HJEPA(encoder, predictor, TargetEncoder(encoder, lambda _step: 0.996), levels)


def counted(size: Size, masks: Masks) -> tuple[float, float, int]:
    """Return GFLOP an image of the product and of the plain loop, and the number of the product's parameters."""
    context, targets = masks
    with torch.device("meta"):
        images = torch.empty(size.batch, 3, size.image, size.image)
        model = product(size)
        set_attention(model, "plain")
        with FlopCounterMode(display=False) as ours:
            forward = model(images, context, targets)
            levels_loss(forward, "smooth-l1", [1 / len(model.levels)] * len(model.levels)).backward()
        side = size.image // size.patch
        student, teacher = (Encoder(*size.encoder, size.patch, side) for _ in range(2))
        predictor = PlainPredictor(size.encoder[0], *size.predictor, side)
        with FlopCounterMode(display=False) as plain:
            with torch.no_grad():
                wanted = pick(teacher(images), targets.flatten(1)).unflatten(1, targets.shape[1:])
            (predictor(student(images, context), context, targets) - wanted).square().mean().backward()
    trained = sum(p.numel() for part in (model.context_encoder, model.predictor) for p in part.parameters())
    return ours.get_total_flops() / size.batch / 1e9, plain.get_total_flops() / size.batch / 1e9, trained


def main() -> None:
    print("# How the arithmetic of a step grows\n")
    print(
        "`python -m benchmarks.speed.arithmetic`: GFLOP an image of the matrix products of forward and backward passes,"
    )
    print(
        f"masks of our sampler, torch {torch.__version__}. Counted on the meta device, so the same on every machine.\n"
    )
    print("## The sizes of the benchmark\n\n| | product | plain loop | product / plain |\n|---|---|---|---|")
    differing = {(size.image, size.name): size for size in SIZES.values()}  # an image's share is that of any batch
    for size in [*differing.values(), replace(SIZES["b16"], name="ViT-L/16", encoder=LARGE)]:
        one = replace(size, batch=8)
        ours, plain, _ = counted(one, masks_of(one))
        print(f"| {size.image} px, {size.name} | {ours:.2f} | {plain:.2f} | {ours / plain:.3f} |", flush=True)
    for what, sizes in QUESTIONS.items():
        print(f"\n## {what}\n\n| | GFLOP an image | of the first |\n|---|---|---|")
        masks = masks_of(sizes[0])
        found = [counted(size, masks if what == "levels" else masks_of(size)) for size in sizes]
        for size, (ours, _, _) in zip(sizes, found, strict=True):
            print(f"| {label(size)} | {ours:.3f} | {ours / found[0][0]:.3f} |", flush=True)
        if what != "levels":
            xs, ys = (
                [amount(size, each[2]) for size, each in zip(sizes, found, strict=True)],
                [each[0] for each in found],
            )
            each = ", ".join(f"{slope(xs[k : k + 2], ys[k : k + 2]):.2f}" for k in range(len(xs) - 1))
            print(f"\nExponent over {'patches' if what == 'images' else 'trained parameters'}: {slope(xs, ys):.2f};")
            print(f"from one to the next {each}.")


if __name__ == "__main__":
    main()
