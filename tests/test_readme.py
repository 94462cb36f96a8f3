"""Runs every normbench command of the README and of docs/ on tiny data; checks links and table."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kit.styles import style_run_in
from PIL import Image
from scipy import stats

from normbench import cli
from normbench.analysis.loading import load_study
from normbench.analysis.study_files import write_study
from normbench.data import DataHome, Source
from normbench.data.formats import cifar10
from normbench.data.source import sources
from normbench.training import resolve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_NORM = (ROOT / "docs" / "own-norm.md").read_text().split("```python\n")[1].split("```")[0]
OWN_NET = (ROOT / "docs" / "models.md").read_text().split("```python\n")[1].split("```")[0]
INSTALLING = [
    "uv venv && uv pip install -e .",
    "python3 -m venv .venv && .venv/bin/pip install -e .",
]


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line]


# By command, since several pages give the same; launchers' own tests run those for a cluster.
COMMANDS = {command: page.stem for page in PAGES for command in commands_of(page)}
# Commands that take seconds, or are a quick one with other settings.
SLOW = """
    normbench demo
    normbench bench
    normbench doctor
    normbench report
    normbench norms gn
    normbench plot batch-size
    normbench table results/first-sweep --where
    normbench table results/first-sweep --source
    normbench train --norm in
    normbench train --norm bn
    normbench train --norm evonorm_s0
    normbench train --norm gn --processes
    normbench train --norm sync_bn
    normbench train norm=gn
    normbench train --norm frn
    normbench train --norm spectral_norm
    normbench train --model resnet
    normbench train 'data.mean
    normbench train batch_size=4
    normbench train --model torchvision
    normbench models torchvision
    normbench audit
    normbench sweep batch_size
    normbench sweep norm=bn,ln,in,gn
""".strip().split("\n    ")


def as_item(command: str) -> object:
    marks = [pytest.mark.slow] if command.startswith(tuple(SLOW)) else []
    # Only TensorBoard comes with the extra `dev`.
    for tool in ("mlflow", "wandb"):
        if f"--to {tool}" in command and importlib.util.find_spec(tool) is None:
            marks.append(pytest.mark.skip(reason=f"{tool} is not installed"))
    name = f"{COMMANDS[command]}: {command.removeprefix('normbench ')}"
    return pytest.param(command, id=name, marks=marks)


# Commands that tests of their own run: on clusters, without an end, for a minute.
ELSEWHERE = ("--launcher", "normbench serve", "normbench norms --page")
RUNNABLE = [
    as_item(command)
    for command in COMMANDS
    if command.startswith("normbench ") and not any(part in command for part in ELSEWHERE)
]
SMALL = "model.widths=[32]"


def run(arguments: list[str], patch: pytest.MonkeyPatch) -> int:
    patch.setattr(sys, "argv", ["normbench", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs, parts of first-sweep, an own norm and imported images."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "my_norms.py").write_text(OWN_NORM)
    (folder / "my_nets.py").write_text(OWN_NET)
    study = load_study([ROOT / "results" / "first-sweep"], ["norm=bn,gn"])
    write_study(study, folder / "results" / "first-sweep")
    write_study(study.at(norm="bn"), folder / "here" / "part-1")
    write_study(study.at(norm="gn"), folder / "there" / "part-2")
    for kind in ("train/cats", "train/dogs", "test/cats", "test/dogs"):
        (folder / "pets" / kind).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "pets" / kind / "1.png")
    for kind in ("roses", "tulips"):
        (folder / "flowers" / kind).mkdir(parents=True)
        for name in ("1.png", "2.png"):
            Image.new("RGB", (40, 36)).save(folder / "flowers" / kind / name)
    for name in ("starry.jpg", "photo.jpg"):
        Image.new("RGB", (40, 36)).save(folder / name)
    style_run_in(folder / "results" / "style-first", "epochs=1")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        assert run(["data", "import", "pets"], patch) == 0
        for settings in (["norm=gn"], ["norm=bn", "batch_size=1"]):
            assert run(["train", *settings, "epochs=1", SMALL], patch) == 0
    return folder


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Works in `folder`; every source but the image folder gives 20 small synthetic images."""
    build = sources.build

    def build_tiny(
        name: str, home: DataHome, *, options: dict[str, object] | None = None
    ) -> Source:
        if name == "image_folder":
            return build(name, home, options=options)
        return build("synthetic", home, options={"num_train": 20, "num_test": 10})

    patch.setattr(sources, "build", build_tiny)
    patch.setattr(resolve, "sources", sources)
    patch.setattr(cifar10, "MIRRORS", ())
    patch.setenv("HOME", str(folder))
    patch.setenv("NORMBENCH_CACHE", str(folder / "cache"))
    patch.chdir(folder)


