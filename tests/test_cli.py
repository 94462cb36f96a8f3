"""The command line for a user: lines on standard output and standard error, exit codes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from kit.tiny import TINY, tiny
from PIL import Image

from normbench import __version__
from normbench.cli import app
from normbench.cli.commands import GROUPS
from normbench.cli.doctor import _torchvision
from normbench.config import compose
from normbench.data.formats import cifar10
from normbench.runs import rundir
from normbench.training.engine import Trainer

Run = Callable[..., tuple[int, str, str]]


def test_train_prints_a_line_an_epoch_and_the_result_once_more(normbench: Run) -> None:
    code, out, err = normbench("train", "--norm", "gn", *TINY)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert [line[:9] for line in lines[:-1]] == ["epoch 1/2", "epoch 2/2"]
    assert all(" test loss " in line and " accuracy " in line for line in lines[:-1])
    assert lines[-1].startswith("test accuracy ")
    assert (Path(lines[-1].split()[-1]) / "metrics.csv").exists()
    assert normbench("train", "--norm", "gn", *TINY) == (0, f"{lines[-1]}\n", "")


def test_a_flag_and_its_override_are_the_same_thing(normbench: Run) -> None:
    settings = {
        "norm": "gn",
        "batch-size": "8",
        "epochs": "3",
        "seed": "4",
        "lr": "0.01",
        "device": "cpu",
        "precision": "fp32",
        "model": "normresnet",
        "data": "synthetic",
        "runs-dir": "elsewhere",
    }
    keys = {
        "batch-size": "batch_size",
        "lr": "optim.lr",
        "device": "runtime.device",
        "precision": "runtime.precision",
        "runs-dir": "system.runs_dir",
    }
    flags = [f"--{flag}={value}" for flag, value in settings.items()]
    overrides = [f"{keys.get(flag, flag)}={value}" for flag, value in settings.items()]
    assert normbench("train", "--dry-run", *flags) == normbench("train", "--dry-run", *overrides)


def test_a_dry_run_prints_config_and_run_id_and_no_more(normbench: Run, tmp_path: Path) -> None:
    code, planned, _ = normbench("train", "--norm", "ln", "--dry-run", *TINY)
    assert code == 0
    assert "norm: {name: ln" in planned
    assert "# run id: normresnet-ln-b16-s0-" in planned
    assert list(tmp_path.iterdir()) == []
    _, trained, _ = normbench("train", "--norm", "ln", *TINY)
    assert planned.split()[-1] == Path(trained.split()[-1]).name


def test_a_diverged_run_exits_with_3(normbench: Run) -> None:
    code, out, _ = normbench("train", "--norm", "none", *TINY, "optim.lr=1e30", "train.log_every=1")
    assert code == 3
    assert "diverged: the loss of step" in out


def test_an_interrupted_run_exits_with_130_and_names_the_command_that_goes_on(
    normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = Trainer.take_step

    def interrupted(self: Trainer, *arguments: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return take_step(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", interrupted)
        code, out, _ = normbench("train", "--norm", "gn", "--restart", *TINY)
    assert code == 130
    assert "stopped after step 1 of 14; go on with: normbench train --norm gn data=synthetic" in out
    assert "--restart" not in out
    code, out, _ = normbench("train", "--norm", "gn", *TINY)
    assert code == 0
    assert out.splitlines()[0] == "going on after step 1 of 14, in epoch 1 of 2"


def test_a_second_ctrl_c_names_the_command_that_goes_on(
    normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = Trainer.take_step

    def interrupted(self: Trainer, *arguments: object) -> object:
        if self.step == 9:
            raise KeyboardInterrupt
        return take_step(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", interrupted)
        code, out, err = normbench("train", *TINY, "--restart")
    assert (code, err) == (130, "")
    told = "stopped at once: it goes on from the last checkpoint; go on with: normbench train data"
    assert out.splitlines()[-1].startswith(told)
    assert "--restart" not in out
    code, out, _ = normbench("train", *TINY)
    assert (code, out.splitlines()[0]) == (0, "going on after step 7 of 14, in epoch 2 of 2")


def test_a_failure_exits_with_1(normbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, planned, _ = normbench("train", "--dry-run", *TINY)
    with rundir.open_run(Path("results/runs") / planned.split()[-1]):
        code, _, err = normbench("train", *TINY)
    assert code == 1
    assert "another process is training" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norm", "bm"], "unknown norm 'bm': did you mean 'bn'? allowed: "),
        (["norm=bn,gn"], "'norm=bn,gn' is several values for one run: use sweep for that"),
        (["--norm", "bn", "norm=gn"], "'norm' is given twice: as 'bn' and in 'norm=gn'"),
        (["--batch-size", "0"], "batch_size: should be greater than or equal to 1, not 0"),
        (["--lr", ""], "--lr: should be a valid number, not ''"),
        (["--device", "tpu"], "runtime.device: should be 'auto', 'cpu', 'cuda' or 'mps', "),
        (["--nrom", "bn"], "No such option: --nrom"),
        (["--runs-dir", ""], "system.runs_dir: String should have at least 1 character"),
        (["data=image_folder", "data.root="], "data.root: String should have at least 1 character"),
        (["system.threads=99999999999"], "system.threads: should be less than or equal to 1024"),
        (["data=synthetic", "model.widths=[]"], "model.widths: Tuple should have at least 1 item"),
        (tiny("norm=gn", "norm.num_groups=5"), "num_groups=5 does not divide 4 channels"),
    ],
)
def test_bad_input_is_one_line_on_standard_error_and_exit_code_2(
    normbench: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = normbench("train", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "setting"),
    [
        ("--batch-size", "batch_size"),
        ("--epochs", "epochs"),
        ("--seed", "seed"),
        ("--lr", "optim.lr"),
        ("--processes", "runtime.processes"),
        ("--restarts", "system.restarts"),
    ],
)
@pytest.mark.parametrize("value", ["four", "1.5x", "-", "[1]"])
def test_a_wrong_value_of_a_flag_is_told_as_that_of_its_setting(
    normbench: Run, flag: str, setting: str, value: str
) -> None:
    _, _, of_setting = normbench("train", f"{setting}={value}")
    code, _, of_flag = normbench("train", f"{flag}={value}")
    assert code == 2
    assert re.sub(r", not .*", "", of_flag) == (
        re.sub(r", not .*", "", of_setting).replace(setting, flag)
    )
    assert of_flag.endswith(f", not '{value}'\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sweep", "norm=bn", "--jobs", "two"), "--jobs: should be a valid integer, not 'two'"),
        (("sweep", "norm=bn", "-j", "2.5"), "--jobs: should be a valid integer, not '2.5'"),
        (("bench", "--rounds", "x"), "--rounds: should be a valid integer, not 'x'"),
        (("bench", "--rounds", "0"), "--rounds: should be greater than or equal to 1, not '0'"),
    ],
)
def test_other_commands_tell_wrong_values_alike(
    normbench: Run, arguments: tuple[str, ...], told: str
) -> None:
    assert normbench(*arguments) == (2, "", f"normbench: {told}\n")


@pytest.mark.parametrize(
    "arguments", [["--debug", "train", "--norm", "bm"], ["train", "--norm", "bm", "--debug"]]
)
def test_debug_shows_the_traceback_and_changes_no_exit_code(
    normbench: Run, arguments: list[str]
) -> None:
    code, _, err = normbench(*arguments)
    assert code == 2
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("normbench: unknown norm 'bm'")


def test_an_early_ctrl_c_is_one_line(normbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compose, "compose", interrupted)
    go_on = "normbench: interrupted before the first step; go on with: normbench train"
    assert normbench("train") == (130, "", f"{go_on}\n")
    # Whatever was there is there still.
    given = ("train", "data.root=a b", "--restart")
    assert normbench(*given) == (130, "", f"{go_on} 'data.root=a b' --restart\n")


def test_a_ctrl_c_at_the_first_step_is_told_like_a_later_one(
    normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", interrupted)
        code, out, _ = normbench("train", *TINY)
    assert code == 130
    assert out.startswith("stopped at once: it begins anew; go on with: normbench train data=")
    code, out, _ = normbench("train", *TINY)
    assert (code, out.splitlines()[0].split()[:2]) == (0, ["epoch", "1/2"])


@pytest.mark.slow
def test_a_reader_that_leaves_early_does_not_stop_the_training(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "normbench", "train", *TINY, "system.threads=1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    (status,) = tmp_path.glob("results/runs/*/status.json")
    assert '"done"' in status.read_text()


FOLDERS = ["rüns", "r=s", "r s"]
# A comma and ${} mean something in an override, and nothing in a flag.
FLAGS = [f"--runs-dir={folder}" for folder in (*FOLDERS, "a,b", "${x}")]
OVERRIDES = [f"system.runs_dir={folder}" for folder in FOLDERS]


@pytest.mark.parametrize("setting", FLAGS + OVERRIDES)
def test_a_path_may_have_any_character(normbench: Run, tmp_path: Path, setting: str) -> None:
    assert normbench("train", *tiny("epochs=1"), setting)[0] == 0
    assert len(list((tmp_path / setting.partition("=")[2]).iterdir())) == 1


def test_a_study_of_which_nothing_can_run_is_refused(normbench: Run, tmp_path: Path) -> None:
    code, out, err = normbench("demo", "norm=gn", "model.widths=[6,12]")
    assert (code, out) == (2, "")
    assert "num_groups=4 does not divide 6 channels" in err
    assert not (tmp_path / "results").exists()
    assert "given twice" in normbench("demo", "epochs=1", "epochs=2")[2]


@pytest.mark.usefixtures("cache_dir")
def test_doctor_tells_device_and_data(normbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Importing the real torchvision takes seconds.
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    code, out, _ = normbench("doctor")
    assert code == 0
    findings = dict(line.split(None, 1) for line in out.splitlines())
    assert findings["device"].startswith(("cpu", "cuda", "mps"))
    assert findings["torchvision"].startswith("works ")
    assert findings["data=synthetic"] == "built in"
    assert "data.root=PATH" in findings["data=image_folder"]


def test_doctor_tells_a_broken_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "operator torchvision::nms does not exist"
    (tmp_path / "torchvision.py").write_text(f"raise RuntimeError('{reason}\\nmore')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    found = _torchvision()
    assert found == f"no: {reason}; install torch and torchvision from the same index"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An image folder of two classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in ("cats", "dogs"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / split / name / f"{index}.png")
    return tmp_path / "pets"


def test_imported_data_are_trained_on_without_a_root_and_checked(
    normbench: Run, images: Path, cache_dir: Path
) -> None:
    code, out, _ = normbench("data", "import", str(images))
    assert (code, out) == (0, "folder-pets: 16 + 8 images; train with data=image_folder\n")
    settings = ["data=image_folder", "model.widths=[4,8]", "batch_size=4", "epochs=1"]
    assert normbench("train", *settings)[0] == 0
    code, out, _ = normbench("data", "check")
    assert code == 0
    assert "intact: folder-pets, 16 + 8 images, 2 classes" in out
    (labels,) = cache_dir.glob("folder-pets-*/train_labels.npy")
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    code, out, _ = normbench("data", "check")
    assert code == 1
    assert "damaged" in out


def test_import_of_something_else_lists_the_known_forms(normbench: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = normbench("data", "import", "empty")
    assert code == 2
    assert "none of: cifar-10-python.tar.gz" in err


@pytest.mark.usefixtures("cache_dir")
def test_a_failed_fetch_names_other_data(normbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "MIRRORS", ())
    mirror = "http://127.0.0.1:9/cifar-10-python.tar.gz"
    code, _, err = normbench("data", "fetch", "--mirror", mirror)
    assert code == 1
    assert "data=synthetic" in err.splitlines()[-1]


HELP = """
import sys
from normbench.cli import main
sys.argv = ["normbench", "--help"]
heavy = {"torch", "pandas", "matplotlib", "hydra", "numpy", "pydantic", "rich"}
try:
    main()
