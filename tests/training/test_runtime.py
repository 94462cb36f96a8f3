"""Where the arithmetic happens: resolution and refusal, global settings, compilation beforehand."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import tiny
from kit.training import CPU, PLAIN, figures, split_of, trainer_of

from normbench.config.compose import compose
from normbench.errors import NormbenchError
from normbench.training import runtime
from normbench.training.compilation import compile_seconds
from normbench.training.resolve import resolve
from normbench.training.runtime import (
    Runtime,
    check_compiler,
    has_native_bf16,
    open_runtime,
    resolve_device,
    resolve_layout,
    resolve_precision,
)


def has_devices(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_is_the_fastest_device_there_is(
    cuda: bool, mps: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_devices(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device("auto") == device
    assert resolve_device(device) == device
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_missing_device_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    has_devices(monkeypatch, cuda=False, mps=False)
    message = f"^runtime.device={name}: there is no {name} device here; available: cpu$"
    with pytest.raises(NormbenchError, match=message):
        resolve_device(name)


# Precision and layout


@pytest.mark.parametrize("batch_size", [1, 7, 8, 64])
@pytest.mark.parametrize("native", [True, False])
def test_precision_is_bf16_only_where_the_device_has_it(
    native: bool, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "has_native_bf16", lambda device: native)
    is_fast = native and batch_size >= 8
    assert resolve_precision("auto", "cpu", batch_size) == ("bf16" if native else "fp32")
    assert resolve_precision("fast", "cpu", batch_size) == ("bf16" if is_fast else "fp32")
    assert resolve_precision("fp32", "cpu", batch_size) == "fp32"
    if native:
        assert resolve_precision("bf16", "cpu", batch_size) == "bf16"
        return
    message = r"^runtime\.precision=bf16: this cpu has no native bf16; available: fp32$"
    with pytest.raises(NormbenchError, match=message):
        resolve_precision("bf16", "cpu", batch_size)


def test_the_fast_layout_is_channels_last_from_batch_8_on() -> None:
    for batch_size, expected in ((1, False), (7, False), (8, True), (64, True)):
        assert resolve_layout("fast", batch_size) == expected
        assert resolve_layout(True, batch_size)
        assert not resolve_layout(False, batch_size)


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("fpu avx2 avx512f", False),
        ("fpu avx512_bf16", True),
        ("amx_bf16 amx_tile", True),
        ("fp asimd bf16", True),
    ],
)
def test_flags_say_whether_a_processor_has_bf16(
    flags: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cpu_info", lambda field: flags if field == "flags" else "")
    monkeypatch.setattr(runtime.platform, "machine", lambda: "x86_64")
    assert has_native_bf16("cpu") is native


def test_a_gpu_has_bf16_from_capability_8_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, native in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert has_native_bf16("cuda") is native


# Refusals


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    resolve(compose(tiny("runtime.device=cpu")))
    with pytest.raises(NormbenchError, match=r"^runtime\.compile=true needs a C\+\+ compiler"):
        resolve(compose(tiny("runtime.device=cpu", "runtime.compile=true")))
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "clang++" else None)
    check_compiler("cpu")


def test_a_gpu_s_compiler_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: name)
    check_compiler("cuda")
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NormbenchError, match=r"^runtime\.compile=true needs the package triton"):
        check_compiler("cuda")


# Global settings


def global_settings() -> tuple[int, bool, bool]:
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    return torch.get_num_threads(), *tf32


@pytest.mark.parametrize("tf32", [True, False])
def test_opening_sets_threads_and_forbids_tf32_and_closing_restores_both(
    tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    before = global_settings()
    with open_runtime(PLAIN, threads=2) as opened:
        assert global_settings() == (2, False, False)
        assert opened is PLAIN
    assert global_settings() == before
    with pytest.raises(ZeroDivisionError), open_runtime(PLAIN, threads=2):
        raise ZeroDivisionError
    assert global_settings() == before
    with open_runtime(PLAIN, threads=None):
        assert torch.get_num_threads() == before[0]


def test_autocast_computes_in_bf16_only_where_that_is_the_precision() -> None:
    conv, x = torch.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 4, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Runtime(CPU, precision, False, False).autocast():
            assert conv(x).dtype == dtype
    assert conv.weight.dtype == torch.float32


def test_peak_memory_is_that_of_this_process_in_mib() -> None:
    assert 50 < PLAIN.peak_memory_mib() < 100_000


# Compilation beforehand


def test_without_compilation_nothing_is_run_beforehand() -> None:
    trainer = trainer_of()
    assert compile_seconds(trainer, [trainer.loader]) == 0.0
    assert trainer.model.training


def num_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.slow
def test_compiling_meets_every_batch_shape_beforehand_and_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_module = torch.nn.Module.compile

    def compile_eagerly(module: torch.nn.Module, **given: Any) -> None:
        # The backend "eager" traces and generates no code.
        compile_module(module, backend="eager", **given)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    given: dict[str, Any] = {"split": split_of(10), "batch_size": 4, "epochs": 2}
    eager = trainer_of(**given)
    compiled = trainer_of(runtime=Runtime(CPU, "fp32", False, compile=True), **given)
    before = copy.deepcopy(compiled.model.state_dict())
    assert before.keys() == eager.model.state_dict().keys()
    graphs = num_graphs()
    assert compile_seconds(compiled, [compiled.loader]) > 0
    for key, value in compiled.model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.grad is None for parameter in compiled.model.parameters())
    assert num_graphs() == graphs + 3, "training at 4 and 2 images, evaluation at 10"
    np.testing.assert_allclose(figures(compiled), figures(eager), rtol=1e-4)
    assert num_graphs() == graphs + 3, "a step had to compile again"
