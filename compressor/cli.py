"""The command ``compress``: text in, text out. Everything it does is the Python API's work."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from compressor import __version__
from compressor.command import JOB, Job, Main
from compressor.console import (
    Stop,
    describe_method,
    describe_training,
    exit_status,
    exported_json,
    exported_text,
    inspection_tables,
    latency_table,
    method_text,
    set_up_logging,
    showing_progress,
    training_text,
)
from compressor.options import (
    data_options,
    folder_options,
    job_options,
    model_options,
    output_options,
    unsafe_option,
)

if TYPE_CHECKING:
    from compressor.recipe import Recipe
    from compressor.report import Report


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="compress", message="%(prog)s %(version)s")
def cli() -> None:
    """Make a trained model small and fast: replace its dense layers by structured ones, train the result to
    behave like the original, prove that it does, and write files that run elsewhere.

    \b
    Examples:
      compress model.pt2 --data train.npz --eval-data test.npz
      compress weights.pth --arch mynet.py:build --data train.npz --method acdc --set depth=4 -o small
      compress model.pt2 --method svd --set rank=16          (no data: weights only, and it says so)
      compress model.onnx --data inputs.npz                  (ONNX in, ONNX out: no network source needed)
      compress inspect model.pt2                             (which dense layers there are, and what they cost)
      compress compare model.pt2 --methods acdc,svd-quarter --data train.npz

    The output folder holds model.safetensors (compact), model.onnx (runs on stock onnxruntime), model.pt2,
    recipe.yaml (runs the job again), and report.json, .md and .html. Each file was read back and run before
    the command says that it succeeded. The exit status is 2 for what you can mend, said in one line.
    """


@cli.command(JOB, cls=Job)
@click.argument("model", required=False)
@click.option(
    "--method", metavar="NAME", help="What dense layers become; `compress methods` lists them. Default: acdc."
)
@job_options
@data_options
@model_options
@folder_options
@click.option(
    "--recipe",
    type=click.Path(),
    metavar="FILE",
    help="Run a recipe.yaml again; MODEL and options given beside it win over what it says.",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="NAME",
    help="Put this beside the result, trained as long: a method at the same number of parameters, a preset at "
    "its own, or int8. Repeatable.",
)
@click.option(
    "--stream",
    is_flag=True,
    default=None,
    help="For models that hardly fit in memory: fit weights only, layer by layer; safetensors or ONNX, in and out.",
)
@click.option("--dry-run", is_flag=True, help="Plan and count from shapes only: nothing is trained or written.")
@output_options
def compress(
    model: str | None,
    output: str | None,
    force: bool,
    unsafe_load: bool,
    recipe: str | None,
    dry_run: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Compress MODEL: the main job."""
    if model is None and recipe is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    from compressor.pipeline import plan_only, run
    from compressor.stream import stream as stream_layers

    asked = _recipe(recipe, model=model, **options)
    folder = Path(output or f"{_stem(asked.model)}-{asked.method}")
    with _session(verbose, quiet, stops=not (dry_run or asked.stream)) as working:
        if dry_run:
            report = plan_only(asked, unsafe_load=unsafe_load)
        elif asked.stream:
            report = stream_layers(asked, folder, force=force, progress=working["progress"])
        else:
            report = run(asked, output=folder, force=force, unsafe_load=unsafe_load, **working).report
    _show_report(report, as_json)
    if not dry_run and not quiet:
        click.echo(f"wrote {folder}", err=True)


@cli.command()
@click.argument("model")
@model_options
@click.option("--data", metavar="SPEC", help="Data to run the model on once, so that calls are counted.")
@output_options
def inspect(model: str, unsafe_load: bool, as_json: bool, verbose: int, quiet: bool, **options: Any) -> None:
    """List every dense layer of MODEL and what each method would make of it.

    Shows name, shape, calls, parameters, their share of the model, multiply-adds (MACs), and the parameters
    that each method at its default settings would need. MODEL may be code, module:callable: it is then built
    without weights, since shapes are enough.

    \b
    Examples:
      compress inspect model.pt2
      compress inspect weights.pth --arch mynet.py:build --input-shape 1,3,224,224
      compress inspect mynet.py:build --input-shape 1,3,224,224 --json
    """
    from compressor.inspection import inspect as inspect_model

    with _session(verbose, quiet):
        found = inspect_model(_recipe(None, model=model, **options), unsafe_load=unsafe_load)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        for table in inspection_tables(found, _console().width):
            _console().print(table)


