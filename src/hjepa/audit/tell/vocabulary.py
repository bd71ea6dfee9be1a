"""Rules, severities and verdicts in plain words."""

from hjepa.audit.judge.findings import Severity, Verdict

RULE_WORDS: dict[str, tuple[str, str]] = {  # rule: (what is required, what is wrong when it fails)
    "never-updated": ("The teacher is updated", "The teacher is never updated"),
    "stale-student": (
        "The teacher's forward includes the latest optimizer step",
        "The teacher's forward misses the latest optimizer step",
    ),
    "sparse-update": ("The teacher is updated after every step", "The teacher is updated only every few steps"),
    "update-per-microbatch": (
        "One update per optimizer step, however many micro-batches it has",
        "The teacher is updated after every micro-batch",
    ),
    "update-on-skipped-step": (
        "No update when the optimizer step is skipped",
        "The teacher is updated although the optimizer step was skipped",
    ),
    "update-outside-training": ("The teacher is updated in training only", "The teacher is updated during evaluation"),
    "double-update": ("One update per optimizer step", "The teacher is updated twice per optimizer step"),
    "non-finite-teacher": ("All teacher weights are finite", "The teacher contains NaN or infinity"),
    "swapped-coefficients": (
        "The momentum multiplies the teacher",
        "The coefficients of teacher and student are swapped",
    ),
    "hard-copy": ("The update is a weighted average", "The update copies the student"),
    "student-modified": ("Only the optimizer changes the student", "The student is changed outside its optimizer"),
    "mispaired-parameters": (
        "Every teacher tensor follows the student tensor of the same name",
        "Teacher tensors do not follow the student tensors of the same name",
    ),
    "partial-update": ("Every part of the teacher is updated", "Part of the teacher is never updated"),
    "tied-weights-updated-twice": ("Tied weights are updated once", "Tied weights are updated twice"),
    "precision-underflow": (
        "The teacher's dtype can represent the update",
        "The update is lost to rounding in the teacher's dtype, or its coefficients do not sum to 1",
    ),
    "buffers-mishandled": ("Teacher buffers are updated correctly", "Teacher buffers are updated incorrectly"),
    "momentum-mismatch": (
        "The measured momentum matches the specification",
        "The measured momentum does not match the specification",
    ),
    "schedule-kind": (
        "The momentum follows the specified schedule",
        "The momentum follows a different kind of schedule",
    ),
    "schedule-per-epoch": ("The momentum changes at every step", "The momentum changes only once per epoch"),
    "schedule-horizon": ("The schedule ends when training ends", "The schedule ends too early or never"),
    "schedule-offset": ("The schedule starts at the specified step", "The schedule is offset by some steps"),
    "schedule-restarted": ("The schedule continues after a resume", "The schedule restarts after a resume"),
    "momentum-out-of-range": ("The momentum is between 0 and 1", "The momentum is below 0 or above 1"),
    "initial-mismatch": ("The teacher starts with the right weights", "The teacher starts with the wrong weights"),
    "aliased-teacher": ("The teacher has its own memory", "Teacher and student share memory"),
    "teacher-not-frozen": ("The teacher is frozen", "Teacher parameters have requires_grad=True"),
    "teacher-in-optimizer": ("No optimizer holds teacher parameters", "An optimizer holds teacher parameters"),
    "stochastic-teacher": ("The teacher's forward is deterministic", "Dropout or drop path is active in the teacher"),
    "mode-left-changed": (
        "The update does not change training modes",
        "The update leaves the student in evaluation mode",
    ),
    "teacher-replaced": ("The same teacher is used for the whole run", "The teacher was replaced during training"),
    "gradient-reaches-teacher": ("No gradient reaches the teacher", "Gradients reach the teacher"),
    "target-not-detached": ("Targets are detached", "Targets are not detached from the student's graph"),
    "trained-module-on-target-branch": (
        "Only the teacher's own weights are used to compute the targets",
        "A trained module is used to compute the targets",
    ),
    "clip-before-unscale": ("Gradients are unscaled before clipping", "Gradients are clipped before unscaling"),
    "accumulation-not-scaled": (
        "Accumulated micro-batches give the gradient of one large batch",
        "The loss is not divided by the number of micro-batches",
    ),
    "target-leak": ("The context encoder does not see the targets", "The context encoder sees the targets"),
    "loss-on-wrong-positions": (
        "The loss covers target positions only",
        "The loss covers positions that are not targets",
    ),
    "target-not-normalised": ("Targets are normalised as specified", "Targets are not normalised"),
    "mask-coverage": ("Every patch can be both context and target", "Some patches can never be context or target"),
    "replicas-diverge": ("All ranks hold the same teacher", "Ranks hold different teachers"),
    "update-without-student": (
        "Every update includes the student",
        "The update does not include the student, so the teacher only decays",
    ),
    "trained-by-no-optimizer": (
        "Every parameter that receives gradients is in an optimizer",
        "Parameters receive gradients but are in no optimizer",
    ),
    "clip-per-microbatch": (
        "Gradients are clipped once per optimizer step",
        "Gradients are clipped after every micro-batch",
    ),
}
SEVERITIES = {
    Severity.CRITICAL: "no working EMA teacher, or the targets leak",
    Severity.MAJOR: "silently a different algorithm",
    Severity.MINOR: "a measurable deviation",
    Severity.INFO: "good practice",
}
VERDICTS = {
    Verdict.CONFORMS: "The training loop follows the specification in every rule that could be checked.",
    Verdict.DEVIATES: "The training loop deviates measurably from the specification, but it can still train well.",
    Verdict.FAILS: "The training loop runs a different algorithm from the one that is specified.",
    Verdict.INCONCLUSIVE: "Too little could be checked to reach a verdict.",
}
