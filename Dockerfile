# batchroute in a container: a job that starts, ends, and tells by its exit code how.
#
#     docker build --build-arg TORCH_INDEX=URL -t batchroute .        # CPU; URL: PyTorch's own index of CPU wheels
#     docker build --build-arg VARIANT=cuda -t batchroute:cuda .      # CUDA: the torch of the package index (x86-64)
#     docker run --rm --read-only --tmpfs /tmp -v "$PWD:/work" -v batchroute-cache:/cache batchroute run nightly.yaml
#
# An index of your own with its credentials comes as a secret, which no image holds: --secret id=pip.conf,src=FILE

# The release and the Debian suite are fixed; for the same bytes each time, pass PYTHON_IMAGE=NAME:TAG@sha256:DIGEST.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/batchroute/bin:$PATH
RUN python3 -m venv /opt/batchroute
WORKDIR /src

# What batchroute depends on, from the two files that say so: a change of its code repeats none of this, and pulls
# nothing of this again. CONSTRAINTS is empty for extras that pin a torch of their own (vllm).
FROM builder AS dependencies
ARG VARIANT=cpu
ARG TORCH_INDEX=
ARG EXTRAS=openai,prices,s3
ARG CONSTRAINTS=constraints.txt
COPY pyproject.toml constraints.txt ./
# torch goes first: the wrong build of it ends here, and not after gigabytes of CUDA libraries.
# DL3013 wants versions beside the names: constraints.txt has them.
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --no-compile ${CONSTRAINTS:+-c "$CONSTRAINTS"} \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --no-deps torch \
    && python -c "import importlib.util, pathlib, runpy, sys; \
spec = importlib.util.find_spec('torch'); \
cuda = runpy.run_path(str(pathlib.Path(spec.origin).with_name('version.py')))['cuda']; \
sys.exit(None if ('cuda' if cuda else 'cpu') == '${VARIANT}' else \
f'error: VARIANT=${VARIANT}, but the index gave a torch for CUDA {cuda}: set VARIANT (cpu or cuda) or TORCH_INDEX')"
# A stub stands for batchroute, so that pip reads dependencies and extras as it will for the real one.
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    mkdir batchroute && touch batchroute/__init__.py README.md LICENSE \
    && pip install --no-compile ${CONSTRAINTS:+-c "$CONSTRAINTS"} \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".${EXTRAS:+[$EXTRAS]}" \
    && pip uninstall --yes batchroute
# By hash and unchecked: nothing compares times at each start. Packages hold a file or two in the syntax of another
# Python, hence the `|| true`.
RUN python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/batchroute/lib || true

FROM builder AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY batchroute batchroute
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf pip wheel --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE}
ARG SYSTEM_PACKAGES=
# tini is PID 1. The kernel keeps a signal that it has no handler for from PID 1: a SIGTERM before batchroute has set
# its own, or to another command than batchroute, would be lost, and the job killed after the grace period, 137 instead
# of 143. tini also reaps what the processes of a model leave behind.
# The interpreter's own modules are compiled: slim images ship them without bytecode, and a read-only root keeps it so.
# A login shell (Ray's operator starts one) resets PATH; the file in profile.d puts it back.
# DL3008 wants pinned packages: Debian's mirrors keep only the newest build of one, so that a pin stops building.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini ${SYSTEM_PACKAGES} \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && useradd --no-log-init --uid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin batchroute \
    && install -d -o 10001 -g 0 -m 0775 /cache /work \
    && echo "PATH=/opt/batchroute/bin:\$PATH" >/etc/profile.d/batchroute.sh \
    && { python3 -m compileall -qq -j 0 --invalidation-mode unchecked-hash \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" || true; }
COPY --from=dependencies /opt/batchroute /opt/batchroute
ENV PATH=/opt/batchroute/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Ends when VERSION, which the label shows, is not the version that is inside.
ARG VERSION=0.1.0
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-compile --no-deps --no-index /wheels/*.whl \
    && python -m compileall -qq --invalidation-mode unchecked-hash \
        /opt/batchroute/lib/python*/site-packages/batchroute \
    && test "$(batchroute --version)" = "batchroute ${VERSION}"

# What is written outside the output: models, hub downloads, kernels, fonts. The root may be read-only, /tmp a tmpfs.
ENV HOME=/cache XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface
# Of the driver, CUDA and nvidia-smi; only read where a GPU is given to the container.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME ["/cache"]
WORKDIR /work
# By number, so that runAsNonRoot can be checked.
USER 10001:10001
STOPSIGNAL SIGTERM
# It serves nothing that could be asked: its health is its exit code; `batchroute status OUTPUT` tells how far it is.
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--", "batchroute"]
CMD ["--help"]

ARG REVISION=
ARG DESCRIPTION="A nightly batch job that routes each prompt to a small or a large language model."
LABEL org.opencontainers.image.title="batchroute" \
      org.opencontainers.image.description="${DESCRIPTION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
