from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "gpu_generation.py"


def test_it_works_on_tiny_shapes() -> None:
    ended = subprocess.run([sys.executable, SCRIPT, "--tiny"], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    for batching in ("static", "continuous"):
        found = result["generation"][batching]
        assert (found["failed"], found["notes"]) == (0, [])
        assert found["output_tokens_per_second"] > 0
        assert found["output_tokens"]["p10"] < found["output_tokens"]["p90"]
    assert result["generation"]["ratio"] > 0
    assert result["router"]["prompts_per_second"] > 0
    assert result["router"]["not_a_number"] == 0
