#!/usr/bin/env bash
# Builds the container image and runs the demo's job in it, as a cluster would: a user that is not root, a root file
# system that cannot be written, no network, a SIGTERM in the middle. For Debian, as root; not part of tests/run.sh.
#
#     apt-get install buildah debootstrap crun     # once
#     jobs/demo.sh                                 # once: the embedded models and the router that the job uses
#     tests/image.sh
#
# No image registry is needed: a minimal Debian with Python stands in for the image that the Dockerfile names. Packages
# come from where this machine's pip and debootstrap get them. Takes 4 to 8 minutes on 2 cores and 10 GB in /var/tmp,
# all of which is removed again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=/var/tmp/batchroute-image
cache=${XDG_CACHE_HOME:-$HOME/.cache}/batchroute
image=localhost/batchroute:smoke

refuse() { echo "error: $1" >&2; exit 2; }
fail() { echo "failed: $1" >&2; exit 1; }
step() { printf '\n== %s\n' "$1"; }
buildah_() {
    timeout --foreground 1500 buildah \
        --root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-overlay}" "$@"
}

clean() {
    crun --root "$work/crun" delete --force batchroute 2>/dev/null || true
    if [ -d "$work/storage" ]; then
        buildah_ rm --all >/dev/null 2>&1 || true
    fi
    # Never remove through a mount: what is bound below here belongs to the machine.
    findmnt --raw --noheadings --output TARGET | grep "^$work/" | sort -r | xargs -r umount --lazy || true
    if findmnt --raw --noheadings --output TARGET | grep -q "^$work/"; then
        fail "something is still mounted below $work; unmount it, then remove that folder"
    fi
    rm -rf "$work"
}

[ "$(id -u)" = 0 ] || refuse "tests/image.sh builds an image with chroot and mounts: run it as root"
for tool in buildah debootstrap crun; do
    command -v "$tool" >/dev/null || refuse "tests/image.sh needs $tool: apt-get install buildah debootstrap crun"
done
[ -x .venv/bin/python ] || refuse "no .venv: run jobs/demo.sh first"
[ -d "$cache/models" ] && [ -d "$cache/demo-router" ] || refuse "no models in $cache: run jobs/demo.sh first"
exec 9<"${work%/*}"
flock --nonblock 9 || refuse "another tests/image.sh is at work: wait for it"
trap clean EXIT
trap 'exit 143' TERM
clean
mkdir -p "$work"

step "base image"
base=$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
timeout --foreground 600 debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
    "${base##*-}" "$work/base" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "debootstrap"; }
