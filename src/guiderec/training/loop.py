"""The training loop: one function for every model, on one process or many, CPU or CUDA.

A run that is killed at any moment and resumed makes the same steps, and writes the same log, as one that never
stopped. Three things make this cheap: batches are functions of (seed, epoch, step), noise and dropout of (seed, step),
and the log is cut back to where the checkpoint was taken. The equality is bit by bit on the CPU with the same number of
threads and processes; on CUDA it is as good as the kernels that a model calls are deterministic.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from guiderec.config import Part
from guiderec.data.loader import Loader
from guiderec.errors import CheckpointError, ConfigError, TrainingError, nearest
from guiderec.models.base import Recommender
from guiderec.rng import Noise, key_of, seed_everything
from guiderec.training import checkpoint
from guiderec.training.distributed import Computed, from_first, join
from guiderec.training.monitor import Bars, Clock, Interruption, Log, Meter
from guiderec.training.optim import Schedule, adamw, learning_rate_factor

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Validate = Callable[[Recommender], Mapping[str, float]]
"""Metrics of a model in `eval()` mode, the higher the better: `{"recall@5": 0.031, ...}`."""
GiveUp = Callable[[int, Mapping[str, float]], bool]
"""Whether to end a run after this epoch, with these metrics: a search that has seen better ones asks so."""


class Training(Part):
    """How to train: the same for every model."""

    epochs: int = Field(100, ge=1)
    """Passes over the rows, at most; at least 1."""
    max_steps: int | None = Field(None, ge=1)
    """Steps, at most, whatever `epochs` says; the run ends with a validation. None: no such limit."""
    batch_size: int = Field(256, ge=1)
    """Rows per step, over all processes."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's step size after warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled decay, of all parameters."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment, each in [0, 1)."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly to its value."""
    schedule: Schedule = "constant"
    """The learning rate after warm-up: constant, or falling to 0 at the last possible step."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest Euclidean norm of the whole gradient; None does not clip."""
    metric: str = "recall@5"
    """The validation metric that decides which weights are best; higher is better."""
    patience: int | None = Field(10, ge=1)
    """Stop after so many validations in a row without a new best; None trains to the end."""
    validate_every_epochs: int = Field(1, ge=1)
    """Epochs between validations. The last epoch is always validated."""
    validate_after_steps: int = Field(1, ge=1)
    """Steps between validations, at least: an epoch that ends before is not validated, unless it is the last. On a
    small log, whose epochs have few steps, `patience` would otherwise be short."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward passes under automatic mixed precision; weights, moments and validation stay in float32."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one. Several processes come from torchrun."""
    log_every_steps: int = Field(50, ge=1)
    """Steps between step events in the log."""
    checkpoint_every_seconds: float | None = Field(300.0, gt=0)
    """Least time between checkpoints, looked at after step events. The end of the run and an interruption always write
    one. None: only those."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Steps between checkpoints, besides those by time."""

    def lasting(self) -> dict[str, Any]:
        """The options that a resumed run must share: all that move a number of the steps already taken.

        The budget is none of them, unless the learning rate falls towards its end.
        """
        free = _MAY_CHANGE if self.schedule == "constant" else _MAY_CHANGE - {"epochs", "max_steps"}
        return {name: value for name, value in self.to_plain().items() if name not in free}

    def model_post_init(self, context: Any) -> None:
        """Check `betas` element by element."""
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"Training: 1 problem. 'betas' = {self.betas}: each must be in [0, 1).")


_MAY_CHANGE = frozenset(
    {"epochs", "max_steps", "patience", "accelerator", "checkpoint_every_seconds", "checkpoint_every_steps"}
)
"""Options of `Training` that a resumed run may change."""


@dataclass(frozen=True)
class Outcome:
    """How training ended. The model holds the best weights."""

    reason: Literal["epochs", "max_steps", "patience", "given_up", "prepared"]
    """`given_up`: whoever watched the validations ended it; `prepared`: the model has no steps, `prepare` was all."""
    epochs: int
    """Epochs begun, of which `max_steps` may have cut the last one short."""
    steps: int
    """Optimizer steps taken."""
    seconds: float
    """Time in training and validation, over all resumptions."""
    best_epoch: int
    """Epoch of the best validation, from 1; 0 for a model without steps."""
    best_step: int
    """Steps taken at the best validation."""
    best_metrics: dict[str, float]
    """All metrics of the best validation."""


