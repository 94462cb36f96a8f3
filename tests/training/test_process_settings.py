"""The number of processes as a setting: ids, steps, refusals, words, places in a sweep."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from kit.runs import in_study, one_run
from kit.tiny import tiny

import normbench as normbench_package
from normbench.analysis.captions import batch_sizes, caption
from normbench.analysis.settings import describe
from normbench.config.compose import compose
from normbench.config.schema import RunConfig, flatten, from_yaml, in_processes, is_run_id, validate
from normbench.data.cache import load
from normbench.errors import NormbenchError, Unsupported
from normbench.runs.settings import study_settings
from normbench.sweeps.launchers import launchers, processes, slurm
from normbench.sweeps.plan import make_plan
from normbench.sweeps.sweep import Sweep, load_sweep
from normbench.training import resolve as resolving
from normbench.training import runtime
from normbench.training.build import build_trainer, runtime_of, task_of
from normbench.training.resolve import Resolver, data_home, resolve
from normbench.training.resolve import batch_sizes as sizes_of_parts

Run = Callable[..., tuple[int, str, str]]
RESULTS = Path(normbench_package.__file__).parents[1] / "results"


def resolved(*settings: str) -> RunConfig:
    return resolve(compose(tiny("runtime.device=cpu", *settings)))[0]


# Identity


def test_a_run_of_one_process_has_the_id_that_it_had_before_there_were_several() -> None:
    one = resolved()
    assert "processes" not in one.identity()["runtime"]
    assert resolved("runtime.processes=1").run_id == one.run_id
    # What was written before names no number of processes.
    written = one.model_dump(mode="json")
    del written["runtime"]["processes"], written["system"]["restarts"]
    assert validate(written) == one
    assert from_yaml(one.to_yaml()) == one


@pytest.mark.parametrize("study", [file.parent.name for file in RESULTS.glob("*/configs.json")])
def test_the_runs_of_committed_studies_keep_their_ids(study: str) -> None:
    content = json.loads((RESULTS / study / "configs.json").read_text())
    system = compose().system.model_dump(mode="json")
    for run, own in content["runs"].items():
        config: dict[str, Any] = {"system": system}
        for key, value in (content["shared"] | own).items():
            section, _, name = key.partition(".")
            if name:
                config.setdefault(section, {})[name] = value
            else:
                config[section] = value
        assert validate(config).run_id == run


def test_the_number_of_processes_is_in_the_id_and_in_the_cost() -> None:
    one, four = resolved("batch_size=2"), resolved("batch_size=2", "runtime.processes=4")
    assert re.match(r"normresnet-bn-b2-p4-s0-[0-9a-f]{12}$", four.run_id)
    assert is_run_id(four.run_id)
    assert four.fingerprint != one.fingerprint
    assert four.cost_id((3, 32, 32), 10) != one.cost_id((3, 32, 32), 10)
    assert from_yaml(four.to_yaml()) == four


def test_steps_and_the_rate_are_of_all_processes_together() -> None:
    scaled = ["optim.lr_scaling=linear", "train.accumulate=3"]
    four = ["batch_size=2", "runtime.processes=4", *scaled]
    (run,) = make_plan(Sweep("sweep", ()).with_overrides(tiny("runtime.device=cpu", *four))).runs
    assert run.config.images_per_step == 24
    assert run.num_steps == 2 * 5  # 100 images
    one = resolved("batch_size=8", *scaled)
    source = Resolver().source(one)
    task = task_of(one, source)
    images = load(source, data_home(one)).train
    with runtime_of(one) as where:
        whole = build_trainer(one, task, images, where)
    assert (whole.num_steps, whole.images_per_step) == (10, 24)
    assert whole.lr == pytest.approx(
        one.optim.lr * run.config.images_per_step / one.optim.reference_batch_size
    )


# Refusals


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["runtime.processes=17"], "2 cores are here, and at most 8 processes share a core"),
        (["runtime.processes=0"], "greater than or equal to 1, not 0"),
        (["runtime.processes=two"], "runtime.processes"),
        (["runtime.processes=2", "runtime.compile=true"], "runtime.compile=true with runtime.pro"),
        (["runtime.processes=2", "runtime.cuda_graphs=true"], "runtime.cuda_graphs=true with ru"),
    ],
)
def test_what_processes_cannot_do_is_refused_in_a_line(
    normbench: Run, monkeypatch: pytest.MonkeyPatch, settings: list[str], line: str
) -> None:
    monkeypatch.setattr(runtime, "num_cores", lambda: 2)
    code, output, errors = normbench("train", "--dry-run", *tiny("runtime.device=cpu", *settings))
    assert (code, output) == (2, "")
    assert line in errors
    assert len(errors.splitlines()) == 1


def test_as_many_processes_as_share_the_cores_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "num_cores", lambda: 2)
    assert resolved("runtime.processes=16", "batch_size=1").runtime.processes == 16


@pytest.mark.parametrize("gpus", [0, 1, 3])
def test_nccl_takes_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(runtime.torch.cuda, "device_count", lambda: gpus)
    if gpus >= 2:
        runtime.check_processes(2, "cuda")
        return
    with pytest.raises(NormbenchError, match=f"a GPU for each process, and {gpus} is here"):
        runtime.check_processes(2, "cuda")


def test_mps_has_one_process() -> None:
    with pytest.raises(NormbenchError, match=r"^runtime.processes=2: .* on mps; allowed: 1"):
        runtime.check_processes(2, "mps")


def test_one_process_has_nobody_to_start_again(normbench: Run) -> None:
    code, _, errors = normbench("train", "--restarts", "1", *tiny())
    assert code == 2
    assert errors.startswith("normbench: --restarts 1: the only process of a run starts no other")


def test_a_bench_is_of_one_process(normbench: Run) -> None:
    code, _, errors = normbench("bench", *tiny("runtime.processes=2", "runtime.device=cpu"))
    assert code == 2
    assert "bench times steps of one process" in errors


def test_the_parts_of_batches_are_what_a_norm_is_asked_about() -> None:
    assert sizes_of_parts(50, 16, 2) == {8, 1}
    assert sizes_of_parts(51, 16, 2) == {8, 1, 2}
    assert sizes_of_parts(49, 16, 2) == {8, 1}  # and a process without an image
    assert sizes_of_parts(48, 16, 2) == {8}
    assert sizes_of_parts(5, 16, 2) == {3, 2}
    assert sizes_of_parts(50, 16, 1) == {16, 2}


def test_a_norm_is_refused_by_what_one_process_sees_unless_it_sees_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A 1x1 map, on which one sample has no variance.
    monkeypatch.setattr(resolving, "norm_sites", lambda build, *about: [(4, 1, 1)])
    shared = ["batch_size=1", "runtime.processes=2"]
    with pytest.raises(Unsupported, match="at batch 1 a process, 2 processes: one value per"):
        resolved("norm=bn", *shared)
    assert resolved("norm=sync_bn", *shared).norm.name == "sync_bn"
    with pytest.raises(Unsupported, match="at batch 1: one value per channel"):
        resolved("norm=sync_bn", "batch_size=1")


# Words


def test_a_batch_size_says_that_it_is_of_a_process() -> None:
    assert in_processes(2, 4) == "2 a process, 4 processes"
    assert in_processes(2, 1) == "2"
    told = {"batch_size": 2, "runtime.processes": "4", "lr": 0.1}
    assert describe(told) == "batch size 2 a process, 4 processes, lr 0.1"
    assert describe({**told, "runtime.processes": "1"}) == "batch size 2, lr 0.1"
    assert describe({"runtime.processes": "4"}) == "runtime.processes 4"


def several(**more: Any) -> Mapping[str, Any]:
    return {"runtime.processes": 4, **more}


def test_tables_know_runs_of_several_processes_from_runs_of_one() -> None:
    study = in_study(
        *(one_run(norm, 2, **several()) for norm in ("bn", "gn")),
        *(one_run(norm, 8) for norm in ("bn", "gn")),
    )
    # The number follows from the batch size, and is told all the same.
    assert list(study.runs["runtime.processes"]) == ["4", "4", "1", "1"]
    assert batch_sizes(study) == ["8", "2 a process, 4 processes"]
    assert "Batch sizes are of each process: 2 a process, 4 processes." in caption(study)
    only_one = in_study(one_run("bn", 8), one_run("gn", 8, **{"runtime.processes": 1}))
    assert "runtime.processes" not in only_one.runs
    assert "each process" not in caption(only_one)


def test_one_process_is_the_same_setting_named_or_not() -> None:
    config = flatten(resolved().model_dump(mode="json"))
    named = study_settings(config)
    del config["runtime.processes"]
    assert named == study_settings(config)
    assert study_settings({"runtime.processes": 2}) == {"runtime.processes": 2}


# Sweeps


def of_processes(number: int, folder: Path, device: str = "cpu") -> list[RunConfig]:
    flags = {"system.runs_dir": str(folder), "runtime.device": device}
    return [compose([f"seed={seed}", f"runtime.processes={number}"], flags) for seed in range(9)]


@pytest.mark.parametrize(("number", "jobs"), [(1, 8), (2, 4), (3, 2), (4, 2), (8, 1), (9, 1)])
def test_runs_at_a_time_leave_a_core_for_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, jobs: int
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: 8)
    monkeypatch.setattr(processes, "available_memory_gib", lambda: 100.0)
    launcher = launchers.build("processes", False, options={})
    assert launcher.at_once(of_processes(number, tmp_path)) == jobs
    asked = launchers.build("processes", False, options={"jobs": 3})
    assert asked.at_once(of_processes(number, tmp_path)) == 3


def test_a_run_has_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f,7,1,9")
    monkeypatch.setattr(processes, "num_gpus", lambda: 5)
    slots = [slot["CUDA_VISIBLE_DEVICES"] for slot in processes.gpu_slots(5, 2, 2)]
    assert slots == ["3,GPU-5f", "7,1", "3,GPU-5f", "7,1"]
    launcher = launchers.build("processes", False, options={})
    assert launcher.at_once(of_processes(2, tmp_path, "cuda")) == 2


def test_slurm_reserves_for_each_process() -> None:
    assert slurm._reserved(4, 2, 1) == {"cpus_per_task": 8, "gpus_per_node": 4}
    assert slurm._reserved(1, 2, 0) == {"cpus_per_task": 2}


def test_the_study_sync_takes_the_same_images_a_step_everywhere() -> None:
    points = [settings for settings, _ in load_sweep("sync").points()]
    assert len(points) == 18
    assert {point["runtime.processes"] * point["batch_size"] for point in points} == {8}
