"""Pods of the manifests on this machine: their command, environment and volumes, in a root that cannot be written.

What a pod has here: the paths of its volume mounts, nothing else writable; the user 10001, who has no home, no entry
in /etc/passwd and no capabilities; the variables of its manifest and no others. It does not have an image (its root is
made of this machine's /usr and Python), a network or process ids of its own, nor limits of memory.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.crash.forked_ranks import fork_ranks
from tests.engines.ranks.launching import Launched
from tests.kubernetes.overlays import Template

ROOT = Path(__file__).parents[2]
USER = 10001
RANKS = "/tmp/ranks"
_NEWNS, _NEWUSER = 0x20000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_NO_NEW_PRIVILEGES = 38
_OF_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "ssl", "alternatives", "localtime", "fonts")
_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Node:
    """What a pod finds on its node.

    Attributes:
        folder: an empty one, in which the root is mounted; seen by the pod alone.
        volumes: the folder of each mount path; those of the container that are left out are made empty.
        hosts: names of this machine for pods, as a Service gives them.
    """

    folder: Path
    volumes: Mapping[str, Path]
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entering:
    """Makes the process that calls it a pod's: it gets the root, the user and the environment. Raises OSError."""

    node: Node
    volumes: Mapping[str, tuple[str, bool]]
    """By mount path: a folder, and whether it is read-only."""
    environment: Mapping[str, str]
    then: tuple[Callable[[], object], ...] = ()
    """Called in the pod."""

    def __call__(self) -> None:
        user, group = os.getuid(), os.getgid()
        _call("unshare", _NEWNS if user == 0 else _NEWNS | _NEWUSER)
        if user != 0:
            # Without root: the mapped user is the pod's, who may mount in this namespace until it gives that up below.
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{USER} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{USER} {group} 1")
        root = self._mounted()
        os.chroot(root)
        os.chdir("/work")
        if user == 0:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
        _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if user != 0:
            _give_up_capabilities()
        os.environ.clear()
        os.environ.update(self.environment)
        for call in self.then:
            call()

    def _mounted(self) -> str:
        root = str(self.node.folder)
        _mount("none", "/", flags=_RECURSIVE | _PRIVATE)
        _mount("tmpfs", root, "tmpfs", options="mode=755")
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        # What the interpreter and the code need, where this machine has it.
        software = {os.path.realpath(path) for path in (ROOT, sys.prefix, sys.base_prefix)} | {str(ROOT), sys.prefix}
        for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/sys", *sorted(self.volumes)):
            if path in self.volumes:
                _bind(self.volumes[path][0], f"{root}{path}", read_only=self.volumes[path][1])
            elif os.path.isdir(path) and not os.path.islink(path):
                _bind(path, f"{root}{path}", read_only=True)
        for path in sorted(software):
            if not path.startswith("/usr/") and not os.path.islink(path):
                _bind(path, f"{root}{path}", read_only=True)
        if os.path.islink(sys.prefix) and not os.path.exists(f"{root}{sys.prefix}"):
            os.makedirs(os.path.dirname(f"{root}{sys.prefix}"), exist_ok=True)
            os.symlink(os.path.realpath(sys.prefix), f"{root}{sys.prefix}")
        _bind("/proc", f"{root}/proc", read_only=False)
        for name in _OF_ETC:
            if os.path.exists(f"/etc/{name}"):
                _bind(f"/etc/{name}", f"{root}/etc/{name}", read_only=True)
        Path(root, "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        Path(root, "etc/hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *self.node.hosts)))
        for name in _DEVICES:
            _bind(f"/dev/{name}", f"{root}/dev/{name}", read_only=False)
        os.makedirs(f"{root}/work", exist_ok=True)
        _mount("tmpfs", root, "tmpfs", _REMOUNT | _READ_ONLY)
        return root


@dataclass
class Pod:
    """A pod of a template.

    Attributes:
        more: variables that the cluster gives, such as JOB_NAME and JOB_COMPLETION_INDEX.
        change: of the arguments, before variables are replaced.
    """

    template: Template
    node: Node
    more: Mapping[str, str] = field(default_factory=dict)
    change: Callable[[str], str] = str

    @property
    def container(self) -> dict[str, Any]:
        container: dict[str, Any] = self.template.pod["containers"][0]
        return container

    @property
    def environment(self) -> dict[str, str]:
        refers = {one["name"] for one in self.container.get("env", []) if "valueFrom" in one}
        own = self.template.environment(self.container)
        own = {name: value for name, value in own.items() if name not in refers}
        values = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **own, **self.more}
        # Of the tests' machine, as the forks have them too: the code that is tested, and where its ranks come from.
        values |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return {name: _expanded(value, values) for name, value in values.items()}

    @property
    def words(self) -> list[str]:
        """The command with its arguments, without tini, which an image brings."""
        words = [*self.container.get("command", []), *self.container.get("args", [])]
        words = words[2:] if words[:2] == ["tini", "--"] else words
        return [_expanded(self.change(word), self.environment) for word in words]

    def entering(self, *then: Callable[[], object]) -> Entering:
        """Raises `pytest.skip` where this machine lets nobody make a pod."""
        if not can_enter():
            pytest.skip("no pod can be made on this machine: it takes root, or user namespaces")
        volumes = {}
        for mount in self.container["volumeMounts"]:
            path = mount["mountPath"]
            folder = self.node.volumes.get(path) or self.node.folder.with_name("empty") / path.strip("/")
            folder.mkdir(parents=True, exist_ok=True)
            if os.getuid() == 0:
                _give_to_user(folder)
            volumes[path] = (str(folder), bool(mount.get("readOnly")))
        self.node.folder.mkdir(parents=True, exist_ok=True)
        return Entering(self.node, volumes, self.environment, then)

    def launched(self, printed: Path, *words: str, then: Sequence[Callable[[], object]] = ()) -> Launched:
        """Start it by forks.

        Args:
            printed: a folder for what it prints.
            words: of the command, in place of the manifest's.
            then: called in the pod before its command.
        """
        entering = self.entering(functools.partial(fork_ranks, Path(RANKS)), *then)
        ranks = Path(entering.volumes["/tmp"][0]) / "ranks"
        return Launched(printed, ["batchroute", *(words or self.words)], prepare=entering, ranks=ranks)


@functools.cache
def can_enter() -> bool:
    """Whether this process may make namespaces and mount."""
    child = os.fork()
    if child == 0:
        try:
            _call("unshare", _NEWNS if os.getuid() == 0 else _NEWNS | _NEWUSER)
            _mount("none", "/", flags=_RECURSIVE | _PRIVATE)
            _mount("tmpfs", "/proc", "tmpfs")
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _give_to_user(folder: Path) -> None:
    """As `fsGroup` does."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)


def _expanded(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes replaces `$(NAME)`."""
    for name, value in values.items():
        text = text.replace(f"$({name})", value)
    return text


def _bind(source: str, target: str, read_only: bool) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    _mount(source, target, flags=_BIND | _RECURSIVE)
    if read_only:
        _mount(None, target, flags=_REMOUNT | _BIND | _READ_ONLY | _kept(target))


def _kept(target: str) -> int:
    """The flags that a mount in a user's namespace must keep."""
    flags = os.statvfs(target).f_flag
    return flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)


def _mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str | None = None
) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    _call("mount", *words, flags, None if options is None else options.encode())


def _give_up_capabilities() -> None:
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _call("capset", header, none)


def _call(name: str, *arguments: Any) -> None:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
