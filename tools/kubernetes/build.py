"""Builds Kubernetes' programs, CoreDNS and a pause program from their Go modules. What is built already is kept.

So are the extras, without which a cluster runs too: if one cannot be had, its scenario is skipped.

Needs Go and its module proxy (GOPROXY). With nothing cached it takes 8.5 minutes on two cores where nobody else works,
18 where others do; most of them go to kube-apiserver and what it shares with the others. The extras take as long again
where others work.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tools.kubernetes.layout import Layout

GO = "1.24"
"""The lowest version of the language that the modules here are written in; their requirements may raise it."""
PROGRAMS = ("kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl")
APPS = (*(f"k8s.io/kubernetes/cmd/{name}/app" for name in PROGRAMS if name != "kubectl"), "k8s.io/kubectl/pkg/cmd")
EXTRAS = {"metrics-server": "0.8.0", "kube-network-policies": "0.8.0"}
"""The published modules ``sigs.k8s.io/NAME`` and their versions."""
GATEWAY = "1.4.1"
"""The version of sigs.k8s.io/gateway-api, whose module carries the definitions of its kinds."""
PLUGINS = ("bind", "cache", "errors", "health", "kubernetes", "log", "ready")
DNS_MAIN = """package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/core/dnsserver"
%s)

func main() { coremain.Run() }
"""
# The published program knows only the rights of a pod.
POLICIES_MAIN = """// Judges the first packet of each connection by the cluster's network policies: KUBECONFIG NODE.
package main

import (
	"context"
	"os"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		klog.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	known := informers.NewSharedInformerFactory(client, 0)
	core := known.Core().V1()
	controller, err := networkpolicy.NewController(
		client, known.Networking().V1().NetworkPolicies(), core.Namespaces(), core.Pods(), nil, nil, nil, nil,
		networkpolicy.Config{NodeName: os.Args[2]},
	)
	if err != nil {
		klog.Fatal(err)
	}
	ctx := context.Background()
	known.Start(ctx.Done())
	klog.Fatal(controller.Run(ctx))
}
"""
PAUSE_MAIN = """// Holds a pod's namespaces, and takes in orphans, until it is told to end.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ended := make(chan os.Signal, 8)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for one := range ended {
		if one != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
"""


def find_go() -> str | None:
    """The go program; the usual place is looked at when it is not in PATH."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def missing(layout: Layout) -> list[str]:
    """The programs that are not built yet."""
    return [name for name in (*PROGRAMS, "coredns", "pause") if not os.access(layout.bin / name, os.X_OK)]


def missing_extras(layout: Layout) -> list[str]:
    """The extras that are not built yet."""
    return [name for name in EXTRAS if not os.access(layout.bin / name, os.X_OK)]


