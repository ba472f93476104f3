"""What heads add to the encoder's time: processor seconds of both, on the same prompts in one run.

    python -m tests.benchmarks.heads_scoring --router DIR --prompts TABLE.parquet [--rows 300]

Tokenising counts as the encoder's. The seconds are the processor's: other work on the machine hardly changes
their ratio.
"""

from __future__ import annotations

import argparse
import time

import pyarrow.parquet as pq
import torch

from batchroute.router.heads.features import TextParts
from batchroute.router.model import Router
from batchroute.router.scoring import encode, pooled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--router", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    router = Router.load(options.router, torch.device("cpu"))
    heads, router.heads = router.heads, None
    assert heads is not None
    prompts = pq.read_table(options.prompts, columns=["prompt"])["prompt"].to_pylist()[: options.rows]
    clock = time.process_time
    begun = clock()
    encoded = encode(router, prompts)
    states = pooled(router, encoded)
    read = clock()
    heads.score(states, TextParts.of(prompts, heads.projection))
    scored = clock()
    encoder, added = read - begun, scored - read
    print(
        f"{len(prompts):,} prompts of {encoded.lengths.mean():.0f} tokens, {len(heads.heads.kernels.centres):,} centres"
    )
    print(f"encoder {encoder:.2f} s, heads {added:.2f} s: {added / encoder:.1%} more")


if __name__ == "__main__":
    main()