@cli.command()
@click.argument("model")
@click.option("--methods", required=True, metavar="A,B,…", help="Methods and presets to compare; --set is the first's.")
@job_options
@data_options
@model_options
@folder_options
@output_options
def compare(
    model: str,
    methods: str,
    output: str | None,
    force: bool,
    unsafe_load: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Do the same job with several methods, each trained alike, and print one table.

    The first method sets the size: a plain method name after it gets as many parameters, layer by layer; a
    preset (svd-half) keeps its own size; int8 is onnxruntime's quantisation of the original. With -o the
    first method's files are written, with the comparison in their report.

    \b
    Examples:
      compress compare model.pt2 --methods acdc,svd,fastfood --data train.npz --eval-data test.npz
      compress compare model.pt2 --methods acdc,svd-half,svd-quarter,int8 --data train.npz --json
    """
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if len(names) < 2:
        raise click.UsageError(f"--methods {methods}: give two or more, as in acdc,svd")
    from compressor.pipeline import compare as compare_methods

    asked = _recipe(None, model=model, **options)
    with _session(verbose, quiet, stops=True) as working:
        result = compare_methods(asked, names, output=output, force=force, unsafe_load=unsafe_load, **working)
    _show_report(result.report, as_json)


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option("--original", metavar="MODEL", help="The model it was made from. Default: the one its recipe names.")
@click.option("--seconds", type=click.FloatRange(min=0.05), help="Time for each runtime and batch size.")
@unsafe_option
@output_options
def bench(folder: str, as_json: bool, verbose: int, quiet: bool, **options: Any) -> None:
    """Measure the latency of the finished folder DIR again, on this machine.

    torch and stock onnxruntime on one thread, batch 1 and 32, alternately with the original: median and
    the span from the 10th to the 90th percentile.

    \b
    Example:
      compress bench model-acdc --seconds 5
    """
    from compressor.bench import bench as measure

    with _session(verbose, quiet) as working:
        measured = measure(folder, progress=working["progress"], **_given(options))
    if as_json:
        plain = {
            name: {
                runtime: {batch: row.model_dump(mode="json") for batch, row in rows.items()}
                for runtime, rows in runtimes.items()
            }
            for name, runtimes in measured.items()
        }
        click.echo(json.dumps(plain, indent=2))
    else:
        _console().print(latency_table(measured))


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option("--to", "to", required=True, metavar="FORMAT", help="safetensors, pt2, onnx, ort, hf or pte.")
@click.option("--dense", is_flag=True, help="Expand every structured layer to the dense one that does the same.")
@click.option(
    "--dtype",
    metavar="NAME",
    help="How numbers are stored: float32, float16 or bfloat16. They are computed with in float32 all the same, and "
    "what it costs is said.",
)
@click.option("--original", metavar="MODEL", help="The model it was made from. Default: the one its recipe names.")
@unsafe_option
@folder_options
@output_options
def export(folder: str, to: str, output: str | None, as_json: bool, verbose: int, quiet: bool, **options: Any) -> None:
    """Write the finished folder DIR again in another format, and check that it gives the same outputs.

    \b
    safetensors  compact parameters with their manifest; with --dense a plain state dict
    pt2          a program of torch.export
    onnx         for stock onnxruntime; faster with our operators
    ort          onnxruntime's own format, two files: stock, and with our operators
    hf           a Hugging Face folder, read by from_pretrained after `import compressor`
    pte          a program for ExecuTorch, where the package executorch is installed

    \b
    Examples:
      compress export model-acdc --to ort
      compress export model-svd --to safetensors --dense --dtype float16 -o plain
    """
    from compressor.export import export as write

    with _session(verbose, quiet):
        done = write(folder, to, output or f"{Path(folder).resolve().name}-{to}", **_given(options))
    if as_json:
        click.echo(exported_json(done))
    else:
        click.echo(exported_text(done))


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@output_options
def report(folder: str, as_json: bool, verbose: int, quiet: bool) -> None:
    """Print the report of the finished folder DIR again.

    \b
    Example:
      compress report model-acdc
    """
    from compressor.report import read_report

    with _session(verbose, quiet):
        found = read_report(Path(folder))
    _show_report(found, as_json)


@cli.command()
@output_options
def methods(as_json: bool, verbose: int, quiet: bool) -> None:
    """List the methods and presets: what each is, its source, and its options for --set with their defaults.

    \b
    Example:
      compress methods --json
    """
    from compressor.layers import methods as registered

    found = registered()
    if as_json:
        click.echo(json.dumps([describe_method(entry) for entry in found.values()], indent=2))
        return
    for entry in found.values():
        _console().print(method_text(entry), highlight=False)


@cli.command()
@output_options
def training(as_json: bool, verbose: int, quiet: bool) -> None:
    """List the options of the training for --train with their defaults.

    \b
    Example:
      compress training
    """
    if as_json:
        click.echo(json.dumps(describe_training(), indent=2))
    else:
        _console().print(training_text(), highlight=False)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave; the API's own defaults hold for the others."""
    return {name: value for name, value in options.items() if value is not None and value != ()}


def _recipe(path: str | None, **options: Any) -> Recipe:
    """The recipe that the options ask for, over the one in the file ``path`` if there is one."""
    from compressor.pipeline import make_recipe
    from compressor.recipe import read_recipe

    asked = _given(options)
    settings = dict(asked.pop("settings", ()))
    if "window" in settings:
        asked["window"] = settings.pop("window")
    if settings:
        asked["settings"] = settings
    if "training" in asked:
        asked["training"] = dict(asked["training"])
    if "progressive" in asked:
        if (other := asked.get("training", {}).get("progressive", asked["progressive"])) != asked["progressive"]:
            raise click.UsageError(f"--progressive {asked['progressive']} and --train progressive={other}: give one")
        asked["training"] = {**asked.get("training", {}), "progressive": asked.pop("progressive")}
    if "input_shape" in asked:
        asked["input_shape"] = dict(asked["input_shape"])
    if path is None:
        return make_recipe(**asked)
    base = read_recipe(Path(path)).model_dump()
    if "training" in asked:
        asked["training"] = {**base["training"], **asked["training"]}
    stale = {"plan"} if asked.keys() & {"method", "settings", "window", "target", "ignore"} else set()
    stale |= {"model_sha256"} if asked.get("model", base["model"]) != base["model"] else set()
    stale |= {"data_fingerprint"} if asked.keys() & {"data", "normalize", "label_key", "input_shape"} else set()
    stale |= {"settings"} if asked.get("method", base["method"]) != base["method"] else set()
    return make_recipe(**{name: value for name, value in base.items() if name not in stale} | asked)


def _stem(model: str | None) -> str:
    """A short name for a model: the file's without its ending, the folder's, or the callable's."""
    name = model or "model"
    if ":" in name:
        return Path(name.rpartition(":")[2].partition("@")[0]).name
    return Path(name).resolve().name if Path(name).is_dir() else Path(name).stem


@contextlib.contextmanager
def _session(verbose: int, quiet: bool, *, stops: bool = False) -> Iterator[dict[str, Any]]:
    """Logging, progress and, for a job that ``stops`` with the best so far, Ctrl-C; else Ctrl-C gives up at once."""
    set_up_logging(verbose)
    stop = Stop(sys.stderr)
    with stop.listening() if stops else contextlib.nullcontext(), showing_progress(quiet=quiet) as progress:
        yield {"progress": progress, "stop": stop}


def _show_report(report: Report, as_json: bool) -> None:
    from compressor.report import render_text

    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        _console().print(render_text(report))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 2 for what the user can mend, 130 given up with Ctrl-C, 1 for a bug."""
    raise SystemExit(exit_status(lambda: cli.main(arguments, prog_name="compress", standalone_mode=False)))
