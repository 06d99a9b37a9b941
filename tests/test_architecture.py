"""Who may import whom, over the syntax tree. `TYPE_CHECKING` and function-level imports count like any other.

A rule names what it is about and gives a complaint for one import of one file, or none. The last tests plant
violations, to show that the checker can fail.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import guiderec

ROOT = Path(guiderec.__file__).parent
FOUNDATION = {"errors", "rng", "config", "limits", "files"}

# What each part may import of guiderec, beside itself and the foundation.
LAYERS: dict[str, set[str]] = {
    "data": set(),
    "nn": set(),
    "diffusion": {"nn"},
    "models": {"nn", "diffusion", "data.batch", "data.sequences", "data.cooccurrence"},
    "training": {"data", "models.base"},
    "evaluation": {"data", "nn.interests", "models.base"},
    "steering": {"data", "models.base", "evaluation"},
    "report": {"evaluation"},
    "recipes": {"data", "nn", "diffusion", "models", "training", "evaluation", "steering", "report", "model"},
    "tuning": {"data", "training", "evaluation", "recipes"},
    "wishes": {"data", "steering.groups"},
    "model": {"data", "models.base", "training", "evaluation", "steering", "recipes.registry", "wishes"},
    "bulk": {"data", "models.base", "training", "evaluation", "model", "wishes"},
    "indexing": {"data", "models.base", "training", "evaluation", "model", "recipes.run"},
    "cluster": {"data", "evaluation", "model", "bulk"},
    "api": {"data", "model", "recipes", "tuning", "wishes"},
    "serving": {"data", "models.base", "evaluation", "steering", "recipes", "model", "api", "wishes"},
    "cli": {
        "data",
        "models.base",
        "training",
        "evaluation",
        "steering",
        "report",
        "recipes",
        "model",
        "wishes",
        "tuning",
        "bulk",
        "indexing",
        "cluster",
        "api",
        "serving",
    },
    "__main__": {"cli"},
    "testing": {"data", "models.base", "evaluation"},
    "errors": set(),
    "rng": set(),
    "config": set(),
    "limits": set(),
    "files": set(),
}

# One owner for each outside world: module -> the files, or folders, that may import it.
OWNERS: dict[str, set[str]] = {
    "torch.distributed": {"training/distributed.py"},
    "lightning_fabric": {"training/"},
    "matplotlib": {"report/figures.py"},
    "jinja2": {"report/page.py"},
    "sklearn": {"report/projections.py"},
    "faiss": {"evaluation/index.py"},
    "ray": {"cluster.py"},
    "optuna": {"tuning/suggest.py"},
    "sqlite3": {"serving/feedback.py"},
    "sqlalchemy": {"serving/feedback.py"},
    "prometheus_client": {"serving/metrics.py"},
    "uvicorn": {"cli/serve.py"},
    "starlette": {"serving/app.py"},
    "fastapi": {"serving/app.py"},
    "pickle": set(),
    "joblib": set(),
}

# Functions that seed a generator or make a seeded one.
SEEDING = {"manual_seed", "manual_seed_all", "seed", "default_rng", "RandomState", "set_rng_state", "seed_all", "PCG64"}
SEEDING_OWNER = "rng.py"


@dataclass(frozen=True)
class Import:
    file: str
    """Path below the package: `models/sasrec.py`."""
    line: int
    module: str
    """Absolute dotted name: `guiderec.nn.attention`, `torch.distributed`."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: imports {self.module}"


def imports(source: str | ast.AST, file: str) -> Iterator[Import]:
    """All modules that a file imports; `from guiderec.nn import attention` is `guiderec.nn.attention`, a module.

    Of other packages nobody knows here whether b in `from a import b` is a module, so both a and a.b are given.
    """
    package = ["guiderec", *Path(file).parts[:-1]]
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else source):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(file, node.lineno, name.name)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for name in node.names:
                inner = f"{module}.{name.name}"
                if not below(module, "guiderec"):
                    yield Import(file, node.lineno, module)
                    yield Import(file, node.lineno, inner)
                else:
                    yield Import(file, node.lineno, inner if exists(inner) else module)


