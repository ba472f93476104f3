"""A server for tests that speaks OpenAI's chat completions, files and batches strictly, and misbehaves on command."""

from tests.support.openai_server.faults import Fault
from tests.support.openai_server.process import ServerProcess
from tests.support.openai_server.server import OpenAIServer

__all__ = ["Fault", "OpenAIServer", "ServerProcess"]
