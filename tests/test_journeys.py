"""Three people's ways, command after command as they would type them; docs/notebook.ipynb has them
in Python."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.tiny import TINY

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).with_name("normbench")
OWN_NORM = (ROOT / "docs" / "own-norm.md").read_text().split("```python\n")[1].split("```")[0]
OWN_NET = (ROOT / "docs" / "models.md").read_text().split("```python\n")[1].split("```")[0]
SETTINGS = shlex.join(TINY)
# Their own network has other options than the built-in ones.
DATA = shlex.join(setting for setting in TINY if not setting.startswith("model."))

Shell = Callable[[str], str]
pytestmark = pytest.mark.slow


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs a command in a folder of its own; returns what it prints."""
    # Other tests use the cores too: threads would wait for one another.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(line: str) -> str:
        name, *arguments = shlex.split(line)
        assert name == "normbench"
        told = subprocess.run(
            [COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr
        return told.stdout

    return run


def test_a_teacher_has_two_figures_for_a_lecture(shell: Shell, tmp_path: Path) -> None:
    """How norms compare, and how that depends on the batch size."""
    comparison = f"norm=bn,gn,ln batch_size=2,16 seed=0,1,2 {SETTINGS.replace('batch_size=16', '')}"
    plan = shell(f"normbench sweep {comparison} --dry-run")
    assert "18" in plan
    assert not (tmp_path / "results" / "runs").exists()
    shell(f"normbench sweep {comparison} -o results/lecture")
    shell("normbench plot norms results/lecture --where batch_size=16 --size slide -o norms.png")
    shell("normbench plot batch-size results/lecture --size slide -o batch-size.png")
    for figure in ("norms.png", "batch-size.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
    told = shell("normbench compare gn bn results/lecture --where batch_size=2")
    assert "gn - bn = " in told
    assert (tmp_path / "results" / "lecture" / "report.html").is_file()


def test_a_researcher_has_a_norm_beside_all_others(shell: Shell, tmp_path: Path) -> None:
    """From a file to a table with every norm and the new one."""
    (tmp_path / "my_norms.py").write_text(OWN_NORM)
    checked = shell("normbench norms my_norms.py:MyNorm --check")
    assert "BROKEN" not in checked
    short = SETTINGS.replace("epochs=2", "epochs=1").replace("[4,8]", "[8,16]")
    shell(f"normbench sweep norm=all,my_norms.py:MyNorm {short} -o results/mine")
    with (tmp_path / "results" / "mine" / "tables" / "comparison.csv").open() as file:
        norms = [row["norm"] for row in csv.DictReader(file)]
    listed = json.loads(shell("normbench norms --json"))
    assert {*norms} == {"MyNorm", *(norm["name"] for norm in listed)}
    assert len(norms) == len({*norms})
    told = shell("normbench compare MyNorm bn results/mine")
    assert "MyNorm - bn = " in told


def test_an_engineer_has_a_decision_and_a_converted_network(shell: Shell, tmp_path: Path) -> None:
    """From the batch size that fits the memory to the network with another norm, trained."""
    (tmp_path / "my_nets.py").write_text(OWN_NET)
    asked = f"normbench recommend --batch-size 4 --model cnn --results '{ROOT}/results' --json"
    answers = json.loads(shell(asked))
    chosen = next(one["recommended"] for one in answers if one["network"] == "normresnet")
    assert chosen is not None
    assert chosen in shell(f"normbench models my_nets.py:Net --norm {chosen}")
    run = f"--model my_nets.py:Net --norm {chosen} batch_size=4"
    data = DATA.replace("batch_size=16", "")
    assert "epoch 2/2" in shell(f"normbench train {run} {data}")
    converted = (
        "import normbench, my_nets, torch; "
        f"net = normbench.convert(my_nets.Net(10), '{chosen}'); "
        "assert net(torch.randn(4, 3, 32, 32)).shape == (4, 10); "
        "assert not any(type(part) is torch.nn.BatchNorm2d for part in net.modules())"
    )
    subprocess.run([sys.executable, "-c", converted], cwd=tmp_path, check=True)
