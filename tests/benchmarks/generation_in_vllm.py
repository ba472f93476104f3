"""vLLM by itself, without batchroute, for `tests.benchmarks.generation --against vllm`; its own interpreter runs this.

    .venv-vllm/bin/python tests/benchmarks/generation_in_vllm.py MODEL DTYPE [--compiled]

Reads one request a line, {"prompts": [...], "new_tokens": 48}, and writes a line {"wall": 1.0, "processor": 1.9,
"texts": [...], "tokens": 1536} for each, greedy, with the chat template of the model.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    # The engine's messages go to standard error: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import vllm

    model, dtype, *more = sys.argv[1:]
    eager = "--compiled" not in more
    llm = vllm.LLM(model, dtype=dtype, max_model_len=4096, enforce_eager=eager, disable_log_stats=True)
    print(json.dumps({"ready": vllm.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        chats = [[{"role": "user", "content": prompt}] for prompt in request["prompts"]]
        params = vllm.SamplingParams(temperature=0, max_tokens=request["new_tokens"])
        wall, processor = time.perf_counter(), time.process_time()
        found = llm.chat(chats, params, use_tqdm=False)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        outputs = [one.outputs[0] for one in found]
        answer = {
            "wall": wall,
            "processor": processor,
            "texts": [output.text for output in outputs],
            "tokens": sum(len(output.token_ids) for output in outputs),
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
