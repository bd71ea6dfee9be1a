"""How sure a finding is, and what would make it surer."""

FROM_VALUES = "Measured from the weights: exact for the numbers sampled and the steps watched."
FROM_STATE = "Read from modules and optimizers as they are at each optimizer step."
FROM_WINDOW = "Fitted to the momenta of this window: more steps (--steps) and --total-steps make it surer."
FROM_POSITIONS = "Rests on integer arguments that were taken for token positions: look at the calls that are named."
CERTAINTY: dict[str, str] = {  # how sure a finding is and what would make it surer, where that is not FROM_VALUES
    "schedule-kind": FROM_WINDOW,
    "schedule-per-epoch": FROM_WINDOW,
    "schedule-offset": FROM_WINDOW,
    "schedule-horizon": "Extrapolated from the slope in this window: audit the end of a run (--start-step) to be sure.",
    "update-outside-training": "Evaluation is told by forwards without gradient, or in other modes than in training.",
    "aliased-teacher": FROM_STATE,
    "teacher-not-frozen": FROM_STATE,
    "teacher-in-optimizer": FROM_STATE,
    "stochastic-teacher": FROM_STATE,
    "gradient-reaches-teacher": FROM_STATE,
    "target-not-detached": "Read from the gradients that arrived at the targets in the first steps.",
    "trained-module-on-target-branch": "Seen in one traced step; --deep traces three.",
    "trained-by-no-optimizer": "Read from the graph of the loss in the second and third step, and from all optimizers "
    "of the process; the parameters did not move.",
    "clip-before-unscale": "Read from calls of torch.nn.utils; clipping by hand is not seen.",
    "clip-per-microbatch": "Read from calls of torch.nn.utils; clipping by hand is not seen.",
    "accumulation-not-scaled": "Read from the criterion that PyTorch keeps in the graph; a gradient that is scaled "
    "after the backward pass is not seen.",
    "target-leak": FROM_POSITIONS,
    "loss-on-wrong-positions": FROM_POSITIONS,
    "mask-coverage": f"{FROM_POSITIONS} More steps (--steps) make it surer.",
    "target-not-normalised": "Measured at the target that PyTorch keeps for the backward pass.",
}
