"""The keys that a DeepSpeed JSON may have, and the values that each of them takes.

DeepSpeed checks some values only after the data were made, with a traceback, and others never: a
text "false" counts as true. No import of DeepSpeed, which takes seconds.
"""

from math import inf

AUTO = "auto"
# DeepSpeed's optimizer of stages 1 and 2 demands buckets of a multiple of so many elements.
BUCKET_MULTIPLE = 2
DTYPES = ("fp32", "bf16", "fp16")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# DeepSpeed ignores what it does not know at the top level, so the known keys are listed here.
TOP_LEVEL_KEYS = _words("""
    train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping
    zero_optimization bf16 fp16 data_types communication_data_type prescale_gradients
    gradient_predivide_factor steps_per_print wall_clock_breakdown memory_breakdown dump_state
    comms_logger flops_profiler aio checkpoint log_level disable_python_gc timers
    """)
# The fields of DeepSpeed's own models, without those it deprecates.
SECTION_KEYS: dict[str, frozenset[str]] = {
    "zero_optimization": _words("""
        stage contiguous_gradients reduce_scatter reduce_bucket_size
        use_multi_rank_bucket_allreduce allgather_partitions allgather_bucket_size overlap_comm
        compute_grad_norm load_from_fp32_weights elastic_checkpoint offload_param
        offload_optimizer zenflow sub_group_size stage3_prefetch_bucket_size
        stage3_param_persistence_threshold stage3_model_persistence_threshold
        stage3_max_live_parameters stage3_max_reuse_distance
        stage3_gather_16bit_weights_on_model_save stage3_module_granularity_threshold
        stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential
        ignore_unused_parameters legacy_stage1 round_robin_gradients parameter_alignment
        zero_hpz_partition_size zero_quantized_weights zero_quantized_nontrainable_weights
        zero_quantized_gradients memory_efficient_linear pipeline_loading_checkpoint
        override_module_apply log_trace_cache_warnings enable_sanity_checks
        save_muon_momentum_buffer_in_memory leaf_module
        """),
    "zero_optimization.offload_param": _words(
        "device nvme_path buffer_count buffer_size max_in_cpu pin_memory"
    ),
    "zero_optimization.offload_optimizer": _words("""
        device nvme_path buffer_count pin_memory pipeline_read pipeline_write fast_init ratio
        super_offload cpuadam_cores_perc
        """),
    "bf16": _words("""
        enabled immediate_grad_update check_grad_overflow bf16_master_weights_and_grads
        bf16_optimizer_states
        """),
    "fp16": _words("""
        enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis
        consecutive_hysteresis min_loss_scale fp16_master_weights_and_grads
        """),
    "data_types": _words("grad_accum_dtype"),
    "timers": _words("throughput"),
    "timers.throughput": _words("enabled synchronized"),
}
# What the values of keys must be, whatever their section; of other keys, each reader says it.
FLAGS = _words("""
    contiguous_gradients reduce_scatter use_multi_rank_bucket_allreduce allgather_partitions
    overlap_comm compute_grad_norm load_from_fp32_weights elastic_checkpoint
    stage3_gather_16bit_weights_on_model_save stage3_use_all_reduce_for_fetch_params
    stage3_allgather_sequential ignore_unused_parameters legacy_stage1 round_robin_gradients
    parameter_alignment zero_quantized_weights zero_quantized_nontrainable_weights
    zero_quantized_gradients memory_efficient_linear pipeline_loading_checkpoint
    override_module_apply log_trace_cache_warnings enable_sanity_checks
    save_muon_momentum_buffer_in_memory pin_memory pipeline_read pipeline_write fast_init
    super_offload enabled immediate_grad_update check_grad_overflow bf16_master_weights_and_grads
    bf16_optimizer_states auto_cast consecutive_hysteresis fp16_master_weights_and_grads
    synchronized prescale_gradients wall_clock_breakdown memory_breakdown dump_state
    disable_python_gc
    """)
WHOLE_NUMBERS = _words("""
    stage allgather_bucket_size sub_group_size stage3_prefetch_bucket_size
    stage3_param_persistence_threshold stage3_model_persistence_threshold
    stage3_max_live_parameters stage3_max_reuse_distance stage3_module_granularity_threshold
    zero_hpz_partition_size buffer_count buffer_size max_in_cpu initial_scale_power
    loss_scale_window hysteresis min_loss_scale
    """)
POSITIVE_WHOLE_NUMBERS = _words("reduce_bucket_size steps_per_print")
POSITIVE_NUMBERS = _words("gradient_predivide_factor")
SHARES = _words("ratio cpuadam_cores_perc")
NUMBERS_OR_ZERO = _words("loss_scale")
DTYPE_NAMES = _words("communication_data_type grad_accum_dtype")
SECTIONS = _words("leaf_module zenflow comms_logger flops_profiler aio checkpoint")
# The sizes that may be left to the model.
FITTED = _words("""
    reduce_bucket_size allgather_bucket_size sub_group_size stage3_prefetch_bucket_size
    stage3_param_persistence_threshold stage3_max_live_parameters stage3_max_reuse_distance
    """)


def expected_instead(key: str, value: object) -> str | None:
    """Return in words what the value of a key should be; None if the value is right."""
    if value == AUTO and key in FITTED:
        return None
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    whole = isinstance(number, int) and number >= 0
    rules = (
        (FLAGS, value in (True, False), "true or false"),
        (WHOLE_NUMBERS, whole, "a whole number"),
        (POSITIVE_WHOLE_NUMBERS, whole and number > 0, "a positive whole number"),
        (POSITIVE_NUMBERS, 0 < number < inf, "a positive number"),
        (NUMBERS_OR_ZERO, 0 <= number < inf, "a number"),
        (SHARES, 0 <= number <= 1, "a number from 0 to 1"),
        (DTYPE_NAMES, value in DTYPES, f"one of {', '.join(DTYPES)}"),
        (SECTIONS, isinstance(value, dict), "an object"),
    )
    return next((words for keys, right, words in rules if key in keys and not right), None)
