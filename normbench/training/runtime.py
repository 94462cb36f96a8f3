"""Where and how the arithmetic is done: device, precision, memory layout, compilation, the clock.

What was asked for and is missing is an error here, before any work: nothing falls back in silence.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.environment import cpu_info, num_cores
from normbench.errors import NormbenchError
from normbench.training.convolutions import multiply_weight_gradients

# Measured on two cores of an AMD EPYC with native bf16 (results/speed/fast and in). Under
# bn at batch 1 fp32 in the contiguous layout is the quickest (8.6 ms a step; bf16 9.7 ms); bf16 in
# channels_last takes 20.4 instead of 28.0 ms at batch 8, 82 instead of 153 ms at batch 64, and `in`
# 20.5 instead of 22.5 and 87 instead of 102 ms.
FAST_FROM_BATCH = 8

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Of one run, on a CPU: they share the cores. Beyond, they would mostly wait for one another.
PROCESSES_PER_CORE = 8


@dataclass(frozen=True)
class Runtime:
    """A device and how to compute on it."""

    device: torch.device
    precision: str
    channels_last: bool
    compile: bool
    cuda_graphs: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products and convolutions."""
        return DTYPES.get(self.precision, torch.float32)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Moves the model to the device and layout; compiles it in place: state keeps its names.

        In bf16 and channels_last on a CPU, convolutions get weight gradients by matrix products.
        """
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        if self.device.type == "cpu" and self.dtype == torch.bfloat16 and self.channels_last:
            multiply_weight_gradients(model)
        if self.compile:
            compile_all()
            model.compile(dynamic=False)
        return model

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 or fp16 autocast where that is the precision, else nothing."""
        is_half = self.dtype != torch.float32
        dtype = self.dtype if is_half else torch.bfloat16  # autocast takes no float32
        return torch.autocast(self.device.type, dtype, enabled=is_half)

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        """Runs work on a side stream, as CUDA requires before the capture of a graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Records the GPU operations of `work` in a CUDA graph; returns its replay."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def now(self) -> float:
        """Seconds on a monotonic clock, read after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def peak_memory_mib(self) -> float:
        """Peak memory in MiB: allocated by this run on cuda, elsewhere resident in the process."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated()) / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@contextmanager
def open_runtime(runtime: Runtime, threads: int | None) -> Iterator[Runtime]:
    """Yields `runtime` under torch's global settings; restores all but allocator and compiler."""
    threads_before = torch.get_num_threads()
    tf32_before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(threads or threads_before)
    # fp32 means fp32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if runtime.device.type == "cpu":
        keep_freed_memory()
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        yield runtime
    finally:
        torch.set_num_threads(threads_before)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32_before


def compile_all() -> None:
    """Makes torch.compile fail where it would otherwise go on eagerly after too many shapes."""
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = 256
    dynamo.fail_on_recompile_limit_hit = True


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory in this process; does nothing under another allocator.

    By default glibc maps every large tensor anew, zeroed page by page at the first write: a sixth
    of a training step at batch 64 on two cores, a third of an evaluation (results/LOG.md). The
    peak is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform == "linux" and mallopt is not None:
        # mallopt(3)
        mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for any tensor
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never give memory back
        mallopt(-2, 2**26)  # M_TOP_PAD: grow in large steps


def resolve_device(name: str) -> str:
    """The device that `name` (auto, cpu, cuda, mps) stands for; NormbenchError if missing."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if name == "auto":
        return available[0]
    if name not in available:
        known = ", ".join(available)
        raise NormbenchError(
            f"runtime.device={name}: there is no {name} device here; available: {known}"
        )
    return name


def resolve_precision(name: str, device: str, batch_size: int) -> str:
    """The precision that `name` stands for at this batch size on `device`.

    auto: bf16 where the device has it natively. fast: the same from FAST_FROM_BATCH images on.
    Raises NormbenchError for bf16 on a device that would emulate it, and for fp16 without cuda.
    """
    if name == "fp16":
        check_fp16(device)
        return name
    native = has_native_bf16(device)
    if name == "auto" or (name == "fast" and batch_size >= FAST_FROM_BATCH):
        return "bf16" if native else "fp32"
    if name == "fast":
        return "fp32"
    if name == "bf16" and not native:
        raise NormbenchError(
            f"runtime.precision=bf16: this {device} has no native bf16; available: fp32"
        )
    return name


def check_fp16(device: str) -> None:
    """Raises NormbenchError for fp16 on another device than cuda."""
    if device != "cuda":
        raise NormbenchError(
            f"runtime.precision=fp16: its loss scaling is for cuda, and this run is on {device}; "
            "allowed: bf16 where the device has it, fp32"
        )


def check_together(processes: int, precision: str, compiled: bool, cuda_graphs: bool) -> None:
    """Raises NormbenchError for what does not go together on any machine."""
    if precision == "fp16" and cuda_graphs:
        raise NormbenchError(
            "runtime.cuda_graphs=true with runtime.precision=fp16: whether a step is skipped is "
            "asked after each, which no graph can; set cuda_graphs=false or precision=bf16"
        )
    if processes > 1 and cuda_graphs:
        raise NormbenchError(
            f"runtime.cuda_graphs=true with runtime.processes={processes}: a graph would replay "
            "the sums over processes without their agreement; set cuda_graphs=false or processes=1"
        )
    if processes > 1 and compiled:
        raise NormbenchError(
            f"runtime.compile=true with runtime.processes={processes}: compiled steps of several "
            "processes are not measured nor tested; set compile=false or processes=1"
        )


def resolve_layout(channels_last: bool | str, batch_size: int) -> bool:
    """Whether tensors are channels_last; fast: from FAST_FROM_BATCH images on."""
    if isinstance(channels_last, bool):
        return channels_last
    return batch_size >= FAST_FROM_BATCH


def check_compiler(device: str) -> None:
    """Raises NormbenchError where torch.compile has no compiler for the device."""
    has_compiler = any(map(shutil.which, ("g++", "clang++", "c++")))
    if device == "cpu" and not has_compiler:
        raise NormbenchError(
            "runtime.compile=true needs a C++ compiler (g++ or clang++) on a cpu; none was found"
        )
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise NormbenchError(
            "runtime.compile=true needs the package triton on cuda, and it is not installed"
        )


def check_processes(number: int, device: str) -> None:
    """Raises NormbenchError where the device has no place for so many processes of one run."""
    if device == "mps":
        raise NormbenchError(
            f"runtime.processes={number}: torch has no processes that share a run on mps; "
            "allowed: 1, or runtime.device=cpu"
        )
    if device == "cuda" and number > torch.cuda.device_count():
        raise NormbenchError(
            f"runtime.processes={number}: nccl takes a GPU for each process, and "
            f"{torch.cuda.device_count()} is here; allowed: 1 to {torch.cuda.device_count()}"
        )
    most = PROCESSES_PER_CORE * num_cores()
    if device == "cpu" and number > most:
        raise NormbenchError(
            f"runtime.processes={number}: {num_cores()} cores are here, and at most "
            f"{PROCESSES_PER_CORE} processes share a core; allowed: 1 to {most}"
        )
    if not torch.distributed.is_available():
        raise NormbenchError(
            f"runtime.processes={number}: this torch was built without torch.distributed"
        )


def has_native_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 matrices itself; emulation is slower than fp32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "mps":
        return True
    # torch does not tell for a Mac's processor.
    if platform.machine() == "arm64":
        return False
    # /proc/cpuinfo says flags on x86 and Features on Arm.
    flags = f"{cpu_info('flags')} {cpu_info('Features')}".split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
