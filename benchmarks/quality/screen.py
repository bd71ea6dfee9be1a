"""Screening: one idea, one short run of the library's parts on Fashion-MNIST, one line of results.

    python benchmarks/quality/screen.py name="no term" vc=0 images=90000

For ideas that are not settings of the library, and may never be. What it finds is a lead: what holds goes into the
library and is repeated by the laboratory (lab.py). Results are appended to ``--results`` as JSON lines. One thread.
Protocol: the first 10,000 training images to fit, the first 5,000 test images (``fit=``, ``test=``); k-NN cosine,
better of k 10 and 20; low-shot ten labels a class, 4 draws. ``std``: features standardised by the training images;
``soft``: and their 256 principal axes half whitened, each divided by the fourth root of its variance.
"""

import argparse
import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.api import load_encoder
from hjepa.data.sources import open_source
from hjepa.evaluation.knn import knn
from hjepa.evaluation.linear import fit_standardised, linear
from hjepa.evaluation.lowshot import draw
from hjepa.masking.multiblock import MaskSettings, MultiBlockSampler
from hjepa.models.encoder import build_encoder, set_attention
from hjepa.models.initialisation import initialise
from hjepa.models.levels import normalise_targets, patch_gradients, patch_pixels
from hjepa.models.predictor import Predictor
from hjepa.setup.machine import autocast_dtype, choose_precision
from hjepa.training.health import effective_rank
from hjepa.training.muon import Muon
from hjepa.training.objective import context_variance_covariance, variance_covariance
from hjepa.training.schedules import WarmupCosine

PRECISION = choose_precision("auto", torch.device("cpu"))[0]
DEFAULTS = {
    "name": "",  # pixels, gradients: evaluate these themselves
    "images": 90_000,  # of training
    "fit": 10_000,  # labelled images that evaluation may use
    "test": 5_000,
    "run": "",  # evaluate the encoder of a run folder instead of training one
    "save": "",  # a file for the trained encoder's weights
    "seed": 0,
    "patch": 4,
    "width": 128,
    "depth": 4,
    "heads": 4,
    "pwidth": 64,
    "pdepth": 2,
    "batch": 128,
    "lr": 1e-3,
    "wd": 0.04,
    "optimizer": "adamw",  # or muon
    "init": "xavier",  # released, xavier, mimetic
    "white": 0.0,  # patch embedding that whitens patches: size (root mean square) of what it hands on; 0 off
    "whitepower": 0.5,  # 0.5 whitens, 0.25 half
    "stem": "linear",  # mlp: a hidden layer inside the patch
    "vc": 0.2,  # variance-covariance on context tokens without their position
    "vcgrid": 0,  # or on pooled cells of the context (0 off)
    "vcfall": 1,  # its weight falls to 0
    "targets": 4,
    "scale": (0.15, 0.2),
    "context": (0.85, 1.0),
    "masks": "block",  # random: keep a share of patches, predict all others in one sequence; inverse: one hidden block
    "keep": 0.4,
    "seen": 0,  # random masks: predict the visible patches, too
    "views": 1,  # masks of an image for each pass of the teacher
    "norm": "token",  # of targets: token, place (less the mean of their place, then token), place-std, whiten
    "average": 1,  # last blocks of the teacher that are averaged
    "depths": (),  # levels: depths of the teacher, 0 for pixels, -1 for histograms of gradients
    "momentum": 0.996,
    "final": 1.0,
    "loss": "smooth-l1",  # cluster: positional clustering as in CAPI
    "clusters": 256,
    "flip": 0.5,
    "shift": 0,
    "crop": 0.0,  # smallest area of random crops
    "jitter": 0.0,
    "context_noise": 0.0,
    "predict": 1.0,  # weight of the prediction; 0: the control that only the regulariser teaches
    "deep": 0.0,  # weight of predicting also from the middle block of the student
    "rival": "",  # supervised, simclr: what else the same encoder would learn in the same images; no prediction
    "glob": 0.0,  # weight of predicting the pooled target from the pooled context
}


