"""Rules, severities and verdicts in plain words."""

from hjepa.audit.judge.findings import Severity, Verdict

RULE_WORDS: dict[str, tuple[str, str]] = {  # rule: (what is required, what is wrong when it fails)
    "never-updated": ("The teacher is updated", "The teacher is never updated"),
    "stale-student": (
        "The teacher's forward uses the latest student",
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
        "The momentum weighs the teacher",
        "The coefficients of teacher and student are swapped",
    ),
    "hard-copy": ("The update averages", "The update copies the student"),
    "student-modified": ("Only its optimizers change the student", "Something else changes the student"),
    "mispaired-parameters": (
        "Every tensor follows the student's tensor of the same name",
        "Tensors follow the wrong partner or none",
    ),
    "partial-update": ("Every part of the teacher is updated", "A part of the teacher is never updated"),
    "tied-weights-updated-twice": ("Tied weights are updated once", "Tied weights are updated twice"),
    "precision-underflow": (
        "The teacher's dtype holds the update",
        "The update is lost in the teacher's dtype, or its coefficients do not sum to 1",
    ),
    "buffers-mishandled": ("Buffers are treated as specified", "Buffers of the teacher are mishandled"),
    "momentum-mismatch": (
        "The measured momentum follows the specification",
        "The measured momentum is not as specified",
    ),
    "schedule-kind": ("The momentum follows the specified schedule", "The momentum follows another kind of schedule"),
    "schedule-per-epoch": ("The momentum changes with every step", "The momentum changes only between epochs"),
    "schedule-horizon": ("The schedule ends when training ends", "The schedule ends too early, or never"),
    "schedule-offset": ("The schedule starts at the specified step", "The schedule is shifted by some steps"),
    "schedule-restarted": ("A resumed run continues its schedule", "The schedule starts again after a resume"),
    "momentum-out-of-range": ("The momentum is between 0 and 1", "The momentum is outside 0 to 1"),
    "initial-mismatch": ("Teacher and student start equal", "Teacher and student do not start as they should"),
    "aliased-teacher": ("The teacher has its own memory", "Teacher and student share memory"),
    "teacher-not-frozen": ("The teacher is frozen", "Teacher parameters have requires_grad=True"),
    "teacher-in-optimizer": ("No optimizer holds teacher parameters", "An optimizer holds teacher parameters"),
    "stochastic-teacher": ("The teacher's forward is deterministic", "Dropout or drop-path is active in the teacher"),
    "mode-left-changed": ("The update leaves training modes alone", "The update leaves the student in evaluation mode"),
    "teacher-replaced": ("One teacher serves for the whole run", "The teacher was replaced during training"),
    "gradient-reaches-teacher": ("No gradient reaches the teacher", "Gradients reach the teacher"),
    "target-not-detached": ("Targets are detached", "Targets are not detached from trained weights"),
    "trained-module-on-target-branch": (
        "Only the teacher's own weights compute the targets",
        "A trained module takes part in computing the targets",
    ),
    "clip-before-unscale": ("Gradients are unscaled before clipping", "Gradients are clipped before unscaling"),
    "accumulation-not-scaled": (
        "Accumulated micro-batches give the gradient of one batch",
        "The loss of micro-batches is not divided by their number",
    ),
    "target-leak": ("The context encoder does not see the targets", "The context encoder sees the targets"),
    "loss-on-wrong-positions": (
        "The loss covers target positions only",
        "The loss covers positions that are no targets",
    ),
    "target-not-normalised": ("Targets are normalised as specified", "Targets are not normalised"),
    "mask-coverage": ("Every patch can be context and target", "Some patches can never be context or target"),
    "replicas-diverge": ("All ranks hold the same teacher", "Ranks hold different teachers"),
    "update-without-student": (
        "Every update adds the student's part",
        "The student's part is missing from the update: the teacher only decays",
    ),
    "trained-by-no-optimizer": (
        "Every parameter that gets gradients is in an optimizer",
        "Parameters get gradients and no optimizer holds them",
    ),
    "clip-per-microbatch": (
        "Gradients are clipped once per optimizer step",
        "Gradients are clipped after every micro-batch",
    ),
}
SEVERITIES = {
    Severity.CRITICAL: "not a run with an EMA teacher at all, or a leak",
    Severity.MAJOR: "another algorithm, silently",
    Severity.MINOR: "a measurable deviation",
    Severity.INFO: "good practice",
}
VERDICTS = {
    Verdict.CONFORMS: "The training loop follows the specification in everything that was checked.",
    Verdict.DEVIATES: "The training loop differs measurably from the specification; it can still train well.",
    Verdict.FAILS: "What runs is another algorithm than the specification describes.",
    Verdict.INCONCLUSIVE: "Too little could be checked for a verdict.",
}
