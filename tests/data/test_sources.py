"""The contract of every registered data source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normbench.data import DataHome, sources
from normbench.errors import NormbenchError

NAMES = [entry.name for entry in sources]
WITH_ROOT = [entry.name for entry in sources if "root" in entry.options.model_fields]
GENERATED = [name for name in NAMES if name not in WITH_ROOT]


@pytest.mark.parametrize("name", WITH_ROOT)
def test_a_root_that_is_not_there_is_refused_by_its_name_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    home, root = DataHome(tmp_path / "cache"), tmp_path / "nowhere"
    with pytest.raises(NormbenchError, match=str(root)) as caught:
        sources.build(name, home, options={"root": str(root)})
    assert "\n" not in str(caught.value)
    assert not home.cache_dir.exists()


@pytest.mark.parametrize("name", WITH_ROOT)
def test_a_tilde_in_a_root_is_the_home_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NormbenchError) as caught:
        sources.build(name, DataHome(tmp_path / "cache"), options={"root": "~/nowhere"})
    assert f"{tmp_path}/nowhere" in str(caught.value) or "'~/nowhere'" in str(caught.value)


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_source_decodes_to_what_it_promises(name: str, tmp_path: Path) -> None:
    sizes = {"num_train": 20, "num_test": 10}
    one, other = (sources.build(name, DataHome(tmp_path), options=sizes) for _ in range(2))
    assert (one.content, one.num_train, one.num_test) == (other.content, 20, 10)
    for split, again, count in zip(one.decode(), other.decode(), (20, 10), strict=True):
        assert split["images"].shape == (count, *one.image_shape)
        assert split["labels"].shape == (count,)
        assert (split["images"].dtype, split["labels"].dtype) == (np.uint8, np.int64)
        assert set(split["labels"].tolist()) <= set(range(len(one.classes)))
        np.testing.assert_array_equal(split["images"], again["images"])
        np.testing.assert_array_equal(split["labels"], again["labels"])
