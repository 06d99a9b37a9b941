from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_recommender import LENGTH, N_ITEMS, Tiny, TinyConfig, make_rows, recall, train, validate
from torch import Tensor

from guiderec.config import Part
from guiderec.data.batch import Batch
from guiderec.data.loader import Loader
from guiderec.errors import CheckpointError, ConfigError, TrainingError
from guiderec.models.base import Recommender
from guiderec.rng import Noise, seed_everything
from guiderec.training.distributed import join
from guiderec.training.loop import Training

SHORT = Training(batch_size=10, epochs=3, learning_rate=0.02, log_every_steps=4)


def events(run: Path, *kinds: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if not kinds or line["event"] in kinds]


def scripted(values: list[float], snapshots: list[dict[str, Tensor]] | None = None):
    """A validation that gives `values` one after another, and keeps the weights it was shown."""
    remaining = iter(values)

    def check(model: Tiny) -> dict[str, float]:
        if snapshots is not None:
            snapshots.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"recall@5": next(remaining)}

    return check


# ------------------------------------------------------------------------------------------------ the steps are right


def by_hand(training: Training, steps: int) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and losses after `steps` steps of AdamW, clipping and schedule written out with plain tensors."""
    seed_everything(0)
    model = Tiny(TinyConfig(dropout=0.0))
    loader = Loader(make_rows(), batch_size=training.batch_size, max_length=LENGTH, seed=5)
    batches: list[Batch] = [batch for epoch in range(training.epochs) for batch in loader.batches(epoch)]
    weights = {name: value for name, value in model.named_parameters() if name != "never_used"}
    first = {name: torch.zeros_like(value) for name, value in weights.items()}
    second = {name: torch.zeros_like(value) for name, value in weights.items()}
    beta_1, beta_2 = training.betas
    losses = []
    for step, batch in enumerate(batches[:steps], start=1):
        loss = model.loss(batch, Noise(3).at(step))["loss"]
        losses.append(loss.item())
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
        scale = 1.0 if training.clip_norm is None else min(1.0, training.clip_norm / norm)
        if step <= training.warmup_steps:
            rate = training.learning_rate * step / training.warmup_steps
        else:  # half a cosine from the first step after warm-up to one step after the last
            after, span = step - training.warmup_steps - 1, len(batches) - training.warmup_steps
            rate = training.learning_rate * (1 + math.cos(math.pi * after / span)) / 2
        with torch.no_grad():
            for name, weight in weights.items():
                g = gradients[name] * scale
                first[name] = beta_1 * first[name] + (1 - beta_1) * g
                second[name] = beta_2 * second[name] + (1 - beta_2) * g * g
                m, v = first[name] / (1 - beta_1**step), second[name] / (1 - beta_2**step)
                weight.copy_(weight - rate * training.weight_decay * weight - rate * m / (v.sqrt() + 1e-8))
    return model.state_dict(), losses


def test_steps_equal_adamw_written_out(tmp_path):
    training = Training(
        batch_size=10, epochs=2, learning_rate=0.03, weight_decay=0.1, betas=(0.8, 0.95), clip_norm=0.3,
        warmup_steps=4, schedule="cosine", log_every_steps=1,
    )  # fmt: skip
    weights, losses = by_hand(training, 22)
    check = scripted([0.1, 0.2])  # the last epoch is the best, so `fit` leaves its weights
    model, outcome = train(tmp_path, training, config=TinyConfig(dropout=0.0), check=check)
    assert outcome.steps == 22
    torch.testing.assert_close([e["loss"] for e in events(tmp_path, "step")], losses, rtol=1e-5, atol=1e-6)
    own = model.state_dict()
    assert int(own.pop("seen")) == 101 * LENGTH  # `prepare` saw the training sequences
    for name, value in own.items():
        torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-5)


def test_a_parameter_without_gradient_does_not_move(tmp_path):
    model, _ = train(tmp_path, SHORT.replace(weight_decay=0.1))
    assert model.never_used.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_planted_rule_is_found(tmp_path, precision):
    training = Training(batch_size=32, epochs=40, learning_rate=0.05, patience=None, precision=precision)
    model, outcome = train(tmp_path, training, rows=make_rows(300))
    assert outcome.best_metrics["recall@1"] > 0.95
    assert recall(model.eval(), make_rows(64, seed=1), 1) == outcome.best_metrics["recall@1"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    trained_in = torch.float32 if precision == "fp32" else torch.bfloat16
    assert model.computed_in == {trained_in, torch.float32}  # validation is in fp32


def test_without_the_rule_it_stays_at_chance(tmp_path):
    """64 validation rows of the rule; chance of recall@5 is 1/6. Four standard deviations above it is 0.35."""
    training = Training(batch_size=32, epochs=40, learning_rate=0.05, patience=None, validate_every_epochs=40)
    _, outcome = train(tmp_path, training, rows=make_rows(300, rule=False))
    assert outcome.best_metrics["recall@5"] < 0.36


def test_same_seed_same_run(tmp_path):
    one, _ = train(tmp_path / "one", SHORT)
    torch.manual_seed(99)  # whatever came before
    two, _ = train(tmp_path / "two", SHORT)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


# ---------------------------------------------------------------------------------------------------- early stopping


def test_patience_counts_validations_without_a_strictly_better_one(tmp_path):
    snapshots: list[dict[str, Tensor]] = []
    values = [0.1, 0.3, 0.3, 0.2, 0.3, 0.9]  # epochs 3, 4 and 5 are not better than 2
    model, outcome = train(tmp_path, SHORT.replace(epochs=50, patience=3), check=scripted(values, snapshots))
    assert outcome.reason == "patience"
    assert (outcome.epochs, outcome.best_epoch, outcome.best_step, outcome.steps) == (5, 2, 22, 55)
    assert outcome.best_metrics == {"recall@5": 0.3}
    assert not model.training
    assert all(torch.equal(value, snapshots[1][name]) for name, value in model.state_dict().items())
    assert not all(torch.equal(value, snapshots[4][name]) for name, value in model.state_dict().items())
    assert [e["best"] for e in events(tmp_path, "validation")] == [True, True, False, False, False]


def test_a_new_best_resets_patience(tmp_path):
    values = [0.1, 0.0, 0.2, 0.0, 0.3, 0.0, 0.0]
    _, outcome = train(tmp_path, SHORT.replace(epochs=50, patience=2), check=scripted(values))
    assert (outcome.epochs, outcome.best_epoch) == (7, 5)


def test_validations_in_epochs_and_at_the_end(tmp_path):
    train(tmp_path, SHORT.replace(epochs=5, validate_every_epochs=2))
    assert [(e["epoch"], e["step"]) for e in events(tmp_path, "validation")] == [(2, 22), (4, 44), (5, 55)]


def test_epochs_of_few_steps_are_validated_together(tmp_path):
    train(tmp_path, SHORT.replace(epochs=6, validate_after_steps=23))
    assert [(e["epoch"], e["step"]) for e in events(tmp_path, "validation")] == [(3, 33), (6, 66)]


def test_max_steps_ends_with_a_validation(tmp_path):
    _, outcome = train(tmp_path, SHORT.replace(max_steps=15))
    assert (outcome.reason, outcome.steps, outcome.epochs) == ("max_steps", 15, 2)
    assert [e["step"] for e in events(tmp_path, "validation")] == [11, 15]


def test_max_steps_at_the_end_of_an_epoch_validates_once(tmp_path):
    train(tmp_path, SHORT.replace(max_steps=22))
    assert [e["step"] for e in events(tmp_path, "validation")] == [11, 22]


def test_an_unknown_metric_names_the_nearest(tmp_path):
    message = r"'metric' = 'recal@5' is not measured by the validation, which gives recall@1, recall@5\. Did you mean"
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, SHORT.replace(metric="recal@5"))


def test_a_metric_that_is_not_finite_stops(tmp_path):
    with pytest.raises(TrainingError, match=r"Validation after step 11: not finite: recall@5 = nan\."):
        train(tmp_path, SHORT, check=scripted([math.nan]))


# ---------------------------------------------------------------------------------------------------------- the log


def test_log_schema(tmp_path):
    train(tmp_path, SHORT.replace(epochs=2))
    common = {"event", "epoch", "step", "seconds"}
    expected = {
        "start": common | {"steps_per_epoch"},
        "step": common | {"loss", "softmax", "size", "learning_rate"},
        "validation": common | {"metrics", "best"},
        "stop": common | {"reason", "best_epoch", "best_step"},
    }
    kinds = [e["event"] for e in events(tmp_path)]
    assert kinds == ["start", *["step"] * 3, "validation", *["step"] * 4, "validation", "stop"]
    assert all(set(e) == expected[e["event"]] for e in events(tmp_path))
    places = [(e["epoch"], e["step"]) for e in events(tmp_path, "step")]
    assert places == [(1, 4), (1, 8), (1, 11), (2, 12), (2, 16), (2, 20), (2, 22)]
    seconds = [e["seconds"] for e in events(tmp_path)]
    assert seconds == sorted(seconds)


def test_step_events_hold_means_since_the_last(tmp_path):
    fine, coarse = tmp_path / "fine", tmp_path / "coarse"
    train(fine, SHORT.replace(log_every_steps=1))
    train(coarse, SHORT.replace(log_every_steps=4))
    each = {e["step"]: e for e in events(fine, "step")}
    last = 0
    for event in events(coarse, "step"):
        steps = range(last + 1, event["step"] + 1)
        for part in ("loss", "softmax", "size"):
            assert event[part] == pytest.approx(sum(each[step][part] for step in steps) / len(steps), rel=1e-12)
        last = event["step"]
    assert last == 33


# -------------------------------------------------------------------------------------------------- a loss not finite


class Exploding(Tiny):
    """Gives a NaN in one part of the loss at the 9th step."""

    steps = 0

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        parts = super().loss(batch, noise)
        self.steps += 1
        if self.steps == 9:
            parts["size"] = parts["size"] * math.nan
            parts["loss"] = parts["softmax"] + parts["size"]
        return parts


def test_a_loss_that_is_not_finite_stops_with_names(tmp_path):
    seed_everything(0)
    model = Exploding(TinyConfig())
    message = (
        r"Step 9: the loss is not finite: loss = nan, softmax = [\d.]+, size = nan\. "
        r"Parameters with values that are not finite: 0 of 4 \(none\)\. Hint: "
    )
    with pytest.raises(TrainingError, match=message):
        train(tmp_path, SHORT.replace(checkpoint_every_steps=3), model=model)
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["progress"]["step"] == 6
    stop = events(tmp_path, "stop")
    assert [(e["reason"], e["step"]) for e in stop] == [("error", 8)]
    assert "loss = nan" in stop[0]["message"]


def test_parameters_that_are_not_finite_are_named(tmp_path):
    """An infinite learning rate by the back door: the second step meets weights that are not numbers."""
    training = SHORT.replace(learning_rate=1e38, weight_decay=1e38)
    with pytest.raises(TrainingError, match=r"Step [23]: .* not finite: [1-4] of 4 \(items\.weight, next\.weight"):
        train(tmp_path, training)
    assert not (tmp_path / "checkpoint").exists()


# ------------------------------------------------------------------------------------------------ stopping and resuming


def test_ctrl_c_in_a_validation_is_prompt_and_resumable(tmp_path):
    calls = 0

    def interrupted(model: Tiny) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("a validation must not go on after Ctrl-C")
        return dict(validate(model))

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", SHORT, check=interrupted)
    assert signal.getsignal(signal.SIGINT) is before
    assert [(e["reason"], e["step"]) for e in events(tmp_path / "cut", "stop")] == [("interrupted", 22)]
    resumed, outcome = train(tmp_path / "cut", SHORT, resume=True)
    whole, expected = train(tmp_path / "whole", SHORT)
    assert (outcome.best_step, outcome.best_metrics) == (expected.best_step, expected.best_metrics)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_resuming_a_finished_run_trains_no_further(tmp_path):
    first, outcome = train(tmp_path, SHORT)
    second, again = train(tmp_path, SHORT, resume=True, check=lambda model: pytest.fail("nothing is left to validate"))
    assert (again.steps, again.best_step, again.reason) == (outcome.steps, outcome.best_step, outcome.reason)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())


def test_a_finished_run_can_be_given_more_epochs(tmp_path):
    train(tmp_path / "longer", SHORT.replace(epochs=2))
    longer, outcome = train(tmp_path / "longer", SHORT.replace(epochs=4), resume=True)
    whole, expected = train(tmp_path / "whole", SHORT.replace(epochs=4))
    assert (outcome.steps, outcome.best_metrics) == (expected.steps, expected.best_metrics)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in longer.state_dict().items())


def test_a_run_is_not_overwritten(tmp_path):
    train(tmp_path, SHORT)
    log = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"was trained before\. Hint: resume it, or choose another directory"):
        train(tmp_path, SHORT)
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_a_checkpoint_from_before_an_option_existed_is_resumed(tmp_path):
    train(tmp_path, SHORT.replace(epochs=2))
    state = tmp_path / "checkpoint" / "state.json"
    older = json.loads(state.read_text())
    del older["identity"]["training.validate_after_steps"]
    state.write_text(json.dumps(older))
    with pytest.raises(CheckpointError, match=r"training\.validate_after_steps was 1, is 5"):
        train(tmp_path, SHORT.replace(epochs=3, validate_after_steps=5), resume=True)
    assert train(tmp_path, SHORT.replace(epochs=3), resume=True)[1].epochs == 3


def test_another_run_is_not_resumed(tmp_path):
    train(tmp_path, SHORT)
    message = (
        r"is of another run: model\.dim was 8, is 4; training\.learning_rate was 0\.02, is 0\.5; "
        r"loader\.rows was 101, is 90\. Hint:"
    )
    with pytest.raises(CheckpointError, match=message):
        train(tmp_path, SHORT.replace(learning_rate=0.5), config=TinyConfig(dim=4), rows=make_rows(90), resume=True)


def test_a_log_that_was_cut_off_is_not_continued(tmp_path):
    train(tmp_path, SHORT)
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"log\.jsonl: has 0 bytes, the checkpoint was taken at \d+: it was cut"):
        train(tmp_path, SHORT, resume=True)


def test_checkpoints_by_time(tmp_path, monkeypatch):
    """The clock moves 10 s with every look; a checkpoint is due after at least 25 s, and only after step events."""
    saved = []
    ticks = iter(range(0, 100_000, 10))
    monkeypatch.setattr("guiderec.training.loop.time.monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr("guiderec.training.checkpoint.save", lambda *args, step, **rest: saved.append(step))
    train(tmp_path, SHORT.replace(epochs=2, checkpoint_every_seconds=25))
    # looks at steps 4, 8, 11, 12, 16, ...: 10, 20, 30 s after the start -> 11; setting the watch anew takes a tick
    assert saved == [11, 20, 22]


def test_neither_time_nor_steps_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("guiderec.training.checkpoint.save", lambda *args, step, **rest: saved.append(step))
    train(tmp_path, SHORT.replace(checkpoint_every_seconds=None))
    assert saved == [33]


# --------------------------------------------------------------------------------------------- models without steps


class MostPopular(Recommender):
    """Fitted by `prepare` alone."""

    trains = False

    def __init__(self) -> None:
        super().__init__(TinyConfig(), N_ITEMS)
        self.register_buffer("counts", torch.zeros(N_ITEMS + 1))

    def prepare(self, train) -> None:
        self.counts = torch.bincount(torch.from_numpy(train.items), minlength=N_ITEMS + 1).float()

    def scores(self, query, noise):
        return self.counts.expand(len(query), -1)


def test_a_model_without_steps_is_prepared_and_validated(tmp_path):
    model, outcome = train(tmp_path, SHORT, model=MostPopular())
    assert (outcome.reason, outcome.steps, outcome.best_metrics) == ("prepared", 0, dict(validate(model)))
    assert int(model.counts.sum()) == 101 * LENGTH
    assert [e["event"] for e in events(tmp_path)] == ["start", "validation", "stop"]


class Fixed(Tiny):
    def __init__(self) -> None:
        super().__init__(TinyConfig())
        self.requires_grad_(False)


def test_a_model_without_trainable_parameters_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Fixed has no trainable parameter\. Hint: .*`trains = False`"):
        train(tmp_path, SHORT, model=Fixed())


# ----------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("learning_rate", 0), ("weight_decay", -1), ("patience", 0), ("clip_norm", 0),
     ("precision", "fp16"), ("schedule", "step"), ("betas", (0.9, 1.0)), ("warmup_steps", -1), ("max_steps", 0)],
)  # fmt: skip
def test_impossible_options_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"Training: 1 problem. '{field}'"):
        Training(**{field: value})


def test_options_survive_json():
    training = Training(betas=(0.8, 0.9), patience=None, clip_norm=2.0)
    assert isinstance(training, Part)
    assert Training.from_plain(json.loads(json.dumps(training.to_plain()))) == training


def test_the_loader_must_have_the_batch_size_of_the_training(tmp_path):
    from guiderec.training.loop import fit

    loader = Loader(make_rows(), batch_size=7, max_length=LENGTH)
    with pytest.raises(ConfigError, match="The loader has batch_size 7, the training 10"):
        fit(Tiny(TinyConfig()), loader, validate, SHORT, tmp_path, seed=0)


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    """Also when a run that was trained on one is evaluated elsewhere."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"torch finds no GPU here\. Hint: --set training\.accelerator=cpu"):
        join(accelerator="cuda", precision="fp32")