def fit(
    model: Recommender,
    loader: Loader,
    validate: Validate,
    training: Training,
    run: Path,
    *,
    seed: int,
    give_up: GiveUp | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train `model` on the batches of `loader` and leave the weights of the best validation in it.

    Parameters
    ----------
    model, loader
        `loader.batch_size` is the global batch size; under torchrun each process takes its share of every batch. The
        sequences of the loader's rows are what `model.prepare` sees: they must hold nothing but training events.
    validate
        Called in `eval()` mode without gradients, by the first process only; must give `training.metric`.
    run
        Directory of the run. Gets `log.jsonl` and `checkpoint/`.
    give_up
        Asked by the first process after every validation; True ends the run, for good.
    resume
        Go on from the newest checkpoint of `run`; a run that was killed before its first checkpoint starts anew.
    progress
        Show progress on the standard error: bars if that is a terminal, else a line per validation.

    Raises
    ------
    TrainingError
        A loss that is not finite, with the step and the names. No checkpoint is written from such a state.
    CheckpointError
        `run` was trained before and `resume` is False; or its checkpoint is damaged or from another configuration.
    ConfigError
        The options do not fit each other, the loader, or what `validate` gives.
    KeyboardInterrupt
        On Ctrl-C or SIGTERM, after the step was finished and a checkpoint written.
    """
    # ------------------------------------------------------------------------------------------------ set up
    if loader.batch_size != training.batch_size:
        raise ConfigError(f"The loader has batch_size {loader.batch_size}, the training {training.batch_size}.")
    fabric = join(accelerator=training.accelerator, precision=training.precision)
    first = fabric.global_rank == 0
    loader = loader.shard(fabric.global_rank, fabric.world_size)
    total_steps = min(training.epochs * len(loader), training.max_steps or math.inf)
    folder = run / "checkpoint"
    identity = _identity(model, loader, training, seed)
    resume = _check_run(run, folder, resume=resume)
    saved = checkpoint.load(folder) if resume else None
    if saved is not None:
        _check_identity(saved.state["identity"], identity, folder)
    fabric.barrier()  # nobody writes before all have looked

    seed_everything(key_of(seed, "prepare"))
    model.to(fabric.device).prepare(loader.rows.sequences)
    model.to(fabric.device)  # also what `prepare` made
    if not model.trains:
        return _fit_by_prepare(model, validate, training, run, fabric)
    optimizer = adamw(
        model, learning_rate=training.learning_rate, weight_decay=training.weight_decay, betas=training.betas
    )
    computed, stepper = fabric.setup(Computed(model), optimizer)
    noise = Noise(seed)
    meter = Meter()
    state = State()
    best: checkpoint.Tensors | None = None
    log_bytes = 0

    # ------------------------------------------------------------------------------------------------ resume
    if saved is not None:
        checkpoint.load_into(model, saved.weights, folder)
        checkpoint.load_moments(optimizer, model, saved.moments, folder)
        state, best = State.from_plain(saved.state["progress"], folder / "state.json"), saved.best
        meter, log_bytes = Meter.from_plain(saved.state["meter"], folder / "state.json"), saved.state["log_bytes"]
        if state.step != state.epoch * len(loader) + state.batch or not 0 <= state.batch <= len(loader):
            raise CheckpointError(  # training would wait for the end of an epoch that never comes
                f"{folder / 'state.json'}: step {state.step} is not batch {state.batch} of epoch {state.epoch} + 1, "
                f"with {len(loader)} batches in each.",
                hint="it is damaged",
            )
        del saved  # as large as the model and its moments
    log = Log(run / "log.jsonl" if first else None, keep=log_bytes)
    clock = Clock(state.seconds)
    written_at = time.monotonic()

    def event(kind: str, **details: Any) -> None:
        log.write(
            {"event": kind, "epoch": state.begun, "step": state.step, "seconds": round(clock.seconds(), 3), **details}
        )

    def save() -> None:
        if first:
            state.seconds = clock.seconds()
            checkpoint.save(
                folder,
                step=state.step,
                state={
                    "identity": identity,
                    "progress": asdict(state),
                    "meter": meter.plain(),
                    "log_bytes": log.sync(),
                },
                weights=model.state_dict(),
                moments=checkpoint.moments_of(optimizer, model),
                best=best,
                best_step=state.best_step,
            )

    event("resume" if resume else "start", **({} if resume else {"steps_per_epoch": len(loader)}))
    with log, Interruption() as interruption, Bars(progress and first, training.epochs, len(loader)) as bars:
        bars.step(state.epoch, state.batch)
        try:
            while (reason := _reason_to_stop(state, training)) is None:
                # ---------------------------------------------------------------------------------------- steps
                model.train()
                for batch in loader.batches(state.epoch, state.batch):
                    if state.step == total_steps:
                        break
                    step = state.step + 1
                    seed_everything(key_of(seed, "dropout", step, loader.rank))
                    here = batch.to(fabric.device)
                    parts = computed(lambda here=here, step=step: model.loss(here, noise.at(step)))
                    share = loader.weight(state.batch)
                    meter.add(parts, share / fabric.world_size, interruption.asked, fabric)
                    if fabric.device.type == "cpu":  # reading a value is free there, so stop before the weights change
                        meter.read(step, model)
                    fabric.backward(parts["loss"] * share)
                    if training.clip_norm is not None:
                        fabric.clip_gradients(computed, stepper, max_norm=training.clip_norm, error_if_nonfinite=False)
                    rate = training.learning_rate * learning_rate_factor(
                        step,
                        total_steps=int(total_steps),
                        warmup_steps=training.warmup_steps,
                        schedule=training.schedule,
                    )
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    stepper.step()
                    stepper.zero_grad(set_to_none=True)
                    state.step, state.batch = step, state.batch + 1
                    # ------------------------------------------------------------------------------ now and then
                    bars.step(state.epoch, state.batch)
                    if step % training.log_every_steps == 0 or state.batch == len(loader) or step == total_steps:
                        means = meter.means(step, model)
                        event("step", **means, learning_rate=rate)
                        bars.loss(means["loss"])
                    if _checkpoint_due(training, step, written_at, logged=not meter.count):
                        meter.read(step, model)
                        save()
                        written_at = time.monotonic()
                    if interruption.asked if fabric.world_size == 1 else meter.interrupted:  # all processes or none
                        raise KeyboardInterrupt
                # ----------------------------------------------------------------------------------- validation
                if _validation_due(state, training, len(loader), total_steps):
                    with interruption.at_once():
                        metrics = from_first(fabric, lambda: _measure(model, validate))
                    improved = state.record(metrics, training.metric)
                    if improved:
                        best = checkpoint.on_cpu(model, into=best)
                    event("validation", metrics=metrics, best=improved)
                    bars.metric(training.metric, metrics[training.metric], state.best_metrics[training.metric])
                    if give_up is not None:
                        state.given_up = from_first(fabric, partial(give_up, state.epoch + 1, metrics))
                if state.batch == len(loader):
                    state.epoch, state.batch = state.epoch + 1, 0
        except KeyboardInterrupt:
            if interruption.insisted:  # a second signal, perhaps in the middle of a step: leave the old checkpoint
                raise
            meter.read(state.step, model)
            save()
            event("stop", reason="interrupted", best_epoch=state.best_epoch, best_step=state.best_step)
            raise
        except TrainingError as error:
            event("stop", reason="error", message=str(error))
            raise
        # ------------------------------------------------------------------------------------------------ end
        save()
        event("stop", reason=reason, best_epoch=state.best_epoch, best_step=state.best_step)
    assert best is not None  # the last epoch is always validated
    checkpoint.load_into(model, best, folder)
    model.eval()
    fabric.barrier()
    return Outcome(
        reason=reason,
        epochs=state.begun,
        steps=state.step,
        seconds=clock.seconds(),
        best_epoch=state.best_epoch,
        best_step=state.best_step,
        best_metrics=state.best_metrics,
    )


# ------------------------------------------------------------------------------------------------ the state of a run


@dataclass
class State:
    """Where a run is: what a checkpoint stores besides tensors."""

    step: int = 0
    """Optimizer steps taken."""
    epoch: int = 0
    """Epochs finished, each with the validation that belongs to it."""
    batch: int = 0
    """Batches of the next epoch that are done; all of them while its validation is still to come."""
    seconds: float = 0.0
    """Time spent, over all resumptions."""
    best_epoch: int = 0
    """Epoch of the best validation, from 1; 0 before the first."""
    best_step: int = 0
    """Steps taken at the best validation."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the best validation."""
    without_best: int = 0
    """Validations since the best one."""
    validated_step: int = 0
    """Steps taken at the last validation."""
    given_up: bool = False
    """Whether the run was ended by whoever watched its validations."""

    @property
    def begun(self) -> int:
        """Epochs begun: the number, from 1, of the one at work; 0 before the first step."""
        return self.epoch + (self.batch > 0)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any], where: Path) -> State:
        """What `asdict` stored. CheckpointError for anything else."""
        fresh = asdict(cls())
        data = {"given_up": False, **data}  # version 0.1.0 did not know of it
        for name in {**fresh, **data}:
            kinds = (int, float) if name == "seconds" else (type(fresh.get(name)),)
            if name not in fresh or not isinstance(data.get(name), kinds):
                raise CheckpointError(
                    f"{where}: 'progress.{name}' = {data.get(name)!r} is not where a run can be.", hint="it is damaged"
                )
        return cls(**data)

    def record(self, metrics: dict[str, float], metric: str) -> bool:
        """Take note of a validation; whether it is strictly better than all before it."""
        if metric not in metrics:
            raise ConfigError(
                f"Training: 'metric' = '{metric}' is not measured by the validation, which gives"
                f" {', '.join(sorted(metrics))}.{nearest(metric, metrics)}"
            )
        if bad := [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]:
            raise TrainingError(f"Validation after step {self.step}: not finite: {', '.join(bad)}.")
        self.validated_step = self.step
        if self.best_metrics and metrics[metric] <= self.best_metrics[metric]:
            self.without_best += 1
            return False
        self.best_epoch, self.best_step, self.best_metrics = self.epoch + 1, self.step, dict(metrics)
        self.without_best = 0
        return True


