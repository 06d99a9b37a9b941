"""Run under torchrun by test_distributed.py: each process evaluates its shard and writes the joined result."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from ranked_models import MeanOfHistory, make_rows

from guiderec.evaluation.evaluate import count_items, evaluate
from guiderec.training.distributed import join, sum_over_processes

fabric = join(accelerator="cpu", precision="fp32")
rows = make_rows()
evaluation = evaluate(
    MeanOfHistory(50),
    rows,
    max_length=4,
    seen="mask",
    batch_size=10,
    training_counts=count_items(rows, 50),
    shard=(fabric.global_rank, fabric.world_size),
    sum_over=partial(sum_over_processes, fabric),
)
evaluation.write(Path(sys.argv[1]) / f"{fabric.global_rank}-of-{fabric.world_size}", "test")
