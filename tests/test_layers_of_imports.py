"""Who may import whom, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import normbench

# A room imports from its own level and from the levels below. Modules that are not named have the
# level of their package.
LEVELS = (
    {
        "normbench",
        "errors",
        "seeds",
        "registry",
        "atomic",
        "checksums",
        "replacement",
        "environment",
        "text",
        "spreadsheet",
        "users_code",
    },
    {"config"},
    {"norms", "data", "tasks"},
    {
        "models",
        "runs",
        "training.appearance",
        "training.scaling",
        "training.capture",
        "training.compilation",
        "training.engine",
        "training.convolutions",
        "training.epoch_row",
        "training.evaluate",
        "training.evaluations",
        "training.weighing",
        "training.optim",
        "training.processes",
        "training.progress",
        "training.runtime",
        "training.signals",
        "training.sums",
    },
    {
        "certificates",
        "timing",
        "analysis",
        "training",
        "perceptual",
        "trackers",
        "tasks.style",
        "tasks.registry",
    },
    {"sweeps", "audit"},
    {"recommend"},
    {"cli", "interface", "__main__"},
)
STRANGERS = ("norms", "data", "runs")
HEAVY = {"torch", "pandas", "matplotlib", "hydra", "omegaconf"}

PACKAGE = Path(normbench.__file__).parent


def name_of(path: Path) -> str:
    """The module's name within the package: `training.run`; the package itself is `normbench`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "normbench"


PATHS = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The modules that these statements name; `from package import module` names the module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("normbench.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            package = node.module.removeprefix("normbench.")
            for alias in node.names:
                inner = f"{package}.{alias.name}".removeprefix("normbench.")
                yield inner if inner in PATHS else package


def at_import(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
    """The statements that run at import: not in functions, not under TYPE_CHECKING."""
    for node in body:
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not is_function and not is_for_types:
            yield node
            for block in ("body", "orelse", "finalbody", "handlers"):
                yield from at_import(getattr(node, block, []))


TREES = {module: ast.parse(path.read_text()) for module, path in PATHS.items()}
IMPORTS = {module: set(imported(ast.walk(tree))) for module, tree in TREES.items()}
AT_IMPORT = {module: set(imported(at_import(tree.body))) for module, tree in TREES.items()}


def loaded_by(module: str) -> set[str]:
    """The packages that importing `module` loads, through modules and packages on the way."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            parts = name.split(".")
            waiting += [".".join(parts[:end]) for end in range(1, len(parts))]
            waiting += AT_IMPORT.get(name, set())
    return found


def level_of(module: str) -> int | None:
    """The level of the longest name in LEVELS that holds the module."""
    levels = {name: level for level, names in enumerate(LEVELS) for name in names}
    while module not in levels and "." in module:
        module = module.rpartition(".")[0]
    return levels.get(module)


def is_within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def importing(*packages: str) -> set[str]:
    """The modules that import one of these packages, at whatever moment."""
    tops = {module: {name.partition(".")[0] for name in IMPORTS[module]} for module in PATHS}
    return {module for module in PATHS if tops[module] & {*packages}}


def test_the_package_is_found() -> None:
    assert {"normbench", "config.compose", "data.cache", "training.run"} <= PATHS.keys()
    assert "errors" in IMPORTS["registry"]
    # From `from normbench import environment`.
    assert "environment" in IMPORTS["training.provenance"]


def test_the_root_has_nine_modules_besides_init_and_main() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    ground = {"errors", "seeds", "registry", "atomic", "checksums", "environment"}
    ground |= {"replacement", "text", "spreadsheet"}
    assert files == ground | {"__init__", "__main__"}


@pytest.mark.parametrize("module", PATHS)
def test_a_module_imports_only_from_its_own_level_or_below(module: str) -> None:
    own = level_of(module)
    assert own is not None, f"{module} has no level: place its room in LEVELS"
    levels = {name: level_of(name) for name in IMPORTS[module] & PATHS.keys()}
    if module == "normbench":  # offers the interface, and loads it when asked for
        assert not AT_IMPORT[module] & PATHS.keys()
        levels.clear()
    above = {name: level for name, level in levels.items() if level is None or level > own}
    assert not above, f"{module} (level {own}) imports from above: {above}"


def test_no_imports_go_in_a_circle() -> None:
    graph = {module: IMPORTS[module] & PATHS.keys() - {module} for module in PATHS}
    graph["normbench"] = AT_IMPORT["normbench"] & PATHS.keys()
    # Raises CycleError with the modules of a circle.
    TopologicalSorter(graph).prepare()


def test_norms_data_and_runs_are_strangers_to_one_another() -> None:
    for module in PATHS:
        rooms = {room for room in STRANGERS if is_within(module, room)}
        for name in IMPORTS[module]:
            known = {room for room in STRANGERS if is_within(name, room)}
            assert not rooms or known <= rooms, f"{module} imports {name}"


def test_only_the_room_config_knows_hydra() -> None:
    assert importing("hydra", "omegaconf") == {"config.grammar", "config.compose"}


def test_no_room_below_training_runs_knows_a_config_object() -> None:
    for module, path in PATHS.items():
        is_below = (level_of(module) or 0) < 4 and not is_within(module, "config")
        assert not (is_below and "RunConfig" in path.read_text()), module


def test_analysis_and_runs_never_load_torch() -> None:
    for module in PATHS:
        if is_within(module, "analysis") or is_within(module, "runs"):
            assert "torch" not in loaded_by(module), module
    assert not {module for module in importing("torch") if is_within(module, "analysis")}


def test_tables_are_for_analysis_their_files_and_the_rounds_of_a_bench() -> None:
    pandas = {module for module in importing("pandas") if not is_within(module, "analysis")}
    # The interface names the types of what it returns.
    assert pandas == {"spreadsheet", "timing.rounds", "interface.results"}
    drawing = {module for module in importing("matplotlib") if not is_within(module, "analysis")}
    assert drawing == {"interface.results"}
    assert not {"pandas", "matplotlib"} & AT_IMPORT["interface.results"]


def test_training_needs_neither_timm_nor_torchvision() -> None:
    assert importing("timm") == set()
    # A torchvision that was built for another torch cannot be imported.
    assert all("torchvision" not in names for names in AT_IMPORT.values())


def test_a_run_of_a_registered_norm_starts_without_the_certificates() -> None:
    assert "certificates.breaches" not in loaded_by("training.run")
    assert "certificates" in IMPORTS["training.run"]


def test_the_command_line_loads_no_heavy_package_before_it_knows_the_command() -> None:
    assert not loaded_by("cli") & HEAVY


def test_only_the_module_that_makes_text_visible_prints() -> None:
    printing = set()
    for module, tree in TREES.items():
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if any(isinstance(called, ast.Name) and called.id == "print" for called in calls):
            printing.add(module)
    assert printing == {"text"}
