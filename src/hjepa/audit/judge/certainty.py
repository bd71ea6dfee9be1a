"""How certain a finding is, and what would make it more certain."""

FROM_VALUES = "Measured from the weights; exact for the sampled values and the watched steps."
FROM_STATE = "Read from the state of the modules and optimizers at each optimizer step."
FROM_WINDOW = (
    "Fitted to the momentum in the watched steps; more steps (--steps) and --total-steps make it more certain."
)
FROM_POSITIONS = (
    "Based on integer arguments that were interpreted as token positions; check the calls at this location."
)
CERTAINTY: dict[str, str] = {  # of the rules to which FROM_VALUES does not apply
    "schedule-kind": FROM_WINDOW,
    "schedule-per-epoch": FROM_WINDOW,
    "schedule-offset": FROM_WINDOW,
    "schedule-horizon": "Extrapolated from the slope in the watched steps; audit the end of a run (--start-step) to be "
    "certain.",
    "update-outside-training": "Evaluation is recognised by forwards without gradients, or in a mode that training "
    "does not use.",
    "aliased-teacher": FROM_STATE,
    "teacher-not-frozen": FROM_STATE,
    "teacher-in-optimizer": FROM_STATE,
    "stochastic-teacher": FROM_STATE,
    "gradient-reaches-teacher": FROM_STATE,
    "target-not-detached": "Read from the gradients that reached the targets in the first steps.",
    "trained-module-on-target-branch": "Observed in one traced step; --deep traces three.",
    "trained-by-no-optimizer": "Read from the graph of the loss in the second and third step, and from all optimizers "
    "of the process; the parameters did not change.",
    "clip-before-unscale": "Read from calls to torch.nn.utils; custom clipping code is not detected.",
    "clip-per-microbatch": "Read from calls to torch.nn.utils; custom clipping code is not detected.",
    "accumulation-not-scaled": "Read from the criterion that PyTorch keeps in the graph; gradients scaled after the "
    "backward pass are not detected.",
    "target-leak": FROM_POSITIONS,
    "loss-on-wrong-positions": FROM_POSITIONS,
    "mask-coverage": f"{FROM_POSITIONS} More steps (--steps) make it more certain.",
    "target-not-normalised": "Measured on the target that PyTorch saves for the backward pass.",
}
