"""A configuration's runtime without `auto` and `fast`, on this machine or on another one."""

from __future__ import annotations

from normbench.config.schema import RunConfig
from normbench.config.sections import RuntimeConfig
from normbench.errors import NormbenchError
from normbench.training.runtime import (
    check_compiler,
    check_fp16,
    check_processes,
    check_together,
    resolve_device,
    resolve_layout,
    resolve_precision,
)


def runtime_as_it_runs(config: RunConfig, elsewhere: str | None) -> RuntimeConfig:
    """The runtime with the values that `auto` and `fast` stand for.

    elsewhere: `cpu` or `cuda` where the run will be on another machine.

    Raises NormbenchError for settings that exclude one another or that the device cannot do.
    """
    runtime = config.runtime
    check_together(runtime.processes, runtime.precision, runtime.compile, runtime.cuda_graphs)
    if elsewhere is not None:
        return _runtime_elsewhere(elsewhere, config)
    device = resolve_device(runtime.device)
    if runtime.compile:
        check_compiler(device)
    if runtime.processes > 1:
        check_processes(runtime.processes, device)
    if runtime.cuda_graphs and device != "cuda":
        raise NormbenchError(
            f"runtime.cuda_graphs=true needs a cuda device, and this run is on {device}"
        )
    precision = resolve_precision(runtime.precision, device, config.batch_size)
    layout = resolve_layout(runtime.channels_last, config.batch_size)
    update = {"device": device, "precision": precision, "channels_last": layout}
    return runtime.model_copy(update=update)


def _runtime_elsewhere(device: str, config: RunConfig) -> RuntimeConfig:
    """The runtime on another machine, as far as this machine can tell."""
    runtime = config.runtime
    if runtime.device not in ("auto", device):
        raise NormbenchError(
            f"runtime.device={runtime.device}: the runs are given {device}; "
            "see launcher.gpus_per_run"
        )
    if runtime.precision in ("auto", "fast"):
        raise NormbenchError(
            f"runtime.precision={runtime.precision}: whether another machine has native bf16 "
            "is not known here; say fp32, bf16 or fp16"
        )
    if runtime.precision == "fp16":
        check_fp16(device)
    channels_last = resolve_layout(runtime.channels_last, config.batch_size)
    return runtime.model_copy(update={"device": device, "channels_last": channels_last})
