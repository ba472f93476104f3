"""The events of a run's lineage, from what the run knows. Imported only where events are sent: it needs the client."""

from __future__ import annotations

import datetime
import os
import uuid
from typing import Any, TypeVar

import attr
import pyarrow as pa
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    BaseFacet,
    RunFacet,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    schema_dataset,
)

from batchroute import __version__
from batchroute.config.job import Job as JobFile
from batchroute.pipeline.context import Context
from batchroute.pipeline.lineage.datasets import Name, named_input, named_outputs
from batchroute.pipeline.lineage.scheduler import Parent, nominal_time, parent
from batchroute.pipeline.stages.results import output_schema
from batchroute.storage.manifest import Manifest

PRODUCER = f"urn:batchroute:{__version__}"
COST_FACET = "urn:batchroute:facets:1-0-0:CostRunFacet.json"
_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:batchroute:runs")
Facet = TypeVar("Facet", bound=BaseFacet)


@attr.define
class CostRunFacet(RunFacet):
    """What a run cost, in USD; its schema is `cost_run_facet.json` next to this file. None: a price is missing."""

    rows: int
    small: int
    large: int
    escalated: int
    failed: int
    currency: str = "USD"
    cost: float | None = None
    baselineCost: float | None = None  # noqa: N815
    savings: float | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{COST_FACET}#/$defs/CostRunFacet"


def run_uuid(context: Context) -> str:
    """The same in every attempt. The output is a part of it, since a run id is not of one output alone."""
    return str(uuid.uuid5(_RUNS, f"{context.work.output}\n{context.snapshot.run_id}"))


def started(context: Context) -> RunEvent:
    return _event(context, RunState.START)


def failed(context: Context, message: str, aborted: bool) -> RunEvent:
    """
    Args:
        message: without prompts, answers or secrets.
    """
    error = _made(error_message_run.ErrorMessageRunFacet, message=message, programmingLanguage="python")
    return _event(context, RunState.ABORT if aborted else RunState.FAIL, {"errorMessage": error})


def completed(context: Context, committed: Manifest) -> RunEvent:
    counts, cost = committed.counts, committed.cost
    facet = _made(
        CostRunFacet,
        rows=committed.rows,
        small=counts["small"],
        large=counts["large"],
        escalated=counts["escalated"],
        failed=counts["failed"],
        cost=_number(cost.get("total_cost")),
        baselineCost=_number((cost.get("baseline") or {}).get("cost")),
        savings=_number((cost.get("savings") or {}).get("usd")),
    )
    written = _made(
        output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
        rowCount=committed.rows,
        size=sum(file.bytes for file in committed.files),
        fileCount=len(committed.files),
    )
    return _event(context, RunState.COMPLETE, {"batchroute_cost": facet}, {"outputStatistics": written})


def _event(
    context: Context,
    state: RunState,
    facets: dict[str, RunFacet] | None = None,
    of_output: dict[str, Any] | None = None,
) -> RunEvent:
    job = context.job
    read, written = context.table.schema, output_schema(job, context.table)
    inputs = [
        InputDataset(
            *named_input(job.input), facets={"schema": _schema(read)}, inputFacets={"inputStatistics": _read(context)}
        )
    ]
    return RunEvent(
        eventType=state,
        eventTime=datetime.datetime.now(datetime.UTC).isoformat(),
        producer=PRODUCER,
        run=Run(run_uuid(context), facets={**_run_facets(job), **(facets or {})}),
        job=Job(_namespace(job), job.name, facets={"jobType": _JOB_TYPE}),
        inputs=inputs,
        outputs=[_output(name, written, of_output) for name in named_outputs(job.output)],
    )


def _output(name: Name, schema: pa.Schema, facets: dict[str, Any] | None) -> OutputDataset:
    return OutputDataset(*name, facets={"schema": _schema(schema)}, outputFacets=facets or {})


def _run_facets(job: JobFile) -> dict[str, RunFacet]:
    facets: dict[str, RunFacet] = {
        "processing_engine": _made(
            processing_engine_run.ProcessingEngineRunFacet,
            version=__version__,
            name="batchroute",
            openlineageAdapterVersion=__version__,
        )
    }
    assert job.lineage is not None
    due = nominal_time(job.lineage.nominal_time)
    if due is not None:
        facets["nominalTime"] = _made(nominal_time_run.NominalTimeRunFacet, nominalStartTime=due)
    above = parent("OPENLINEAGE_PARENT")
    if above is not None:
        facets["parent"] = _parent_facet(above, parent("OPENLINEAGE_ROOT_PARENT"))
    return facets


def _parent_facet(above: Parent, root: Parent | None) -> parent_run.ParentRunFacet:
    top = None
    if root is not None:
        top = parent_run.Root(parent_run.RootRun(root.run_id), parent_run.RootJob(root.namespace, root.name))
    return _made(
        parent_run.ParentRunFacet,
        run=parent_run.Run(above.run_id),
        job=parent_run.Job(above.namespace, above.name),
        root=top,
    )


def _read(context: Context) -> input_statistics_input_dataset.InputStatisticsInputDatasetFacet:
    files = context.snapshot.files
    return _made(
        input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
        rowCount=context.snapshot.rows,
        size=sum(file.size for file in files),
        fileCount=len(files),
    )


def _schema(schema: pa.Schema) -> schema_dataset.SchemaDatasetFacet:
    fields = [
        schema_dataset.SchemaDatasetFacetFields(field.name, str(field.type), ordinal_position=number)
        for number, field in enumerate(schema, start=1)
    ]
    return _made(schema_dataset.SchemaDatasetFacet, fields=fields)


def _namespace(job: JobFile) -> str:
    assert job.lineage is not None
    return job.lineage.namespace or os.environ.get("OPENLINEAGE_NAMESPACE") or "default"


def _made(kind: type[Facet], **values: Any) -> Facet:
    """A facet of this producer. The client has a producer for all of its process, which may be another program's."""
    return kind(**values, producer=PRODUCER)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


_JOB_TYPE = _made(job_type_job.JobTypeJobFacet, processingType="BATCH", integration="BATCHROUTE", jobType="JOB")
