"""Checkpoints: everything a run needs to go on as if it had never stopped. safetensors and JSON, never a pickle.

    RUN/checkpoint/state.json                         counters, sums, early stopping, names of the other files
                   weights-{step}.safetensors         the model at that step
                   optimizer-{step}.safetensors       moments, named after the parameters
                   best-{step}.safetensors            the model at the best validation so far

`state.json` is replaced last and in one step, so it always names whole files: a process killed at any moment leaves the
old checkpoint or the new one. Files that it does not name are leftovers and are removed by the next save.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from guiderec.errors import CheckpointError
from guiderec.files import read_json, replacing, write_json

FORMAT = 1
"""Version of the layout. A checkpoint of another version is refused."""

Tensors = dict[str, Tensor]

_JSON = {dict: "an object", int: "a whole number"}


@dataclass(frozen=True)
class Checkpoint:
    """What `load` found, tensors on the CPU."""

    state: dict[str, Any]
    weights: Tensors
    moments: Tensors
    best: Tensors | None


def save(
    directory: Path,
    *,
    step: int,
    state: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    best: Mapping[str, Tensor] | None,
    best_step: int,
) -> None:
    """Replace the checkpoint in `directory`. The best weights are written only if they changed since the last save."""
    directory.mkdir(parents=True, exist_ok=True)
    old = read_json(directory / "state.json")["files"] if exists(directory) else {}
    files = {"weights": f"weights-{step}.safetensors", "optimizer": f"optimizer-{step}.safetensors"}
    save_tensors(directory / files["weights"], weights)
    save_tensors(directory / files["optimizer"], moments)
    if best is not None:
        files["best"] = f"best-{best_step}.safetensors"
        if files["best"] != old.get("best"):
            save_tensors(directory / files["best"], best)
    write_json(directory / "state.json", {"format": FORMAT, "files": files, **state})
    for path in directory.iterdir():
        if path.name not in {"state.json", *files.values()}:
            path.unlink()


def exists(directory: Path) -> bool:
    """Whether a checkpoint was completed in `directory`."""
    return (directory / "state.json").exists()


def load(directory: Path) -> Checkpoint:
    """The checkpoint in `directory`. CheckpointError says which file is missing or damaged."""
    state = read_json(directory / "state.json")
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{directory}: checkpoint format {state.get('format')!r}, this version reads {FORMAT}.",
            hint="resume with the version of guiderec that wrote it (environment.json)",
        )
    files = state.get("files", {})
    named = isinstance(files, dict) and {"weights", "optimizer"} <= set(files)
    if not named or not all(isinstance(name, str) and Path(name).name == name for name in files.values()):
        raise CheckpointError(f"{directory / 'state.json'}: names no weights and optimizer files.")
    for name, kind in (("identity", dict), ("progress", dict), ("meter", dict), ("log_bytes", int)):
        if not isinstance(state.get(name), kind):
            raise CheckpointError(
                f"{directory / 'state.json'}: '{name}' is {state.get(name)!r}, expected {_JSON[kind]}.",
                hint="it is damaged",
            )
    return Checkpoint(
        state=state,
        weights=load_tensors(directory / files["weights"]),
        moments=load_tensors(directory / files["optimizer"]),
        best=load_tensors(directory / files["best"]) if "best" in files else None,
    )


# ------------------------------------------------------------------------------------------------ tensors in files


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors atomically. Tied tensors are stored once; the others' names become references to it."""
    kept: dict[tuple[Any, ...], str] = {}
    stored: Tensors = {}
    references: dict[str, str] = {}
    for name, tensor in tensors.items():
        first = kept.setdefault(_identity(name, tensor), name)
        if first == name:
            stored[name] = _standalone(tensor)
        else:
            references[name] = first
    with replacing(path) as temporary:
        try:
            save_file(stored, temporary, metadata=references)
        except SafetensorError as error:  # a full disk, among others: it wraps what the system said
            raise CheckpointError(f"{path}: cannot be written ({error}).") from None


def load_tensors(path: Path) -> Tensors:
    """What `save_tensors` wrote, on the CPU. CheckpointError when the file is missing or damaged."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        references = file.metadata() or {}
    return tensors | {name: tensors[first] for name, first in references.items() if first in tensors}


def largest_side(path: Path) -> int:
    """The most rows, columns or whatever else any of the tensors in a file has; their contents are not read."""
    with _opened(path) as file:
        return max((side for name in file.keys() for side in file.get_slice(name).get_shape()), default=0)  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}).", hint="it is damaged") from None


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy `tensors` into `module`. CheckpointError when names or shapes are not those of the module.

    Empty buffers of the module take any shape of the same rank: their size is known only once they were prepared.
    """
    _make_room(module, tensors)
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    unknown = [name for name in tensors if name not in own]
    wrong = [
        f"{name} {tuple(tensors[name].shape)} where the model has {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    problems = [("missing", missing), ("not of this model", unknown), ("of another shape", wrong)]
    found = [f"{len(names)} {what} (first: {names[0]})" for what, names in problems if names]
    if found:
        raise CheckpointError(
            f"{where}: the weights do not fit {type(module).__name__}: {'; '.join(found)}.",
            hint="the configuration or the number of items is not that of the run",
        )
    module.load_state_dict(dict(tensors))


def _make_room(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, buffer in list(module.named_buffers()):
        stored = tensors.get(name)
        if stored is not None and not buffer.numel() and stored.ndim == buffer.ndim:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, buffer.new_empty(stored.shape))


def on_cpu(module: nn.Module, into: Tensors | None = None) -> Tensors:
    """A copy of the module's state on the CPU, tied tensors still tied; memory of `into` is used again."""
    copies: dict[tuple[Any, ...], Tensor] = {}
    result: Tensors = {}
    for name, tensor in module.state_dict().items():
        identity = _identity(name, tensor)
        if identity not in copies:
            old = None if into is None else into.get(name)
            fits = old is not None and old.shape == tensor.shape and old.dtype == tensor.dtype
            copies[identity] = old.copy_(tensor) if fits and old is not None else tensor.detach().cpu().clone()
        result[name] = copies[identity]
    return result


# ------------------------------------------------------------------------------------------------ optimizer moments


def moments_of(optimizer: Optimizer, module: nn.Module) -> Tensors:
    """The optimizer's tensors as `{"{moment}/{parameter}": tensor}`; parameters that never had a gradient have none."""
    return {
        f"{moment}/{name}": value
        for name, parameter in module.named_parameters()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def load_moments(optimizer: Optimizer, module: nn.Module, moments: Mapping[str, Tensor], where: str | Path) -> None:
    """Give the optimizer what `moments_of` found. CheckpointError for a moment of no parameter or another shape."""
    parameters = dict(module.named_parameters())
    for key, value in moments.items():
        moment, _, name = key.partition("/")
        parameter = parameters.get(name)
        if parameter is None or (value.ndim and value.shape != parameter.shape):
            raise CheckpointError(
                f"{where}: '{key}' {tuple(value.shape)} belongs to no parameter of {type(module).__name__}."
            )
        optimizer.state[parameter][moment] = value.to(parameter.device, copy=True)


def _identity(name: str, tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two names of the same tensor. Empty tensors have no memory and are told apart by name."""
    if not tensor.numel():
        return (name,)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _standalone(tensor: Tensor) -> Tensor:
    """The tensor with memory of its own and no gaps, as safetensors wants it; copied only if it is not so already."""
    tensor = tensor.detach()
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else torch.clone(tensor, memory_format=torch.contiguous_format)
