"""The output folder is whole or not there, whatever happens; killed runs leave nothing that looks finished."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

from compressor.errors import CompressorError
from compressor_converters.folder import check_free, output_folder

MARKS = ("recipe.yaml", "report.json", "model.onnx")


def finished(path: Path, text: str = "old") -> Path:
    path.mkdir()
    for mark in MARKS:
        (path / mark).write_text(text)
    return path


def test_nothing_is_seen_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with output_folder(target) as staging:
        (staging / "report.json").write_text("{}")
        assert not target.exists()
    assert (target / "report.json").read_text() == "{}"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_error_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    target = finished(tmp_path / "out")

    def interrupted() -> None:
        with output_folder(target, force=True) as staging:
            (staging / "report.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "report.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_replaces_a_former_output(tmp_path: Path) -> None:
    target = finished(tmp_path / "out")
    (target / "extra").write_text("x")
    with output_folder(target, force=True) as staging:
        (staging / "report.json").write_text("new")
    assert [path.name for path in target.iterdir()] == ["report.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_needs_force(tmp_path: Path) -> None:
    target = finished(tmp_path / "out")
    with pytest.raises(CompressorError, match="--force"):
        check_free(target, force=False)


def test_force_never_replaces_a_folder_that_something_else_wrote(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    with pytest.raises(CompressorError, match="was not written by compress"):
        check_free(tmp_path / "photos", force=True)


def test_a_file_or_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(CompressorError, match="is not a folder"):
            check_free(tmp_path / name, force=True)


def test_a_folder_set_aside_by_a_killed_run_comes_back(tmp_path: Path) -> None:
    finished(tmp_path / ".out.former")
    with pytest.raises(CompressorError, match="--force"):
        check_free(tmp_path / "out", force=False)
    assert (tmp_path / "out" / "report.json").read_text() == "old"


def test_leftovers_of_a_killed_run_go_but_those_of_a_living_one_stay(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from compressor_converters.folder import output_folder\n"
        "with output_folder(Path(sys.argv[1])):\n    print('in', flush=True); time.sleep(60)"
    )
    target = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, env=environment(), text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    (living,) = tmp_path.glob(".out.partial-*")
    with output_folder(target):
        assert living.exists()
    (tmp_path / "out").rename(tmp_path / "other")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert living.exists()
    with output_folder(target):
        assert not living.exists()


def test_a_full_disk_is_said_in_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="out: the disk is full; make room, or name another with -o"):
        _fill(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def _fill(folder: Path) -> None:
    with output_folder(folder) as staging:
        (staging / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 240, f"{'x' * 300}/out"])
def test_a_name_that_is_too_long_for_the_system_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompressorError, match=r"output .*name another with -o"):
        check_free(tmp_path / name, force=False)


def test_a_place_where_no_folder_can_be_made_is_refused_in_one_line() -> None:
    place = Path("/proc/x")
    with pytest.raises(CompressorError, match=f"output {place}: .*cannot be written"), output_folder(place):
        pass


def test_what_a_killed_run_left_is_removed_whatever_letters_are_in_the_name(tmp_path: Path) -> None:
    for name in ("out[1]", "out1"):
        (tmp_path / f".{name}.partial-0").mkdir()
    with output_folder(tmp_path / "out[1]"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out1.partial-0", "out[1]"]
