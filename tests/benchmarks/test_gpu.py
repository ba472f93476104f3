from __future__ import annotations

import json
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parent / "gpu.sh"


def test_it_works_on_tiny_shapes(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [str(SCRIPT), "--tiny", "--json", str(figures)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(figures.read_text())
    assert found["failures"] == {}
    assert [line["what"].split(",")[0] for line in found["lines"]] == ["tiny-deberta"] * 3 + ["tiny-llama"] * 3
    assert all(line["rate"] > 0 for line in found["lines"])
    assert all(line["ratio"] > 0 for line in found["lines"] if line["ratio"] is not None)
    # Of a part that ended in other batches it would tell.
    assert "(" not in "".join(line["what"] for line in found["lines"])
