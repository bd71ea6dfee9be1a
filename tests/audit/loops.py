"""The corpus of training loops: which rule of the audit each of them must make fire, and which may.

A faulty loop has exactly one planted fault (marked ``# FAULT``). ``implied`` holds further rules whose
definition the same fault fulfils; no other rule may fire. A sound loop makes none fire.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Loop:
    """A script under ``tests/``, how it is audited, and what the audit must find."""

    script: str
    rule: str | None  # fires as fail or warn; None for a sound loop
    implied: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()  # of the script
    launch: Literal["python", "torchrun"] = "python"
    style: str = "plain"


TOTAL = ("--total-steps", "30")
IJEPA = ("--spec", "ijepa", *TOTAL)
LONG = ("--total-steps", "1000", "--start-step", "500")
RESUMED = ("--spec", "ijepa", *LONG)
BYOL = ("--spec", "byol", *TOTAL)
DINO = ("--spec", "dino", *TOTAL)
CONSTANT_099 = ("--spec", "custom", "--momentum", "0.99")

# A schedule of the wrong kind, horizon or offset has, at the same steps, other values than the specification.
VALUES = frozenset({"momentum-mismatch"})


def faulty(
    name: str,
    rule: str,
    *options: str,
    implied: frozenset[str] | set[str] = frozenset(),
    arguments: tuple[str, ...] = (),
    launch: Literal["python", "torchrun"] = "python",
    style: str = "plain",
) -> Loop:
    """Return a row for a faulty loop."""
    return Loop(f"faulty_loops/{name}.py", rule, frozenset(implied), options, arguments, launch, style)


def sound(
    name: str,
    *options: str,
    arguments: tuple[str, ...] = (),
    launch: Literal["python", "torchrun"] = "python",
    style: str = "plain",
) -> Loop:
    """Return a row for a sound loop."""
    return Loop(f"sound_loops/{name}.py", None, frozenset(), options, arguments, launch, style)


FAULTY: list[Loop] = [
    # order and timing
    faulty("never_updated_forgotten", "never-updated"),
    faulty("never_updated_hasattr_ddp", "never-updated", style="ddp, one process"),
    faulty("never_updated_compiled_names", "never-updated", style="torch.compile"),
    faulty("never_updated_dictionary", "never-updated"),
    faulty("stale_student_before_backward", "stale-student"),
    faulty("stale_student_before_step", "stale-student", style="trainer class"),
    faulty("stale_student_pre_hook", "stale-student", style="optimizer hook"),
    faulty("stale_student_in_forward", "stale-student", style="ema in forward"),
    faulty("stale_student_byol", "stale-student", style="byol"),
    faulty("stale_student_moco", "stale-student", style="moco"),
    faulty("stale_student_mean_teacher", "stale-student", style="mean teacher"),
    faulty("stale_student_lightning", "stale-student", style="lightning"),
    faulty("stale_student_lightning_after_backward", "stale-student", style="lightning"),
    # Between two updates the target forward misses one to n - 1 students: that is what stale-student means.
    faulty("sparse_update_every_fourth", "sparse-update", implied={"stale-student"}, style="trainer class"),
    faulty("sparse_update_per_epoch", "sparse-update", implied={"stale-student"}),
    faulty("sparse_update_actor_critic", "sparse-update", implied={"stale-student"}, style="two optimizers"),
    faulty("update_per_microbatch_accumulation", "update-per-microbatch", style="accumulation"),
    faulty("update_per_microbatch_accelerate", "update-per-microbatch", style="accelerate"),
    faulty("update_per_microbatch_lightning", "update-per-microbatch", style="lightning"),
    faulty("update_on_skipped_step_scaler", "update-on-skipped-step", style="amp"),
    faulty("update_on_skipped_step_fused", "update-on-skipped-step", style="amp, fused optimizer"),
    faulty("update_on_skipped_step_guard", "update-on-skipped-step"),
    faulty("update_outside_training_validate", "update-outside-training", style="functions"),
    faulty("update_outside_training_teacher_only", "update-outside-training"),
    faulty("update_outside_training_no_modes", "update-outside-training"),
    faulty("update_outside_training_in_forward", "update-outside-training", style="ema in forward"),
    faulty("double_update_called_twice", "double-update", style="trainer class"),
    faulty("double_update_second_ema", "double-update"),
    faulty("non_finite_teacher", "non-finite-teacher"),
    # formula and pairing
    faulty("swapped_coefficients_mul_add", "swapped-coefficients"),
    # Against a specification the measured momentum (0.004) differs from it as well.
    faulty("swapped_coefficients_mul_add", "swapped-coefficients", *IJEPA, implied=VALUES),
    faulty("swapped_coefficients_lerp", "swapped-coefficients", style="byol"),
    faulty("swapped_coefficients_dino", "swapped-coefficients", style="dino"),
    faulty("hard_copy_state_dict", "hard-copy"),
    faulty("hard_copy_load_state_dict", "hard-copy", style="trainer class"),
    faulty("student_modified_decay", "student-modified"),
    # All writes of the reversed update go into the student: the teacher never moves.
    faulty("student_modified_reversed", "student-modified", implied={"never-updated"}, style="byol"),
    faulty("mispaired_extra_parameter", "mispaired-parameters"),
    faulty("mispaired_sorted_names", "mispaired-parameters"),
    faulty("partial_update_blocks_only", "partial-update"),
    faulty("partial_update_projector_left", "partial-update", style="byol"),
    faulty("partial_update_embedding_only", "partial-update"),
    faulty("partial_update_embedding_only", "partial-update", *IJEPA),
    faulty("partial_update_no_biases", "partial-update"),
    faulty("tied_weights_updated_twice", "tied-weights-updated-twice", style="functions"),
    faulty("precision_underflow_bf16_teacher", "precision-underflow"),
    faulty("precision_underflow_bf16_momentum", "precision-underflow"),
    faulty("buffers_mishandled_integers", "buffers-mishandled", style="byol"),
    faulty("buffers_mishandled_statistics", "buffers-mishandled", style="byol"),
    # schedule
    faulty("momentum_mismatch_constant", "momentum-mismatch", *CONSTANT_099, style="byol"),
    faulty("momentum_mismatch_start_value", "momentum-mismatch", *IJEPA),
    # During the hidden warm-up the momentum is not constant, which is the prescribed kind.
    faulty("momentum_mismatch_hidden_warmup", "momentum-mismatch", *CONSTANT_099, implied={"schedule-kind"}),
    faulty("schedule_kind_cosine", "schedule-kind", *IJEPA, implied=VALUES),
    faulty("schedule_kind_constant", "schedule-kind", *IJEPA, implied=VALUES, style="trainer class"),
    faulty("schedule_kind_captured", "schedule-kind", *IJEPA, implied=VALUES),
    faulty("schedule_per_epoch_linear", "schedule-per-epoch", style="trainer class"),
    faulty("schedule_per_epoch_linear", "schedule-per-epoch", *IJEPA, implied=VALUES, style="trainer class"),
    faulty("schedule_per_epoch_cosine", "schedule-per-epoch", style="byol"),
    faulty("schedule_per_epoch_cosine", "schedule-per-epoch", *BYOL, implied=VALUES, style="byol"),
    # Its curve is the cosine, where the specification has a line.
    faulty("schedule_per_epoch_cosine", "schedule-per-epoch", *IJEPA, implied=VALUES | {"schedule-kind"}, style="byol"),
    faulty("schedule_horizon_short", "schedule-horizon", *IJEPA, implied=VALUES),
    faulty("schedule_horizon_micro_batches", "schedule-horizon", *IJEPA, implied=VALUES, style="accumulation"),
    faulty("schedule_horizon_dino", "schedule-horizon", *DINO, implied=VALUES, style="dino"),
    faulty("schedule_offset_next_step", "schedule-offset", *IJEPA, implied=VALUES, style="trainer class"),
    faulty("schedule_offset_dry_run", "schedule-offset", *IJEPA, implied=VALUES),
    faulty("schedule_restarted", "schedule-restarted", style="functions"),
    faulty("schedule_restarted", "schedule-restarted", *IJEPA, implied=VALUES, style="functions"),
    faulty("momentum_out_of_range_overshoot", "momentum-out-of-range", style="accumulation"),
    faulty("momentum_out_of_range_constant", "momentum-out-of-range", style="byol"),
    # state of the target
    faulty("initial_mismatch_reinitialised", "initial-mismatch"),
    faulty("initial_mismatch_head", "initial-mismatch", style="byol"),
    # What shares its storage with the student equals it after each update.
    faulty("aliased_teacher_assign", "aliased-teacher", implied={"hard-copy"}),
    faulty("aliased_teacher_data", "aliased-teacher", implied={"hard-copy"}, style="byol"),
    faulty("teacher_not_frozen", "teacher-not-frozen"),
    faulty("teacher_not_frozen_dino", "teacher-not-frozen", style="dino"),
    faulty("teacher_in_optimizer_frozen", "teacher-in-optimizer", style="trainer class"),
    faulty("teacher_in_optimizer_decay", "teacher-in-optimizer", style="own optimizer"),
    faulty("teacher_in_optimizer_moco", "teacher-in-optimizer", style="moco"),
    faulty("stochastic_teacher_dropout", "stochastic-teacher"),
    faulty("stochastic_teacher_drop_path", "stochastic-teacher", style="one model class"),
    faulty("mode_left_changed", "mode-left-changed", style="trainer class"),
    faulty("teacher_replaced_copy", "teacher-replaced"),
    faulty("teacher_replaced_blend", "teacher-replaced"),
    # After the reload the update writes orphans: the teacher in use no longer moves.
    faulty("teacher_replaced_stale_list", "teacher-replaced", implied={"never-updated"}),
    # gradients
    # Without no_grad, gradients reach a teacher only if its parameters require them.
    faulty("gradient_reaches_teacher_not_frozen", "gradient-reaches-teacher", implied={"teacher-not-frozen"}),
    faulty(
        "gradient_reaches_teacher_mean_teacher",
        "gradient-reaches-teacher",
        implied={"teacher-not-frozen"},
        style="mean teacher",
    ),
    # The same, and here the optimizer uses these gradients.
    faulty(
        "gradient_reaches_teacher_optimizer",
        "gradient-reaches-teacher",
        implied={"teacher-not-frozen", "teacher-in-optimizer"},
        style="trainer class",
    ),
    # The graph goes into an online module, and for that the module must stand on the target branch.
    faulty("target_not_detached_embedding", "target-not-detached", implied={"trained-module-on-target-branch"}),
    faulty("target_not_detached_shared_head", "target-not-detached", implied={"trained-module-on-target-branch"}),
    faulty("trained_module_on_target_branch_embedding", "trained-module-on-target-branch"),
    faulty("trained_module_on_target_branch_norm", "trained-module-on-target-branch"),
    faulty("clip_before_unscale", "clip-before-unscale", style="amp"),
    faulty("clip_without_unscale", "clip-before-unscale", style="trainer class"),
    faulty("accumulation_not_scaled", "accumulation-not-scaled", style="accumulation"),
    faulty("accumulation_not_scaled_trainer", "accumulation-not-scaled", style="trainer class"),
    # masks and targets
    faulty("target_leak_overlap", "target-leak"),
    faulty("target_leak_attention", "target-leak"),
    # The padding is patch 0, which may be in the context: context and targets overlap there.
    faulty("loss_on_wrong_positions_padding", "loss-on-wrong-positions", implied={"target-leak"}),
    faulty("loss_on_wrong_positions_context", "loss-on-wrong-positions"),
    faulty("target_not_normalised_raw", "target-not-normalised", *IJEPA),
    faulty("target_not_normalised_l2", "target-not-normalised", *IJEPA, style="trainer class"),
    faulty("mask_coverage_last_row", "mask-coverage"),
    faulty("update_without_student_out_of_place", "update-without-student"),
    faulty("update_without_student_names", "update-without-student", style="byol"),
    faulty("update_without_student_part", "update-without-student"),
    faulty("trained_by_no_optimizer_embedding", "trained-by-no-optimizer"),
    faulty("trained_by_no_optimizer_lazy_projector", "trained-by-no-optimizer", style="byol"),
    faulty("clip_per_microbatch_accumulation", "clip-per-microbatch", style="accumulation"),
    faulty("clip_per_microbatch_trainer", "clip-per-microbatch", style="trainer class"),
    # habits that hid a fault
    faulty("student_modified_not_put_back", "student-modified"),
    *(
        faulty("trained_module_on_target_branch_input", "trained-module-on-target-branch", arguments=(kind,))
        for kind in ("conv", "linear", "conv-positions", "linear-positions")
    ),
    faulty("buffers_mishandled_counter", "buffers-mishandled"),
    faulty("aliased_teacher_one_network", "aliased-teacher", "--student", "student", "--teacher", "teacher"),
    faulty("initial_mismatch_resumed_copy", "initial-mismatch", *RESUMED),
    faulty("schedule_restarted_counter", "schedule-restarted", "--start-step", "500"),
    faulty("schedule_restarted_counter", "schedule-restarted", "--start-step", "500", "--momentum", "0.999"),
    # The update that leaves the mode changed stands before the step.
    faulty("mode_left_changed_in_update", "mode-left-changed", implied={"stale-student"}, arguments=("before",)),
    faulty("mode_left_changed_in_update", "mode-left-changed", arguments=("after",)),
    faulty("stale_student_evaluation_mode", "stale-student"),
    faulty("update_per_microbatch_evaluation_mode", "update-per-microbatch"),
    faulty("schedule_horizon_linspace", "schedule-horizon", *IJEPA, implied=VALUES),
    # the same faults in other dress
    faulty("stale_student_closure", "stale-student", style="closure"),
    faulty("stale_student_before_scaler", "stale-student", style="amp"),
    faulty("update_per_microbatch_no_sync", "update-per-microbatch", style="ddp"),
    faulty("trained_module_on_target_branch_tokens", "trained-module-on-target-branch"),
    faulty(
        "trained_module_on_target_branch_own_loss", "trained-module-on-target-branch", implied={"target-not-detached"}
    ),
    faulty("buffers_mishandled_blended", "buffers-mishandled", style="byol"),
    faulty("aliased_teacher_backbone", "aliased-teacher", "--student", "student", "--teacher", "teacher"),
    faulty("aliased_teacher_dictionary", "aliased-teacher", implied={"hard-copy"}),
    faulty("initial_mismatch_resumed_average", "initial-mismatch", "--start-step", "500"),
    *(faulty("schedule_restarted_cosine", "schedule-restarted", "--spec", name, *LONG) for name in ("dino", "byol")),
    faulty("student_modified_kept_by_reference", "student-modified"),
    faulty("student_modified_swapped_once", "student-modified", implied={"teacher-replaced"}),
    faulty("schedule_per_epoch_lambda", "schedule-per-epoch"),
    faulty("trained_by_no_optimizer_mask_token", "trained-by-no-optimizer", style="one model class"),
    faulty("trained_by_no_optimizer_replaced_head", "trained-by-no-optimizer"),
    faulty("update_without_student_foreach", "update-without-student"),
    faulty("update_without_student_itself", "update-without-student"),
    faulty("clip_per_microbatch_value", "clip-per-microbatch", style="accumulation"),
    faulty("never_updated_stale_shadow", "never-updated"),
    faulty("partial_update_untied_children", "partial-update"),
    faulty("swapped_coefficients_blended", "swapped-coefficients"),
    faulty("sparse_update_last_microbatch", "sparse-update", style="accumulation"),
    faulty("teacher_replaced_each_epoch", "teacher-replaced"),
    faulty("double_update_hook", "double-update", style="optimizer hook"),
    # several processes
    # On all ranks but the first the teacher never moves.
    faulty(
        "replicas_diverge_rank_zero",
        "replicas-diverge",
        implied={"never-updated"},
        launch="torchrun",
        style="ddp",
    ),
    faulty("replicas_diverge_momentum", "replicas-diverge", launch="torchrun", style="ddp"),
]

SOUND: list[Loop] = [
    sound("ijepa"),
    sound("ijepa", *IJEPA),
    sound("ijepa_update_first"),
    sound("ijepa_update_first", *IJEPA),
    sound("ijepa_schedules"),
    sound("ijepa_schedules", *IJEPA),
    sound("trainer_class", style="trainer class"),
    sound("trainer_class", *IJEPA, style="trainer class"),
    sound("ema_in_forward", style="ema in forward"),
    sound("ema_in_forward", *IJEPA, style="ema in forward"),
    sound("ema_in_forward_between", style="ema in forward"),
    sound("ema_in_forward_between", *IJEPA, style="ema in forward"),
    sound("step_post_hook", style="optimizer hook"),
    sound("step_post_hook", *IJEPA, style="optimizer hook"),
    sound("optimizer_subclass", style="own optimizer"),
    sound("optimizer_subclass", *IJEPA, style="own optimizer"),
    sound("ijepa_wide_grid"),
    sound("ijepa_wide_grid", *IJEPA),
    sound("symmetrised_halves", style="byol"),
    sound("symmetrised_halves", *CONSTANT_099, style="byol"),
    sound("two_losses", style="mean teacher"),
    sound("two_losses", *CONSTANT_099, style="mean teacher"),
    sound("two_optimizers", style="two optimizers"),
    sound("two_optimizers", *IJEPA, style="two optimizers"),
    sound("two_optimizers_amp", style="amp"),
    sound("two_optimizers_amp", *IJEPA, style="amp"),
    sound("actor_critic", style="two optimizers"),
    sound("actor_critic", "--spec", "custom", "--momentum", "0.995", style="two optimizers"),
    sound("accumulation", style="accumulation"),
    sound("accumulation", *IJEPA, style="accumulation"),
    sound("accelerate_accumulation", style="accelerate"),
    sound("accelerate_accumulation", *IJEPA, style="accelerate"),
    sound("amp_scaler", style="amp"),
    sound("amp_scaler", *IJEPA, style="amp"),
    sound("amp_overflows", style="amp"),
    sound("amp_overflows", *IJEPA, style="amp"),
    sound("lightning_optimizer_step", style="lightning"),
    sound("lightning_optimizer_step", *IJEPA, style="lightning"),
    sound("lightning_batch_end", style="lightning"),
    sound("lightning_batch_end", *IJEPA, style="lightning"),
    sound("validation", style="functions"),
    sound("validation", *IJEPA, style="functions"),
    sound("teacher_validated"),
    sound("teacher_validated", *CONSTANT_099),
    sound("resumed", style="functions"),
    sound("resumed", *IJEPA, style="functions"),
    sound("compiled_student", style="torch.compile"),
    sound("compiled_student", *IJEPA, style="torch.compile"),
    sound("ddp", launch="torchrun", style="ddp"),
    sound("ddp", *IJEPA, launch="torchrun", style="ddp"),
    sound("vjepa2"),
    sound("vjepa2", "--spec", "vjepa2", *TOTAL),
    sound("dino", style="dino"),
    sound("dino", *DINO, style="dino"),
    sound("dinov2", style="dinov2"),
    sound("dinov2", "--spec", "dinov2", *TOTAL, style="dinov2"),
    sound("dinov2", "--spec", "dinov3", *TOTAL, style="dinov2"),
    sound("byol", style="byol"),
    sound("byol", *BYOL, style="byol"),
    sound("moco_v2", style="moco"),
    sound("moco_v2", "--spec", "moco", *TOTAL, style="moco"),
    sound("moco_v3", style="moco"),
    sound("moco_v3", "--spec", "moco-v3", *TOTAL, style="moco"),
    sound("data2vec2", style="one model class"),
    sound("data2vec2", "--spec", "data2vec2", *TOTAL, style="one model class"),
    sound("mean_teacher", style="mean teacher"),
    sound("mean_teacher", "--spec", "mean-teacher", *TOTAL, style="mean teacher"),
    sound("batchnorm_eval_teacher", style="byol"),
    sound("batchnorm_eval_teacher", *CONSTANT_099, style="byol"),
    sound("tied_weights", style="functions"),
    sound("tied_weights", *CONSTANT_099, style="functions"),
    sound("timm_model_ema"),
    sound("timm_model_ema", *CONSTANT_099),
    sound("torch_averaged_model"),
    sound("torch_averaged_model", *CONSTANT_099),
    # habits that are no faults
    *(
        sound("validation_on_average", arguments=(way,))
        for way in ("copy", "update_first", "exchange", "functional", "second_model")
    ),
    *(sound("warmup_from_zero", *IJEPA, arguments=(idle,)) for idle in ("1", "3", "10")),
    sound("warmup_from_zero", arguments=("1",)),
    *(sound("several_optimizers", *CONSTANT_099, arguments=(way,)) for way in ("takes_over", "per_part")),
    *(sound("sharpness_aware", arguments=(way,)) for way in ("two_calls", "closure")),
    *(sound("constrained_student", arguments=(way,)) for way in ("prototypes", "start_of_step", "clipped")),
    *(sound("two_backward_passes", arguments=(way,)) for way in ("two_lines", "one_line")),
    *(sound("finetuned_copy", arguments=(source,)) for source in ("teacher", "student")),
    *(sound("evaluation_mode", arguments=(way,)) for way in ("pretrained", "left")),
    *(sound("partly_trained", arguments=(way,)) for way in ("adapters", "last_block")),
    sound("vmapped"),
    *(sound("teacher_in_a_collection", arguments=(kind,)) for kind in ("dictionary", "list")),
    *(sound("lightning_weight_averaging", arguments=(kind,), style="lightning") for kind in ("ema", "equal")),
    *(sound("child_process", arguments=(method,)) for method in ("spawn", "fork")),
    sound("accumulation_remainder"),
    sound("blended_state_dict", style="byol"),
    sound("both_in_evaluation_mode"),
    sound("checkpointed_student"),
    sound("data_parallel"),
    sound("ddp_no_sync", style="ddp"),
    sound("ddp_unused_parameters", style="ddp"),
    sound("encoder_by_method"),
    sound("encoder_by_parts"),
    sound("finetuned_in_the_middle"),
    sound("flat_vector"),
    sound("frozen_anchor"),
    sound("frozen_at_first"),
    sound("frozen_batchnorm", style="byol"),
    sound("functional_gradients"),
    sound("functional_training"),
    sound("generator_average"),
    sound("inference_mode_teacher"),
    sound("labelled_and_unlabelled"),
    sound("last_layer_frozen_first"),
    sound("line_search"),
    sound("lookahead"),
    sound("matrices_and_vectors"),
    sound("online_probe"),
    sound("optimizer_each_epoch"),
    sound("orthogonal_projection"),
    sound("overlapping_targets"),
    sound("perturbed_by_hand"),
    sound("rate_zero_in_the_middle"),
    sound("retained_graph"),
    sound("schedule_free"),
    sound("shadow_beside_frozen"),
    sound("shadow_store_restore"),
    sound("skipped_batches"),
    sound("slow_second_average"),
    sound("spectral_norm_student"),
    sound("supervised_at_first"),
    sound("supervised_average"),
    sound("validation_every_step"),
    sound("validation_fresh_copy"),
    sound("validation_swapped_attributes"),
    sound("validation_with_statistics", style="byol"),
    sound("warmup_scheduler"),
    sound("weight_normalised_head"),
    sound("warmup_scheduler", *DINO),
    *(sound(name, "--spec", name) for name in ("dino", "byol", "vjepa2")),  # published, without its length
]

LOOPS: list[Loop] = FAULTY + SOUND
