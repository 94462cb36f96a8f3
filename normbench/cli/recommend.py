"""normbench recommend: one norm for a network and batch size, with its evidence."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normbench.errors import NormbenchError, unknown
from normbench.text import say

if TYPE_CHECKING:
    from normbench.analysis.decision_tree import DecisionTree
    from normbench.recommend import Answer

LOW = "low"


def recommend(
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images in a training batch; without: a table of all measured."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="cnn, resnet, transformer, rnn, gan, style or multimodal, or a network as vit; "
            "without: every network that was measured."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="What the sources' tree asks of the data: uniform, variable or style."),
    ] = None,
    inference_batch: Annotated[
        int | None, typer.Option(min=1, help="Images in a batch of inference.")
    ] = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="The network starts from trained weights.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="low: of what accuracy leaves, the norm that keeps least.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="low: of what accuracy leaves, the norm of quickest steps.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Your own runs, instead of the committed studies.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="With --runs: a condition, as norm.num_groups=32.")
    ] = None,
    results: Annotated[Path, typer.Option(help="The folder with the studies.")] = Path("results"),
    explain: Annotated[
        bool, typer.Option("--explain", help="With the tree's path and every verdict.")
    ] = False,
    tree: Annotated[
        Path | None, typer.Option(help="Draw the sources' tree too: FILE.svg, .png or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answers as JSON.")] = False,
) -> None:
    """Recommend a norm by what studies have decided, beside the sources' decision tree.

    \b
    normbench recommend
    normbench recommend --batch-size 2 --model cnn
    normbench recommend --batch-size 8 --runs results/first-sweep --explain
    """
    for name, value in (("--memory", memory), ("--time", time)):
        if value not in (None, LOW):
            raise unknown(f"value of {name}", str(value), [LOW])
    wants_more = finetune or bool(inference_batch or memory or time)
    if batch_size is None and wants_more:
        raise NormbenchError(
            "--finetune, --inference-batch, --memory and --time need --batch-size: name one"
        )
    from normbench.analysis.decision_tree import load_tree
    from normbench.recommend import Question, answers
    from normbench.recommend.library import committed, own_runs

    known = load_tree()
    if tree is not None:
        _draw(known, tree)
    if where and not runs:
        raise NormbenchError("--where chooses among your own runs: give --runs too")
    library = own_runs(runs.expanduser(), where or ()) if runs else committed(results)
    for reason in library.left_out:
        say(f"left out: {reason}", to=sys.stderr)
    found = answers(Question(batch_size, model, data, finetune), library, known)
    wished: list[list[str]] = [[] for _ in found]
    if wants_more:
        # Certificates need torch, which takes seconds to import.
        from normbench.recommend.wishes import Wishes, told

        wishes = Wishes(inference_batch, memory == LOW, time == LOW)
        wished = [told(wishes, answer, results) for answer in found]
    is_table = batch_size is None and not explain and found[0].network is not None
    if as_json:
        _show_values(found, wished)
    elif is_table:
        _show_table(found)
    else:
        _show_accounts(found, wished, explain=explain)


def _draw(tree: DecisionTree, path: Path) -> None:
    from normbench.analysis.figures.saving import save
    from normbench.analysis.figures.tree import draw_tree

    save(draw_tree(tree), path)


def _show_values(answers: Sequence[Answer], wished: Sequence[Sequence[str]]) -> None:
    from normbench.recommend.values import values_of

    values = [values_of(*pair) for pair in zip(answers, wished, strict=True)]
    say(json.dumps(values, indent=2), lines=True)


def _show_table(answers: Sequence[Answer]) -> None:
    from normbench.recommend.account import as_lines

    say(as_lines(answers), lines=True)


def _show_accounts(
    answers: Sequence[Answer], wished: Sequence[Sequence[str]], *, explain: bool
) -> None:
    from normbench.recommend.account import account

    told = []
    for answer, sentences in zip(answers, wished, strict=True):
        told.append(account(answer, sentences, explain=explain))
    say("\n\n".join(told), lines=True)
