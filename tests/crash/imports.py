"""What an attempt at a job imports and compiles, so that it need not: no thread is started, no filesystem opened."""

import os

# As the command line sets it before it imports torch, which reads it then.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import accelerate  # noqa: F401
import matplotlib.backends.backend_svg
import matplotlib.figure
import matplotlib.ticker  # noqa: F401
import openai.resources.batches
import openai.resources.chat.completions
import openai.resources.files  # noqa: F401
import prometheus_client  # noqa: F401
import rouge_score.rouge_scorer  # noqa: F401
import s3fs  # noqa: F401
import torch.distributed.launcher.api  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert
import transformers.models.llama.modeling_llama  # noqa: F401

import batchroute.cli
import batchroute.commands.label.pipeline
import batchroute.commands.run
import batchroute.generators.batch.anthropic
import batchroute.generators.batch.gemini
import batchroute.generators.batch.mistral
import batchroute.generators.echo.generator
import batchroute.generators.openai.batch_api
import batchroute.generators.openai.generator
import batchroute.generators.transformers.generator
import batchroute.pipeline.run
import batchroute.quality.text
import batchroute.reports.export.focus
import batchroute.router.model
import batchroute.router.scoring
import batchroute.storage.reading
import batchroute.storage.remote  # noqa: F401
import tests.crash.forking  # noqa: F401
from batchroute.reports.page import html, markdown
from tests.reports import nights
from tests.support.pictures import undrawn_pictures

# The templates of the report are compiled when they are first used, which takes longer than a small job.
with undrawn_pictures():
    html.render(nights.full())
    markdown.render(nights.full())