def _reason_to_stop(state: State, training: Training) -> Literal["epochs", "max_steps", "patience", "given_up"] | None:
    if state.given_up:
        return "given_up"
    if training.patience is not None and state.without_best >= training.patience:
        return "patience"
    if state.epoch >= training.epochs:
        return "epochs"
    if training.max_steps is not None and state.step >= training.max_steps and state.validated_step == state.step:
        return "max_steps"
    return None


def _validation_due(state: State, training: Training, steps_per_epoch: int, total_steps: float) -> bool:
    if state.validated_step == state.step:
        return False
    ended = state.batch == steps_per_epoch and (state.epoch + 1) % training.validate_every_epochs == 0
    enough = state.step - state.validated_step >= training.validate_after_steps
    return (ended and enough) or state.step >= total_steps


def _checkpoint_due(training: Training, step: int, written_at: float, *, logged: bool) -> bool:
    """By steps, or by time after a step event: only there have all processes read the same values."""
    if training.checkpoint_every_steps is not None and step % training.checkpoint_every_steps == 0:
        return True
    seconds = training.checkpoint_every_seconds
    return logged and seconds is not None and time.monotonic() - written_at >= seconds


# ------------------------------------------------------------------------------------------------ helpers of `fit`


def _measure(model: Recommender, validate: Validate) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        return {name: float(value) for name, value in validate(model).items()}