# ------------------------------------------------------------------------------------------------------- given up


def test_a_run_is_given_up_after_a_validation_and_stays_so(tmp_path):
    asked = []

    def give_up(epoch, metrics):
        asked.append((epoch, metrics))
        return epoch == 2

    training = SHORT.replace(epochs=5)
    first, outcome = train(tmp_path, training, check=scripted([0.1, 0.3, 0.2, 0.4, 0.5]), give_up=give_up)
    assert (outcome.reason, outcome.epochs, outcome.best_epoch) == ("given_up", 2, 2)
    assert asked == [(1, {"recall@5": 0.1}), (2, {"recall@5": 0.3})]
    assert events(tmp_path, "stop")[-1]["reason"] == "given_up"
    second, again = train(
        tmp_path, training, resume=True, check=lambda model: pytest.fail("nothing is left to validate")
    )
    assert (again.reason, again.steps) == ("given_up", 22)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())


def test_checkpoints_from_before_runs_could_be_given_up_are_resumed(tmp_path):
    train(tmp_path, SHORT.replace(epochs=1))
    (stored,) = (tmp_path / "checkpoint").rglob("state.json")
    state = json.loads(stored.read_text())
    assert state["progress"].pop("given_up") is False
    stored.write_text(json.dumps(state))
    _, outcome = train(tmp_path, SHORT.replace(epochs=2), resume=True)
    assert (outcome.epochs, outcome.reason) == (2, "epochs")
