"""Log to sequences: time and peak memory of `Interactions.sequences` against plain eager Polars and pandas.

    python benchmarks/ingest.py [--rows 20000000] [--users 1000000] [--items 200000] [--out FILE]

Writes a Parquet log of random events, interleaved as a log is, into a temporary folder; then every contender reads it
in a process of its own and must arrive at the very same sequences (SHA-256 over items and offsets). `extra_mib` is the
peak of the resident set above what the imports took; `result_mib` what the sequences themselves take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHUNK = 1_000_000
CONTENDERS = ("guiderec", "polars", "pandas")


def write_log(file: Path, rows: int, users: int, items: int) -> None:
    """Events in order of time, of random users; items with a popularity of 1 / rank."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    popularity = np.cumsum(1 / np.arange(1, items + 1))
    popularity /= popularity[-1]
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("timestamp", pa.int64())])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, rows, CHUNK):
            n = min(CHUNK, rows - start)
            columns = [
                rng.integers(0, users, n) * 7 + 3,
                np.searchsorted(popularity, rng.random(n)) * 13 + 5,
                1_400_000_000 + (start + np.arange(n)) // 4 + rng.integers(0, 3600, n),
            ]
            writer.write_table(pa.table([pa.array(column.astype(np.int64)) for column in columns], schema=schema))


def read_with_guiderec(file: Path) -> tuple[np.ndarray, np.ndarray]:
    from guiderec.data.interactions import Interactions

    sequences = Interactions.read(file).sequences().sequences
    return sequences.items, sequences.offsets


def read_with_polars(file: Path) -> tuple[np.ndarray, np.ndarray]:
    import polars as pl

    frame = pl.read_parquet(file).sort("user_id", "timestamp", maintain_order=True)
    items = frame["item_id"].rank("dense").to_numpy().astype(np.int64)
    lengths = frame.group_by("user_id", maintain_order=True).len()["len"].to_numpy()
    return items, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def read_with_pandas(file: Path) -> tuple[np.ndarray, np.ndarray]:
    import pandas as pd

    frame = pd.read_parquet(file).sort_values(["user_id", "timestamp"], kind="stable")
    items = pd.factorize(frame["item_id"], sort=True)[0].astype(np.int64) + 1
    lengths = frame.groupby("user_id", sort=True).size().to_numpy()
    return items, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(contender: str, file: Path) -> dict[str, object]:
    """One contender, in this process."""
    import polars  # noqa: F401  imports are not what is measured

    import guiderec.data.interactions  # noqa: F401

    if contender == "pandas":
        import pandas  # noqa: F401
        import pyarrow.parquet  # noqa: F401
    before, start, cpu = peak_mib(), time.perf_counter(), time.process_time()
    items, offsets = globals()[f"read_with_{contender}"](file)
    seconds, peak, cpu = time.perf_counter() - start, peak_mib(), time.process_time() - cpu
    digest = hashlib.sha256(items.tobytes() + offsets.tobytes()).hexdigest()
    return {
        "contender": contender,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mib": round(peak),
        "extra_mib": round(peak - before),
        "result_mib": round((items.nbytes + offsets.nbytes) / 2**20),
        "sequences": len(offsets) - 1,
        "sha256": digest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--out", type=Path, help="also write the result here")
    parser.add_argument("--run", nargs=2, metavar=("CONTENDER", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run[0], Path(options.run[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.parquet"
        write_log(file, options.rows, options.users, options.items)
        command = [sys.executable, __file__, "--run"]
        results = [
            json.loads(subprocess.run([*command, name, str(file)], check=True, capture_output=True, text=True).stdout)
            for name in CONTENDERS
        ]
        size = file.stat().st_size
    if len({result["sha256"] for result in results}) != 1:
        sys.exit(f"The contenders disagree: {results}")
    report = {"rows": options.rows, "file_mib": round(size / 2**20), "results": results}
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
