#!/bin/sh
# A cluster on this machine: kubernetes.sh kind-up | minikube-up | kind-down | test-kind.
# Up builds the images, loads them, installs the chart, waits, puts and gets a key through the Service and runs `helm test`.
# Down deletes the kind cluster, and with it the claims. Repeating either is harmless.
# test-kind makes a kind cluster of its own, runs the scenarios of tests/integration/kubernetes in it, and deletes it.
# CLUSTER (dougdb), TEST_CLUSTER (dougdb-test), NAMESPACE (dougdb), PORT (8080) and HELM_ARGS may be set; ENGINE as for
# tools/images.sh.
set -eu
cd "$(dirname "$0")/.."
cluster=${CLUSTER:-dougdb}
namespace=${NAMESPACE:-dougdb}
port=${PORT:-8080}
version=$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' deploy/helm/dougdb/Chart.yaml)
images="docker.io/dougdb/raft-node:$version docker.io/dougdb/facade:$version"

need() {
    for program in "$@"; do
        command -v "$program" >/dev/null || { echo "kubernetes: $program is not installed" >&2; exit 1; }
    done
}

engine() {
    if [ -n "${ENGINE:-}" ]; then
        echo "$ENGINE"
    elif command -v podman >/dev/null && podman info >/dev/null 2>&1; then
        echo podman
    else
        echo docker
    fi
}

# Images travel as archives, which works with podman and with docker.
load() {
    archive=$(mktemp -d)
    trap 'rm -rf "$archive"' EXIT
    trap 'exit 1' INT TERM
    for image in $images; do
        "$(engine)" save -o "$archive/image.tar" "$image"
        "$@" "$archive/image.tar"
        rm -f "$archive/image.tar"
    done
}

install() {
    context=$1
    # HELM_ARGS is a list of words.
    # shellcheck disable=SC2086
    helm --kube-context "$context" upgrade --install dougdb deploy/helm/dougdb --namespace "$namespace" \
        --create-namespace --values deploy/helm/dougdb/values-kind.yaml --wait --timeout 10m ${HELM_ARGS:-}
    try "$context"
    helm --kube-context "$context" test dougdb --namespace "$namespace" --logs
    echo "DougDB runs. Reach it with:"
    echo "  kubectl --context $context -n $namespace port-forward service/dougdb-facade $port:8080"
    echo "  curl -X PUT localhost:$port/v1/kv/hello -d world && curl localhost:$port/v1/kv/hello"
}

# Puts and gets one key, as a user would.
try() {
    kubectl --context "$1" -n "$namespace" port-forward service/dougdb-facade "$port:8080" >/dev/null &
    forward=$!
    trap 'kill $forward 2>/dev/null || true; rm -rf "${archive:-}"' EXIT
    url=http://127.0.0.1:$port/v1/kv/hello
    curl -sS --fail --retry 20 --retry-delay 1 --retry-all-errors -o /dev/null -X PUT "$url" -d world
    found=$(curl -sS --fail "$url")
    [ "$found" = world ] || { echo "kubernetes: put world, got $found" >&2; exit 1; }
    kill "$forward" 2>/dev/null || true
    echo "put and got hello=world through the Service"
}

case "${1:-}" in
kind-up)
    need kind kubectl helm curl
    kind get clusters 2>/dev/null | grep -qx "$cluster" || kind create cluster --name "$cluster" --wait 3m
    sh tools/images.sh
    load kind load image-archive --name "$cluster"
    install "kind-$cluster"
    ;;
minikube-up)
    need minikube kubectl helm curl
    minikube status --profile "$cluster" >/dev/null 2>&1 || minikube start --profile "$cluster"
    sh tools/images.sh
    load minikube image load --profile "$cluster"
    install "$cluster"
    ;;
kind-down)
    need kind
    kind delete cluster --name "$cluster"
    ;;
test-kind)
    need kind docker
    cluster=${TEST_CLUSTER:-dougdb-test}
    folder=$(mktemp -d)
    trap 'kind delete cluster --name "$cluster"; rm -rf "$folder"' EXIT
    trap 'exit 1' INT TERM
    export KUBECONFIG="$folder/kubeconfig"
    kind create cluster --name "$cluster" --wait 3m
    sh tools/images.sh
    for image in $images; do
        "$(engine)" save -o "$folder/image.tar" "$image"
        kind load image-archive --name "$cluster" "$folder/image.tar"
        rm -f "$folder/image.tar"
    done
    "${PYTEST:-.venv/bin/pytest}" tests/integration/kubernetes/cluster
    ;;
*)
    echo "usage: kubernetes.sh kind-up | minikube-up | kind-down | test-kind" >&2
    exit 2
    ;;
esac
