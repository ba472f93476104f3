"""A quality table with continuous qualities and a large gap, to hold `trans` against `prob` on.

    python tests/benchmarks/simulated_quality.py --from TABLE.parquet --output SIMULATED.parquet [--rows 2000]

Takes prompts and their `task` from a real quality table. A task has a mean gap, a prompt has its own around that, and
each of ten responses a model scatters around its prompt's: BARTScore-like figures, simulated. The small model is so
much worse that it hardly ever wins, which is when `prob` has next to nothing to learn from.
"""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLES = 10
GAP, OF_TASKS, OF_PROMPTS, OF_SAMPLES = -2.0, 0.6, 0.3, 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    table = pq.read_table(options.source, columns=["prompt", "task"])
    table = table.take(rng.permutation(table.num_rows)[: options.rows])
    tasks = sorted(set(table["task"].to_pylist()))
    of_task = dict(zip(tasks, rng.normal(GAP, OF_TASKS, len(tasks)), strict=True))
    gaps = np.array([of_task[task] for task in table["task"].to_pylist()]) + rng.normal(0, OF_PROMPTS, table.num_rows)
    large = rng.normal(-2.0, OF_SAMPLES, (table.num_rows, SAMPLES))
    small = -2.0 + gaps[:, None] + rng.normal(0, OF_SAMPLES, (table.num_rows, SAMPLES))
    for side, quality in (("small", small), ("large", large)):
        table = table.append_column(f"{side}_quality", pa.array(quality.tolist(), pa.list_(pa.float64())))
    metadata = {"small_model": "simulated-small", "large_model": "simulated-large", "metric": "simulated"}
    pq.write_table(table.replace_schema_metadata(metadata), options.output)
    print(f"{options.output}: {table.num_rows:,} rows, the small model wins {(gaps > 0).mean():.1%} of the prompts")


if __name__ == "__main__":
    main()
