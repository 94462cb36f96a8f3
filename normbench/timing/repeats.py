"""A bench repeated in fresh processes, one after another, each with a share of the rounds.

Processes differ by more than the rounds of one process do: in the addresses of their memory, and
in the order of the contestants. Each is a new interpreter, since forks of one server would share
the server's addresses.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from normbench.errors import NormbenchError, RunFailure, complaint
from normbench.seeds import stream_seed
from normbench.text import say
from normbench.training.signals import withheld_ctrl_c

Done = Callable[[], object]
# Yields rows: of these contestants, so many rounds, `done` after each, the process's number.
Bench = Callable[[Sequence[Any], int, Done, int], Iterator[dict[str, Any]]]
Contestant = TypeVar("Contestant")


def shares(rounds: int, processes: int) -> list[int]:
    """The rounds of each process, as equal as can be.

    Raises NormbenchError for fewer rounds than processes, and for no process.
    """
    if not 1 <= processes <= rounds:
        raise NormbenchError(
            f"--rounds {rounds}: each of the {processes} processes takes a round at least: "
            "give more rounds, or fewer --processes"
        )
    least, more = divmod(rounds, processes)
    return [least + (process < more) for process in range(processes)]


def in_order_of(process: int, contestants: Sequence[Contestant]) -> list[Contestant]:
    """The contestants as given in process 1, in an order drawn by the number in every other."""
    ordered = [*contestants]
    if process > 1:
        random.Random(stream_seed(0, "bench", process)).shuffle(ordered)
    return ordered


def repeated(
    bench: Bench, contestants: Sequence[Any], rounds: Sequence[int], done: Done
) -> Iterator[dict[str, Any]]:
    """The rows of the bench in each process; `rounds` has the rounds of each.

    A single process is this one. `done` is called after each round. Raises what the bench raises;
    RunFailure where a process ends early.
    """
    if len(rounds) == 1:
        yield from bench(contestants, rounds[0], done, 1)
        return
    for process, share in enumerate(rounds, 1):
        arguments = bench, in_order_of(process, contestants), share, process
        for rows in _in_fresh_process(process, arguments):
            yield from rows
            done()


def _in_fresh_process(process: int, arguments: tuple[Any, ...]) -> Iterator[list[dict[str, Any]]]:
    """The rows of `_serve` by rounds, from a new interpreter, which ends with the iteration."""
    context = multiprocessing.get_context("spawn")
    pipe, far_end = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(far_end, *arguments), daemon=True)
    with withheld_ctrl_c():
        child.start()
    # Without a second holder of the far end, the end of the process closes the pipe.
    far_end.close()
    try:
        with suppress(EOFError):
            while True:
                found = pipe.recv()
                if isinstance(found, NormbenchError):
                    raise found
                yield found
        child.join()
        code = child.exitcode
        if code:
            raise RunFailure(f"process {process} of the bench ended with exit code {code}")
    finally:
        child.kill()
        child.join()
        pipe.close()


def _serve(
    pipe: Connection, bench: Bench, contestants: Sequence[Any], rounds: int, process: int
) -> None:
    """Sends the rows of each round, or the error of wrong input; ends where nobody listens."""
    rows: list[dict[str, Any]] = []

    def send() -> None:
        pipe.send(rows)
        rows.clear()

    try:
        for row in bench(contestants, rounds, send, process):
            rows.append(row)
    except NormbenchError as error:
        pipe.send(error)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        say(complaint(error), lines=True, to=sys.stderr)
        sys.exit(1)
