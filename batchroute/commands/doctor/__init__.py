"""The doctor: a look at the machine, and at what a job needs of it, each problem with its remedy."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import typer

from batchroute.commands.doctor import gpus, hub, launcher, machine, packages, screen, secrets, storage
from batchroute.commands.doctor.finding import Checkup, Finding, well
from batchroute.commands.doctor.hub import Hub
from batchroute.commands.doctor.machine import Machine
from batchroute.commands.doctor.pair import Pair, processes
from batchroute.config import loading
from batchroute.config.job import Job
from batchroute.engines.ranks.world import World
from batchroute.errors import EXIT_BAD_INPUT, EXIT_OK, InputError
from batchroute.fields import SIDES

_WIDEST = 120


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """
    Attributes:
        findings: in the order in which they are shown, without secrets.
        verdict: a sentence.
    """

    findings: list[Finding]
    verdict: str

    @property
    def exit_code(self) -> int:
        return EXIT_BAD_INPUT if any(finding.mark == "problem" for finding in self.findings) else EXIT_OK


def examine(
    job_file: str | None = None, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Diagnosis:
    """Look at this machine, and with a job at what it needs of it.

    It takes seconds: of nothing that others are asked for more than ten are waited. Nothing is written but a probe
    where the output goes, which is removed, and no request is made that could cost.
    """
    here, models_hub = Machine(environment), Hub()
    # The job file last: what stands before it is said whatever is wrong with it.
    job, reading = _read(job_file, overrides)
    findings = _all(_of_machine(here, models_hub, job)) + reading
    if job is not None:
        findings += _all(_of_job(job, Pair(job, here, models_hub, _ranks_here(environment))))
    hidden = secrets.redactor(environment, job)
    findings = [
        replace(finding, text=hidden.text(finding.text), remedy=hidden.text(finding.remedy)) for finding in findings
    ]
    return Diagnosis(findings, screen.verdict(findings, job_file))


def show(diagnosis: Diagnosis, as_json: bool) -> None:
    """Of the processes of a launcher the first one of each machine speaks."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if as_json:
        typer.echo(screen.as_json(diagnosis.findings, diagnosis.verdict))
        return
    width = min(shutil.get_terminal_size((100, 40)).columns, _WIDEST)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in screen.lines(diagnosis.findings, diagnosis.verdict, width, colour):
        typer.echo(line)


def _all(checkups: Iterator[Checkup]) -> list[Finding]:
    return [finding for checkup in checkups for finding in checkup.findings()]


def _read(job_file: str | None, overrides: Sequence[str]) -> tuple[Job | None, list[Finding]]:
    """The job, where there is one and it can be read, and what there is to say of its file."""
    if job_file is None:
        return None, []
    read: list[Job] = []

    def look() -> Finding:
        read.append(loading.load(job_file, overrides))
        return well("file", f"{job_file}: {read[0].name}")

    found = Checkup("job", "file", look, "mend this key of the job file").findings()
    return (read[0] if read else None), found


def _ranks_here(environment: Mapping[str, str]) -> int:
    """Of this machine; one where the launcher's words make no sense, which has its own line."""
    try:
        return World.here(environment).local_size
    except InputError:
        return 1


def _of_machine(here: Machine, models_hub: Hub, job: Job | None) -> Iterator[Checkup]:
    environment = here.environment
    again = "install batchroute anew, with the versions of constraints.txt"
    yield Checkup("software", "python", packages.python, again)
    yield Checkup("software", "packages", lambda: packages.versions(here.gpus), again)
    yield Checkup("software", "extras", packages.extras, again)
    system = "look at what the system says of it"
    yield Checkup("machine", "cores", lambda: machine.cores(here, _ranks_here(environment)), system)
    yield Checkup("machine", "memory", lambda: machine.memory(here), system)
    yield Checkup("machine", "shared", lambda: machine.shared_memory(machine.shared_total(), _is_spread(job)), system)
    yield Checkup("machine", "disk", lambda: machine.disks(machine.usual_places()), system)
    yield Checkup("machine", "gpu", lambda: gpus.findings(here.gpus, environment), "install torch anew")
    mend = "set all of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or none"
    yield Checkup("ranks", "launcher", lambda: launcher.ranks(environment), mend, bounded=True)
    asked = job.ray if job is not None and "ray" in job.model_fields_set else None
    address = environment.get("RAY_ADDRESS") or (None if asked is None else asked.address)
    if address:
        start = "start a Ray cluster, or mend its address"
        yield Checkup("ranks", "ray", lambda: launcher.ray(address, asked is not None), start, bounded=True)
    network = "mend the network, or set HF_HUB_OFFLINE=1"
    yield Checkup("models", "hub", lambda: hub.hub(models_hub, environment), network, bounded=True)
    yield Checkup("models", "embedded", hub.embedded_models, "run `batchroute models fetch demo`")


def _of_job(job: Job, pair: Pair) -> Iterator[Checkup]:
    yield Checkup(
        "job",
        "input",
        lambda: storage.input_of(job),
        "put prompts there, or mend the section input of the job file",
        bounded=True,
    )
    yield Checkup(
        "job", "output", lambda: storage.output_of(job), "name a folder that can be written as output.uri", bounded=True
    )
    yield Checkup(
        "job",
        "table",
        lambda: storage.table_of(job),
        "mend the section output.table of the job file, or what it names",
        bounded=True,
    )
    yield Checkup("job", "extras", lambda: packages.needed(pair.extras()), "install the extra that the job needs")
    yield Checkup(
        "job", "router", pair.router, "name a router that is here, or make one by `batchroute train`", bounded=True
    )
    for side in SIDES:
        yield Checkup(
            "job",
            side,
            functools.partial(pair.model, side),
            f"name a model that is here as models.{side}.model",
            bounded=True,
        )
    yield Checkup("job", "audit", pair.audit, "mend the section report.audit of the job file", bounded=True)
    yield Checkup("job", "policy", pair.policy, "mend the section policy of the job file")
    yield Checkup("job", "processes", lambda: processes(pair.machine), "look at the line of the GPUs")


def _is_spread(job: Job | None) -> bool:
    """Whether a model of the job is on several GPUs at once by vLLM, whose processes share memory."""
    models = [] if job is None else [job.models.of(side) for side in SIDES]
    return any(model.backend == "vllm" and model.tensor_parallel > 1 for model in models)
