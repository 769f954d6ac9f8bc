"""What a job refuses before its work begins, so that a slip in an option costs no training."""

from __future__ import annotations

import torch

from compressor.baselines import INT8
from compressor.case import Case, try_out
from compressor.distill import check_labels
from compressor.errors import CompressorError, reason
from compressor.layers import method
from compressor.measure import difference, first_output
from compressor.plan import Plan, layer_for
from compressor.recipe import Recipe
from compressor.sites import device_of
from compressor.verify import TOLERANCE

_MEND = "take the plan out of the recipe, so that it is made anew"


def check_names(recipe: Recipe) -> None:
    """CompressorError for a baseline that there is not, or one that would stand in the report twice."""
    seen = {recipe.method}
    for name in recipe.baselines:
        if name != INT8:
            method(name)
        if name in seen:
            raise CompressorError(f"'{name}' would stand beside itself; name each method once")
        seen.add(name)


def check_device(name: str) -> None:
    """CompressorError for a device that this machine and this torch do not have."""
    try:
        made = torch.empty(0, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:  # which of them depends on the kind of device
        raise CompressorError(f"--device {name}: cannot be used here: {reason(error)}") from None
    if made.is_meta:
        raise CompressorError(f"--device {name}: holds no numbers, so nothing can be trained there; give cpu or cuda")


def check_case(case: Case) -> None:
    """CompressorError where the network's input is not known, or its outputs or the labels serve for no work."""
    _needs_example(case)
    if case.eval_data is not None:
        try_out(case.model, case.eval_data.head(2).inputs, what="evaluation data: ")
    _check_outputs(case)
    if case.data is not None and case.recipe.how().epochs:
        check_labels(case.model, case.data)


def _check_outputs(case: Case) -> None:
    """CompressorError where no file could be checked against the network's outputs: NaN, or others each time."""
    inputs = [x.to(device_of(case.model)) for x in case.inputs(2)]
    with torch.no_grad():
        once, again = (first_output(case.model(*inputs)).double() for _ in range(2))
    if once.isnan().any():
        raise CompressorError("the model gives NaN for its first examples; mend the model, or give other --data")
    if difference(once, again).abs().max() > TOLERANCE * once.masked_fill(~once.isfinite(), 0).abs().max():
        raise CompressorError(
            "the model gives other outputs for the same input, in eval mode too, so that nothing can be checked"
            " against it: take the chance out of its forward"
        )


def _needs_example(case: Case) -> None:
    """CompressorError where nothing says what the model's input looks like."""
    if case.example is None:
        names = ", ".join(case.loaded.input_names)
        raise CompressorError(
            f"the shape of the model's input is not known (inputs: {names}); give --data or --input-shape 1,..."
        )


def refuse_empty(case: Case, plan: Plan, name: str) -> None:
    """CompressorError where ``plan``, by method ``name``, replaces nothing."""
    if not plan.replaced:
        reasons = "; ".join(f"{entry.name}: {entry.kept_because}" for entry in plan.entries[:3])
        raise CompressorError(f"{name} replaces none of the {len(case.sites)} dense layers ({reasons})")


def check_replayed(case: Case, plan: Plan) -> None:
    """CompressorError where ``plan``, which a recipe brings, is not one for this network."""
    seen: set[str] = set()
    for entry in plan.entries:
        for name in entry.sites:
            if name not in case.sites:
                raise CompressorError(f"the recipe's plan names no dense layer of this model: '{name}'; {_MEND}")
            if name in seen:
                raise CompressorError(f"the recipe's plan names '{name}' twice; {_MEND}")
            seen.add(name)
        for name in set(entry.passed) - dict(case.opened.named_modules()).keys():
            raise CompressorError(f"the recipe's plan names no module of this model: '{name}'; {_MEND}")


def check_baselines(case: Case, plan: Plan) -> None:
    """Plan the baselines as far as they can be planned before the main candidate has its sizes for certain."""
    blocks = {entry.name: layer_for(entry, case.sites) for entry in plan.replaced}
    certain = all(block.is_sized for block in blocks.values())
    for name in case.recipe.baselines:
        if name != INT8 and (certain or method(name).settings):
            baseline_plan(case, name, {where: block.params() for where, block in blocks.items()})


def baseline_plan(case: Case, name: str, sizes: dict[str, int]) -> Plan:
    """A preset at its own size, another method at ``sizes``, the main candidate's."""
    plan = case.plan(name, {}, None if method(name).settings else sizes, window="auto")
    refuse_empty(case, plan, name)
    return plan
