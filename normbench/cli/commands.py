"""What every command line shares: help in groups, no option twice, wrong values in one form."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from normbench.errors import NormbenchError, invalid

# The commands by what they are for, in the order of the help.
GROUPS = {
    "Run": ("train", "sweep", "demo", "stylize", "bench"),
    "Read": (
        "table",
        "compare",
        "plot",
        "report",
        "serve",
        "export",
        "audit",
        "recommend",
        "runs",
    ),
    "Norms and networks": ("norms", "models"),
    "Data and machine": ("data", "doctor"),
}


class Command(TyperCommand):
    """A command that refuses an option given twice, of which the parser takes the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses as typer does. Raises NormbenchError for an option that is given twice."""
        if ctx.resilient_parsing:  # for Tab, or for help
            return super().parse_args(ctx, args)
        named = [argument.partition("=")[0] for argument in args]
        for parameter in self.params:
            if getattr(parameter, "multiple", False):
                continue
            given = [name for name in named if name.startswith("-") and name in parameter.opts]
            if len(given) > 1:
                raise NormbenchError(f"{given[0]} is given {len(given)} times: give it once")
        return super().parse_args(ctx, args)


class GroupedCommands(TyperGroup):
    """Commands whose help lists them by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes a section for each group of commands."""
        for title, names in GROUPS.items():
            with formatter.section(title):
                rows = []
                for name in names:
                    command = self.get_command(ctx, name)
                    assert command is not None, name
                    rows.append((name, command.get_short_help_str(limit=90)))
                formatter.write_dl(rows)


def usage_message(error: Any) -> str:
    """The message of Typer's error about arguments; of a wrong value as settings have it.

    `--batch-size: should be a valid integer, not 'four'`.
    """
    wrong, parameter = error.__cause__, getattr(error, "param", None)
    if parameter is not None and type(wrong).__name__ == "ValidationError":
        names = [option for option in parameter.opts if option.startswith("--")]
        return str(invalid(names[0] if names else parameter.name, wrong))
    return str(error.format_message())
