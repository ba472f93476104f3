"""What an attempt at a job imports, so that it need not: no thread is started, no filesystem opened."""

import accelerate  # noqa: F401
import matplotlib.backends.backend_svg
import matplotlib.figure
import matplotlib.ticker  # noqa: F401
import s3fs  # noqa: F401
import torch  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert  # noqa: F401

import batchroute.cli
import batchroute.commands.run
import batchroute.generators.echo.generator
import batchroute.generators.transformers.generator
import batchroute.pipeline.run
import batchroute.router.model
import batchroute.router.scoring
import batchroute.storage.reading
import batchroute.storage.remote  # noqa: F401
