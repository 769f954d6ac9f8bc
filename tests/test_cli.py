"""The command line itself: what it offers, how it parses, what it says when it is asked wrongly."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from conftest import ROOT, environment

from compressor import __version__
from compressor.cli import _given, _recipe, _session, cli
from compressor.console import Lines, Stop, costs, exit_status
from compressor.errors import CompressorError
from compressor.layers import methods
from compressor.options import Duration, Setting, Shape
from compressor.pipeline import make_recipe
from compressor.plan import Entry, Plan
from compressor.training import Training

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = dict(cli.commands)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = exit_status(lambda: cli.main(arguments, prog_name="compress", standalone_mode=False))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def options() -> list[tuple[str, click.Option]]:
    return [
        (name, parameter)
        for name, command in COMMANDS.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(name: str) -> None:
    assert len(COMMANDS[name].help or "") > 20
    assert f"`compress {name}" in README


@pytest.mark.parametrize("name", methods())
def test_every_method_stands_in_the_readme_with_its_counts(name: str) -> None:
    cost = costs(methods()[name])
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {cost['params']:,} | {cost['macs']:,} |" in row


@pytest.mark.parametrize(("command", "option"), options(), ids=lambda value: getattr(value, "name", value))
def test_every_option_has_help_and_stands_in_the_readme(command: str, option: click.Option) -> None:
    assert len(option.help or "") > 10
    assert f"`{option.opts[-1]}`" in README


def test_the_main_help_shows_every_option_of_the_main_job_once_and_every_sub_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    rows = [line.split()[0].rstrip(",") for line in out.splitlines() if line.startswith("  -")]
    assert sorted(set(rows)) == sorted(rows)
    for option in COMMANDS["MODEL"].params:
        assert not isinstance(option, click.Option) or option.opts[-1] in out
    for name in ("inspect", "compare", "bench", "report", "methods", "training"):
        assert f"\n  {name} " in out


def test_help_after_a_model_is_the_main_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "model.pt", "--help") == run(capsys, "--help") == run(capsys)


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1] == f"compress {__version__}\n"


def test_options_may_stand_before_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(COMMANDS["MODEL"], "callback", lambda **given: seen.update(given))
    cli.main(["--method", "svd", "--set", "rank=4", "m.pt", "-q"], standalone_mode=False)
    assert (seen["model"], seen["method"], seen["settings"]) == ("m.pt", "svd", (("rank", "4"),))


def test_a_file_with_the_name_of_a_sub_command_can_be_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(COMMANDS["MODEL"], "callback", lambda **given: seen.update(given))
    cli.main(["./bench"], standalone_mode=False)
    assert seen["model"] == "./bench"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dry-run",),
        ("m.pt", "--no-such-option"),
        ("m.pt", "--set", "rank"),
        ("m.pt", "--set", "=4"),
        ("m.pt", "--time-limit", "0"),
        ("m.pt", "--time-limit", "1.2.3"),
        ("m.pt", "--input-shape", "x:1,a"),
        ("m.pt", "--input-shape", "1,0"),
        ("m.pt", "--epochs", "-1"),
        ("m.pt", "extra"),
        ("inspect",),
        ("compare", "m.pt", "--methods", "acdc"),
        ("bench", "no-such-folder"),
        ("report", "no-such-folder"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_what_the_user_can_mend_exits_2_and_a_bug_shows_its_traceback_and_exits_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mendable() -> None:
        raise CompressorError("two\nlines")

    def bug() -> None:
        raise ValueError("a bug")

    assert exit_status(mendable) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert exit_status(bug) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_way_to_fade_is_an_option_of_the_training() -> None:
    asked = _recipe(None, model="m.pt", progressive="mollify", training=(("rate", "0.1"),))
    assert asked.how().progressive == "mollify"
    assert asked.training == {"rate": "0.1", "progressive": "mollify"}
    assert asked.how().way == "mollify"
    assert _recipe(None, model="m.pt", progressive="mollify", training=(("fade", "0"),)).how().way is None
    assert _recipe(None, model="m.pt", training=(("fade", "0"),)).how().way is None
    with pytest.raises(CompressorError, match=r"progressive.*theseus"):
        _recipe(None, model="m.pt", progressive="slowly").how()
    with pytest.raises(CompressorError, match=r"fade=0.5 needs a way: progressive=linear"):
        _recipe(None, model="m.pt", training=(("fade", "0.5"),)).how()
    with pytest.raises(click.UsageError, match="--progressive linear and --train progressive=cosine: give one"):
        _recipe(None, model="m.pt", progressive="linear", training=(("progressive", "cosine"),))


def test_the_options_of_the_training_are_listed_with_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "training")
    assert status == 0
    found = json.loads(run(capsys, "training", "--json")[1])
    assert list(found["settings"]) == list(Training.model_fields)
    for name, field in Training.model_fields.items():
        assert f"--train {name}=" in out
        assert f"\n| `{name}` | " in README
        assert (field.description or "").split(":")[0].split("(")[0][:30] in " ".join(out.split())


def test_unless_a_way_is_asked_for_all_is_replaced_at_once() -> None:
    assert _recipe(None, model="m.pt").how().way is None


def test_giving_up_exits_130() -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    assert exit_status(give_up) == 130


LOADING = """
import importlib, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "compressor.console":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
module, _, name = sys.argv.pop().partition(":")
getattr(importlib.import_module(module), name)()
"""


def test_ctrl_c_while_the_command_is_still_being_loaded_is_one_line_too() -> None:
    start = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["compress"]
    done = subprocess.run(
        [sys.executable, "-c", LOADING, start], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "given up; nothing was written\n")


def test_an_option_that_was_given_as_zero_is_passed_on() -> None:
    assert _given({"epochs": 0, "seed": 0, "data": None, "target": ()}) == {"epochs": 0, "seed": 0}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("0.5", 0.5)]
)
def test_a_duration_is_in_seconds(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


def test_a_setting_is_split_at_its_first_equals_sign() -> None:
    assert Setting().convert("window=fc6..fc7", None, None) == ("window", "fc6..fc7")
    assert Setting().convert("expression=a=b", None, None) == ("expression", "a=b")


@pytest.mark.parametrize(
    ("text", "shape"), [("1,3,224,224", ("", (1, 3, 224, 224))), ("image:1,28", ("image", (1, 28))), ("7", ("", (7,)))]
)
def test_a_shape_may_name_its_input(text: str, shape: tuple[str, tuple[int, ...]]) -> None:
    assert Shape().convert(text, None, None) == shape


def test_progress_lines_count_and_say_the_time_left_and_end_with_a_newline() -> None:
    stream = io.StringIO()
    with Lines(stream, seconds=0)("fit", 4) as advance:
        advance(1, "loss 0.5")
        advance(3)
    first, second, last = stream.getvalue().splitlines()
    assert first.startswith("fit  1/4  loss 0.5  about ")
    assert second.startswith("fit  4/4  loss 0.5")
    assert last.startswith("fit  4/4  loss 0.5  ")


def test_the_first_ctrl_c_asks_and_the_second_gives_up() -> None:
    stream = io.StringIO()
    before = signal.getsignal(signal.SIGINT)
    with Stop(stream).listening() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert "best so far" in stream.getvalue()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_is_taken_over_only_by_jobs_that_end_with_the_best_so_far() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _session(0, quiet=True):
        assert signal.getsignal(signal.SIGINT) is before
    with _session(0, quiet=True, stops=True) as working:
        assert not working["stop"]()
        signal.raise_signal(signal.SIGINT)
        assert working["stop"]()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_recipe_with_an_axis_of_no_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: a.pt2\ninput_shape: {x: [1, -5]}\n")
    with pytest.raises(CompressorError, match=r"input_shape\.x\.1 is not valid"):
        _recipe(str(tmp_path / "recipe.yaml"))


def test_a_recipe_keeps_what_an_option_beside_it_does_not_name(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "model: m.pt\nmethod: acdc\nsettings: {depth: 3}\ntraining: {rate: 0.1, shift: 2}\ndata: a.npz\n"
        "data_fingerprint: abc\n"
    )
    changed = _recipe(str(file), training=(("rate", "0.2"),))
    assert (changed.how().rate, changed.how().shift) == (0.2, 2)
    assert (changed.settings, changed.data_fingerprint) == ({"depth": 3}, "abc")
    assert _recipe(str(file), method="svd").settings == {}  # another method's
    assert _recipe(str(file), normalize="0.5,0.5").data_fingerprint is None


def test_another_plan_is_other_work() -> None:
    recipe = make_recipe(model="m.pt")
    plans = [Plan(entries=(Entry(sites=("0",), method="svd", config={"rank": rank}),)) for rank in (4, 8)]
    digests = {recipe.model_copy(update={"plan": plan}).digest() for plan in plans}
    assert len({recipe.digest(), *digests}) == 3
