"""Provisions claims: python -m tools.kubernetes.folders FOLDER KUBECONFIG.

Three classes, all bound at first use, as in a cloud: ``folders`` (the default) gives a claim a folder of this machine.
``memory`` and ``disks`` give it exactly the size that was asked for, so that a volume can be full: a tmpfs, and an ext4
file system in a file, whose writes go to the disk. It asks the API server again and again over one connection, and ends
with the cluster's namespaces.
"""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any, Protocol

DRIVER = "dougdb.test/folders"
CLASSES = ("folders", "memory", "disks")
SELECTED = "volume.kubernetes.io/selected-node"
PROVISIONED = "pv.kubernetes.io/provisioned-by"
VOLUMES = "/api/v1/persistentvolumes"
EVERY_S = 0.3


class ApiError(Exception):
    """The API server said no."""


class Caller(Protocol):
    """Who answers requests to the API server."""

    def call(self, method: str, path: str, document: Any = None) -> Any:
        """One request; what is answered."""


class Api:
    """The API server, by a kubeconfig that `tools.kubernetes.files` wrote."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        (cluster,), (user,) = document["clusters"], document["users"]
        url = urllib.parse.urlsplit(cluster["cluster"]["server"])
        authority = base64.b64decode(cluster["cluster"]["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        # A context takes its certificate from files only.
        with tempfile.NamedTemporaryFile() as file:
            for part in ("client-certificate-data", "client-key-data"):
                file.write(base64.b64decode(user["user"][part]))
            file.flush()
            context.load_cert_chain(file.name)
        assert url.hostname
        self._connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=10, context=context)

    def call(self, method: str, path: str, document: Any = None) -> Any:
        """One request; what is answered.

        Raises:
            ApiError: The answer is an error.
            OSError: Nobody answered.
        """
        body = None if document is None else json.dumps(document)
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            read = answer.read()
        except (OSError, http.client.HTTPException):
            # The next call connects again.
            self._connection.close()
            raise
        if answer.status >= 300:
            raise ApiError(f"{method} {path}: {answer.status} {read[:500]!r}")
        return json.loads(read)


def volume_for(claim: dict[str, Any], folder: Path, node: str) -> dict[str, Any]:
    """The volume that is bound to a claim."""
    about, asked = claim["metadata"], claim["spec"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pvc-{about['uid']}", "annotations": {PROVISIONED: DRIVER}},
        "spec": {
            "capacity": asked["resources"]["requests"],
            "accessModes": asked["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": asked["storageClassName"],
            "volumeMode": "Filesystem",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                **{name: about[name] for name in ("namespace", "name", "uid")},
            },
            "hostPath": {"path": str(folder), "type": "Directory"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


def size_of(quantity: str) -> int:
    """The bytes of a quantity with a binary unit, such as 100Mi."""
    for place, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1):
        if quantity.endswith(unit):
            return int(quantity.removesuffix(unit)) << (10 * place)
    return int(quantity)


def make(folder: Path, claim: dict[str, Any]) -> None:
    """The place of a claim. Any user may write in it, as long as the kubelet sets no group on a hostPath."""
    folder.mkdir(parents=True, exist_ok=True)
    size = size_of(claim["spec"]["resources"]["requests"]["storage"])
    if claim["spec"]["storageClassName"] == "memory":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    elif claim["spec"]["storageClassName"] == "disks" and not folder.is_mount():
        image = image_of(folder)
        with image.open("wb") as file:
            file.truncate(size)
        # No part is reserved for root. The file's blocks are taken when they are written.
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    folder.chmod(0o777)


def image_of(folder: Path) -> Path:
    """The file that holds a disk."""
    return folder.with_name(f"{folder.name}.img")


def remove(folder: Path) -> None:
    """Removes what ``make`` made."""
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    image_of(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def provision(api: Caller, root: Path) -> None:
    """Makes a volume for each claim that waits for one and has a node; removes those whose claims are gone."""
    claims = api.call("GET", "/api/v1/persistentvolumeclaims")["items"]
    volumes = {one["metadata"]["name"]: one for one in api.call("GET", VOLUMES)["items"]}
    for claim in claims:
        about, asked = claim["metadata"], claim["spec"]
        node = about.get("annotations", {}).get(SELECTED)
        waits = asked.get("storageClassName") in CLASSES and not asked.get("volumeName") and node
        if not waits or f"pvc-{about['uid']}" in volumes:
            continue
        folder = root / f"{about['namespace']}_{about['name']}_{about['uid']}"
        make(folder, claim)
        api.call("POST", VOLUMES, volume_for(claim, folder, node))
        print("made", folder.name, flush=True)
    for name, volume in volumes.items():
        ours = volume["metadata"].get("annotations", {}).get(PROVISIONED) == DRIVER
        if ours and volume.get("status", {}).get("phase") in ("Released", "Failed"):
            api.call("DELETE", f"{VOLUMES}/{name}")
            remove(Path(volume["spec"]["hostPath"]["path"]))
            print("removed", name, flush=True)


def main() -> None:
    """Goes on until it is killed."""
    root, api = Path(sys.argv[1]), Api(Path(sys.argv[2]))
    while True:
        try:
            provision(api, root)
        except (ApiError, OSError, http.client.HTTPException, subprocess.CalledProcessError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
