"""The programs of the first table."""

from programs import Run, cosine, profile

LIGHTLY = "The example's header states that its settings do not follow the reference settings of the paper."
WARM_UP = "The README documents both: update_every=10, and copies for the first update_after_step=100 calls."
DATA_ASSIGNED = (
    "The teacher is updated by assigning to `.data`, which the auditor cannot trace: it is therefore unknown whether "
    "the update runs after the step (A) or begins the next one (B); both are correct."
)
RUNS = (
    Run(
        "lightly", "lightly_ijepa", profile("ijepa"),
        "I-JEPA building blocks in the example's loop, ViT of 2 layers",
        "lightly-ai/lightly: examples/pytorch/ijepa.py",
        note="The overlap comes from `IJEPAMaskCollator` at its default scales (0.2, 0.8), which the example uses: "
        "if no context block fits next to the target blocks, it drops that condition. At the scales of the "
        "reference's configuration (0.15-0.2 and 0.85-1 on 14 x 14 patches) the same collator gave no overlap in 600 "
        "images. The target encoder's parameters changed only through the update.",
    ),
    Run(
        "lightly", "lightly_byol", profile("byol", 25), "BYOL building blocks in the example's loop, ResNet-18",
        "lightly-ai/lightly: examples/pytorch/byol.py",
        note=LIGHTLY,
    ),
    Run(
        "lightly", "lightly_dino", profile("dino", 25), "DINO building blocks in the example's loop, ResNet-18",
        "lightly-ai/lightly: examples/pytorch/dino.py", note=LIGHTLY,
    ),
    Run(
        "lightly", "lightly_moco", ("--spec", "moco"), "MoCo building blocks in the example's loop, ResNet-18",
        "lightly-ai/lightly: examples/pytorch/moco.py", note=LIGHTLY,
    ),
    Run(
        "stable-pretraining", "stable_pretraining", profile("ijepa"), "`methods.IJEPA` with `TeacherStudentCallback()`",
        "documentation of stable_pretraining.methods.ijepa", environment="stable-pretraining",
        note="The wrapper's documentation describes its schedule as a cosine over epochs.",
    ),
    Run(
        "stable-pretraining", "stable_pretraining", profile("ijepa"),
        "the same with `TeacherStudentCallback(update_after_backward=True)`", "documentation of TeacherStudentCallback",
        ("after-backward",), "stable-pretraining",
        note="The option's documentation states that it updates before the optimizer step.",
    ),
    Run(
        "stable-pretraining", "stable_pretraining", cosine(0.996),
        "`TeacherStudentWrapper(resnet18())` as a mean teacher, `TeacherStudentCallback()`",
        "documentation of TeacherStudentCallback and of spt.Module", ("resnet",), "stable-pretraining",
        note="The counter `num_batches_tracked` does not affect the output at BatchNorm's default momentum.",
    ),
    Run(
        "ema-pytorch", "ema_pytorch", ("--momentum", "0.9999"), "`EMA(net)` as a teacher, defaults, first 20 steps",
        "README, Usage", note=WARM_UP,
    ),
    Run(
        "ema-pytorch", "ema_pytorch", ("--momentum", "0.9999"), "the same, first 300 steps", "README, Usage",
        ("300",), steps=300, note=f"{WARM_UP} `teacher-replaced` describes these copies. The "
        "momentum warm-up after them is documented too.",
    ),
    Run(
        "byol-pytorch", "byol_pytorch", ("--momentum", "0.99"),
        "`BYOL(resnet18())` and `update_moving_average()` after the step", "README, Usage", note=DATA_ASSIGNED,
    ),
    Run(
        "byol-pytorch", "byol_pytorch", profile("byol"), "the same, compared with the paper's schedule",
        "README, Usage",
        note=f"The README gives 0.99 as the paper's value; in the paper it increases to 1. {DATA_ASSIGNED}",
    ),
    Run(
        "timm", "timm", ("--momentum", "0.9999"), "`ModelEmaV3(model)` as a teacher, `update(model)`",
        "documentation of ModelEmaV3",
    ),
    Run(
        "timm", "timm", ("--momentum", "0.9999"), "the same, `update(model, step=number)`",
        "huggingface/pytorch-image-models: train.py", ("counted",), note="The first counted update copies the model.",
    ),
    Run(
        "torch", "torch", ("--momentum", "0.999"),
        "`AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))` as a teacher",
        "documentation of torch.optim, weight averaging", note="The first update copies the model, as documented.",
    ),
    Run(
        "pyjepa", "pyjepa", profile("ijepa"), "`train_ijepa(model, loader, epochs=3)`", "README, Quick Start",
        note="One mask setting was used: with the README's two settings the contexts differ in length, "
        "and the encoder's wrapper cannot concatenate them.",
    ),
    Run(
        "pyjepa", "pyjepa", profile("ijepa"), "`IJEPATrainer(model, train_cfg, ijepa_cfg)`, no `iterations_per_epoch`",
        "documentation of pyjepa.training.ijepa; README, Checkpointing", ("trainer",),
        note="The schedule then advances as if an epoch had one step, so the momentum is 1 from the fourth step on and "
        "the teacher no longer changes. The README's other example passes `iterations_per_epoch`.",
    ),
    Run(
        "simulusion", "simulusion", profile("ijepa"), '`create_model("jepa", ...)` and `train()`',
        "documentation of JEPAAgent and JEPAConfig",
    ),
    Run(
        "lightly-train", "lightly_train", cosine(0.99, 23), '`pretrain(method="dino")`, ResNet-18, no accumulation',
        "documentation of lightly_train.pretrain", ("1",), "lightly-train",
        note="Compared with the package's own setting for small datasets: a cosine from 0.99 that reaches its end in "
        "the last of the 24 steps. The update begins the training step (order B), which Lightning runs inside the "
        "optimizer step.",
    ),
    Run(
        "lightly-train", "lightly_train", cosine(0.99, 23), "the same with `gradient_accumulation_steps=2`",
        "documentation of lightly_train.pretrain", ("2",), "lightly-train",
        note="The second update in a step applies the momentum again, so the teacher's coefficient per step is the "
        "square of the value shown.",
    ),
)  # fmt: skip
