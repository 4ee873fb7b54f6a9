"""Tries the one-node Kubernetes on cgroup v2, on a machine that may have v1: python -m tools.kubernetes.vm [PYTEST].

A virtual machine of QEMU starts Debian's kernel, and systemd as its first process, which mounts cgroup v2 alone. Its
files are this machine's, which are read and not changed: what is written goes to a disk that is deleted afterwards. So
whatever is installed and built here is there, and nothing else; there is no network. In it runs
``tools.kubernetes.trial``, whose exit code is the result. Where this is not possible it prints why and passes, or fails
with REQUIRE_KUBERNETES set. The kernel is downloaded once, and not installed.
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
from tools.kubernetes.__main__ import IMAGES_FOLDER, prepare_engine, save_images, say
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
MEMORY = "6G"
DISK_BYTES = 32 << 30
"""The most that the disk can hold; of the file only what is written is there."""
ENDS_S = 3600
"""By then the machine ends the trial, and itself, whatever became of its caller."""
KILLED_S = 120
"""So much later it is killed."""
INIT = """#!/bin/busybox sh
# Puts the disk above the other machine's files, and leaves its place to systemd.
/bin/busybox --install -s /bin
mkdir -p /dev /proc /host /disk /new
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


def command(kernel: Path, disk: Path, result: Path) -> list[str]:
    """The command line of the machine. Where the processor cannot help, QEMU computes all, some twenty times slower."""
    (image,) = (kernel / "boot").glob("vmlinuz-*")
    helps = re.search(r"^flags\s*:.* (vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.M)
    shared = "security_model=none,multidevs=remap"
    # On a busy machine the timer's ticks come so late that the kernel would take them for missing.
    begins = "console=ttyS0 quiet panic=-1 no_timer_check"
    return [
        *("qemu-system-x86_64", "-accel", "kvm" if helps and Path("/dev/kvm").exists() else "tcg,thread=multi"),
        *("-cpu", "max", "-smp", str(os.cpu_count()), "-m", MEMORY),
        *("-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot", "-nic", "none"),
        *("-kernel", str(image), "-initrd", str(kernel / "begin.cpio"), "-append", begins),
        *("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"),
        *("-virtfs", f"local,path=/,mount_tag=host,readonly=on,{shared}"),
        *("-virtfs", f"local,path={result},mount_tag=result,{shared}"),
    ]


def script(layout: Layout, images: Path, words: list[str]) -> str:
    """What the unit runs: the trial, with the programs of this machine and a place for what it writes."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(Path.home()),
        "HELM_ARGS": os.environ.get("HELM_ARGS", ""),
        "DOUGDB_KUBERNETES": "/disk/kubernetes",
        "KUBERNETES_VERSION": layout.version,
        IMAGES_FOLDER: str(images),
        "REQUIRE_KUBERNETES": "1",
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    kept = f"/disk/kubernetes/{layout.version}"
    return (
        f"{exports}cd {shlex.quote(str(machine.ROOT))}\n"
        f"mkdir -p {kept}\n"
        f"ln -s {shlex.quote(str(layout.bin))} {kept}/bin\n"
        f"{shlex.join([sys.executable, '-m', 'tools.kubernetes.trial', *words])}\n"
        "echo $? >/result/code\n"
    )


def run(layout: Layout, words: list[str]) -> int:
    """Makes what the machine needs, starts it, and waits until it has ended; the exit code of the trial."""
    kernel = layout.root.parent / "vm"
    if not (kernel / "begin.cpio").exists():
        make_kernel(kernel)
    with tempfile.TemporaryDirectory(dir=layout.root.parent) as folder:
        result, disk = Path(folder, "result"), Path(folder, "disk")
        result.mkdir()
        images = Path(os.environ.get(IMAGES_FOLDER) or folder).absolute()
        if images == Path(folder):
            save_images(images)
        (result / "trial.service").write_text(UNIT)
        (result / "trial.sh").write_text(script(layout, images, words))
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
        # On a time-out and on every other error it is killed.
        starts = command(kernel, disk, result)
        subprocess.run(starts, stdin=subprocess.DEVNULL, timeout=ENDS_S + KILLED_S, check=True)
        try:
            return int((result / "code").read_text())
        except FileNotFoundError:
            say("the machine has ended before the trial")
            return 1


def main() -> int:
    """Runs the command line."""

    def ended(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # The machine ends with its caller.
    signal.signal(signal.SIGTERM, ended)
    layout = Layout.of()
    if reason := unfit(layout):
        say(f"skipped: {reason}")
        return 1 if os.environ.get("REQUIRE_KUBERNETES") else 0
    prepare_engine()
    try:
        machine.build_missing(layout)
        return run(layout, sys.argv[1:])
    except (machine.Unfit, subprocess.SubprocessError) as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
