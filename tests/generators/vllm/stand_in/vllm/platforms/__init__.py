"""`vllm.platforms`: the machine has a GPU, unless the environment variable STAND_IN_CPU is set."""

from __future__ import annotations

import os
from types import SimpleNamespace

current_platform = SimpleNamespace(is_cpu=lambda: "STAND_IN_CPU" in os.environ)
