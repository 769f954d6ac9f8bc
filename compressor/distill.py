"""Make the compressed network behave like the original as a whole: knowledge distillation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.checkpoint import fingerprint, read, save, snapshot, take_up
from compressor.data import Batch, Dataset
from compressor.errors import CompressorError
from compressor.layers import replace
from compressor.measure import IGNORED, first_output
from compressor.plan import Entry
from compressor.progress import Limit, Progress, Stage
from compressor.sites import device_of, extract, structured, type_name
from compressor.train.gradient import GradientNoise
from compressor.train.layout import channels_last
from compressor.train.noise import Disturbed, disturbed
from compressor.train.progressive import Fading, Shares
from compressor.train.schedule import Schedule
from compressor.training import Training, varied
from compressor_converters.onnx_in import OnnxNetwork

_UNLIKELY = -1e4  # the score of a class that the original rules out
_MOST_AT_ONCE = 512  # examples, where nothing is trained
_JUDGED = 64  # examples by which it is judged what labels are


@dataclass
class Distilled:
    """How the distillation went."""

    epochs: int = 0
    losses: list[float] = field(default_factory=list)  # on the held-back part, before and after each epoch
    best_epoch: int = 0
    stopped: str | None = None
    notes: list[str] = field(default_factory=list)  # what a user should know

    def judge(self) -> None:
        """Note a training that gave nothing."""
        if not self.epochs or self.best_epoch or self.stopped is not None:
            return
        found = f"no epoch of {self.epochs} was better than the layers as fitted"
        if not math.isfinite(self.losses[-1]):
            found = f"the training diverged in epoch {self.epochs}, the layers are as fitted"
        self.notes.append(f"{found}; try more epochs or a smaller --train rate")


@contextlib.contextmanager
def fading(student: nn.Module, teacher: nn.Module, entries: Sequence[Entry], how: Training) -> Iterator[list[Fading]]:
    """Within it, the replaced blocks are wrapped in `Fading`, if they fade."""
    wrapped: list[tuple[str, Fading]] = []
    if (way := how.way) is not None:
        for entry in entries:
            names = tuple(name for name, _ in teacher.named_modules() if name in {*entry.sites, *entry.passed})
            block = student.get_submodule(entry.name)
            wrapped.append((entry.name, Fading(extract(teacher, names), block, way)))
    for name, module in wrapped:
        replace(student, name, module)
    try:
        yield [module for _, module in wrapped]
    finally:
        for name, module in wrapped:
            replace(student, name, module.block)


@contextlib.contextmanager
def _outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What the modules ``names`` put out in the forward pass, call by call."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def remember(name: str) -> Any:
        return lambda _module, _inputs, output: seen[name].append(output)

    with contextlib.ExitStack() as hooks:
        for name in names:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(remember(name)))
        yield seen


def _whole_loss(student: Tensor, teacher: Tensor, labels: Tensor | None, how: Training, classes: bool) -> Tensor:
    """KL at a temperature, and cross-entropy with labels, where they name classes; else the relative squared error.

    Where the teacher says infinity, as masks do, there is nothing to imitate.
    """
    masked = ~torch.isfinite(teacher)
    if not classes or student.ndim != 2:
        student, teacher = student.masked_fill(masked, 0), teacher.masked_fill(masked, 0)
        size = teacher.square().mean().clamp_min(1e-12)
        loss = (student - teacher).square().mean() / size
        if labels is not None and labels.is_floating_point():
            off = F.mse_loss(student, labels.reshape(student.shape)) / size
            loss = (1 - how.label_share) * loss + how.label_share * off
        return loss
    student, teacher = student.masked_fill(masked, _UNLIKELY), teacher.masked_fill(masked, _UNLIKELY)
    T = how.temperature
    kl = F.kl_div(
        F.log_softmax(student / T, dim=-1), F.log_softmax(teacher / T, dim=-1), log_target=True, reduction="batchmean"
    )
    if labels is None:
        return T * T * kl
    return (1 - how.label_share) * T * T * kl + how.label_share * F.cross_entropy(student, labels.long())


def _hint(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The relative squared error of a block's outputs, over all its calls."""
    off = torch.stack([(one - other).square().sum() for one, other in zip(got, wanted, strict=True)]).sum()
    size = torch.stack([other.square().sum() for other in wanted]).sum()
    return off / size.clamp_min(1e-12)


def _are_values(model: nn.Module, batch: Batch) -> bool:
    """Whether labels that are no classes are what ``model`` gives: nearer to it than to their mean. Logits are not."""
    assert batch.labels is not None
    device = device_of(model)
    with torch.no_grad():
        output = first_output(model(*(x.to(device) for x in batch.inputs))).cpu().double()
    if output.numel() != batch.labels.numel():
        return False
    labels = batch.labels.double().reshape(output.shape)
    return bool((output - labels).square().mean() < (labels - labels.mean(0)).square().mean())


