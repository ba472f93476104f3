"""A vendor's server as a process: `python -m tests.support.vendor_server --vendor NAME --state DIR --port N`."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from tests.support.vendor_server.server import VENDORS, VendorServer


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.support.vendor_server")
    parser.add_argument("--vendor", type=json.loads, choices=VENDORS)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=Path)
    parser.add_argument("--key", type=json.loads)
    parser.add_argument("--batch-seconds", type=json.loads, default=argparse.SUPPRESS)
    given: dict[str, Any] = vars(parser.parse_args())
    vendor, state, port, faults = (given.pop(name) for name in ("vendor", "state", "port", "faults"))
    server = VendorServer(vendor, state, port, faults, **given)
    asyncio.run(server.run(lambda: None))


if __name__ == "__main__":
    main()
