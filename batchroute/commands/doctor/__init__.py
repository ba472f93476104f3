"""`batchroute doctor`: check this machine, and whether it has what a job needs; each problem has a remedy."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import typer

from batchroute.commands.doctor import gpus, hub, launcher, machine, packages, screen, secrets, storage
from batchroute.commands.doctor.finding import Checkup, Finding, ok
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
        findings: in display order, with secrets hidden.
        verdict: one sentence.
    """

    findings: list[Finding]
    verdict: str

    @property
    def exit_code(self) -> int:
        return EXIT_BAD_INPUT if any(finding.mark == "problem" for finding in self.findings) else EXIT_OK


def examine(
    job_file: str | None = None, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Diagnosis:
    """Check this machine, and with a job file also what the job needs.

    Takes seconds: no server is waited for longer than ten seconds. Sends no request that could cost money, and writes
    nothing except a probe next to the output, which it removes.
    """
    machine_here, models_hub = Machine(environment), Hub()
    # The machine is reported even if the job file is wrong.
    job, reading = _read(job_file, overrides)
    findings = _all(_of_machine(machine_here, models_hub, job)) + reading
    if job is not None:
        findings += _all(_of_job(job, Pair(job, machine_here, models_hub, _local_ranks(environment))))
    hidden = secrets.redactor(environment, job)
    findings = [
        replace(finding, text=hidden.text(finding.text), remedy=hidden.text(finding.remedy)) for finding in findings
    ]
    return Diagnosis(findings, screen.verdict(findings, job_file))


def show(diagnosis: Diagnosis, as_json: bool) -> None:
    """Print the diagnosis. If a launcher started several processes, the first one of each machine prints."""
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
    """The job, or None if there is none or its file is wrong; and the findings about the file."""
    if job_file is None:
        return None, []
    read: list[Job] = []

    def look() -> Finding:
        read.append(loading.load(job_file, overrides))
        return ok("file", f"{job_file}: {read[0].name}")

    findings = Checkup("job", "file", look, "fix this key of the job file").findings()
    return (read[0] if read else None), findings


def _local_ranks(environment: Mapping[str, str]) -> int:
    """The number of ranks on this machine; 1 if the launcher's variables are wrong, which `launcher` reports."""
    try:
        return World.from_environment(environment).local_size
    except InputError:
        return 1


def _of_machine(here: Machine, models_hub: Hub, job: Job | None) -> Iterator[Checkup]:
    environment = here.environment
    again = "install batchroute again, with the versions of constraints.txt"
    yield Checkup("software", "python", packages.python, again)
    yield Checkup("software", "packages", lambda: packages.versions(here.gpus), again)
    yield Checkup("software", "extras", packages.extras, again)
    system = "check it with the tools of the operating system"
    yield Checkup("machine", "cores", lambda: machine.cores(here, _local_ranks(environment)), system)
    yield Checkup("machine", "memory", lambda: machine.memory(here), system)
    yield Checkup("machine", "shared", lambda: machine.shared_memory(machine.shared_total(), _is_spread(job)), system)
    yield Checkup("machine", "disk", lambda: machine.disks(machine.usual_places()), system)
    yield Checkup("machine", "gpu", lambda: gpus.findings(here.gpus, environment), "install torch again")
    variables = "set all of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or none"
    yield Checkup("ranks", "launcher", lambda: launcher.ranks(environment), variables, bounded=True)
    ray = job.ray if job is not None and "ray" in job.model_fields_set else None
    address = environment.get("RAY_ADDRESS") or (None if ray is None else ray.address)
    if address:
        start = "start a Ray cluster, or fix its address"
        yield Checkup("ranks", "ray", lambda: launcher.ray(address, ray is not None), start, bounded=True)
    network = "fix the network, or set HF_HUB_OFFLINE=1"
    yield Checkup("models", "hub", lambda: hub.hub(models_hub, environment), network, bounded=True)
    yield Checkup("models", "embedded", hub.embedded_models, "run `batchroute models fetch demo`")


def _of_job(job: Job, pair: Pair) -> Iterator[Checkup]:
    yield Checkup(
        "job",
        "input",
        lambda: storage.input_of(job),
        "put prompts there, or fix the section input of the job file",
        bounded=True,
    )
    yield Checkup("job", "output", lambda: storage.output_of(job), "name a writable folder as output.uri", bounded=True)
    if job.cache is not None:
        yield Checkup(
            "job", "cache", lambda: storage.cache_of(job), "name a writable folder as cache.uri", bounded=True
        )
    yield Checkup(
        "job",
        "table",
        lambda: storage.table_of(job),
        "fix the section output.table of the job file, or the table that it names",
        bounded=True,
    )
    yield Checkup("job", "extras", lambda: packages.needed(pair.extras()), "install the extra that the job needs")
    yield Checkup(
        "job", "router", pair.router, "name a router on this machine, or make one by `batchroute train`", bounded=True
    )
    for side in SIDES:
        yield Checkup(
            "job",
            side,
            functools.partial(pair.model, side),
            f"name a model on this machine as models.{side}.model",
            bounded=True,
        )
    yield Checkup("job", "audit", pair.audit, "fix the section report.audit of the job file", bounded=True)
    yield Checkup("job", "policy", pair.policy, "fix the section policy of the job file")
    yield Checkup("job", "processes", lambda: processes(pair.machine), "see the line of the GPUs")


def _is_spread(job: Job | None) -> bool:
    """Whether a model of the job runs on several GPUs in processes that share memory."""
    models = [] if job is None else [job.models.of(side) for side in SIDES]
    return any(model.record.shares_memory and model.tensor_parallel > 1 for model in models)
