#!/bin/sh
# Makes a local stand-in for the official slim Python image, for machines that reach Debian's packages but no registry
# of images. It needs root, podman, debootstrap and a python3.11. Nothing is done when the image is there.
set -eu
# podman's defaults fail on cgroup v1 without the right to raise limits.
if [ -d /sys/fs/cgroup ] && [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
    export CONTAINERS_CONF="${CONTAINERS_CONF:-$(dirname "$0")/containers.conf}"
fi
tag=localhost/python:3.11-slim-bookworm
if podman image exists "$tag"; then exit 0; fi
python=$(command -v python3.11) || { echo "base.sh: there is no python3.11" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
packages=ca-certificates,netbase,tzdata,libexpat1,libsqlite3-0,libffi8,libbz2-1.0,liblzma5,libreadline8,zlib1g,libssl3,libncursesw6
debootstrap --variant=minbase --include="$packages" bookworm "$work/image" >"$work/log" 2>&1 || {
    tail "$work/log" >&2
    exit 1
}
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
tar -C "$prefix" --exclude='*/test' --exclude=__pycache__ --exclude='*.a' --exclude='site-packages/*' -cf - \
    bin/python3.11 lib/python3.11 lib/libpython3.11.so.1.0 include | tar -C "$work/image/usr/local" -xf -
ln -sf python3.11 "$work/image/usr/local/bin/python3"
ln -sf python3.11 "$work/image/usr/local/bin/python"
# The host's authorities, for a proxy between it and the package index that has one of its own.
cp "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$work/image/etc/ssl/certs/ca-certificates.crt"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/image/etc/pip.conf"
chroot "$work/image" ldconfig
chroot "$work/image" /usr/local/bin/python -m ensurepip >/dev/null 2>&1
ln -sf pip3.11 "$work/image/usr/local/bin/pip"
# As in the official image there is no bytecode, and no setuptools, which nothing here needs.
chroot "$work/image" /usr/local/bin/pip uninstall --quiet --yes --root-user-action=ignore setuptools
find "$work/image/usr/local/lib" -name __pycache__ -type d -prune -exec rm -rf {} +
rm -rf "$work"/image/var/cache/apt/archives/*.deb "$work"/image/var/lib/apt/lists/* "$work"/image/usr/share/doc/* \
    "$work"/image/usr/share/man/* "$work"/image/usr/share/locale/*
tar -C "$work/image" -c . | podman import -q \
    --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$tag"