def parse(words: list[str]) -> dict:
    settings = dict(DEFAULTS)
    for word in words:
        key, value = word.split("=", 1)
        if key not in settings:
            raise SystemExit(f"unknown setting {key}")
        old = settings[key]
        if isinstance(old, tuple):
            settings[key] = tuple(json.loads(f"[{value}]"))
        else:
            settings[key] = type(old)(float(value)) if isinstance(old, int) else type(old)(value)
    return settings


def load(split: str, count: int | None = None) -> tuple[Tensor, np.ndarray]:
    source = open_source(f"fashion-mnist:{split}")
    images = source.batch(range(len(source)))
    x = torch.from_numpy(images).reshape(-1, 1, 28, 28).float() / 255
    return x[:count], next(iter(source.labels.values()))[:count]


def autocast() -> torch.autocast:
    dtype = autocast_dtype(PRECISION)
    return torch.autocast("cpu", dtype, enabled=dtype is not None)


def normalise(x: Tensor) -> Tensor:
    return (x - 0.286) / 0.353


# ---- parts that are not in the library ----------------------------------------------------------------------------


class Stem(nn.Module):
    """A patch embedding with a hidden layer, confined to the patch."""

    def __init__(self, inner: nn.Module, patch: int, width: int) -> None:
        super().__init__()
        self.patch, self.grid_size = patch, inner.grid_size
        self.net = two_layers(patch * patch, 2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        g = x.shape[-1] // self.patch
        return self.net(patch_pixels(x, self.patch)).unflatten(1, (g, g))


def take(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def random_masks(n: int, batch: int, keep: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    order = torch.from_numpy(np.argsort(rng.random((batch, n)), axis=1))
    v = round(keep * n)
    return order[:, :v].sort(1).values, order[:, None, v:]


def inverse_masks(side: int, batch: int, keep: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Keep one block of about ``keep`` of the grid, rolled around its edges; predict everything else."""
    area = keep * side * side
    low, high = math.ceil(area / side), side
    h = int(rng.integers(max(2, low), high))
    w = max(1, min(side, round(area / h)))
    corner = rng.integers(0, side, (batch, 2))
    rows = (corner[:, :1] + np.arange(h)) % side
    cols = (corner[:, 1:] + np.arange(w)) % side
    seen = np.zeros((batch, side, side), bool)
    for i in range(batch):
        seen[i][np.ix_(rows[i], cols[i])] = True
    flat = seen.reshape(batch, -1)
    order = np.argsort(~flat, axis=1, kind="stable")
    v = h * w
    return torch.from_numpy(order[:, :v]), torch.from_numpy(order[:, None, v:])


def sinkhorn(logits: Tensor, temperature: float = 0.06, rounds: int = 3) -> Tensor:
    """Assign [B, N, K] so that at every place the images fill the clusters evenly."""
    q = (logits / temperature - (logits / temperature).amax((0, 2), keepdim=True)).exp()
    for _ in range(rounds):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-8)
        q = q / q.sum(2, keepdim=True).clamp_min(1e-8)
    return q


def whiten_patches(encoder, x: Tensor, patch: int, size: float, power: float, seed: int) -> None:
    """Let the patch embedding divide the principal axes of patches by their spread, then rotate at random."""
    rows = patch_pixels(normalise(x[:5000]), patch).flatten(0, 1).double()
    values, vectors = torch.linalg.eigh((rows - rows.mean(0)).T.cov())
    proj = encoder.vit.patch_embed.proj
    width = proj.weight.shape[0]
    rotation = torch.linalg.qr(
        torch.randn(width, len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )[0]
    scale = (values + 1e-2 * values.mean()) ** -power
    scale = scale * size * math.sqrt(width / (values * scale.square()).sum())
    weight = rotation @ torch.diag(scale) @ vectors.T
    with torch.no_grad():
        proj.weight.copy_(weight.view_as(proj.weight).float())
        proj.bias.copy_(-(weight @ rows.mean(0)).float())


# ---- one run -------------------------------------------------------------------------------------------------------


def augment(x: Tensor, s: dict, rng: torch.Generator) -> Tensor:
    b = len(x)
    if s["flip"]:
        flip = torch.rand(b, generator=rng) < s["flip"]
        x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    if s["crop"] or s["shift"]:
        scale = torch.ones(b)
        if s["crop"]:
            scale = (s["crop"] + (1 - s["crop"]) * torch.rand(b, generator=rng)).sqrt()
        move = (1 - scale)[:, None] * (2 * torch.rand(b, 2, generator=rng) - 1)
        move = move + 2 * s["shift"] / 28 * (2 * torch.rand(b, 2, generator=rng) - 1)
        theta = torch.zeros(b, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale, scale, move
        x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    if s["jitter"]:
        gain = 1 + s["jitter"] * (2 * torch.rand(b, 1, 1, 1, generator=rng) - 1)
        x = (x * gain).clamp(0, 1)
    return x


@dataclass
class Parts:
    """What one run trains, and the teacher that follows the encoder."""

    encoder: nn.Module
    predictor: nn.Module
    extra: nn.ModuleDict
    """Heads that are not in the library: prototypes, deep, glob; head of a rival."""
    teacher: nn.Module

    def trained(self, s: dict) -> list[nn.Module]:
        # A rival's head hangs on the encoder.
        return [self.encoder, self.predictor] if s["rival"] else [self.encoder, self.predictor, self.extra]


def depths_of(s: dict) -> tuple[int, ...]:
    return tuple(int(d) for d in s["depths"]) or (s["depth"],)


def two_layers(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


def build(s: dict) -> Parts:
    side, width = 28 // s["patch"], s["width"]
    encoder = build_encoder(
        image_size=(28, 28), patch_size=s["patch"], channels=1, width=width, depth=s["depth"], heads=s["heads"]
    )
    cluster = s["loss"] == "cluster"
    widths = [{0: s["patch"] ** 2, -1: 36}.get(d, width) for d in depths_of(s)]
    predictor = Predictor(
        grid=(side, side),
        encoder_width=width,
        target_widths=[s["clusters"]] if cluster else widths,
        width=s["pwidth"],
        depth=s["pdepth"],
        heads=2,
    )
    if s["stem"] == "mlp":
        encoder.vit.patch_embed = Stem(encoder.vit.patch_embed, s["patch"], width)
    initialise(encoder, seed=s["seed"], kind=s["init"])
    if s["white"]:
        whiten_patches(encoder, load("train")[0], s["patch"], s["white"], s["whitepower"], s["seed"])
    initialise(predictor, seed=s["seed"] + 1, kind="released" if s["init"] == "released" else "xavier")
    extra = nn.ModuleDict()
    if cluster:
        extra["prototypes"] = nn.Linear(width, s["clusters"], bias=False)
        nn.init.normal_(extra["prototypes"].weight)
    for name in ("deep", "glob"):
        if s[name]:
            extra[name] = two_layers(width, width, width)
    for module in (encoder, predictor):
        set_attention(module, "plain")
    teacher = copy.deepcopy(encoder).requires_grad_(False).eval()
    if s["rival"]:
        extra["head"] = two_layers(width, 2 * width, 10 if s["rival"] == "supervised" else width)
        encoder.head = extra["head"]
    return Parts(encoder, predictor, extra, teacher)


def optimizer_of(s: dict, modules: list[nn.Module]) -> torch.optim.Optimizer:
    named = [pair for module in modules for pair in module.named_parameters() if pair[1].requires_grad]
    if s["optimizer"] == "muon":
        inside = [p for name, p in named if p.ndim == 2 and "blocks" in name]
        others = [p for name, p in named if not (p.ndim == 2 and "blocks" in name)]
        halves = [{"params": inside, "orthogonal": True}, {"params": others, "orthogonal": False}]
        return Muon([half | {"weight_decay": s["wd"]} for half in halves], betas=(0.9, 0.999))
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": s["wd"]},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=s["lr"], fused=True)


class Masks:
    """Context and target places of each step, as ``masks`` says."""

    def __init__(self, s: dict) -> None:
        self.s, self.side, self.rng = s, 28 // s["patch"], np.random.default_rng(s["seed"])
        if s["masks"] == "block":
            settings = MaskSettings(
                num_targets=s["targets"], target_scale=s["scale"], context_scale=s["context"], min_context=4
            )
            self.blocks = MultiBlockSampler((self.side, self.side), settings, seed=s["seed"])

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        s, n = self.s, self.side**2
        if s["masks"] == "block":
            masks = self.blocks.sample(step, s["batch"])
            return torch.from_numpy(masks.context), torch.from_numpy(masks.targets)
        if s["masks"] == "inverse":
            return inverse_masks(self.side, s["batch"], s["keep"], self.rng)
        context, hidden = random_masks(n, s["batch"], s["keep"], self.rng)
        return context, torch.arange(n).expand(s["batch"], 1, n) if s["seen"] else hidden


@torch.no_grad()
def targets(s: dict, teacher: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the normalised targets of each level, and the teacher's last block as it is."""
    averaged = range(s["depth"] - s["average"] + 1, s["depth"] + 1)
    wanted = sorted({*averaged, *(d for d in depths_of(s) if d > 0)})
    by_depth = {d: t.float() for d, t in zip(wanted, teacher(images, depths=wanted), strict=True)}
    levels = []
    for d in depths_of(s):
        if d == 0:
            tokens = patch_pixels(images, s["patch"])
        elif d == -1:
            tokens = patch_gradients(images, s["patch"])
        elif d == s["depth"] and s["average"] > 1:
            tokens = sum(normalise_targets(by_depth[i]) for i in averaged) / s["average"]
        else:
            tokens = by_depth[d]
        levels.append(normalise_cells(tokens, s["norm"]))
    return levels, by_depth[s["depth"]]


def goals(s: dict, of_images: Tensor, target_index: Tensor) -> Tensor:
    """Take targets ``[images, N, D]`` at the target places of every view."""
    return take(of_images.repeat(s["views"], 1, 1), target_index.flatten(1)).unflatten(1, target_index.shape[1:])


def prediction_loss(s: dict, predictions: list[Tensor], levels: list[Tensor], target_index: Tensor) -> Tensor:
    return sum(
        F.smooth_l1_loss(found.float(), goals(s, level, target_index)) / len(levels)
        for found, level in zip(predictions, levels, strict=True)
    )


def cluster_loss(s: dict, prototypes: nn.Linear, found: Tensor, level: Tensor, target_index: Tensor) -> Tensor:
    logits = F.linear(F.normalize(level.float(), dim=-1), F.normalize(prototypes.weight, dim=-1))
    with torch.no_grad():
        assigned = sinkhorn(logits)
    own = -(assigned * F.log_softmax(logits / 0.12, -1)).sum(-1).mean()
    return own - (goals(s, assigned, target_index) * F.log_softmax(found.float() / 0.12, -1)).sum(-1).mean()


def one_step(s: dict, parts: Parts, images: Tensor, masks: tuple[Tensor, Tensor], fall: float, random) -> tuple:
    """Return the loss of a step, and its part that is the prediction."""
    context_index, target_index = masks
    middle = None
    with autocast():
        levels, last = targets(s, parts.teacher, images)
        seen = images.repeat(s["views"], 1, 1, 1)
        if s["context_noise"]:
            seen = seen + s["context_noise"] * torch.randn(seen.shape, generator=random)
        if s["deep"]:
            middle, context = parts.encoder(seen, context_index, depths=[s["depth"] // 2, s["depth"]])
        else:
            context = parts.encoder(seen, context_index)
        predictions = parts.predictor(context, context_index, target_index)
    if s["loss"] == "cluster":
        own = cluster_loss(s, parts.extra["prototypes"], predictions[0], levels[0], target_index)
    else:
        own = prediction_loss(s, predictions, levels, target_index)
    loss = s["predict"] * own
    if middle is not None:
        goal = take(levels[-1].repeat(s["views"], 1, 1), context_index)
        loss = loss + s["deep"] * F.smooth_l1_loss(parts.extra["deep"](middle.float()), goal)
    if s["glob"]:
        goal = normalise_cells(last.mean(1), s["norm"]).repeat(s["views"], 1)
        loss = loss + s["glob"] * F.smooth_l1_loss(parts.extra["glob"](context.float().mean(1)), goal)
    if s["vc"]:
        loss = loss + fall * s["vc"] * context_variance_covariance(context, context_index, levels[0].shape[1])
    if s["vcgrid"]:
        loss = loss + fall * s["vcgrid"] * variance_covariance(context.float().mean(1))
    return loss, float(own.detach())


def train(s: dict) -> tuple[nn.Module, dict]:
    torch.manual_seed(s["seed"])
    torch.set_num_threads(1)
    parts = build(s)
    modules, steps = parts.trained(s), s["images"] // s["batch"]
    optimizer = optimizer_of(s, modules)
    lr = WarmupCosine(1e-4, s["lr"], 1e-6, round(0.1 * steps), steps)
    masks, random = Masks(s), torch.Generator().manual_seed(s["seed"])
    x, y = load("train")
    if s["rival"]:
        return rival(s, parts.encoder, x, torch.from_numpy(np.asarray(y)), optimizer, lr, steps)
    order, taken = torch.randperm(len(x), generator=random), 0
    per = s["batch"] // s["views"]  # images of a step; each is seen `views` times
    began, losses = time.perf_counter(), []
    for step in range(steps):
        if taken + per > len(x):
            order, taken = torch.randperm(len(x), generator=random), 0
        images = normalise(augment(x[order[taken : taken + per]], s, random))
        taken += per
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        fall = 0.5 * (1 + math.cos(math.pi * (step + 1) / steps)) if s["vcfall"] else 1.0
        loss, own = one_step(s, parts, images, masks.draw(step), fall, random)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for m in modules for p in m.parameters() if p.grad is not None], 3.0)
        if math.isfinite(float(norm)):
            optimizer.step()
            m = s["momentum"] + (s["final"] - s["momentum"]) * step / steps
            with torch.no_grad():
                for t, c in zip(parts.teacher.parameters(), parts.encoder.parameters(), strict=True):
                    t.lerp_(c, 1 - m)
        optimizer.zero_grad()
        losses.append(own)
    return parts.teacher, told_of(began, steps, losses)


def told_of(began: float, steps: int, losses: list[float]) -> dict:
    seconds = round(time.perf_counter() - began, 1)
    return {"steps": steps, "seconds": seconds, "loss": round(float(np.mean(losses[-20:])), 4)}


def rival(s: dict, encoder, x: Tensor, y: Tensor, optimizer, lr, steps: int):
    """Train the encoder on labels, or by contrast of two crops (SimCLR), to know what there is to be had."""
    random, began, losses = torch.Generator().manual_seed(s["seed"]), time.perf_counter(), []
    for step in range(steps):
        rows = torch.randint(len(x), (s["batch"],), generator=random)
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        views = [normalise(augment(x[rows], s, random)) for _ in range(1 if s["rival"] == "supervised" else 2)]
        with autocast():
            z = encoder.head(encoder(torch.cat(views)).mean(1)).float()
        if s["rival"] == "supervised":
            loss = F.cross_entropy(z, y[rows])
        else:
            z = F.normalize(z, dim=1)
            same = torch.arange(2 * len(rows)).roll(len(rows))
            alike = (z @ z.T / 0.2).fill_diagonal_(-1e9)
            loss = F.cross_entropy(alike, same)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in encoder.parameters() if p.grad is not None], 3.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    del encoder.head
    return encoder, told_of(began, steps, losses)


def normalise_cells(tokens: Tensor, kind: str) -> Tensor:
    if kind == "token":
        return normalise_targets(tokens)
    if kind == "place":
        return normalise_targets(tokens - tokens.mean(0))
    if kind == "place-std":
        z = normalise_targets(tokens)
        z = z - z.mean(0)
        return z / (z.square().mean(tuple(range(z.ndim - 1)), keepdim=True) + 1e-6).sqrt()
    z = normalise_targets(tokens)
    z = (z - z.mean(0)).flatten(0, -2)
    values, vectors = torch.linalg.eigh((z.T @ z / len(z)).double())
    white = vectors * (values.clamp_min(0) + 1e-2 * values.mean()).rsqrt() @ vectors.T
    return (z @ white.float()).view(tokens.shape)


# ---- evaluation ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def features(encoder: nn.Module, x: Tensor) -> dict[str, np.ndarray]:
    out: dict[str, list[Tensor]] = {}
    for part in normalise(x).split(500):
        with autocast():
            blocks = [t.float() for t in encoder.block_tokens(part, 4)]
        last = blocks[-1]
        side = math.isqrt(last.shape[1])
        plane = last.transpose(1, 2).unflatten(2, (side, side))
        pooled = {"avg": last.mean(1)}
        for g in (2, 4):
            pooled[f"g{g}"] = F.adaptive_avg_pool2d(plane, g).flatten(1)
        pooled["last4"] = torch.cat([t.mean(1) for t in blocks], 1)
        for name, values in pooled.items():
            out.setdefault(name, []).append(values)
    return {name: torch.cat(values).numpy() for name, values in out.items()}


def judge(train_f: dict, train_y, test_f: dict, test_y) -> dict:
    found = {}
    for name, a in train_f.items():
        b = test_f[name]
        found[f"knn {name}"] = knn(a, train_y, b, test_y, ks=(10, 20)).accuracy
        mean, std = a.mean(0), a.std(0) + 1e-6
        za, zb = (a - mean) / std, (b - mean) / std
        found[f"knn {name} std"] = knn(za, train_y, zb, test_y, ks=(10, 20)).accuracy
        values, vectors = np.linalg.eigh(za.T.astype(np.float64) @ za / len(za))
        soft = (vectors * values.clip(1e-4) ** -0.25)[:, -256:].astype(np.float32)
        found[f"knn {name} soft"] = knn(za @ soft, train_y, zb @ soft, test_y, ks=(10, 20)).accuracy
        if name in ("avg", "g2", "pixels"):
            found[f"linear {name}"] = (fit_standardised(a[None], train_y, [0.01], 100).predict(b) == test_y).mean()
            if name in ("avg", "pixels"):  # C 0.01 favours features of even spread: see also the best C
                found[f"linear {name} best C"] = linear(a, train_y, b, test_y).accuracy
        if name in ("avg", "g2", "g4", "pixels"):
            hits = []
            for number in range(4):
                rows = draw(train_y, 10, seed=0, number=number)
                hits.append((fit_standardised(a[rows][None], train_y[rows], [0.01], 200).predict(b) == test_y).mean())
            found[f"low {name}"] = float(np.mean(hits))
    return {k: round(100 * float(v), 1) for k, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--results", default="runs/screen.jsonl")
    given = parser.parse_args()
    Path(given.results).parent.mkdir(parents=True, exist_ok=True)
    s = parse(given.settings)
    train_x, train_y = load("train", s["fit"])
    test_x, test_y = load("test", s["test"])
    if s["name"] in ("pixels", "gradients"):
        of_patches = patch_pixels if s["name"] == "pixels" else patch_gradients
        sets = (
            {"pixels": of_patches(x, s["patch"]).flatten(1).numpy()} for x in (normalise(train_x), normalise(test_x))
        )
        found = judge(next(sets), train_y, next(sets), test_y)
        told = {}
    else:
        teacher, told = (load_encoder(s["run"]).encoder, {}) if s["run"] else train(s)
        if s["save"]:
            torch.save(teacher.state_dict(), s["save"])
        train_f, test_f = features(teacher, train_x), features(teacher, test_x)
        told["rank"] = round(effective_rank(torch.from_numpy(test_f["avg"][:2000])), 1)
        centred = torch.from_numpy(test_f["avg"][:2000])
        told["rank centred"] = round(effective_rank(centred - centred.mean(0)), 1)
        found = judge(train_f, train_y, test_f, test_y)
    changed = {k: v for k, v in s.items() if v != DEFAULTS[k] and k not in ("name", "save")}
    line = {"name": s["name"], "changed": changed, "precision": PRECISION, **told, **found}
    with Path(given.results).open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
