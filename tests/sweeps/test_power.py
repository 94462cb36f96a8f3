"""What a dry run says of the differences that a study can decide."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from kit.launchers import tiny_sweep
from kit.runs import in_study, one_run

from normbench.analysis.design import Design, read_design
from normbench.analysis.stats import smallest_decided
from normbench.sweeps.plan import Plan, make_plan
from normbench.sweeps.power import describe_power, spread_over_seeds

GN = {"norms": ["gn"], "against": "bn", "at": {"batch_size": [8, 64]}}
NOTHING = in_study(one_run("bn", state="failed", reason="none"))


def plan(seeds: int, **keys: object) -> Plan:
    design = read_design({"name": "s", "primary": [GN], **keys})
    return make_plan(replace(tiny_sweep("norm=bn,gn", f"seed=range(0,{seeds})"), design=design))


def test_without_comparisons_decided_beforehand_there_is_nothing_to_say() -> None:
    nothing = replace(plan(3), design=Design(name="s"))
    assert list(describe_power(nothing, NOTHING)) == []


def test_a_stated_deviation_tells_what_the_plan_decides_and_what_the_aim_takes() -> None:
    stated = plan(5, standard_deviation=0.8, smallest_difference=1)
    told = list(describe_power(stated, NOTHING))
    least = 100 * smallest_decided(math.sqrt(2) * 0.008, 5, num_tests=2)
    assert told[0].startswith(
        f"  power 0.8 on these test images: differences from {least:.1f} points on, by 2 comp"
    )
    assert "standard deviation over seeds 0.8 points, as the study states" in told[0]
    needed = re.search(r"takes (\d+) seeds", told[1])
    assert needed is not None
    enough = int(needed[1])
    of_pair = math.sqrt(2) * 0.8
    assert smallest_decided(of_pair, enough, 2) <= 1 < smallest_decided(of_pair, enough - 1, 2)


def test_finished_runs_tell_the_deviation_instead_of_the_study() -> None:
    values = {"bn": [0.5, 0.52, 0.54], "gn": [0.6, 0.61]}
    runs = [one_run(norm, seed=s, reached=r) for norm in values for s, r in enumerate(values[norm])]
    spread, settings = spread_over_seeds(in_study(*runs))
    pooled = (2 * np.var(values["bn"], ddof=1) + np.var(values["gn"], ddof=1)) / 3
    assert spread == pytest.approx(math.sqrt(pooled))
    assert settings == 2
    (line,) = describe_power(plan(3, standard_deviation=99), in_study(*runs))
    assert "pooled from finished runs of 2 settings" in line


@pytest.mark.parametrize(
    ("seeds", "keys", "told"),
    [(3, {}, "power: not known"), (1, {"standard_deviation": 1}, "a single seed decides nothing")],
)
def test_what_cannot_be_said_is_said(seeds: int, keys: dict[str, object], told: str) -> None:
    (line,) = describe_power(plan(seeds, **keys), NOTHING)
    assert told in line


def test_rates_at_the_edge_of_their_grid_are_named() -> None:
    rates = [
        {"norm": "bn", "batch_size": 8, "lr": 3e-5, "is_edge": True},
        {"norm": "gn", "batch_size": 8, "lr": 1e-3, "is_edge": False},
        {"norm": "gn", "batch_size": 8, "lr": 1e-4, "is_edge": True, "at": {"epochs": "2"}},
    ]
    design = read_design({"name": "s", "tuned_by": "tuning", "rates": rates})
    lines = list(describe_power(replace(plan(3), design=design), NOTHING))
    assert [line for line in lines if "edge" in line] == [
        "  learning rate 3e-05 of bn at batch size 8 is at the edge of what tuning tried: "
        "a better one may lie beyond",
        "  learning rate 0.0001 of gn at batch size 8, epochs 2 is at the edge of what tuning "
        "tried: a better one may lie beyond",
    ]
