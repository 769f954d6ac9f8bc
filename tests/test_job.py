"""The main job on a small real classifier, as a process: what it writes, what it refuses, how it stops."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Tiny, environment

import compressor
from compressor.candidate import NATIVE
from compressor_kernels import native

FILES = {"model.safetensors", "model.onnx", "model.pt2", "recipe.yaml", "report.json", "report.md", "report.html"}
MODEL = ("weights.pth", "--arch", "nets.py:mlp")
DATA = ("--data", "train.npz", "--eval-data", "test.npz")
JOB = (*MODEL, *DATA, "--method", "svd", "--set", "rank=4", "--epochs", "2", "-q")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def done(tiny: Tiny) -> tuple[Path, dict]:
    """One finished run with baselines, its folder and what it printed."""
    printed = tiny.run(*JOB, "--baseline", "int8", "-o", "done", "--force", "--json").stdout
    return tiny.folder / "done", json.loads(printed)


def test_the_folder_holds_all_files_and_the_report_is_what_was_printed(done: tuple[Path, dict]) -> None:
    folder, printed = done
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "report.json").read_text()) == printed


def test_the_report_counts_times_and_scores_both_networks(done: tuple[Path, dict]) -> None:
    folder, report = done
    before, after = report["before"], report["after"]
    dense = (24 * 37 + 37) + (37 * 33 + 33) + (33 * 3 + 3)
    assert before["params"] == before["dense_params"] == dense
    svd = 4 * (24 + 37) + 37 + 4 * (37 + 33) + 33
    assert after["dense_params"] == svd + 33 * 3 + 3
    assert before["macs"] == 24 * 37 + 37 * 33 + 33 * 3
    assert after["macs"] == 4 * (24 + 37) + 4 * (37 + 33) + 33 * 3
    for side in (before, after):
        assert side["accuracy"] + side["error"] == pytest.approx(1)
        for runtime in ("torch", "onnxruntime"):
            for batch in ("1", "32"):
                row = side["latency_ms"][runtime][batch]
                assert 0 < row["p10"] <= row["median"] <= row["p90"]
    for name in ("model.safetensors", "model.onnx", "model.pt2"):
        assert after["size_bytes"][name] == (folder / name).stat().st_size
    assert after["accuracy"] > 0.8


def test_the_report_says_what_became_of_each_layer_and_why_one_was_kept(done: tuple[Path, dict]) -> None:
    rows = {row["name"]: row for row in done[1]["layers"]}
    assert rows["0"]["method"] == rows["3"]["method"] == "svd"
    assert rows["5"]["method"] is None
    assert rows["5"]["kept_because"]
    assert 0 < rows["3"]["fit_error"] < 1


def test_every_file_was_checked_and_the_baseline_measured(done: tuple[Path, dict]) -> None:
    checks = {check["file"]: check for check in done[1]["verification"]}
    assert {"model.safetensors", "model.pt2", "model.onnx"} <= set(checks)
    assert all(check["max_rel"] <= check["tolerance"] for check in checks.values())
    (baseline,) = done[1]["baselines"]
    assert baseline["name"] == "int8"
    assert baseline["side"]["size_bytes"]["model.onnx"] > 0


@pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")
def test_what_runs_on_the_native_kernels_is_checked_and_timed_there_beside_the_original(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(torch.nn.Linear(24, 37), torch.nn.ReLU(), torch.nn.Linear(37, 33)), torch.randn(90, 24)
    how: dict = {"target": ("*",), "data": x, "epochs": 0, "baselines": ("svd",)}
    made = compressor.compress(net, "acdc", settings={"depth": 1}, output=tmp_path / "acdc", **how).report
    assert "model.onnx, native kernels" in [check.file for check in made.verification]
    for side in (made.before, made.after):
        assert set(side.latency_ms[NATIVE]) == {"1", "32"}
    assert NATIVE not in made.baselines[0].side.latency_ms  # it has no node of ours
    plain = compressor.compress(net, "svd", output=tmp_path / "svd", **how | {"baselines": ()}).report
    assert NATIVE not in plain.before.latency_ms
    assert all("native" not in check.file for check in plain.verification)


def test_the_folder_reloads_with_and_without_the_original(tiny: Tiny, done: tuple[Path, dict]) -> None:
    x = torch.from_numpy(np.load(tiny.folder / "test.npz")["x"])[:7]
    arch = compressor.load(done[0], arch=f"{tiny.folder / 'nets.py'}:mlp")
    graph = compressor.load(done[0])
    with torch.no_grad():
        torch.testing.assert_close(arch(x), graph(x))
    assert any(isinstance(module, compressor.StructuredLayer) for module in arch.modules())


@pytest.mark.slow
def test_the_recipe_gives_the_same_bytes_again(tiny: Tiny, done: tuple[Path, dict]) -> None:
    tiny.run("--recipe", "done/recipe.yaml", "-o", "again", "-q")
    assert digest(tiny.folder / "again" / "model.safetensors") == digest(done[0] / "model.safetensors")


def test_a_recipe_refuses_a_model_or_data_that_changed(tiny: Tiny, done: tuple[Path, dict]) -> None:
    text = (done[0] / "recipe.yaml").read_text()
    for key, said in (("model_sha256", "is not the file of the recipe"), ("data_fingerprint", "is not the data of")):
        changed = re.sub(rf"{key}: \w+", f"{key}: '{'0' * 16}'", text)
        assert changed != text
        (tiny.folder / "changed.yaml").write_text(changed)
        assert said in tiny.run("--recipe", "changed.yaml", "-o", "changed", status=2).stderr
    (tiny.folder / "changed.yaml").unlink()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny: Tiny) -> None:
    job = (*MODEL, *DATA, "--method", "acdc", "--target", "0", "--epochs", "1", "-q")
    tiny.run(*job, "--seed", "5", "-o", "s1")
    tiny.call(*job, "--threads", "1", "--seed", "5", "-o", "s2")
    tiny.call(*job, "--seed", "6", "-o", "s3")
    first, second, third = (digest(tiny.folder / name / "model.safetensors") for name in ("s1", "s2", "s3"))
    assert first == second
    assert first != third


def test_without_data_the_weights_are_fitted_and_output_and_report_say_so(tiny: Tiny) -> None:
    out = tiny.call(
        *MODEL, "--input-shape", "1,24", "--method", "svd-half", "--set", "fraction=0.3", "-o", "nodata"
    ).stdout
    assert "no data" in out
    assert "no data" in (tiny.folder / "nodata" / "report.md").read_text()


def test_a_dry_run_counts_and_writes_nothing(tiny: Tiny) -> None:
    before = sorted(path.name for path in tiny.folder.iterdir())
    report = json.loads(tiny.call(*JOB, "--dry-run", "--json").stdout)
    assert report["status"] == "dry run"
    assert report["after"]["dense_params"] < report["before"]["dense_params"]
    assert sorted(path.name for path in tiny.folder.iterdir()) == before


def test_a_window_becomes_one_block(tiny: Tiny) -> None:
    job = (*MODEL, *DATA, "--method", "fastfood", "--set", "features=relu", "--set", "window=0..5", "--set", "width=32")
    report = json.loads(tiny.call(*job, "--epochs", "3", "-o", "window", "-q", "--json").stdout)
    (row,) = report["layers"]
    assert row["sites"] == ["0", "3", "5"]
    assert report["after"]["accuracy"] > 0.8


REFUSALS = {
    "there is no method 'acdd'; did you mean 'acdc'": (*MODEL, "--method", "acdd"),
    "no setting 'dept'; did you mean 'depth'": (*MODEL, "--method", "acdc", "--set", "dept=3"),
    "depth='x' is not valid": (*MODEL, "--method", "acdc", "--set", "depth=x"),
    "nothing.pt2": ("nothing.pt2",),
    "--arch": ("weights.pth",),
    "no_such": ("weights.pth", "--arch", "nets.py:no_such"),
    "train.csv": (*MODEL, "--data", "train.csv"),
    "has no dense layers": ("nets.py:without_dense", "--input-shape", "1,24"),
    "nan.pth": ("nan.pth", "--arch", "nets.py:mlp", "--input-shape", "1,24"),
    "does not take this input": (*MODEL, "--input-shape", "1,25"),
    "--input-shape input:1,99999999999,24: 8 such": (*MODEL, "--input-shape", "1,99999999999,24"),
    "do not fit in memory": (*MODEL, "--input-shape", f"1,{10**30}"),
    "exists; name another": (*MODEL, *DATA, "-o", "done"),
    "no dense layer matches 'nothing'": (*MODEL, *DATA, "--target", "nothing"),
    "replaces none": (*MODEL, *DATA, "--method", "svd", "--set", "rank=400"),
    "labels.npz": (*MODEL, "--data", "labels.npz"),
    "shorter.npz": (*MODEL, "--data", "shorter.npz"),
    "labels go from 0 to 3, the model gives 3 classes": (*MODEL, "--data", "classes.npz", "--method", "svd"),
    "there is no method 'svdd'": (*JOB, "--baseline", "svdd"),
    "'svd' would stand beside itself": (*JOB, "--baseline", "svd"),
    "'int8' would stand beside itself": (*JOB, "--baseline", "int8", "--baseline", "int8"),
    "acdc replaces none": (*JOB, "--target", "5", "--set", "rank=1", "--baseline", "acdc"),
    "no method 'nope'; choose": ("compare", *MODEL, *DATA, "--methods", "svd,nope"),
    "labels (90, 7) float32 do not fit": (*MODEL, "--data", "values.npz", "--method", "svd"),
    "the metric nets.py:mlp raised TypeError": (*JOB, "--metric", "nets.py:mlp"),
    "--metric accuracy needs labels": (*MODEL, "--data", "bare.npz", "--metric", "accuracy"),
    "labels are int64 of shape (3,) for each example": (*MODEL, "--data", "several.npz", "--method", "svd"),
    "noise_sigma=0.1 is for noise=nani or nanis, not for noise=nah": (
        *JOB,
        "--train",
        "noise=nah",
        "--train",
        "noise_sigma=0.1",
    ),
    "noise_alpha='3' is not valid": (*JOB, "--train", "noise=nah", "--train", "noise_alpha=3"),
    "--device nope: cannot be used": (*JOB, "--device", "nope"),
    "--device cuda:99: cannot be used": (*JOB, "--device", "cuda:99"),
    "--device hpu: cannot be used": (*JOB, "--device", "hpu"),
    "--device meta: holds no numbers": (*JOB, "--device", "meta"),
    "option seed": (*JOB, "--seed", str(1 << 70)),
    "seed is not valid": (*JOB, "--recipe", "seed.yaml"),
    "plan names no dense layer of this model: 'zzz'": (*MODEL, *DATA, "--recipe", "unknown.yaml"),
    "plan names no module of this model: 'yyy'": (*MODEL, *DATA, "--recipe", "passed.yaml"),
    "plan names '0' twice": (*MODEL, *DATA, "--recipe", "twice.yaml"),
    "plan.entries.0.sites is not valid": (*MODEL, *DATA, "--recipe", "nothing.yaml"),
    "the name is empty": (*JOB, "-o", ""),
    "which leaves no room for the names beside it": (*JOB, "-o", "x" * 250),
    "acuracy": (*MODEL, *DATA, "--metric", "acuracy"),
    "missing.pth": ("missing.pth", "--arch", "nets.py:mlp"),
    "was compressed already": ("done/model.safetensors", "--arch", "nets.py:mlp"),
}

PLAN, ENTRY = "plan:\n  entries:\n", "  - {{method: svd, config: {{rank: 2}}, sites: {}}}\n"


@pytest.mark.parametrize("said", REFUSALS)
def test_bad_input_is_one_clear_line_and_exit_2_and_nothing_is_written(
    tiny: Tiny, done: tuple[Path, dict], said: str
) -> None:
    state = torch.load(tiny.folder / "weights.pth", weights_only=True)
    torch.save({**state, "0.weight": state["0.weight"] * float("nan")}, tiny.folder / "nan.pth")
    torch.save({key: value for key, value in state.items() if key != "3.bias"}, tiny.folder / "missing.pth")
    np.savez(tiny.folder / "labels.npz", labels=np.zeros(5, np.int64))
    np.savez(tiny.folder / "shorter.npz", x=np.zeros((5, 24), np.float32), labels=np.zeros(4, np.int64))
    np.savez(tiny.folder / "classes.npz", x=np.ones((40, 24), np.float32), labels=np.arange(40) % 4)
    x = np.random.default_rng(0).standard_normal((900, 24)).astype(np.float32)
    np.savez(tiny.folder / "bare.npz", x=x)
    np.savez(tiny.folder / "values.npz", x=x, labels=np.ones((900, 7), np.float32))
    np.savez(tiny.folder / "several.npz", x=x, labels=x[:, :3] > 0)
    (tiny.folder / "seed.yaml").write_text(f"seed: {1 << 70}\n")
    for name, sites in {"unknown": "[zzz]", "nothing": "[]", "passed": "['0'], passed: [yyy]"}.items():
        (tiny.folder / f"{name}.yaml").write_text(PLAN + ENTRY.format(sites))
    (tiny.folder / "twice.yaml").write_text(PLAN + 2 * ENTRY.format("['0']"))
    before = sorted(path.name for path in tiny.folder.iterdir())
    arguments = REFUSALS[said]
    output = () if "-o" in arguments else ("-o", "refused")
    error = tiny.call(*arguments, "-q", *output, status=2).stderr
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert said in error
    assert sorted(path.name for path in tiny.folder.iterdir()) == before


def start(tiny: Tiny, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "compressor", *arguments],
        cwd=tiny.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


LONG = (*MODEL, *DATA, "--method", "svd", "--set", "rank=4", "--epochs", "100000", "--json")


def test_ctrl_c_ends_with_the_best_so_far_exported_and_reported_as_such(tiny: Tiny) -> None:
    child = start(tiny, *LONG, "-o", "interrupted")
    assert child.stderr is not None
    for line in child.stderr:
        if "distill" in line:
            break
    child.send_signal(signal.SIGINT)
    out, error = child.communicate(timeout=120)
    assert child.returncode == 0, error
    assert json.loads(out)["status"] == "stopped early: interrupted"
    assert {path.name for path in (tiny.folder / "interrupted").iterdir()} == FILES


def test_a_time_limit_ends_with_the_best_so_far(tiny: Tiny) -> None:
    out = tiny.run(*LONG, "-o", "limited", "--time-limit", "6").stdout
    assert json.loads(out)["status"] == "stopped early: time limit"
    assert {path.name for path in (tiny.folder / "limited").iterdir()} == FILES


@pytest.mark.slow
def test_a_killed_run_never_leaves_a_folder_that_looks_finished_and_the_next_one_succeeds(tiny: Tiny) -> None:
    started = time.monotonic()
    tiny.run(*JOB, "-o", "killed")
    whole = time.monotonic() - started
    expected = digest(tiny.folder / "killed" / "model.safetensors")
    moments = random.Random(0)
    for _ in range(10):
        target = tiny.folder / "killed"
        for file in target.glob("*"):
            file.unlink()
        target.rmdir()
        child = start(tiny, *JOB, "-o", "killed")
        time.sleep(whole * moments.uniform(0.2, 1.05))
        child.kill()
        child.communicate()
        if target.exists():  # it had finished
            assert {path.name for path in target.iterdir()} == FILES
            assert digest(target / "model.safetensors") == expected
        else:
            target.mkdir()
    tiny.run(*JOB, "-o", "killed", "--force") if any(target.iterdir()) else tiny.run(*JOB, "-o", "killed")
    assert digest(target / "model.safetensors") == expected
    left = [path.name for path in tiny.folder.iterdir() if path.name.startswith(".killed")]
    assert left == []


def test_the_python_api_does_the_same_job_on_a_live_module(tiny: Tiny, tmp_path: Path) -> None:
    scope: dict = {}
    exec((tiny.folder / "nets.py").read_text(), scope)
    model = scope["mlp"]()
    model.load_state_dict(torch.load(tiny.folder / "weights.pth", weights_only=True))
    data = {name: np.load(tiny.folder / f"{name}.npz") for name in ("train", "test")}
    pairs = {n: (torch.from_numpy(d["x"]), torch.from_numpy(d["labels"])) for n, d in data.items()}
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*pairs["train"]), batch_size=100)
    x, labels = pairs["test"]

    def score(net: torch.nn.Module) -> float:
        with torch.no_grad():
            return float((net(x).argmax(1) == labels).float().mean())

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = compressor.compress(model, method="svd", settings={"rank": 5}, data=loader, eval_fn=score, epochs=1)
    assert result.report.after is not None
    assert result.report.after.value == pytest.approx(score(result.model))
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    result.save(tmp_path / "out")
    reloaded = compressor.load(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(reloaded(x), result.model(x))


def test_compare_gives_a_plain_method_the_size_of_the_first(tiny: Tiny) -> None:
    out = tiny.call("compare", *MODEL, *DATA, "--methods", "svd,acdc,svd-half", "--epochs", "1", "--json", "-q").stdout
    report = json.loads(out)
    sides = {baseline["name"]: baseline["side"] for baseline in report["baselines"]}
    assert set(sides) == {"acdc", "svd-half"}
    assert sides["acdc"]["dense_params"] <= report["after"]["dense_params"] * 1.05


def test_inspect_lists_every_dense_map_and_what_each_method_would_make_of_it(tiny: Tiny) -> None:
    found = json.loads(tiny.call("inspect", *MODEL, "--json").stdout)
    assert [row["name"] for row in found["dense_maps"]] == ["0", "3", "5"]
    assert set(found["dense_maps"][0]["offers"]) == set(compressor.methods())


def test_bench_and_report_read_a_finished_folder(tiny: Tiny, done: tuple[Path, dict]) -> None:
    timings = json.loads(tiny.call("bench", "done", "--seconds", "0.2", "--json", "-q").stdout)
    assert set(timings) == {"original", "compressed"}
    assert json.loads(tiny.call("report", "done", "--json").stdout) == done[1]
    assert re.search(r"dense", tiny.call("report", "done").stdout)
