"""The command lines of the cluster's programs, as they run within its namespaces."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tools.kubernetes.files import CONF, PKI
from tools.kubernetes.layout import (
    DOMAIN,
    METRICS_PORT,
    NODE,
    NODE_ADDRESS,
    RUN,
    SERVICES,
    STATE,
    ZONE,
    Layout,
)

ETCD = "http://127.0.0.1:2379"
PEER = "http://127.0.0.1:2380"
ZONES_ON_DEMAND = (33, 34)


def _kubeconfig(name: str) -> str:
    return f"--kubeconfig={CONF}/{name}.kubeconfig"


def _etcd() -> list[str]:
    # etcd's data are in memory: a throwaway cluster need not outlive the machine, and its disk is for the pods'
    # volumes.
    return [
        "etcd",
        "--name=one",
        f"--data-dir={RUN}/etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={PEER}",
        f"--initial-advertise-peer-urls={PEER}",
        f"--initial-cluster=one={PEER}",
    ]


def _api_server(minor: int) -> list[str]:
    # Pods are told the zone of their machine; from 1.35 on without being asked to.
    zones = ["--feature-gates=PodTopologyLabelsAdmission=true"] if minor in ZONES_ON_DEMAND else []
    return [
        "kube-apiserver",
        f"--etcd-servers={ETCD}",
        f"--bind-address={NODE_ADDRESS}",
        "--secure-port=6443",
        f"--advertise-address={NODE_ADDRESS}",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        "--anonymous-auth=false",
        # Events are forgotten after an hour by default, before a release that was left alone for as long is judged.
        "--event-ttl=24h",
        f"--client-ca-file={PKI}/ca.crt",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet.key",
        f"--kubelet-certificate-authority={PKI}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={PKI}/front-ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={PKI}/front-proxy.crt",
        f"--proxy-client-key-file={PKI}/front-proxy.key",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={PKI}/service-accounts.crt",
        f"--service-account-signing-key-file={PKI}/service-accounts.key",
        *zones,
    ]


def _controller_manager() -> list[str]:
    name = "controller-manager"
    return [
        "kube-controller-manager",
        _kubeconfig(name),
        f"--authentication-kubeconfig={CONF}/{name}.kubeconfig",
        f"--authorization-kubeconfig={CONF}/{name}.kubeconfig",
        f"--bind-address={NODE_ADDRESS}",
        f"--client-ca-file={PKI}/ca.crt",
        f"--requestheader-client-ca-file={PKI}/front-ca.crt",
        f"--cluster-signing-cert-file={PKI}/ca.crt",
        f"--cluster-signing-key-file={PKI}/ca.key",
        f"--root-ca-file={PKI}/ca.crt",
        f"--service-account-private-key-file={PKI}/service-accounts.key",
        "--use-service-account-credentials",
        "--leader-elect=false",
    ]


def _scheduler() -> list[str]:
    return [
        "kube-scheduler",
        _kubeconfig("scheduler"),
        f"--authentication-kubeconfig={CONF}/scheduler.kubeconfig",
        f"--authorization-kubeconfig={CONF}/scheduler.kubeconfig",
        f"--bind-address={NODE_ADDRESS}",
        "--leader-elect=false",
    ]


def _kubelet() -> list[str]:
    return [
        "kubelet",
        f"--config={CONF}/kubelet.yaml",
        _kubeconfig("kubelet"),
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
        f"--node-labels=topology.kubernetes.io/zone={ZONE}",
        f"--root-dir={STATE}/kubelet",
        f"--cert-dir={PKI}/kubelet",
    ]


def _metrics_server() -> list[str]:
    kubeconfig = f"{CONF}/metrics.kubeconfig"
    return [
        "metrics-server",
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={NODE_ADDRESS}",
        f"--secure-port={METRICS_PORT}",
        f"--cert-dir={STATE}/metrics-server",
        f"--kubelet-certificate-authority={PKI}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-use-node-status-port",
        "--metric-resolution=15s",
    ]


def command(name: str, layout: Layout) -> Sequence[str]:
    """The command line of a program.

    Raises:
        ValueError: No program has this name.
    """
    lines = {
        "etcd": _etcd(),
        "kube-apiserver": _api_server(layout.minor),
        "kube-controller-manager": _controller_manager(),
        "kube-scheduler": _scheduler(),
        "containerd": ["containerd", f"--config={CONF}/containerd.toml"],
        "kubelet": _kubelet(),
        "kube-proxy": ["kube-proxy", f"--config={CONF}/proxy.yaml"],
        "coredns": ["coredns", "-conf", f"{CONF}/Corefile"],
        "folders": [
            *(sys.executable, "-m", "tools.kubernetes.folders"),
            *(str(STATE / "claims"), f"{CONF}/folders.kubeconfig"),
        ],
        "metrics-server": _metrics_server(),
        "kube-network-policies": ["kube-network-policies", f"{CONF}/policies.kubeconfig", NODE],
    }
    if name not in lines:
        raise ValueError(f"there is no program {name!r}, only {', '.join(lines)}")
    words = lines[name]
    built = layout.bin / words[0]
    return [str(built), *words[1:]] if built.exists() else words