except SystemExit:
    print(sorted(heavy & set(sys.modules)))
"""


def test_help_loads_none_of_the_heavy_packages() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_dash_m_is_the_same_command_and_names_the_nearest() -> None:
    command = [sys.executable, "-m", "normbench", "trian"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("normbench: No such command 'trian'")
    assert "Did you mean 'train'?" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("data",)])
def test_without_a_command_there_is_help(arguments: tuple[str, ...], normbench: Run) -> None:
    code, out, err = normbench(*arguments)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: ")
    assert len(out.splitlines()) > 5


def test_the_help_lists_every_command_once(normbench: Run) -> None:
    _, out, _ = normbench("--help")
    listed = re.findall(r"^  (\w+)", out, re.MULTILINE)
    names = [name for group in GROUPS.values() for name in group]
    known = [command.name or command.callback.__name__ for command in app.registered_commands]
    known += [group.name for group in app.registered_groups]
    assert sorted(names) == sorted(known)
    assert {*names} <= {*listed}


def test_the_version_is_told(normbench: Run) -> None:
    assert normbench("--version") == (0, f"normbench {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train", "--norm", "bn", "--norm=gn"), "--norm is given 2 times: give it once"),
        (("sweep", "-j", "1", "--jobs", "2"), "-j is given 2 times: give it once"),
        (("train", "table"), "'table' is a study of many runs: normbench sweep table"),
        (("train", "norm=bn,", "gn"), "without a space, as in norm=bn,gn"),
        (("sweep", "norm=bn,", "gn"), "without a space, as in norm=bn,gn"),
        (("norms", "BatchNorm2d"), "did you mean 'bn'?"),
    ],
)
def test_a_slip_is_told_in_a_line(arguments: tuple[str, ...], told: str, normbench: Run) -> None:
    code, out, err = normbench(*arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
