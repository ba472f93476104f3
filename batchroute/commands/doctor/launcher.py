"""Who started this process, and whether the others of the run can be reached: ranks, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from batchroute.commands.doctor.finding import Finding, note, problem, well
from batchroute.commands.doctor.network import REFUSED, unreached
from batchroute.engines.ranks.world import World

_INDEX = "JOB_COMPLETION_INDEX"
_CLUSTER = Path("ray_current_cluster")
_RAY_PORT = 6379


def ranks(environment: Mapping[str, str]) -> Iterator[Finding]:
    """What the launcher says of this process, and whether its ranks can meet.

    Raises:
        InputError: the launcher's variables are no description of a rank.
    """
    here = World.here(environment)
    if here.launcher == "none":
        yield well("launcher", "none: one process, or as many as --processes asks for")
    else:
        yield well("launcher", f"{here.launcher}: rank {here.rank} of {here.size}, {here.local_size} on this machine")
    if here.launcher == "none" and environment.get(_INDEX):
        yield note(
            "launcher",
            f"this is pod {environment[_INDEX]} of an Indexed Job ({_INDEX}), and a run here is one of its own",
            "start it by `batchroute run JOB.yaml --nodes N --master HOST:PORT`, which takes its number from there",
        )
    if here.master is not None:
        yield _master(here, *_address(here.master))


def _master(here: World, host: str, port: int) -> Finding:
    why = unreached(host, port)
    if why == REFUSED:
        # As it should be before a run: its machine is there, and the first rank has not opened the port yet.
        return well("master", f"{host} is there; nobody listens at port {port} yet")
    if not why:
        return well("master", f"{host}:{port} answers")
    of = "this rank" if here.first else "rank 0"
    return problem(
        "master",
        f"{host}:{port}, where the ranks meet, cannot be reached: {why}",
        f"set MASTER_ADDR to the machine of {of}, and let its firewall or network policy pass MASTER_PORT",
    )


def ray(address: str, needed: bool, temporary: Path = Path("/tmp/ray")) -> Finding:
    """
    Args:
        address: `auto`, `HOST:PORT` or `ray://HOST:PORT`.
        needed: whether a job names it.
        temporary: where Ray notes the cluster that this machine is part of.
    """
    remedy = "start a cluster (`ray start --head`), or name one by RAY_ADDRESS or ray.address"
    if address == "auto":
        try:
            address = (temporary / _CLUSTER).read_text().strip()
        except OSError:
            return problem("ray", "this machine is part of no Ray cluster", remedy)
    why = unreached(*_address(address))
    if why:
        return (problem if needed else note)("ray", f"the cluster at {address} cannot be reached: {why}", remedy)
    return well("ray", f"the cluster at {address} answers")


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(text if "://" in text else f"//{text}")
    return parts.hostname or "", parts.port or _RAY_PORT