def below(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def exists(module: str) -> bool:
    """Whether a dotted name below guiderec is a module, and not a name inside one."""
    path = ROOT.joinpath(*module.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").is_file()


def layer_complaints(source: str, file: str) -> list[str]:
    """Imports of guiderec that the file's layer does not allow."""
    part = Path(file).parts[0].removesuffix(".py")
    if part == "__init__":
        return []
    if part not in LAYERS:
        return [f"{file}: '{part}' is in no layer; add it to LAYERS"]
    complaints = []
    for found in imports(source, file):
        if below(found.module, "guiderec"):
            inside = found.module.removeprefix("guiderec").removeprefix(".")
            if not inside:
                complaints.append(f"{found} (import the module that defines the name)")
            elif not any(below(inside, allowed) for allowed in LAYERS[part] | FOUNDATION | {part}):
                complaints.append(f"{found}, which is not below '{part}'")
    return complaints


def model_complaints(source: str, file: str) -> list[str]:
    """Models that import another model."""
    here = Path(file)
    others = (f for f in imports(source, file) if below(f.module, "guiderec.models") and here.parts[0] == "models")
    return [
        f"{found}, another model" for found in others if found.module.split(".")[2:3] not in ([here.stem], ["base"])
    ]


def owns(owners: set[str], file: str) -> bool:
    return any(file == owner or (owner.endswith("/") and file.startswith(owner)) for owner in owners)


def owner_complaints(source: str, file: str) -> list[str]:
    """Outside worlds imported by a file that does not own them; torch imported by the report."""
    complaints = [
        f"{found}; its owner is {', '.join(sorted(owners)) or 'nobody'}"
        for found in imports(source, file)
        for module, owners in OWNERS.items()
        if below(found.module, module) and not owns(owners, file)
    ]
    if Path(file).parts[0] == "report":
        complaints += [
            f"{found}; the report reads files" for found in imports(source, file) if below(found.module, "torch")
        ]
    return complaints


def attribute_complaints(source: str, file: str) -> list[str]:
    """Outside worlds reached as attributes (`torch.distributed.barrier()` after `import torch`)."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            complaints += [
                f"{file}:{node.lineno}: uses {name}; its owner is {', '.join(sorted(owners)) or 'nobody'}"
                for module, owners in OWNERS.items()
                if name == module and not owns(owners, file)
            ]
    return complaints


def seeding_complaints(source: str, file: str) -> list[str]:
    """Calls that seed, anywhere but in their one place."""
    if file == SEEDING_OWNER:
        return []
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.split(".")[-1] in SEEDING:
                complaints.append(f"{file}:{node.lineno}: calls {called}; seeding is in {SEEDING_OWNER}")
    return complaints


CHECKS = [layer_complaints, model_complaints, owner_complaints, attribute_complaints, seeding_complaints]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("check", CHECKS)
def test_package_obeys(check):
    complaints = [complaint for file in FILES for complaint in check((ROOT / file).read_text(), file)]
    assert not complaints, "\n".join(complaints)


def without_type_checking(source: str) -> ast.AST:
    """The tree of what runs."""

    class Runtime(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)

    return Runtime().visit(ast.parse(source))


def cycle(graph: dict[str, set[str]]) -> set[str]:
    """Nodes that lie on a cycle or lead from one to another; empty if the graph has no cycle."""
    remaining = {node: targets & set(graph) - {node} for node, targets in graph.items()}
    while leaves := {node for node, targets in remaining.items() if not targets & set(remaining)}:
        remaining = {node: targets for node, targets in remaining.items() if node not in leaves}
    return set(remaining)


def test_files_import_each_other_in_one_direction():
    """No cycle, not even through imports inside functions: each file can be understood after those it imports."""
    modules = {file: ".".join(["guiderec", *Path(file).with_suffix("").parts]) for file in FILES}
    graph = {
        module: {found.module for found in imports(without_type_checking((ROOT / file).read_text()), file)}
        for file, module in modules.items()
    }
    assert not cycle(graph)


def test_planted_cycle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}
    assert not cycle({"a": {"b", "c"}, "b": {"c"}, "c": {"elsewhere"}})


@pytest.mark.parametrize(
    ("check", "file", "source"),
    [
        (layer_complaints, "nn/bad.py", "from guiderec.data.batch import PADDING"),
        (layer_complaints, "nn/bad.py", "from guiderec.models.base import Recommender"),
        (layer_complaints, "diffusion/bad.py", "import guiderec.data.batch as b"),
        (layer_complaints, "diffusion/bad.py", "from ..models import base"),
        (layer_complaints, "models/bad.py", "from guiderec.data.dataset import Dataset"),
        (layer_complaints, "models/bad.py", "from guiderec.data import dataset"),
        (layer_complaints, "models/bad.py", "from guiderec.training.loop import fit"),
        (layer_complaints, "models/bad.py", "def f():\n    from guiderec.evaluation import ranking"),
        (layer_complaints, "training/bad.py", "from guiderec.models.sasrec import SASRec"),
        (layer_complaints, "training/bad.py", "from guiderec.models import sasrec"),
        (layer_complaints, "evaluation/bad.py", "import guiderec.models.sasrec"),
        (layer_complaints, "report/bad.py", "from guiderec.models.base import Recommender"),
        (layer_complaints, "data/bad.py", "from guiderec.evaluation.ranking import top_k"),
        (layer_complaints, "data/bad.py", "from guiderec import Noise"),
        (
            layer_complaints,
            "nn/bad.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from guiderec.data.batch import Query",
        ),
        (layer_complaints, "newcomer/bad.py", ""),
        (model_complaints, "models/bad.py", "from guiderec.models.sasrec import SASRec"),
        (model_complaints, "models/bad.py", "from . import sasrec"),
        (model_complaints, "models/bad.py", "from .sasrec import SASRec"),
        (owner_complaints, "report/tables.py", "import matplotlib.pyplot as plt"),
        (owner_complaints, "report/figures.py", "from sklearn.manifold import TSNE"),
        (owner_complaints, "models/bad.py", "import torch.distributed as dist"),
        (owner_complaints, "models/bad.py", "from torch import distributed"),
        (owner_complaints, "training/checkpoint.py", "import pickle"),
        (owner_complaints, "report/bad.py", "from torch import Tensor"),
        (attribute_complaints, "models/bad.py", "import torch\ntorch.distributed.barrier()"),
        (seeding_complaints, "models/bad.py", "import torch\ntorch.manual_seed(0)"),
        (seeding_complaints, "data/bad.py", "import numpy as np\nnp.random.default_rng(0)"),
        (seeding_complaints, "data/bad.py", "from random import seed\nseed(0)"),
        (seeding_complaints, "data/bad.py", "import torch\ntorch.Generator().manual_seed(1)"),
    ],
)
def test_planted_violation_is_found(check, file, source):
    assert check(source, file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/good.py", "from guiderec.data.batch import Batch\nfrom guiderec.data.sequences import Sequences"),
        ("models/good.py", "from guiderec.data import batch\nfrom guiderec.models.base import Recommender"),
        ("models/good.py", "from guiderec.rng import Noise, numpy_generator\ngenerator = numpy_generator(0)"),
        ("nn/good.py", "import torch\nfrom guiderec.nn.attention import causal_mask"),
        ("training/good.py", "from guiderec.models import base"),
        ("recipes/good.py", "from guiderec.models.sasrec import SASRecConfig"),
        ("report/figures.py", "from matplotlib import pyplot"),
        ("data/good.py", "import distributed_things\nimport matplotlibish"),
    ],
)
def test_allowed_import_is_not_complained_about(file, source):
    assert not [complaint for check in CHECKS for complaint in check(source, file)]
