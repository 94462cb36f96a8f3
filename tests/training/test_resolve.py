"""Resolved configurations: runtime=fast by rule, refusals for another machine."""

from __future__ import annotations

import pytest
from kit.tiny import tiny

from normbench.config.compose import compose
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError
from normbench.training import runtime
from normbench.training.resolve import Resolver, resolve


def resolved(*settings: str) -> RunConfig:
    return resolve(compose(tiny("runtime.device=cpu", *settings)))[0]


@pytest.mark.parametrize("native", [True, False], ids=["bf16", "no bf16"])
@pytest.mark.parametrize("norm", ["bn", "in"])
@pytest.mark.parametrize("batch_size", [7, 8, 64])
def test_runtime_fast_is_a_preset_that_may_as_well_be_written_out(
    native: bool, norm: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "has_native_bf16", lambda device: native)
    settings = [f"norm={norm}", f"batch_size={batch_size}"]
    fast = resolved("runtime=fast", *settings)
    precision = "bf16" if native and batch_size >= 8 else "fp32"
    channels_last = batch_size >= 8
    assert (fast.runtime.precision, fast.runtime.channels_last) == (precision, channels_last)
    assert not fast.runtime.compile
    written = [f"runtime.precision={precision}", f"runtime.channels_last={channels_last}"]
    assert resolved(*settings, *written).run_id == fast.run_id
    assert resolve(fast)[0] == fast


def test_evaluations_layer_by_layer_are_refused_where_a_layer_runs_several_times() -> None:
    lstm = [setting for setting in tiny("model=lstm", "model.hidden=4") if "widths" not in setting]
    lstm += ["runtime.device=cpu", "train.bn_evaluations=true"]
    with pytest.raises(NormbenchError, match=r"several times .* model\.statistics=per_step"):
        resolve(compose([*lstm, "norm=bn", "model.statistics=shared"]))
    resolve(compose([*lstm, "norm=bn"]))
    for norm in (["norm=ln"], ["norm=bn", "norm.track_running_stats=false"]):
        resolve(compose([*lstm, *norm, "model.statistics=shared"]))


def test_precision_by_the_processor_is_refused_for_another_machine() -> None:
    elsewhere = Resolver(device="cuda")
    for settings, precision in ((["runtime=fast"], "fast"), (["runtime.precision=auto"], "auto")):
        message = f"^runtime.precision={precision}: whether another machine has native bf16"
        with pytest.raises(NormbenchError, match=message):
            elsewhere.resolve(compose(tiny(*settings)))
    config, _ = elsewhere.resolve(compose(tiny("runtime=fast", "runtime.precision=bf16")))
    assert (config.runtime.device, config.runtime.channels_last) == ("cuda", True)
    message = "^runtime.device=cpu: the runs are given cuda; see launcher.gpus_per_run$"
    with pytest.raises(NormbenchError, match=message):
        elsewhere.resolve(compose(tiny("runtime.device=cpu")))
