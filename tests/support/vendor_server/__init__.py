"""Servers for tests that speak the batch APIs of Anthropic, Gemini and Mistral strictly, and misbehave on command.

Each is made from its published interface, which its file names. Faults are those of `tests.support.openai_server`.
"""

from tests.support.vendor_server.server import VendorProcess, VendorServer

__all__ = ["VendorProcess", "VendorServer"]
