"""Where the arithmetic happens: what is refused, what is put back, and that layout and compiler change no result."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from normbench.data.loader import DeviceLoader
from normbench.data.source import Split
from normbench.errors import NormbenchError
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.train import runtime
from normbench.train.compilation import compile_seconds
from normbench.train.engine import Trainer, evaluate
from normbench.train.optim import constant, optimizers, parameter_groups
from normbench.train.runtime import (
    Runtime,
    check_compiler,
    check_onednn,
    has_native_bf16,
    open_runtime,
    resolve_device,
    resolve_precision,
)

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)


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
def test_a_device_that_is_missing_is_refused_beside_those_there_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_devices(monkeypatch, cuda=False, mps=False)
    message = f"^runtime.device={name}: there is no {name} device here; available: cpu$"
    with pytest.raises(NormbenchError, match=message):
        resolve_device(name)


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_is_bf16_where_that_is_native_and_asking_for_it_elsewhere_is_refused(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "has_native_bf16", lambda device: native)
    assert resolve_precision("auto", "cpu") == ("bf16" if native else "fp32")
    assert resolve_precision("fp32", "cpu") == "fp32"
    if native:
        assert resolve_precision("bf16", "cpu") == "bf16"
    else:
        with pytest.raises(
            NormbenchError,
            match=r"^runtime\.precision=bf16: this cpu has no native bf16; available: ",
        ):
            resolve_precision("bf16", "cpu")


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("fpu avx2 avx512f", False),
        ("fpu avx512_bf16", True),
        ("amx_bf16 amx_tile", True),
        ("fp asimd bf16", True),
    ],
)
def test_a_processor_has_bf16_where_its_flags_say_so(
    flags: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cpu_info", lambda field: flags if field == "flags" else "")
    monkeypatch.setattr(runtime.platform, "machine", lambda: "x86_64")
    assert has_native_bf16("cpu") is native


@pytest.mark.parametrize(
    ("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_a_gpu_has_bf16_from_capability_8_on(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert has_native_bf16("cuda") is native


def test_compiling_without_a_compiler_is_refused_only_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check_compiler(False, "cpu")
    check_compiler(True, "cuda")
    with pytest.raises(NormbenchError, match=r"^runtime\.compile=true needs a C\+\+ compiler"):
        check_compiler(True, "cpu")
    monkeypatch.setattr(
        shutil, "which", lambda name: f"/usr/bin/{name}" if name == "clang++" else None
    )
    check_compiler(True, "cpu")


def test_doing_without_onednn_is_for_a_cpu_alone() -> None:
    check_onednn(False, "cpu")
    check_onednn("auto", "cuda")
    with pytest.raises(
        NormbenchError, match=r"^runtime\.onednn=false needs a cpu, and this run is on cuda"
    ):
        check_onednn(False, "cuda")


def global_settings() -> tuple[int, bool]:
    return torch.get_num_threads(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("tf32", [True, False])
def test_opening_sets_threads_and_forbids_tf32_and_closing_puts_both_back(
    tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    before = global_settings()
    with open_runtime("cpu", "fp32", True, False, threads=2) as opened:
        assert global_settings() == (2, False)
        assert opened == Runtime(CPU, "fp32", True, False)
    assert global_settings() == before
    with pytest.raises(ZeroDivisionError), open_runtime("cpu", "fp32", True, False, threads=2):
        raise ZeroDivisionError
    assert global_settings() == before
    with open_runtime("cpu", "fp32", True, False, threads=None):
        assert torch.get_num_threads() == before[0]


def test_autocast_computes_in_bf16_only_where_that_is_the_precision() -> None:
    conv, x = torch.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 4, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Runtime(CPU, precision, False, False).autocast():
            assert conv(x).dtype == dtype
    assert conv.weight.dtype == torch.float32


def test_peak_memory_is_that_of_this_process_in_mib() -> None:
    assert 50 < Runtime(CPU, "fp32", False, False).peak_memory_mib() < 100_000


def trainer_of(
    where: Runtime,
    norm: str,
    *,
    widths: tuple[int, ...] = (4, 8),
    num_images: int = 10,
    size: int = 8,
) -> Trainer:
    lr, generator = 0.05, np.random.default_rng(0)
    images = generator.integers(0, 256, (num_images, 3, size, size), dtype=np.uint8)
    split = Split.of(images=images, labels=generator.integers(0, 10, num_images))
    layers = Layers(norms.build(norm), seed=0)
    model = where.prepare(models.build("normresnet", layers, 10, options={"widths": widths}))
    loader = DeviceLoader(split, mean=HALF, std=HALF, device=CPU, channels_last=where.channels_last)
    optimizer = optimizers.build("sgd")(parameter_groups(model), lr)
    given: dict[str, Any] = {
        "lr": lr,
        "schedule": constant,
        "batch_size": 4,
        "epochs": 2,
        "seed": 0,
        "log_every": 1,
    }
    return Trainer(model, optimizer, loader, where, **given)


def figures(trainer: Trainer) -> list[float]:
    """Every step's loss, then the evaluation."""
    losses: list[float] = []
    while not trainer.is_done:
        trainer.train_epoch(lambda log: losses.append(log.loss if log else 0.0), lambda: False)
    return [*losses, *evaluate(trainer.model, trainer.loader, trainer.runtime)]


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_channels_last_gives_the_same_figures_to_rounding(norm: str) -> None:
    plain, last = (
        trainer_of(Runtime(CPU, "fp32", layout, False), norm) for layout in (False, True)
    )
    convs = [p for p in last.model.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convs)
    np.testing.assert_allclose(figures(last), figures(plain), rtol=1e-4)


def test_without_compilation_nothing_is_run_beforehand() -> None:
    trainer = trainer_of(Runtime(CPU, "fp32", False, False), "bn")
    assert compile_seconds(trainer, [trainer.loader]) == 0.0
    assert trainer.model.training


def compile_with(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda module, **given: compile_module(module, backend=backend, **given),
    )


def num_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_compiling_meets_every_batch_shape_beforehand_and_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_with("eager", monkeypatch)  # traces as ever, and spends no time on machine code
    eager, compiled = (
        trainer_of(Runtime(CPU, "fp32", False, compiles), "bn") for compiles in (False, True)
    )
    before = copy.deepcopy(compiled.model.state_dict())
    assert before.keys() == eager.model.state_dict().keys()
    graphs = num_graphs()
    assert compile_seconds(compiled, [compiled.loader]) > 0
    assert all(
        torch.equal(value, before[key]) for key, value in compiled.model.state_dict().items()
    )
    assert all(parameter.grad is None for parameter in compiled.model.parameters())
    assert num_graphs() == graphs + 3, "training at 4 and 2 images, evaluation at 10"
    np.testing.assert_allclose(figures(compiled), figures(eager), rtol=1e-4)
    assert num_graphs() == graphs + 3, "a step had to compile again"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_machine_code_gives_the_same_figures() -> None:
    tiny = {"widths": (2,), "num_images": 4, "size": 4}
    eager, compiled = (
        trainer_of(Runtime(CPU, "fp32", False, compiles), "bn", **tiny)
        for compiles in (False, True)
    )
    np.testing.assert_allclose(figures(compiled), figures(eager), rtol=1e-4)