def _fit_by_prepare(model: Recommender, validate: Validate, training: Training, run: Path, fabric: Fabric) -> Outcome:
    """Validate a model that has no steps, and log it like any other."""
    first = fabric.global_rank == 0
    clock, state = Clock(), State()
    with Log(run / "log.jsonl" if first else None) as log:
        log.write({"event": "start", "epoch": 0, "step": 0, "seconds": 0.0, "steps_per_epoch": 0})
        metrics = from_first(fabric, lambda: _measure(model, validate))
        state.record(metrics, training.metric)
        now = {"epoch": 0, "step": 0, "seconds": round(clock.seconds(), 3)}
        log.write({"event": "validation", **now, "metrics": metrics, "best": True})
        log.write({"event": "stop", **now, "reason": "prepared", "best_epoch": 0, "best_step": 0})
    return Outcome("prepared", 0, 0, clock.seconds(), 0, 0, metrics)


_OF_THE_LOADER = ("batch_size", "max_length", "seed", "shuffle", "rows_per_epoch")
"""What decides the batches of a step, beside the rows."""


def _identity(model: Recommender, loader: Loader, training: Training, seed: int) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued, as flat plain data."""
    return {
        **{f"model.{name}": value for name, value in model.config.to_plain().items()},
        "model.n_items": model.n_items,
        **{f"training.{name}": value for name, value in training.lasting().items()},
        **{f"loader.{name}": getattr(loader, name) for name in _OF_THE_LOADER},
        "loader.rows": len(loader.rows),
        "seed": seed,
    }


def _check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    unknown_then = {f"training.{name}": value for name, value in Training().lasting().items()}
    saved = {name: saved.get(name, unknown_then.get(name)) for name in {**saved, **now}}
    names = [name for name in saved if saved[name] != now.get(name)]
    if names:
        changes = "; ".join(f"{name} was {saved.get(name)!r}, is {now.get(name)!r}" for name in names)
        raise CheckpointError(
            f"{where}: the checkpoint is of another run: {changes}.",
            hint="resume with the run's own experiment.json, or start in another directory",
        )


def _check_run(run: Path, folder: Path, *, resume: bool) -> bool:
    """Whether there is something to resume. Refuses to overwrite a run."""
    run.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists(folder) and not resume:
        raise CheckpointError(f"{run}: was trained before.", hint="resume it, or choose another directory")
    return checkpoint.exists(folder)
