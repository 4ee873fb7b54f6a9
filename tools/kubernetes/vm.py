"""Tries the one-node Kubernetes on cgroup v2, on a machine that may have v1: python -m tools.kubernetes.vm [PYTEST].

A virtual machine of QEMU starts Debian's kernel, and systemd as its first process, which mounts cgroup v2 alone. Its
files are this machine's, which are read and not changed: what is written goes to a disk that is deleted afterwards. So
whatever is installed here is there, and nothing else; there is no network. Kubernetes and the images lie on the disk
from the start: much of them is read, and through the other machine it takes longer. In it runs
``tools.kubernetes.trial``, whose exit code is the result. Where this is not possible it prints why and passes, or fails
with REQUIRE_KUBERNETES set. The kernel is downloaded once, and not installed. Its messages and the logs of the cluster
are kept beside it.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from tools.kubernetes import build, machine
from tools.kubernetes.__main__ import IMAGES, IMAGES_FOLDER, prepare_engine, save_images, say
from tools.kubernetes.layout import Layout

KERNEL = "linux-image-amd64"
NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "modprobe": "kmod",
    "mkfs.ext4": "e2fsprogs",
    "systemctl": "systemd",
    "apt-get": "apt",
}
"""The programs, and Debian's package of each."""
MODULES = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "crc32c_generic", "ext4", "overlay")
"""What the kernel needs before it has its files."""
PLACE = Path("/disk/kubernetes")
"""Where the machine has Kubernetes, the images, and what the cluster writes."""
MEMORY = "6G"
DISK_BYTES = 32 << 30
"""The most that the disk can hold; of the file only what is written is there."""
ENDS_S = 3600
"""By then the machine ends the trial, and itself, whatever became of its caller."""
KILLED_S = 120
"""So much later it is killed."""
PATIENCE = 10
"""How many times longer the limits of time are where the processor does not help."""
SMALL = (
    *("shards=1", "raft.replicas=3", "facade.replicas=1"),
    *("raft.electionTimeoutMs=10000", "raft.electionTimeoutMaxMs=20000", "raft.heartbeatMs=1000"),
)
"""The chart's values, unless HELM_ARGS are given: few programs, and elections that a slow machine does not start."""
INIT = """#!/bin/busybox sh
# Puts the disk above the other machine's files, and leaves its place to systemd.
/bin/busybox --install -s /bin
mkdir -p /proc /host /disk /new
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in /modules/*; do insmod $module; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
mount -t ext4 /dev/vda /disk
mkdir /disk/upper /disk/work
mount -t overlay -o lowerdir=/host,upperdir=/disk/upper,workdir=/disk/work root /new
mkdir -p /new/disk /new/result /new/usr/lib/modules
mount --move /disk /new/disk
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 result /new/result
ln -s {modules} /new/usr/lib/modules
cp /new/result/trial.service /new/etc/systemd/system
umount /proc
exec switch_root /new /lib/systemd/systemd --unit=trial.service
"""
UNIT = f"""# All that systemd starts: none of this machine's own services.
[Unit]
DefaultDependencies=no
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate
[Service]
Type=oneshot
TimeoutStartSec={ENDS_S}
ExecStart=/bin/sh /result/trial.sh
ExecStopPost=/bin/sh -c 'cp {PLACE}/*/logs/*.log /result/logs; dmesg >/result/logs/kernel.log'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""


def unfit(layout: Layout) -> str:
    """Why it cannot be tried here; empty when it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it starts a kernel for x86_64 on Linux, this is {sys.platform} on {platform.machine()}"
    if os.geteuid():
        return "the files of this machine are read as root"
    packages = sorted({package for name, package in NEEDED.items() if shutil.which(name, path=machine.PATH) is None})
    if packages:
        return f"programs are missing (Debian: {' '.join(packages)})"
    if build.missing(layout) and build.find_go() is None:
        return f"Kubernetes is not built in {layout.bin}, and there is no Go to build it with"
    return ""


def make_kernel(folder: Path) -> None:
    """Downloads the kernel with its modules, and makes the file system that it begins with."""
    about = subprocess.run(["apt-cache", "show", KERNEL], capture_output=True, text=True, check=True).stdout
    package = re.search(r"^Depends: linux-image-(\S+)", about, re.M)
    assert package, about
    release = package[1]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # apt's own user may not write here.
    fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", f"linux-image-{release}", "busybox-static"]
    subprocess.run(fetch, cwd=folder, check=True)
    for path in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(path), str(folder)], check=True)
        path.unlink()
    subprocess.run(["depmod", "--basedir", str(folder), release], check=True)
    begin = folder / "begin"
    (begin / "modules").mkdir(parents=True)
    find = ["modprobe", "--dirname", str(folder), "--set-version", release, "--show-depends", "--all", *MODULES]
    found = subprocess.run(find, capture_output=True, text=True, check=True).stdout
    for number, path_found in enumerate(dict.fromkeys(re.findall(r"^insmod (\S+)", found, re.M))):
        shutil.copy(path_found, begin / "modules" / f"{number:02}-{Path(path_found).name}")
    (begin / "bin").mkdir()
    shutil.copy(folder / "bin" / "busybox", begin / "bin")
    (begin / "init").write_text(INIT.format(modules=folder / "lib" / "modules" / release))
    (begin / "init").chmod(0o755)
    # The last step: a download that was interrupted begins anew.
    pack = "find . | bin/busybox cpio --quiet -o -H newc >../begin.cpio.new && mv ../begin.cpio.new ../begin.cpio"
    subprocess.run(["sh", "-c", pack], cwd=begin, check=True)