@pytest.mark.parametrize("command", RUNNABLE)
def test_every_normbench_command_of_the_documents_works(
    command: str,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    enter(world, monkeypatch)
    _, name, *arguments = shlex.split(command.replace("~/", ""))
    # A sweep would train hundreds of networks, in processes that know nothing of the tiny data.
    if name == "sweep" and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    if name in ("train", "bench") and "--model" not in arguments:
        arguments.append(SMALL)
    if name == "train":
        # The world's runs stay the only ones that `normbench runs` may mean.
        arguments += ["--runs-dir", "elsewhere"]
        if "--epochs" not in arguments:
            arguments.append("epochs=1")
    if name == "bench":
        # Fresh processes would know nothing of the tiny data either.
        arguments += ["--rounds", "6"]
        if "--processes" not in arguments:
            arguments += ["--processes", "1"]
    code = run([name, *arguments], monkeypatch)
    assert code == 0, capsys.readouterr()


def test_the_remaining_commands_of_the_documents_are_known() -> None:
    others = [command for command in COMMANDS if not command.startswith("normbench ")]
    assert others == ["make demo", "make test", *INSTALLING]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_demo_runs_the_demo_and_make_test_checks_style_types_and_tests() -> None:
    def planned(target: str) -> str:
        return subprocess.check_output(["make", "-n", "-C", str(ROOT), target], text=True)

    assert "normbench demo" in planned("demo")
    for tool in ("ruff check", "ruff format --check", "mypy", "pytest"):
        assert tool in planned("test")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_under_make_python_writes_bytecode_whatever_the_environment_says() -> None:
    shown = ["--eval", "shown:; @echo said: $$PYTHONDONTWRITEBYTECODE", "shown"]
    told = subprocess.check_output(
        ["make", "-s", "-C", str(ROOT), *shown],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
    )
    assert told == "said:\n"


def test_the_readme_is_short_and_shows_the_committed_table() -> None:
    readme = (ROOT / "README.md").read_text()
    source = ROOT / "results" / "table" / "tables" / "source.md"
    table, _, _ = source.read_text().partition("\n\n")
    assert table in readme
    assert "](results/batch-size/batch-size.png)" in readme
    assert len(readme.splitlines()) <= 150


def test_every_page_of_docs_opens_with_a_command_and_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        title, blank, fence, command, *_ = page.read_text().splitlines()
        assert (title[:2], blank, fence) == ("# ", "", "```bash"), page
        assert command.startswith("normbench "), page
        assert f"](docs/{page.name})" in readme


DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")]
DOCUMENTS += ROOT.glob("results/*/README.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_points_to_exists(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("http") or (document.parent / target).exists(), target


def test_the_page_of_evaluations_has_every_command_that_its_runs_were_made_by() -> None:
    folder = ROOT / "results" / "evaluations"
    page = (folder / "README.md").read_text()
    for environment in json.loads((folder / "env.json").read_text()).values():
        for made in (environment, *environment.get("resumed", [])):
            assert re.sub(r"data\.root=\S+", "data.root=PATH", made["command"]) in page


def test_what_is_said_of_bf16_is_computed_from_its_table_with_norms_as_the_unit() -> None:
    speed = ROOT / "results" / "speed"
    found: dict[str, list[float]] = {}
    with (speed / "precision.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["norm"], []).append(float(row["bf16"]) - float(row["fp32"]))
    over_norms = mean_and_half_width([float(np.mean(pairs)) for pairs in found.values()])
    of_bn = mean_and_half_width(found["bn"])
    assert max(found["bn"]) < 0 < min(found["in"])
    for page in (ROOT / "results" / "LOG.md", speed / "README.md"):
        assert over_norms in page.read_text()
        assert of_bn in page.read_text()


def mean_and_half_width(values: list[float]) -> str:
    """The mean and half of its 95 % interval by Student's t, as "-0.06 ± 0.72"."""
    half_width = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.2f} ± {half_width:.2f}"
