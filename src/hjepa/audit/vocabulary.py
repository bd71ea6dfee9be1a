"""Rules, severities, verdicts and orders in plain words."""

from hjepa.audit.findings import Severity, Verdict

RULES: dict[str, tuple[str, str]] = {  # rule: (what is required, what is wrong when it fails)
    "never-updated": ("The teacher moves when the student does", "The teacher never moves"),
    "stale-student": (
        "At its forward the teacher contains the newest student",
        "At its forward the teacher lacks the newest student",
    ),
    "sparse-update": ("Every optimizer step is followed by an update", "The teacher is updated only every few steps"),
    "update-per-microbatch": (
        "One update per optimizer step, however many micro-batches it has",
        "The teacher is updated for every micro-batch",
    ),
    "update-on-skipped-step": (
        "No update when the optimizer step was skipped",
        "The teacher is updated although the optimizer step was skipped",
    ),
    "update-outside-training": ("The teacher rests outside training", "The teacher moves in validation"),
    "double-update": ("Only one update runs per step", "Two updates run per step"),
    "non-finite-teacher": ("The teacher holds finite numbers only", "NaN or infinity reached the teacher"),
    "swapped-coefficients": (
        "The momentum is the teacher's share in the update",
        "Teacher and student have exchanged their shares in the update",
    ),
    "hard-copy": ("The update averages", "The update copies the student"),
    "student-modified": ("The update leaves the student alone", "The update changes the student"),
    "mispaired-parameters": ("Every tensor follows its own partner", "Tensors follow the wrong partner or none"),
    "partial-update": ("All parts of the teacher move", "A part of the teacher never moves"),
    "tied-weights-updated-twice": ("Shared tensors are updated once", "Shared tensors are updated twice"),
    "precision-underflow": (
        "The teacher's number format holds the update",
        "The update is lost in the teacher's number format",
    ),
    "buffers-mishandled": ("Buffers are treated as prescribed", "Buffers of the teacher are mishandled"),
    "momentum-mismatch": ("The measured momentum follows the specification", "The measured momentum is another one"),
    "schedule-kind": ("The momentum follows the prescribed kind of schedule", "The schedule is of another kind"),
    "schedule-per-epoch": ("The momentum changes every step", "The momentum changes only between epochs"),
    "schedule-horizon": ("The schedule ends when training ends", "The schedule ends too early or never"),
    "schedule-offset": ("The schedule starts at the prescribed step", "The schedule is shifted by some steps"),
    "schedule-restarted": ("A resumed run continues its schedule", "The schedule starts again after resuming"),
    "momentum-out-of-range": ("The momentum lies between 0 and 1", "The momentum lies outside 0 to 1"),
    "initial-mismatch": ("Teacher and student start equal", "Teacher and student differ before the first step"),
    "aliased-teacher": ("The teacher has its own memory", "Teacher and student share memory"),
    "teacher-not-frozen": (
        "The teacher's parameters ask for no gradient",
        "The teacher's parameters ask for gradients",
    ),
    "teacher-in-optimizer": ("No optimizer holds teacher parameters", "An optimizer holds teacher parameters"),
    "stochastic-teacher": ("The teacher's forward has no random part", "The teacher's forward has a random part"),
    "mode-left-changed": ("The update restores the modules' modes", "The update leaves a module in the wrong mode"),
    "teacher-replaced": ("The teacher stays the same object", "The teacher was replaced while training"),
    "gradient-reaches-teacher": ("No gradient reaches the teacher", "A gradient reaches the teacher"),
    "target-not-detached": ("Targets carry no graph into online weights", "Targets carry a graph into online weights"),
    "trained-module-on-target-branch": (
        "No trained module shapes the targets",
        "A module that is trained shapes the targets",
    ),
    "clip-before-unscale": ("Gradients are unscaled before clipping", "Gradients are clipped before unscaling"),
    "accumulation-not-scaled": (
        "Accumulated micro-batches give the gradient of one batch",
        "The accumulated gradient grows with the number of micro-batches",
    ),
    "target-leak": ("Target pixels do not reach the context encoding", "Target pixels reach the context encoding"),
    "loss-on-wrong-positions": ("The loss is taken at target positions only", "The loss reads other positions as well"),
    "target-not-normalised": ("Targets are normalised as prescribed", "Targets are not normalised"),
    "mask-coverage": ("Every patch can be context and target", "Some patches can never be context or target"),
    "replicas-diverge": ("All ranks hold the same teacher", "Ranks hold different teachers"),
    "update-without-student": (
        "Every update adds the student's part",
        "The student's part is missing from the update: the teacher only decays",
    ),
    "trained-by-no-optimizer": (
        "Every part of the online branch that gets gradients is in an optimizer",
        "A part of the online branch gets gradients and no optimizer holds it",
    ),
    "clip-per-microbatch": (
        "Gradients are clipped once per optimizer step",
        "Gradients are clipped after every micro-batch",
    ),
}
SEVERITIES = {
    Severity.CRITICAL: "not a run with an EMA teacher, or a leak",
    Severity.MAJOR: "silently another algorithm",
    Severity.MINOR: "measurable deviation",
    Severity.INFO: "hygiene",
}
VERDICTS = {
    Verdict.CONFORMS: "The training loop follows the specification in everything that was checked.",
    Verdict.DEVIATES: "The training loop differs measurably from the specification; it can still train well.",
    Verdict.FAILS: "What runs is another algorithm than the specification describes.",
    Verdict.INCONCLUSIVE: "Too little could be checked for a verdict.",
}
ORDERS = {
    "A": "after the optimizer step",
    "B": "before the next forward",
    "B'": "between the student's and the teacher's forward",
    "C": "between forward and optimizer step",
    "inside-step": "inside the optimizer step",
    "mixed": "not at the same place in every step",
}
