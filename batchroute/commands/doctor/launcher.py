"""Which launcher started this process, and whether rank 0 or the Ray cluster can be reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from batchroute.commands.doctor.finding import Finding, note, ok, problem
from batchroute.commands.doctor.network import REFUSED, unreached
from batchroute.engines.ranks.launcher import INDEX
from batchroute.engines.ranks.world import World

_CLUSTER = Path("ray_current_cluster")
_RAY_PORT = 6379


def ranks(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The launcher's description of this process, and whether rank 0 can be reached.

    Raises:
        InputError: the launcher's variables are incomplete or contradict each other.
    """
    world = World.from_environment(environment)
    if world.launcher == "none":
        yield ok("launcher", "none: one process, or as many as --processes asks for")
    else:
        yield ok("launcher", f"{world.launcher}: rank {world.rank} of {world.size}, {world.local_size} on this machine")
    if world.launcher == "none" and environment.get(INDEX):
        yield note(
            "launcher",
            f"this is pod {environment[INDEX]} of an Indexed Job ({INDEX}), and a run here is one of its own",
            "start it by `batchroute run JOB.yaml --nodes N --master HOST:PORT`, which takes its number from there",
        )
    if world.master is not None:
        yield _master(world, *_address(world.master))


def _master(world: World, host: str, port: int) -> Finding:
    why = unreached(host, port)
    if why == REFUSED:
        # Normal before a run: the machine answers, and rank 0 has not opened the port yet.
        return ok("master", f"{host} is there; nobody listens at port {port} yet")
    if not why:
        return ok("master", f"{host}:{port} answers")
    of = "this rank" if world.is_rank_zero else "rank 0"
    return problem(
        "master",
        f"{host}:{port}, the address of rank 0, cannot be reached: {why}",
        f"set MASTER_ADDR to the machine of {of}, and let its firewall or network policy pass MASTER_PORT",
    )


def ray(address: str, needed: bool, temporary: Path = Path("/tmp/ray")) -> Finding:
    """
    Args:
        address: `auto`, `HOST:PORT` or `ray://HOST:PORT`.
        needed: whether a job uses Ray.
        temporary: folder in which Ray records the cluster of this machine.
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
    return ok("ray", f"the cluster at {address} answers")


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(text if "://" in text else f"//{text}")
    return parts.hostname or "", parts.port or _RAY_PORT
