"""What a run leaves for people and tables: facts about the machine, its log, and one record of it all."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from guiderec.errors import CheckpointError
from guiderec.files import read_json


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this process. No host names, user names or paths."""
    return {
        "guiderec": _version("guiderec"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": _memory_gib(),
            "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or None,
        },
        "threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def collect(run: Path) -> dict[str, Any]:
    """One record of a run: experiment, data, environment, training, every evaluation, distribution and steering."""
    record: dict[str, Any] = {
        name: read_json(run / f"{name}.json")
        for name in ("experiment", "data", "environment")
        if (run / f"{name}.json").exists()
    }
    if "experiment" not in record:
        raise CheckpointError(f"{run}: not a run directory: there is no experiment.json.")
    if (run / "log.jsonl").exists():
        events = read_log(run / "log.jsonl")
        record["training"] = training_summary(events)
        metric = record["experiment"].get("training", {}).get("metric")
        if validated := validation_curve(events, metric):
            record["training"]["curve"] = {"metric": metric, **validated}
    record["evaluation"] = {path.stem: read_json(path) for path in sorted((run / "evaluation").glob("*.json"))}
    for kind in ("distribution", "steering"):
        if (run / kind).exists():
            record[kind] = {path.stem: read_json(path) for path in sorted((run / kind).glob("*.json"))}
    return record


def read_log(path: Path) -> list[dict[str, Any]]:
    """All events of a log. A last line cut off by a killed process is left out; other damage is a CheckpointError."""
    lines = path.read_text(encoding="utf-8").split("\n")
    events = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            raise CheckpointError(f"{path}: line {number} of {len(lines) - 1} is not valid JSON.") from None
    return events


def training_summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Epochs, steps, best validation, seconds and the reason of the end (None while a run is unfinished)."""
    best = [event for event in events if event["event"] == "validation" and event["best"]]
    stop = [event for event in events if event["event"] == "stop"]
    last = events[-1] if events else {}
    return {
        "epochs": last.get("epoch", 0),
        "steps": last.get("step", 0),
        "seconds": last.get("seconds", 0.0),
        "reason": stop[-1]["reason"] if stop and events[-1] is stop[-1] else None,
        "best_epoch": best[-1]["epoch"] if best else None,
        "best_step": best[-1]["step"] if best else None,
        "best_metrics": best[-1]["metrics"] if best else None,
        "resumed": sum(event["event"] == "resume" for event in events),
    }


def validation_curve(events: list[dict[str, Any]], metric: str | None) -> dict[str, list[Any]]:
    """Epochs that were validated, in order, and `metric` then; nothing where it was never measured."""
    at = {event["epoch"]: event["metrics"][metric] for event in events if _validates(event, metric)}  # the last counts
    return {"epochs": sorted(at), "values": [at[epoch] for epoch in sorted(at)]} if at else {}


def _validates(event: dict[str, Any], metric: str | None) -> bool:
    return event["event"] == "validation" and metric in event["metrics"]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source of this package, with `+dirty` when it was changed; None outside a git checkout."""
    source = Path(__file__).resolve().parents[1]
    try:
        commit = _git(source, "rev-parse", "HEAD")
        tracked = _git(source, "ls-files", "--", "training/record.py")
        changed = _git(source, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    if not tracked:  # installed into a directory that belongs to some other repository
        return None
    return commit + ("+dirty" if changed else "")


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
