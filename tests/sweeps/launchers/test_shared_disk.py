"""The file by which tasks of Ray know that the runs folder is theirs too."""

from __future__ import annotations

from pathlib import Path

from kit.launchers import planned

from normbench.sweeps.launchers.ray import _marker


def test_the_file_of_a_killed_sweep_is_removed_by_the_next_and_that_of_a_living_sweep_is_not(
    folder: Path,
) -> None:
    configs = planned(folder, "seed=0")
    with _marker(configs) as living:
        (folder / ".shared-killed").touch()
        with _marker(configs) as next_one:
            assert {*map(str, folder.glob(".shared-*"))} == {living, next_one}
        assert [*map(str, folder.glob(".shared-*"))] == [living]
    assert list(folder.glob(".shared-*")) == []
