"""The public names, written down: a name that appears or goes is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys

import pytest

import guiderec

PUBLIC = {
    # three calls, and what they take and give
    "load",
    "tune",
    "fit",
    "configure",
    "save",
    "Model",
    "Dataset",
    "Vocabulary",
    "Category",
    "Fingerprint",
    "Interactions",
    "Experiment",
    "recipe",
    # protocols
    "UserSplit",
    "LeaveOneOut",
    "SessionSplit",
    "GlobalTime",
    "ImpressionSplit",
    "DrawnImpressions",
    # errors
    "GuideRecError",
    "DataError",
    "ConfigError",
    "CheckpointError",
    "TrainingError",
    "ScoreError",
    "NotFittedError",
}


def test_the_public_names_are_these():
    assert set(guiderec.__all__) == PUBLIC
    assert sorted(guiderec.__all__) == list(guiderec.__all__)
    assert set(dir(guiderec)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_name_is_a_documented_thing_of_this_package(name: str):
    thing = getattr(guiderec, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("guiderec.")
    assert thing.__doc__
    assert getattr(guiderec, name) is thing


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="module 'guiderec' has no attribute 'Modle'"):
        _ = guiderec.Modle  # type: ignore[attr-defined]


def test_errors_have_one_root():
    errors = {name for name in PUBLIC if name.endswith("Error")}
    assert all(issubclass(getattr(guiderec, name), guiderec.GuideRecError) for name in errors)


def test_importing_the_package_loads_no_framework():
    """`guiderec --help` must not wait for torch."""
    program = "import sys, guiderec; print([m for m in ('torch', 'polars', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_training_and_evaluation_wait_for_the_framework_of_training():
    program = "import sys, guiderec.recipes.run; print([m for m in ('lightning_fabric',) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
