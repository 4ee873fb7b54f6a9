#!/bin/sh
# Builds the images of both services: docker.io/dougdb/{raft-node,facade}:VERSION, with the chart's appVersion.
# ENGINE names the program (podman, else docker); PYTHON_VERSION the Python (3.13). Where podman has the local stand-in
# of tools/containers/base.sh, its Python is the default.
set -eu
cd "$(dirname "$0")/.."
# podman's defaults fail on cgroup v1 without the right to raise limits.
if [ -d /sys/fs/cgroup ] && [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
    export CONTAINERS_CONF="${CONTAINERS_CONF:-$PWD/tools/containers/containers.conf}"
fi
engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for program in podman docker; do
        # The client alone is not enough: docker needs an engine behind it.
        if command -v "$program" >/dev/null && "$program" info >/dev/null 2>&1; then
            engine=$program
            break
        fi
    done
fi
[ -n "$engine" ] || { echo "images: neither podman nor docker works here" >&2; exit 1; }
version=$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' deploy/helm/dougdb/Chart.yaml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
set --
case "$engine" in
*podman)
    set -- --format docker
    if [ -z "${PYTHON_VERSION:-}" ] && podman image exists localhost/python:3.11-slim-bookworm; then
        PYTHON_VERSION=3.11
        set -- "$@" --pull=never
    fi
    ;;
esac
for service in raft-node facade; do
    echo "images: docker.io/dougdb/$service:$version" >&2
    "$engine" build "$@" --build-arg "PYTHON_VERSION=${PYTHON_VERSION:-3.13}" --build-arg "VERSION=$version" \
        --build-arg "REVISION=$revision" -t "docker.io/dougdb/$service:$version" -f "services/$service/Dockerfile" .
done