def is_helped(about: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")) -> bool:
    """Whether the processor runs the machine. Otherwise QEMU computes all, some twenty times slower."""
    return device.exists() and bool(re.search(r"^flags\s*:.* (vmx|svm)\b", about.read_text(), re.M))


def command(kernel: Path, disk: Path, result: Path) -> list[str]:
    """The command line of the machine."""
    (image,) = (kernel / "boot").glob("vmlinuz-*")
    shared = "security_model=none,multidevs=remap"
    # On a busy machine the timer's ticks come so late that the kernel would take them for missing.
    begins = "console=ttyS0 quiet panic=-1 no_timer_check"
    return [
        *("qemu-system-x86_64", "-accel", "kvm" if is_helped() else "tcg,thread=multi"),
        *("-cpu", "max", "-smp", str(os.cpu_count()), "-m", MEMORY),
        *("-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot", "-nic", "none"),
        *("-kernel", str(image), "-initrd", str(kernel / "begin.cpio"), "-append", begins),
        *("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"),
        *("-virtfs", f"local,path=/,mount_tag=host,readonly=on,{shared}"),
        *("-virtfs", f"local,path={result},mount_tag=result,{shared}"),
    ]


def script(layout: Layout, words: list[str]) -> str:
    """What the unit runs: the trial, with the programs of this machine and a place for what it writes."""
    small = " ".join(f"--set={value}" for value in SMALL)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(Path.home()),
        "HELM_ARGS": os.environ.get("HELM_ARGS", small),
        "DOUGDB_KUBERNETES": str(PLACE),
        "KUBERNETES_VERSION": layout.version,
        IMAGES_FOLDER: str(PLACE / "images"),
        "DOUGDB_PATIENCE": str(1 if is_helped() else PATIENCE),
        "REQUIRE_KUBERNETES": "1",
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    return (
        f"{exports}cd {shlex.quote(str(machine.ROOT))}\n"
        f"{shlex.join([sys.executable, '-m', 'tools.kubernetes.trial', *words])}\n"
        "echo $? >/result/code\n"
    )


def make_disk(layout: Layout, disk: Path, content: Path) -> None:
    """Makes the disk, with the programs and the images on it."""
    images = content / PLACE.name / "images"
    images.mkdir(parents=True)
    if made := os.environ.get(IMAGES_FOLDER):
        for name in IMAGES:
            shutil.copy(Path(made, f"{name}.tar"), images)
    else:
        save_images(images)
    shutil.copytree(layout.bin, content / PLACE.name / layout.version / "bin", copy_function=os.link)
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(content), str(disk)], check=True)
    shutil.rmtree(content)


def run(layout: Layout, words: list[str]) -> int:
    """Makes what the machine needs, starts it, and waits until it has ended; the exit code of the trial.

    Raises:
        Unfit: The kernel cannot be downloaded, or the images cannot be built.
        SubprocessError: The machine did not start, or had to be killed.
    """
    kernel = layout.root.parent / "vm"
    if not (kernel / "begin.cpio").exists():
        try:
            make_kernel(kernel)
        except subprocess.CalledProcessError as error:
            raise machine.Unfit(f"Debian's kernel cannot be had: {error}") from error
    with tempfile.TemporaryDirectory(dir=layout.root.parent) as folder:
        result, disk = Path(folder, "result"), Path(folder, "disk")
        (result / "logs").mkdir(parents=True)
        (result / "trial.service").write_text(UNIT)
        (result / "trial.sh").write_text(script(layout, words))
        make_disk(layout, disk, Path(folder, "content"))
        # On a time-out and on every other error it is killed.
        starts = command(kernel, disk, result)
        try:
            subprocess.run(starts, stdin=subprocess.DEVNULL, timeout=ENDS_S + KILLED_S, check=True)
        finally:
            shutil.rmtree(kernel / "logs", ignore_errors=True)
            (result / "logs").rename(kernel / "logs")
            say(f"its logs are in {kernel / 'logs'}")
        if not (result / "code").exists():
            say("the machine has ended before the trial")
            return 1
        return int((result / "code").read_text())


def main() -> int:
    """Runs the command line."""

    def ended(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # The machine ends with its caller.
    signal.signal(signal.SIGTERM, ended)
    layout = Layout.of()
    prepare_engine()
    try:
        if reason := unfit(layout):
            raise machine.Unfit(reason)
        machine.build_missing(layout)
        return run(layout, sys.argv[1:])
    except machine.Unfit as why:
        say(f"skipped: {why}")
        return 1 if os.environ.get("REQUIRE_KUBERNETES") else 0
    except subprocess.SubprocessError as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
