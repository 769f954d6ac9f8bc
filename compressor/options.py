"""The command line's options: their types, and the groups of them that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Duration(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Seconds, from ``90``, ``90s``, ``5m``, ``1h`` or ``1h30m``."""

    name = "duration"
    _pattern = re.compile(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of seconds, which is more than 0."""
        if isinstance(value, int | float):
            return float(value)
        found = self._pattern.fullmatch(value.strip())
        try:
            parts = [float(part or 0) for part in found.groups()] if found else []
        except ValueError:
            parts = []
        seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
        if seconds <= 0:
            self.fail(f"{value!r} is no time; write 90, 90s, 5m, 1h or 1h30m", param, ctx)
        return seconds


class Setting(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A pair of strings from ``key=value``; the method's own config gives it its type."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The key and the value, both still text."""
        if isinstance(value, tuple):
            return value
        key, equals, setting = value.partition("=")
        if not equals or not key.strip():
            self.fail(f"{value!r} is not key=value, as in --set depth=4", param, ctx)
        return key.strip(), setting.strip()


class Shape(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """An input's name (empty for the only one) and its sizes, from ``NAME:1,3,224,224`` or ``1,3,224,224``."""

    name = "[name:]sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """The name and the sizes, batch first."""
        if isinstance(value, tuple):
            return value
        name, _, sizes = value.rpartition(":")
        try:
            shape = tuple(int(size) for size in re.split(r"[,x]", sizes))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            self.fail(f"{value!r} is no shape; write 1,3,224,224 or NAME:1,3,224,224, the batch first", param, ctx)
        return name, shape


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


unsafe_option = click.option(
    "--unsafe-load",
    is_flag=True,
    help="Allow a pickled whole module. Unpickling runs code from the file: only for files you trust.",
)

model_options = _together(
    click.option(
        "--arch",
        metavar="MODULE:CALLABLE",
        help="Code that builds the model a state dict belongs to: pkg.module:function or file.py:function.",
    ),
    click.option(
        "--input-shape",
        "input_shape",
        type=Shape(),
        multiple=True,
        help="Shape of an input, batch first, as in 1,3,224,224 or image:1,3,224,224. "
        "Needed where no data is given and the file does not say. Repeat for more inputs.",
    ),
    unsafe_option,
)

data_options = _together(
    click.option(
        "--data",
        metavar="SPEC",
        help="Training data: .npz, .npy, .safetensors or .pt (names matched to the model's inputs), a folder of "
        "images by class, or MODULE:CALLABLE giving batches. Labels are optional: without them the original model "
        "is the target. Without any data the weights alone are fitted.",
    ),
    click.option(
        "--eval-data",
        metavar="SPEC",
        help="Data that only the report's figures come from; never seen in training, nothing is chosen by it.",
    ),
    click.option("--label-key", metavar="KEY", help="Which array holds the labels, where it is not plain."),
    click.option(
        "--normalize",
        metavar="MEAN,STD",
        help="What the model expects of 8-bit images: (x/255 - mean)/std, as in 0.1307,0.3081.",
    ),
    click.option(
        "--metric",
        metavar="NAME",
        help="accuracy, mse, … or MODULE:CALLABLE, f(outputs, labels) -> float. Default: accuracy for class "
        "labels, mse otherwise.",
    ),
)

job_options = _together(
    click.option(
        "--set",
        "settings",
        type=Setting(),
        multiple=True,
        help="A method's own option, as in --set depth=4; `compress methods` lists them. "
        "For every method: --set window=auto|off|FIRST..LAST, a run of layers that one block replaces. Repeatable.",
    ),
    click.option(
        "--target",
        multiple=True,
        metavar="GLOB",
        help="Replace only the dense layers whose names match, as in 'classifier.*'. Repeatable.",
    ),
    click.option(
        "--ignore", multiple=True, metavar="GLOB", help="Keep the dense layers whose names match. Repeatable."
    ),
    click.option("--epochs", type=click.IntRange(min=0), help="Passes over the training data at most; 0: fit only."),
    click.option(
        "--train",
        "training",
        type=Setting(),
        multiple=True,
        help="An option of the training, as in --train rate=0.001, shift=2 (move images by up to 2 pixels) or "
        "optimizer=lbfgs; `compress training` lists them. Repeatable.",
    ),
    click.option(
        "--progressive",
        metavar="WAY",
        help="Let the original's layers fade out while training: linear, mollify (with the loss), cosine (mixed) or "
        "theseus (whole layers); the same as --train progressive=WAY. Else all are replaced at once.",
    ),
    click.option(
        "--time-limit",
        type=Duration(),
        help="End after this time (90, 90s, 5m, 1h) with the best model so far, saved and reported as such.",
    ),
    click.option("--seed", type=click.IntRange(min=0), help="The same seed gives the same bytes on the same machine."),
    click.option("--device", metavar="NAME", help="Where to train: cpu, cuda, …"),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads for training; latency is always on one."),
)

output_options = _together(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout instead of tables."),
    click.option("-v", "--verbose", count=True, help="Say more on stderr; -vv for everything."),
    click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
)


def _named(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty name, as of a shell's variable that is not set."""
    if value == "":
        raise click.BadParameter("the name is empty; give one, or leave the option out")
    return value


folder_options = _together(
    click.option(
        "-o",
        "--output",
        type=click.Path(),
        callback=_named,
        help="Folder to write. Default: MODEL-METHOD in this folder.",
    ),
    click.option("--force", is_flag=True, help="Replace the output folder if it exists."),
)