def check_labels(model: nn.Module, data: Dataset) -> None:
    """CompressorError for labels that name no class of ``model``."""
    first = data.head(2)
    if first.labels is None or first.labels.is_floating_point():
        return
    device = device_of(model)
    with torch.no_grad():
        output = first_output(model(*(x.to(device) for x in first.inputs)))
    if output.ndim != 2:
        return
    if first.labels.ndim != 1:
        raise CompressorError(
            f"the data's labels are {type_name(first.labels.dtype)} of shape {tuple(first.labels.shape[1:])} for each"
            " example, where a class is one whole number; save them as floating-point numbers to train on them as"
            " values"
        )
    found = [(int(part.min()), int(part.max())) for labels in data.labels() if len(part := labels[labels != IGNORED])]
    low, high = min((low for low, _ in found), default=0), max((high for _, high in found), default=0)
    if not 0 <= low <= high < output.shape[1]:
        raise CompressorError(
            f"the data's labels go from {low} to {high}, the model gives {output.shape[1]} classes (0 and up);"
            " give labels that fit, or name another --label-key"
        )


class Distillation:
    """One distillation under way: the networks, the optimiser, the best state so far."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, entries: Sequence[Entry], train: Dataset, how: Training, seed: int
    ) -> None:
        self.student, self.teacher, self.entries, self.train_data, self.how = student, teacher, entries, train, how
        self.seed = seed
        self.device = device_of(student)
        self.layers = [layer for _, layer in structured(student)]
        self.settled = all(layer.is_settled for layer in self.layers)
        self.batch_size = len(train) if how.is_full_batch else how.batch_size
        self.optimizer = how.build_optimizer(student)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.steps = max(1, math.ceil(len(train) / self.batch_size)) * how.epochs
        self.step = 0
        self.shares = Shares(how.way, len(entries))
        noisy = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.noise = GradientNoise(noisy, how.gradient_noise) if how.gradient_noise else None
        self.schedules: list[Schedule] = [self.shares, *([] if self.noise is None else [self.noise])]
        labels = train.head(1).labels
        self.classes = labels is not None and not labels.is_floating_point()
        self.without_labels = (
            labels is not None
            and not self.classes
            and not _are_values(teacher, next(iter(train.batches(_JUDGED, seed=seed))))
        )

    @cached_property
    def origin(self) -> str:
        """Of which network this is the distillation; asked where there is a checkpoint only."""
        return fingerprint(self.teacher)

    def loss(self, batch: Batch, *, hints: bool) -> Tensor:
        """The loss of ``batch``; with ``hints`` the outputs of the replaced blocks count too."""
        inputs = tuple(x.to(self.device) for x in batch.inputs)
        labels = None if batch.labels is None or self.without_labels else batch.labels.to(self.device)
        entries = self.entries if hints else ()
        theirs, ours = [entry.sites[-1] for entry in entries], [entry.name for entry in entries]
        with _outputs(self.teacher, theirs) as wanted, _outputs(self.student, ours) as got:
            with torch.no_grad():
                aim = first_output(self.teacher(*inputs))
            loss = _whole_loss(first_output(self.student(*inputs)), aim, labels, self.how, self.classes)
            for their, our in zip(theirs, ours, strict=True):
                loss = loss + self.how.hint_share / len(ours) * _hint(got[our], wanted[their])
        return loss

    def penalty(self) -> Tensor:
        """What the structured layers add to the loss by themselves."""
        found = [penalty for layer in self.layers if (penalty := layer.penalty()) is not None]
        return torch.stack(found).sum() if found else torch.zeros((), device=self.device)

    def held_back_loss(self, data: Dataset) -> float:
        """Mean loss over ``data``, without hints."""
        self.student.eval()
        total, rows = 0.0, 0
        with torch.no_grad():
            for batch in data.batches(min(_MOST_AT_ONCE, self.batch_size)):
                size = len(batch.inputs[0])
                total += float(self.loss(batch, hints=False)) * size
                rows += size
        return total / max(1, rows)

    def is_better(self, result: Distilled) -> bool:
        """Whether the last epoch is the best so far; what was trained before all layers settled does not count."""
        counted, self.settled = self.settled, all(layer.is_settled for layer in self.layers)
        if not math.isfinite(result.losses[-1]):
            return False
        return not (counted and self.settled) or result.losses[-1] < result.losses[result.best_epoch]

    def is_over(self, result: Distilled) -> bool:
        """Whether no loss is left to fall, or patience is at its end: not while noise or fading blocks disturb."""
        if result.epochs and not math.isfinite(result.losses[-1]):
            return True
        disturbed_epochs = math.ceil(self.how.disturbed_for * self.how.epochs)
        return result.epochs - max(result.best_epoch, disturbed_epochs) >= self.how.patience

    def anneal(self, done: float) -> None:
        """Tell the structured layers how much of the training is done."""
        for layer in self.layers:
            layer.anneal(min(1.0, done))

    def set_rate(self, done: float) -> None:
        """Warm up, then a cosine to 0; full-batch optimisers find steps of their own."""
        if self.how.is_full_batch:
            return
        warm = min(1.0, (done + 1e-3) / self.how.warm_up) if self.how.warm_up else 1.0
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def take_step(self, batch: Batch) -> None:
        """One step of the optimiser on ``batch``, which L-BFGS looks at often."""

        def closure() -> float:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(batch, hints=self.how.hint_share > 0) + self.penalty()
            loss.backward()  # type: ignore[no-untyped-call]
            if self.noise is not None:
                self.noise.add_()
            return float(loss.detach())

        self.shares.see(float(self.optimizer.step(closure)))

    def rehearse(self, batch: Batch) -> None:
        """All of a step on ``batch`` but the step itself."""
        _training_mode(self.student)
        with torch.random.fork_rng():
            self.loss(batch, hints=self.how.hint_share > 0).backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)

    def train_epoch(
        self, epoch: int, faders: Sequence[Fading], noisy: Sequence[Disturbed], limit: Limit, advance: Stage
    ) -> str | None:
        """One pass over the training data; the reason where it ended early."""
        _training_mode(self.student)
        for batch in self.train_data.batches(self.batch_size, seed=self.seed * 1000 + epoch):
            done = self.step / self.steps
            if limit.seconds is not None:
                done = max(done, limit.elapsed / limit.seconds)
            self.set_rate(done)
            if faders:
                for fader, share in zip(faders, self.shares.at(done / self.how.fade), strict=True):
                    fader.share = share
            for activation in noisy:
                activation.at(done)
            self.anneal(done)
            self.take_step(varied(batch, self.how))
            self.step += 1
            advance(1, f"epoch {epoch + 1}/{self.how.epochs}")
            if limit.reason is not None:
                return limit.reason
        return None


def _training_mode(model: nn.Module) -> None:
    """Training mode, with the statistics of normalisation layers frozen: they belong to the original."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def distill(
    student: nn.Module,
    teacher: nn.Module,
    entries: Sequence[Entry],
    data: Dataset,
    how: Training,
    *,
    seed: int,
    limit: Limit,
    progress: Progress,
    checkpoint: Path | None = None,
) -> Distilled:
    """Train all of ``student`` to behave like ``teacher``, in place; the epoch with the best held-back loss stays.

    A part of ``data`` is held back for that choice. ``entries`` are the windows that were replaced. With
    ``checkpoint`` the state is written after each epoch, and a run that was cut off goes on from there.
    """
    fraction = min(how.held_back, how.held_back_most / max(1, len(data)))
    train, held = data.split(fraction, seed)
    torch.manual_seed(seed)
    result = Distilled()
    noise = disturbed(
        student, how.noise, start=how.noise_c_start, end=how.noise_c_end, alpha=how.noise_alpha, sigma=how.noise_sigma
    )
    with fading(student, teacher, entries, how) as faders, noise as noisy:
        run = Distillation(student, teacher, entries, train, how, seed)
        if run.without_labels:
            result.notes.append("trained without the labels: they are not values that the original's outputs come near")
        best = snapshot(student)
        found = read(checkpoint, run, result)
        if found is not None:
            best = found["best"]
            take_up(found, run, result)
        else:
            result.losses.append(run.held_back_loss(held))
        layout = channels_last((student, teacher), lambda: run.rehearse(data.head(2)))
        with layout, progress("distill", run.steps) as advance:
            advance(run.step)
            for epoch in range(result.epochs, how.epochs):
                if run.is_over(result):
                    break
                result.stopped = limit.reason or run.train_epoch(epoch, faders, noisy, limit, advance)
                result.losses.append(run.held_back_loss(held))
                result.epochs = epoch + 1
                if run.is_better(result):
                    result.best_epoch, best = epoch + 1, snapshot(student)
                if checkpoint is not None and result.stopped is None:
                    save(checkpoint, run, result, best)
                if result.stopped is not None:
                    break
        student.load_state_dict(best, strict=False)
    student.eval()
    result.judge()
    return result


def obstacle(student: nn.Module, data: Dataset) -> str | None:
    """Why ``student`` cannot be trained as a whole, in words; None where it can."""
    return student.obstacle(data.head(2).inputs) if isinstance(student, OnnxNetwork) else None
