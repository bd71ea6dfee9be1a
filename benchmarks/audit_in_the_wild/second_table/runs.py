"""The programs of the second table."""

from programs import Run, profile


def run(package: str, driver: str, specification: tuple[str, ...], driven: str, source: str, *, note: str = "",
        arguments: tuple[str, ...] = (), steps: int = 20) -> Run:  # fmt: skip
    """Return a row of this table."""
    return Run(package, driver, specification, driven, source, arguments, "second", "second", steps, note)


OWN = "The README passes `learner.parameters()` to the optimizer, which holds the frozen teacher, too."
EVERY = "The documentation's first example attaches it to every fifth iteration; the momentum is per update."
RUNS = (
    run(
        "vit-pytorch", "vit_pytorch", ("--momentum", "0.9"), "`Dino(ViT(...))` and `update_moving_average()`",
        "lucidrains/vit-pytorch: README, Dino", note=f"{OWN} 0.9 is the README's value.",
    ),
    run(
        "vit-pytorch", "vit_pytorch", ("--momentum", "0.9"), "`EsViTTrainer(resnet18())`",
        "lucidrains/vit-pytorch: README, EsViT", arguments=("esvit",), note=OWN,
    ),
    run(
        "torch-ema", "torch_ema", (), "`ExponentialMovingAverage(..., decay=0.995)`, validation under "
        "`average_parameters()`", "fadel/pytorch_ema: README",
        note="The average is a list of tensors. Its momentum begins at 2/11 and rises, as `use_num_updates` documents.",
    ),
    run(
        "pytorch-ignite", "ignite", ("--momentum", "0.9998"), "`EMAHandler(model, momentum=0.0002)`, every iteration",
        "pytorch/ignite: documentation of EMAHandler",
        note="The handler's momentum is the model's coefficient; the teacher's is 1 less this.",
    ),
    run(
        "pytorch-ignite", "ignite", ("--momentum", "0.9998"), "the same, `Events.ITERATION_COMPLETED(every=5)`",
        "pytorch/ignite: documentation of EMAHandler", arguments=("every5",), note=EVERY,
    ),
    run(
        "diffusers", "diffusers", (), "`EMAModel(..., use_ema_warmup=True, power=0.75)` beside a small `UNet2DModel`, "
        "sampled with `store()`, `copy_to()`, `restore()`", "huggingface/diffusers: "
        "examples/unconditional_image_generation", note="The average is a list of tensors. The documented warm-up "
        "begins with copies of the model.",
    ),
    run(
        "denoising-diffusion-pytorch", "denoising_diffusion", ("--momentum", "0.995"),
        "`Trainer(GaussianDiffusion(...))` on a folder of random images, 2 micro-batches",
        "lucidrains/denoising-diffusion-pytorch: README",
        note="Its average is ema-pytorch's `EMA` with `ema_update_every=10`, the Trainer's default. Both "
        "failures are as documented: the first 100 steps copy the model, and updates come every tenth step (first "
        "table, ema-pytorch).",
    ),
    run(
        "stable-baselines3", "stable_baselines3", ("--momentum", "0.995"), "`SAC`, defaults (tau=0.005), random "
        "environment", "DLR-RM/stable-baselines3: documentation of SAC", arguments=("SAC",),
    ),
    run(
        "stable-baselines3", "stable_baselines3", ("--momentum", "0.995"), "`TD3`, defaults (policy_delay=2)",
        "DLR-RM/stable-baselines3: documentation of TD3", arguments=("TD3",),
        note="`policy_delay=2` is documented and is the method's: target networks are updated in every second step.",
    ),
    run(
        "lightning", "lightning", ("--momentum", "0.999"), "`EMAWeightAveraging(decay=0.999)`, ResNet-18, validation "
        "after every 8 batches", "Lightning-AI/pytorch-lightning: documentation of EMAWeightAveraging",
        note="The callback swaps the averaged weights in for each validation and back. It holds torch's "
        "`AveragedModel` with `use_buffers=True`, whose averaging function rounds counters down; BatchNorm "
        "with its default momentum does not read them. The first update copies the model.",
    ),
    run(
        "lightly", "lightly_dinov2", profile("dinov2"), "DINOv2 building blocks in the example's loop, ViT of 2 layers",
        "lightly-ai/lightly: examples/pytorch/dinov2.py",
        note="The example passes `model.parameters()` to the optimizer and builds the heads of teacher and student "
        "separately; `cosine_schedule` reaches its end in the last step, so it is one step shorter than the run. Its "
        "header states that its settings do not follow the reference settings of the paper.",
    ),
    run(
        "solo-learn", "solo_learn", profile("byol"), "`MomentumUpdater(0.996, 1.0)` in the order of "
        "`BaseMomentumMethod.on_train_batch_end`, with classifiers on both networks", "vturrisi/solo-learn: "
        "solo/methods/base.py, solo/utils/momentum.py", note="The package requires an older torch, so the class was "
        "loaded from its file. A classifier on the momentum encoder's features is trained by a term of the loss of its "
        "own; it shapes no target.",
    ),
)  # fmt: skip