rm -rf "$work"/base/var/lib/apt/lists/* "$work"/base/var/cache/apt/*
container=$(buildah_ from scratch)
buildah_ add --quiet "$container" "$work/base" / >/dev/null
buildah_ config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah_ commit --quiet --rm "$container" "docker.io/library/$base" >/dev/null
rm -rf "$work/base"

step "build"
# What pip is told on this machine, from its files and the environment, goes in as the secret that the Dockerfile takes;
# files and folders that it names are mounted where it names them.
mapfile -t volumes < <(.venv/bin/python -m pip config list | .venv/bin/python -c '
import ast, configparser, pathlib, sys
config, paths = configparser.RawConfigParser(), set()
for line in sys.stdin:
    key, _, value = line.strip().partition("=")
    section, _, option = key.rpartition(".")
    section, value = "global" if section == ":env:" else section, ast.literal_eval(value)
    config.has_section(section) or config.add_section(section)
    config.set(section, option, value)
    for path in map(pathlib.Path, value.removeprefix("file://").replace(" file://", " ").split()):
        if path.is_absolute() and path.exists():
            # The pages of an index point to files beside it.
            paths.add(path.parent if option.endswith("index-url") else path)
with open(sys.argv[1], "w") as file:
    config.write(file)
print(*(f"--volume={path}:{path}:ro" for path in sorted(paths)), sep="\n")
' "$work/pip.conf")
began=$SECONDS
buildah_ build --isolation chroot --network host --pull=never --format docker --layers \
    --secret "id=pip.conf,src=$work/pip.conf" ${volumes[@]+"${volumes[@]}"} \
    ${TORCH_INDEX:+--build-arg "TORCH_INDEX=$TORCH_INDEX"} --tag "$image" . >"$work/log" 2>&1 \
    || { tail -n 30 "$work/log" >&2; fail "the build"; }
echo "built in $((SECONDS - began)) s"

step "smoke run: not root, read-only root, no network"
buildah_ inspect --type image "$image" >"$work/image.json"
container=$(buildah_ from --pull=never "$image")
root=$(buildah_ mount "$container")
mkdir -p "$work/bundle" "$work/output" "$work/cache/batchroute"
# A copy, since the image's user may not read what root wrote for itself.
cp -r "$cache/models" "$cache/demo-router" "$work/cache/batchroute"
chown -R 10001:10001 "$work/output" "$work/cache"

# inside ARGUMENTS: of the image's entry point; after `--`, a command in its place.
inside() {
    .venv/bin/python - "$work" "$root" "$PWD" "$@" <<'PYTHON' || return 99
import json, pathlib, sys
work, root, checkout, *command = sys.argv[1:]
image = json.loads(pathlib.Path(work, "image.json").read_text())["Docker"]["config"]
user, group = map(int, image["User"].split(":"))
writable = [("/cache", f"{work}/cache"), ("/output", f"{work}/output")]
readable = [(f"/work/{name}", f"{checkout}/{name}") for name in ("jobs", "sample_data")]
mounts = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
    *({"destination": to, "type": "bind", "source": at, "options": ["bind", "rw"]} for to, at in writable),
    *({"destination": to, "type": "bind", "source": at, "options": ["bind", "ro"]} for to, at in readable),
]
process = {
    "user": {"uid": user, "gid": group},
    "args": command[1:] if command[:1] == ["--"] else image["Entrypoint"] + (command or image["Cmd"]),
    "env": [*image["Env"], "DEMO_OUTPUT=/output/demo"],
    "cwd": image["WorkingDir"],
    "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")},
    "noNewPrivileges": True,
}
spaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]
config = {
    "ociVersion": "1.0.0", "hostname": "batchroute", "root": {"path": root, "readonly": True},
    "process": process, "mounts": mounts, "linux": {"namespaces": spaces},
}
pathlib.Path(work, "bundle", "config.json").write_text(json.dumps(config))
PYTHON
    oci run --bundle "$work/bundle" batchroute </dev/null
}
# crun refuses a machine with cgroup v1 and v2 side by side, although it is told to use none: it does not see v2.
oci() {
    timeout --foreground 600 unshare --mount sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec crun "$@"' crun \
        --root "$work/crun" --cgroup-manager disabled "$@"
}
# expect CODE WHAT COMMAND...: the command ends with this exit code.
expect() {
    local wanted=$1 what=$2 code=0 began=$SECONDS
    shift 2
    "$@" >"$work/log" 2>&1 || code=$?
    [ "$code" = "$wanted" ] || { tail -n 30 "$work/log" >&2; fail "$what: exit code $code instead of $wanted"; }
    echo "$what: exit code $code, $((SECONDS - began)) s"
}
# says TEXT: the last command's output has it.
says() { grep -qF -- "$1" "$work/log" || { cat "$work/log" >&2; fail "its output lacks: $1"; }; }
# terminate: SIGTERM to PID 1, as a cluster sends it; the run in the background must end with 143, and commit nothing.
terminate() {
    local code=0
    oci kill batchroute TERM
    wait "$running" || code=$?
    [ "$code" = 143 ] || { tail -n 30 "$work/log" >&2; fail "SIGTERM $1: exit code $code instead of 143"; }
    [ ! -e "$work/output/demo/manifest.json" ] || fail "SIGTERM $1: it committed all the same"
    echo "SIGTERM $1: exit code 143"
}
# units: the receipts of the small model's units.
units() { find "$work/output/demo.work" -mindepth 3 -maxdepth 3 -path '*/small/*.json' 2>/dev/null; }
# await_unit: until there is one; how far the run in the background then is, depends on the machine, not on a clock.
await_unit() {
    for _ in $(seq 1200); do
        [ -z "$(units)" ] || return 0
        kill -0 "$running" 2>/dev/null || { cat "$work/log" >&2; fail "the run ended before its first unit"; }
        sleep 0.1
    done
    fail "no unit after 120 s"
}

expect 0 "--version" inside --version
says "$(.venv/bin/python -m batchroute --version)"
expect 0 "without arguments" inside
says "Usage"
expect 0 "not root, no capabilities, no network but loopback" inside -- python -c '
import os, pathlib
assert os.getuid() == 10001
assert "CapEff:\t0000000000000000\n" in pathlib.Path("/proc/self/status").read_text()
assert [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]] == ["lo"]
'
expect 1 "writing to the root" inside -- touch /opt/batchroute/x
says "Read-only file system"
expect 0 "a login shell finds it" inside -- bash -lc 'batchroute --version'
expect 0 "torch, batchroute and Python come as bytecode" inside -- python -c '
import argparse, os, torch, batchroute.cli
assert all(os.path.exists(module.__cached__) for module in (argparse, torch, batchroute.cli))
'
if inside doctor --help >/dev/null 2>&1; then
    expect 0 "doctor" inside doctor jobs/demo.yaml
    cat "$work/log"
fi
expect 0 "validate" inside validate jobs/demo.yaml

inside run jobs/demo.yaml >"$work/log" 2>&1 & running=$!
sleep 0.5
terminate "while it starts"
inside run jobs/demo.yaml >"$work/log" 2>&1 & running=$!
await_unit
terminate "after a unit of the small model"
units | xargs sha256sum >"$work/kept"
expect 0 "the same command again" inside run jobs/demo.yaml
tail -n 1 "$work/log"
says "Routing 120 prompts"
sha256sum --check --quiet "$work/kept" || fail "a unit of the terminated run was done again"
echo "units of the small model: $(units | wc -l), of them $(wc -l <"$work/kept") from the terminated run"
expect 0 "verify" inside verify /output/demo
cat "$work/log"
expect 0 "once more" inside run jobs/demo.yaml
says "nothing to do"

step "size"
buildah_ push --quiet "$image" "oci:$work/oci:smoke"
.venv/bin/python - "$work" <<'PYTHON'
import json, pathlib, re, sys
work = pathlib.Path(sys.argv[1])
def blob(digest): return json.loads((work / "oci" / "blobs" / digest.replace(":", "/")).read_text())
manifest = blob(json.loads((work / "oci" / "index.json").read_text())["manifests"][0]["digest"])
config = blob(manifest["config"]["digest"])
known = json.loads(next((work / "storage").glob("*-layers/layers.json")).read_text())
unpacked = {layer.get("diff-digest"): layer["diff-size"] for layer in known if "diff-size" in layer}
steps = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
rows = [
    (unpacked[layer] / 1e6, packed["size"] / 1e6, re.sub(r".*?/bin/sh -c (#\(nop\) +)?(--\S+ +)*", "", step)[:60])
    for layer, packed, step in zip(config["rootfs"]["diff_ids"], manifest["layers"], steps, strict=True)
]
for size, packed, step in [*rows, (sum(row[0] for row in rows), sum(row[1] for row in rows), "all")]:
    print(f"{size:9,.1f} MB {packed:9,.1f} MB packed   {step if step != '/bin/sh' else 'the base image'}")
PYTHON
echo "passed"
