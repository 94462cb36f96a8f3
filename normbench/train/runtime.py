"""Where the arithmetic happens: device, precision, memory layout, compilation, and the clock that goes with them.

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

from normbench.environment import cpu_info
from normbench.errors import NormbenchError

# Options of mallopt(3): no mapping of its own for any tensor, never give back, grow in large steps.
MALLOC_OPTIONS = {
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
    "M_TOP_PAD": (-2, 2**26),
}


@dataclass(frozen=True)
class Runtime:
    """A device and how to compute on it."""

    device: torch.device
    precision: str
    channels_last: bool
    compile: bool
    cuda_graphs: bool = False
    onednn: bool = True

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the chosen layout; compiled in place, so that its state keeps its names."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        if self.compile:
            compile_all()
            model.compile(dynamic=False)
        return model

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 autocast where that is the precision, else nothing."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """With oneDNN or without, on a processor: for training steps. Evaluations have large batches, where it pays."""
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = self.onednn  # type: ignore[assignment]  # torch types the name, not its value
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work in here has a stream of its own, as what precedes the recording of a CUDA graph must."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Records what `work` does on the GPU, without doing it; the function returned does it and gives its result."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def now(self) -> float:
        """Seconds on a monotonic clock, after the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def peak_memory_mib(self) -> float:
        """Peak memory in MiB: on cuda allocated in this run, elsewhere resident in the whole process so far.

        There the trials of an auto are in it, in the run for which they were made.
        """
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated()) / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@contextmanager
def open_runtime(
    device: str,
    precision: str,
    channels_last: bool,
    compile_model: bool,
    threads: int | None,
    cuda_graphs: bool = False,
    onednn: bool = True,
) -> Iterator[Runtime]:
    """A Runtime, with torch's global settings as it needs them; put back at the end, but for allocator and compiler."""
    threads_before = torch.get_num_threads()
    tf32_before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(threads or threads_before)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        False  # fp32 means fp32
    )
    if device == "cpu":
        keep_freed_memory()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        yield Runtime(
            torch.device(device), precision, channels_last, compile_model, cuda_graphs, onednn
        )
    finally:
        torch.set_num_threads(threads_before)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32_before


def compile_all() -> None:
    """Has this process compile every layer and shape, and fail where there are too many: not go on eager in silence."""
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit, dynamo.fail_on_recompile_limit_hit = 256, True


def keep_freed_memory() -> None:
    """Has glibc keep the memory that is freed in this process, where glibc is what allocates.

    As it is, every large tensor is mapped anew and zeroed page by page when it is first written: a sixth of a training
    step at batch 64 on two cores, and a third of an evaluation (results/LOG.md). The peak is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in MALLOC_OPTIONS.values():
            mallopt(option, value)


def resolve_device(name: str) -> str:
    """The device that `name` (auto, cpu, cuda, mps) stands for here. Raises NormbenchError where there is none."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available[name]:
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise NormbenchError(
            f"runtime.device={name}: there is no {name} device here; available: {there}"
        )
    return name


def resolve_precision(name: str, device: str) -> str:
    """The precision that `name` (auto, fp32, bf16) stands for on `device`: auto is bf16 where that is native."""
    native = has_native_bf16(device)
    if name == "auto":
        return "bf16" if native else "fp32"
    if name == "bf16" and not native:
        raise NormbenchError(
            f"runtime.precision=bf16: this {device} has no native bf16; available: fp32"
        )
    return name


def check_compiler(compile_model: bool, device: str) -> None:
    """Raises NormbenchError where torch.compile was asked for and what it compiles with is missing."""
    if (
        compile_model
        and device == "cpu"
        and not any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    ):
        raise NormbenchError(
            "runtime.compile=true needs a C++ compiler (g++ or clang++) on a cpu, and none was found"
        )
    if compile_model and device == "cuda" and importlib.util.find_spec("triton") is None:
        raise NormbenchError(
            "runtime.compile=true needs the package triton on cuda, and it is not installed"
        )


def check_cuda_graphs(cuda_graphs: bool, device: str) -> None:
    """Raises NormbenchError where CUDA graphs were asked for on another device."""
    if cuda_graphs and device != "cuda":
        raise NormbenchError(
            f"runtime.cuda_graphs=true needs a cuda device, and this run is on {device}"
        )


def check_onednn(onednn: bool | str, device: str) -> None:
    """Raises NormbenchError where another device than a cpu was asked to do without oneDNN, which it never uses."""
    if onednn is False and device != "cpu":
        raise NormbenchError(f"runtime.onednn=false needs a cpu, and this run is on {device}")


def has_native_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 matrices itself instead of by emulation, which is slower than fp32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "mps":
        return True
    if platform.machine() == "arm64":  # a Mac's processor; torch does not say
        return False
    flags = (
        f"{cpu_info('flags')} {cpu_info('Features')}".split()
    )  # x86 calls them flags, Arm Features
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
