"""Who may import whom, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import normbench

# A module imports from its own level and from those below. Names of modules yet to be written do no harm here.
LEVELS = (
    {"normbench", "normbench.errors", "normbench.atomic", "normbench.registry", "normbench.seeds"},
    {"normbench.environment"},
    {"normbench.config", "normbench.config.*"},
    {
        "normbench.norms",
        "normbench.norms.*",
        "normbench.data",
        "normbench.data.*",
        "normbench.data.formats.*",
        "normbench.data.fetch.*",
        "normbench.tasks",
        "normbench.tasks.*",
        "normbench.train",
        "normbench.train.optim",
        "normbench.train.runtime",
        "normbench.train.signals",
    },
    {
        "normbench.models",
        "normbench.models.*",
        "normbench.runs",
        "normbench.runs.*",
        "normbench.train.capture",
        "normbench.timing",
        "normbench.timing.footprint",
        "normbench.timing.race",
        "normbench.train.engine",
        "normbench.train.compilation",
        "normbench.train.evaluations",
    },
    {
        "normbench.certificates",
        "normbench.certificates.*",
        "normbench.timing.*",
        "normbench.train.*",
        "normbench.analysis",
        "normbench.analysis.*",
        "normbench.analysis.tables.*",
        "normbench.analysis.figures.*",
        "normbench.analysis.report.*",
    },
    {"normbench.sweeps", "normbench.sweeps.*", "normbench.sweeps.launchers.*"},
    {"normbench.cli", "normbench.cli.*", "normbench.__main__"},
)
STRANGERS = ("normbench.norms", "normbench.data", "normbench.runs.rundir")
KNOW_THE_CONFIG = ("normbench.config.schema", "normbench.config.compose")

PACKAGE = Path(normbench.__file__).parent


def name_of(path: Path) -> str:
    parts = ["normbench", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in path.parts
}


def imported(module: str, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The modules that these statements name; `from package import submodule` names the submodule."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            source = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES else source


def all_imports(module: str) -> set[str]:
    return set(imported(module, ast.walk(ast.parse(MODULES[module].read_text()))))


def imports_at_import(module: str) -> set[str]:
    """Those that run when the module is imported: not in functions, not under TYPE_CHECKING."""

    def statements(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
        for node in body:
            is_deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_deferred or (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            ):
                continue
            yield node
            for block in ("body", "orelse", "finalbody", "handlers"):
                yield from statements(getattr(node, block, []))

    return set(imported(module, statements(ast.parse(MODULES[module].read_text()).body)))


def loaded_by(module: str) -> set[str]:
    """Every module that importing `module` loads through our own files, with the packages on the way."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in MODULES:
            parents = name.split(".")
            waiting += [".".join(parents[:end]) for end in range(1, len(parents))]
            waiting += imports_at_import(name)
    return found


def level_of(module: str) -> int | None:
    wildcard = f"{module.rpartition('.')[0]}.*"
    exact = [level for level, names in enumerate(LEVELS) if module in names]
    return next(
        iter(exact + [level for level, names in enumerate(LEVELS) if wildcard in names]), None
    )


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def top(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


IMPORTS = {module: all_imports(module) for module in MODULES}


def test_the_package_is_found() -> None:
    assert {
        "normbench",
        "normbench.config.compose",
        "normbench.data.cache",
        "normbench.train.run",
    } <= MODULES.keys()
    assert "normbench.errors" in IMPORTS["normbench.registry"]
    assert "normbench.environment" in IMPORTS["normbench.train.run"], (
        "`from normbench import environment`"
    )


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_level(module: str) -> None:
    assert level_of(module) is not None, f"{module} has no level: place it in LEVELS of {__file__}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_level_or_below(module: str) -> None:
    above = {
        name: level_of(name)
        for name in IMPORTS[module] & MODULES.keys()
        if (level_of(name) or 0) > (level_of(module) or 0)
    }
    assert not above, f"{module} (level {level_of(module)}) imports from above: {above}"


def test_no_imports_go_in_a_circle() -> None:
    try:
        TopologicalSorter(
            {name: IMPORTS[name] & MODULES.keys() - {name} for name in MODULES}
        ).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", STRANGERS)
def test_norms_data_and_rundir_are_strangers_to_one_another(package: str) -> None:
    others = [other for other in STRANGERS if other != package]
    known = {
        (module, name)
        for module in MODULES
        if is_within(module, package)
        for name in IMPORTS[module]
        if any(is_within(name, other) for other in others)
    }
    assert not known


def test_only_grammar_and_compose_know_hydra_and_omegaconf() -> None:
    knowing = {module for module in MODULES if top(IMPORTS[module]) & {"hydra", "omegaconf"}}
    assert knowing == {"normbench.config.grammar", "normbench.config.compose"}


def test_nothing_below_level_4_sees_a_config_object() -> None:
    seeing = {module for module in MODULES if IMPORTS[module] & set(KNOW_THE_CONFIG)} - set(
        KNOW_THE_CONFIG
    )
    assert {module for module in seeing if (level_of(module) or 0) < 4} == set()


def test_only_analysis_imports_pandas_and_matplotlib_and_it_never_imports_torch() -> None:
    for module in MODULES:
        if is_within(module, "normbench.analysis"):
            assert "torch" not in top(IMPORTS[module]), module
            assert "torch" not in top(loaded_by(module)), (
                f"{module} loads torch through another module"
            )
        else:
            # A bench's rounds are a table that `analysis` reads.
            allowed = {"pandas"} if module == "normbench.timing.rounds" else set()
            assert not (top(IMPORTS[module]) & {"pandas", "matplotlib"}) - allowed, module


def test_the_command_line_loads_no_heavy_package_before_it_knows_the_command() -> None:
    assert not top(loaded_by("normbench.cli")) & {
        "torch",
        "pandas",
        "matplotlib",
        "hydra",
        "omegaconf",
    }
