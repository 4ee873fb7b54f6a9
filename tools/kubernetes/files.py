"""The cluster's certificates, kubeconfigs and configuration files. Must not start anything.

Every path in them is one within the cluster's namespaces. Keys live as long as the cluster does.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tools.certs import Authority, write
from tools.kubernetes.layout import (
    API,
    API_SERVICE,
    CONTAINERD,
    DNS_ADDRESS,
    DOMAIN,
    GROUP,
    NODE,
    NODE_ADDRESS,
    PAUSE,
    PODS,
    STATE,
    Layout,
)

PKI = STATE / "pki"
CONF = STATE / "conf"
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
    "dns": ("dns", ""),
    "folders": ("folders", ""),
    "metrics": ("metrics", ""),
    "policies": ("policies", ""),
}
"""The kubeconfigs by name: the user and the group that Kubernetes sees."""
CNI_PLUGINS = Path("/usr/lib/cni")

CONTAINERD_TOML = f"""version = 2
root = "{STATE}/containerd"
state = "/run/containerd"
# Raising it takes a right that root lacks where this machine is itself a container.
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
]
[grpc]
  address = "{CONTAINERD}"
[ttrpc]
  address = "{CONTAINERD}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # As with oom_score.
  restrict_oom_score_adj = true
  disable_apparmor = true
  # kubectl exec and logs come back to this address; by default it is that of the default route, and there is none.
  stream_server_address = "{NODE_ADDRESS}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{CONF}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def network() -> dict[str, Any]:
    """The CNI configuration of the pods' network.

    Each pod has a link to the node alone, no bridge: what goes from pod to pod is routed, so that it passes the packet
    filters whether or not the kernel filters bridged packets.
    """
    ipam = {
        "type": "host-local",
        "dataDir": str(STATE / "cni"),
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}


def kubelet() -> dict[str, Any]:
    """The kubelet's configuration."""
    # The disk and the memory are the machine's; a test cluster must not evict pods because they are full.
    signals = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "healthzBindAddress": NODE_ADDRESS,
        "readOnlyPort": 0,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{PKI}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{PKI}/kubelet-server.key",
        "clusterDomain": DOMAIN,
        "clusterDNS": [DNS_ADDRESS],
        # Empty: no server outside is asked for names.
        "resolvConf": f"{CONF}/resolv.conf",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{GROUP}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": False,
        # From 1.35 the kubelet refuses cgroup v1 unless it is told not to.
        "failCgroupV1": False,
        "oomScoreAdj": 0,
        # Higher limits take a right that root may lack.
        "maxOpenFiles": 20000,
        "evictionHard": dict.fromkeys(signals, "0%"),
        "imageGCHighThresholdPercent": 100,
        # Images cannot be pulled again.
        "imageMinimumGCAge": "24h",
        "podLogsDir": f"{STATE}/pod-logs",
        "volumePluginDir": f"{STATE}/volume-plugins",
        # A Secret that is replaced reaches its pods within seconds, not a minute or two.
        "syncFrequency": "10s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
    }


def proxy() -> dict[str, Any]:
    """kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{CONF}/proxy.kubeconfig"},
        "bindAddress": NODE_ADDRESS,
        "healthzBindAddress": f"{NODE_ADDRESS}:10256",
        "metricsBindAddress": f"{NODE_ADDRESS}:10249",
        "hostnameOverride": NODE,
        "mode": "iptables",
        "nodePortAddresses": ["primary"],
        "clusterCIDR": PODS,
        "oomScoreAdj": 0,
        # These are settings of the whole machine; they stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def corefile(ttl_s: int) -> str:
    """The DNS server's configuration. It forwards nothing: a name that is not the cluster's does not exist."""
    return f""".:53 {{
    bind {DNS_ADDRESS}
    errors
    ready {DNS_ADDRESS}:8181
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        endpoint {API}
        kubeconfig {CONF}/dns.kubeconfig local
        pods insecure
        ttl {ttl_s}
    }}
    cache {ttl_s}
}}
"""


def kubeconfig(authority: bytes, certificate: bytes, key: bytes) -> dict[str, Any]:
    """A kubeconfig: the API server's address, its authority, and a certificate with its key."""

    def text(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    user = {"client-certificate-data": text(certificate), "client-key-data": text(key)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "local", "cluster": {"server": API, "certificate-authority-data": text(authority)}},
        ],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "user"}}],
        "current-context": "local",
    }


def write_certificates(folder: Path, conf: Path) -> None:
    """One authority for all, a second one for the API server's extensions, as Kubernetes asks for."""
    folder.mkdir(mode=0o700, parents=True)
    authority = Authority.make("kubernetes")
    write(folder / "ca.crt", authority.pem)
    write(folder / "ca.key", authority.key_pem)
    front = Authority.make("front-proxy-ca")
    write(folder / "front-ca.crt", front.pem)
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}")
    issued = {
        "apiserver": authority.issue([*service, API_SERVICE, NODE_ADDRESS], common_name="kube-apiserver"),
        "apiserver-kubelet": authority.issue([], common_name="apiserver-kubelet", organization="system:masters"),
        "kubelet-server": authority.issue([NODE, NODE_ADDRESS]),
        "front-proxy": front.issue([], common_name="front-proxy"),
        # Signs the tokens of service accounts; the certificate stands for the public key alone.
        "service-accounts": authority.issue([], common_name="service-accounts"),
    }
    for name, (certificate, key) in issued.items():
        write(folder / f"{name}.crt", certificate)
        write(folder / f"{name}.key", key)
    for name, (user, group) in USERS.items():
        certificate, key = authority.issue([], common_name=user, organization=group)
        document = kubeconfig(authority.pem, certificate, key)
        # The name is as good as a key's, so that only its owner may read it.
        path = conf / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(document))


def write_all(layout: Layout) -> None:
    """Writes everything for a new cluster below the folder ``state``."""
    conf = layout.state / "conf"
    (conf / "cni").mkdir(parents=True)
    write_certificates(layout.state / "pki", conf)
    (conf / "containerd.toml").write_text(CONTAINERD_TOML)
    (conf / "cni" / "10-pods.conflist").write_text(json.dumps(network()))
    (conf / "resolv.conf").write_text("")
    (conf / "kubelet.yaml").write_text(json.dumps(kubelet()))
    (conf / "proxy.yaml").write_text(json.dumps(proxy()))
    (conf / "Corefile").write_text(corefile(layout.dns_ttl_s))
