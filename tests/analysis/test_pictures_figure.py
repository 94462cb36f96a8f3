"""Pictures of runs in a study's files and in its report."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.runs import STYLE, in_study, one_run
from kit.styles import style_run_in
from PIL import Image

from normbench.analysis.figures.labels import alt_text
from normbench.analysis.figures.pictures import pictures
from normbench.analysis.loading import load_study, read_runs
from normbench.analysis.outputs import outputs
from normbench.analysis.study import Study
from normbench.analysis.study_files import PICTURES, write_study
from normbench.checksums import record_sums
from normbench.errors import NormbenchError, RunFailure

TILE = 8


def png(colour: int) -> bytes:
    """A picture of a style and two contents in white, and two results in a grey."""
    pixels = np.full((2 * TILE, 3 * TILE, 3), 255, np.uint8)
    pixels[TILE:, TILE:] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def study_with_pictures(*seeds: int) -> Study:
    """bn with results in grey 10 and gn in 110, under two loss networks; seed 0 unless given."""
    greys = {"bn": 10, "gn": 110}
    runs = []
    for network in ("random", "other"):
        for norm in greys:
            for seed in seeds or (0,):
                place = {"task.loss_network": network}
                runs.append(one_run(norm, 4, seed, 0.5, task=STYLE, **place))
    study = in_study(*runs)
    first = study.runs[study.runs["seed"] == study.runs["seed"].min()]
    found = dict(zip(first["run"], first["norm"], strict=True))
    return replace(study, pictures={run: png(greys[norm]) for run, norm in found.items()})


def test_a_study_keeps_the_pictures_of_the_first_seed(tmp_path: Path) -> None:
    for seed in (3, 2):
        style_run_in(tmp_path, "epochs=1", f"seed={seed}")
    runs = [path for path in tmp_path.iterdir() if path.is_dir()]
    study = read_runs(runs)
    (kept,) = study.pictures
    assert "-s2-" in kept
    assert study.pictures[kept] == (tmp_path / kept / "picture.png").read_bytes()
    write_study(study, tmp_path / "study")
    assert load_study([tmp_path / "study"]).pictures == study.pictures
    assert load_study([tmp_path / "study", *runs]).pictures == study.pictures


def test_a_study_without_pictures_has_no_file_of_them(tmp_path: Path) -> None:
    write_study(study_with_pictures(), tmp_path)
    assert (tmp_path / PICTURES).exists()
    plain = replace(study_with_pictures(), pictures={})
    write_study(plain, tmp_path)
    assert not (tmp_path / PICTURES).exists()
    assert "pictures" not in [output.name for output in outputs("figure", plain)]


def test_the_figure_has_a_panel_for_each_setting_and_a_row_for_each_norm() -> None:
    figure = pictures(study_with_pictures(0, 1))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "task.loss network other",
        "task.loss network random",
    ]
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_yticklabels()] == ["content", "bn", "gn"]
        (shown,) = axes.images
        pixels = np.asarray(shown.get_array())
        assert pixels.shape == (3 * TILE, 3 * TILE, 4)
        middle = TILE + TILE // 2
        rows = pixels[[TILE // 2, middle, middle + TILE], middle, 0]
        assert rows.tolist() == [255, 10, 110]
        # Nothing stands below the style image.
        assert (pixels[TILE:, :TILE, 3] == 0).all()
        assert (pixels[:TILE, :, 3] == 255).all()
    assert "seed 0" in figure.get_label()
    assert alt_text(figure).startswith(
        "task.loss network other: rows of pictures: content, bn, gn. task.loss network random: "
    )


def test_without_a_picture_there_is_no_figure() -> None:
    with pytest.raises(NormbenchError, match="no pictures: no finished run has kept one"):
        pictures(replace(study_with_pictures(), pictures={}))


@pytest.mark.parametrize("content", [b"no image", png(0)[:20]])
def test_a_damaged_picture_is_named(content: bytes, tmp_path: Path) -> None:
    study = study_with_pictures()
    first = next(iter(study.pictures))
    write_study(replace(study, pictures={first: content}), tmp_path)
    with pytest.raises(RunFailure, match=r"pictures.csv' cannot be read: the picture of .* is dam"):
        load_study([tmp_path])


def test_a_picture_of_a_strange_run_is_named(tmp_path: Path) -> None:
    study = study_with_pictures()
    write_study(replace(study, pictures={"nobody": png(1)}), tmp_path)
    with pytest.raises(RunFailure, match=r"has a run that is not finished in runs.csv: nobody"):
        load_study([tmp_path])


def test_changed_pictures_are_named(tmp_path: Path) -> None:
    write_study(study_with_pictures(), tmp_path)
    file = tmp_path / PICTURES
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(RunFailure, match=r"pictures\.csv") as refusal:
        load_study([tmp_path])
    record_sums(tmp_path, [PICTURES])
    assert len(load_study([tmp_path]).pictures) == len(lines) - 2
    assert "changed" in str(refusal.value)


def test_the_report_shows_the_pictures(normbench: Any, tmp_path: Path) -> None:
    for norm in ("bn", "in"):
        style_run_in(tmp_path / "runs", "epochs=1", f"norm={norm}")
    code, _, err = normbench("report", "runs", "-o", "report")
    assert code == 0, err
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Contents, style and results" in page
    assert "rows of pictures: content, bn, in" in page
    assert page.count("data:image/png;base64,") == 1
    assert (tmp_path / "report" / "pictures.png").exists()
    assert "lowest test style loss" in page