class Builder:
    """Calls Go."""

    def __init__(self, layout: Layout, go: str) -> None:
        self._layout = layout
        self._go_program = go
        self._environment = {**os.environ, "CGO_ENABLED": "0"}

    def build(self) -> None:
        """Builds what is missing.

        Raises:
            subprocess.CalledProcessError: Go failed; it has said why.
        """
        wanted = missing(self._layout)
        self._layout.bin.mkdir(parents=True, exist_ok=True)
        if set(wanted) & set(PROGRAMS):
            self._kubernetes()
        for name in (name for name in PROGRAMS if name in wanted):
            self._program("kube", name, f"k8s.io/kubernetes/cmd/{name}", self._stamp())
        if "coredns" in wanted:
            self._coredns()
            self._program("dns", "coredns", ".", "")
        if "pause" in wanted:
            self._module("pause", "", {"main.go": PAUSE_MAIN})
            self._program("pause", "pause", ".", "")

    def build_extras(self) -> None:
        """Builds what is missing of the extras, and says which cannot be built."""
        for name in missing_extras(self._layout):
            try:
                self._extra(name)
            except subprocess.CalledProcessError as error:
                print(f"kubernetes: {name} cannot be built, its scenarios are skipped: {error}", file=sys.stderr)
        try:
            self._definitions()
        except subprocess.CalledProcessError as error:
            print(f"kubernetes: no Gateway API, its scenarios are skipped: {error}", file=sys.stderr)

    def _go(self, folder: Path, *words: str) -> str:
        # Other work on this machine has priority.
        command = ["nice", "-n", "19", self._go_program, *words]
        run = subprocess.run(command, cwd=folder, env=self._environment, stdout=subprocess.PIPE, text=True, check=True)
        return run.stdout

    def _module(self, name: str, requirements: str, files: dict[str, str]) -> Path:
        folder = self._layout.sources / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "go.mod").write_text(f"module {name}\ngo {GO}\n{requirements}")
        for path, text in files.items():
            (folder / path).write_text(text)
        return folder

    def _program(self, module: str, name: str, package: str, stamp: str) -> None:
        began_s = time.monotonic()
        print(f"kubernetes: building {name}", file=sys.stderr, flush=True)
        # A build that is interrupted leaves no program.
        made = self._layout.bin / f".{name}.new"
        flags = f"-s -w {stamp}"
        self._go(self._layout.sources / module, "build", "-trimpath", "-ldflags", flags, "-o", str(made), package)
        made.replace(self._layout.bin / name)
        print(f"kubernetes: built {name} in {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)

    def _staging(self) -> str:
        """Replacements of Kubernetes' staging folders.

        The published module points at folders that only its own checkout has; each is published as a module too.
        """
        module = f"k8s.io/kubernetes@v{self._layout.version}"
        told = json.loads(self._go(self._layout.sources, "mod", "download", "-json", module))
        names = re.findall(r"^(?:replace)?\s*(k8s\.io/[a-z-]+) => \./staging/", Path(told["GoMod"]).read_text(), re.M)
        staged = f"v0{self._layout.version[1:]}"
        return "".join(f"replace {name} => {name} {staged}\n" for name in sorted(set(names)))

    def _kubernetes(self) -> None:
        self._layout.sources.mkdir(parents=True, exist_ok=True)
        imports = "".join(f'\t_ "{name}"\n' for name in APPS)
        requirements = f"require k8s.io/kubernetes v{self._layout.version}\n{self._staging()}"
        folder = self._module("kube", requirements, {"programs.go": f"package kube\n\nimport (\n{imports})\n"})
        self._go(folder, "mod", "tidy")

    def _coredns(self) -> None:
        self._layout.sources.mkdir(parents=True, exist_ok=True)
        plugins = "".join(f'\t_ "github.com/coredns/coredns/plugin/{name}"\n' for name in PLUGINS)
        requirements = f"require github.com/coredns/coredns v{self._layout.dns_version}\n{self._staging()}"
        folder = self._module("dns", requirements, {"main.go": DNS_MAIN % plugins})
        self._go(folder, "mod", "tidy")

    def _extra(self, name: str) -> None:
        self._layout.sources.mkdir(parents=True, exist_ok=True)
        module = f"sigs.k8s.io/{name}"
        if name == "metrics-server":
            package = f"{module}/cmd/metrics-server"
            files = {"programs.go": f'package metrics\n\nimport _ "{package}/app"\n'}
        else:
            package, files = ".", {"main.go": POLICIES_MAIN}
        # With the versions of Kubernetes' own modules most of it is compiled already.
        folder = self._module(name, f"require {module} v{EXTRAS[name]}\n{self._staging()}", files)
        self._go(folder, "mod", "tidy")
        self._program(name, name, package, "")

    def _definitions(self) -> None:
        """Copies the definitions of the Gateway API's kinds out of its module, which the cluster is given on demand."""
        if self._layout.definitions.is_dir():
            return
        self._layout.sources.mkdir(parents=True, exist_ok=True)
        told = self._go(self._layout.sources, "mod", "download", "-json", f"sigs.k8s.io/gateway-api@v{GATEWAY}")
        made = self._layout.definitions.with_suffix(".new")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        for path in Path(json.loads(told)["Dir"], "config", "crd", "standard").glob("*.yaml"):
            (made / path.name).write_bytes(path.read_bytes())
        made.replace(self._layout.definitions)

    def _stamp(self) -> str:
        """The version of the programs, which the API server compares and users read."""
        values = {
            "gitVersion": f"v{self._layout.version}",
            "gitMajor": "1",
            "gitMinor": str(self._layout.minor),
            "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z",
        }
        packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        return " ".join(f"-X {package}.{name}={value}" for package in packages for name, value in values.items())
