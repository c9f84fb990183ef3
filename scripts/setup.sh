#!/usr/bin/env bash
# Installs what building, testing or benchmarking needs and this machine lacks. Says nothing when there is
# nothing to do.
#
#   setup.sh demo|test|bench
set -euo pipefail

build=(gcc libc6-dev make)
demo=("${build[@]}" busybox-static python3)
tests=("${demo[@]}" acl apache2-utils attr bindfs binutils createrepo-c debian-archive-keyring dnf docker-registry e2fsprogs faketime file
    fuse-overlayfs fuse3 g++ hostname libarchive-tools libcap2-bin libclang-dev libsquashfs-dev mmdebstrap openssl pkg-config podman python3-pip
    rpm shellcheck skopeo squashfs-tools squashfs-tools-ng squashfuse uidmap umoci util-linux zstd)
# Programs that containers are started with by others, and readers of manual pages and completions.
tests+=(fish man-db mandoc runc zsh)
# MPIs that stand beside each other, and a scheduler that starts their ranks.
tests+=(iproute2 libmpich-dev libopenmpi-dev libpmix2 mpich munge musl-tools openmpi-bin python3-venv slurm-wlm)
bench=("${tests[@]}" charliecloud python3-lark python3-requests)

case ${1:-} in
    demo) wanted=("${demo[@]}") ;;
    test) wanted=("${tests[@]}") ;;
    bench) wanted=("${bench[@]}") ;;
    *)
        echo "usage: setup.sh demo|test|bench" >&2
        exit 2
        ;;
esac

# Some packages are provided by others of another name or split differently between releases, so a tool that
# is already there counts too.
missing=()
for package in "${wanted[@]}"; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) in
        installed) ;;
        *) missing+=("$package") ;;
    esac
done

if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        echo "install ${missing[*]}: needs root; run: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "installing: ${missing[*]}"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # One source out of order must not stop what the others have, so the install decides.
    "${as_root[@]}" apt-get -q update >"$log" 2>&1 || true
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "${missing[@]}" >>"$log" 2>&1; then
        tail -n 30 "$log" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "find cargo: there is no Rust toolchain on PATH; install Rust 1.88 or newer with rustup" >&2
    exit 1
fi

if [ "$(id -u)" = 0 ]; then
    # Distributions make the device world-accessible by a udev rule; a machine without udev does not.
    if [ -c /dev/fuse ] && [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        chmod 0666 /dev/fuse
    fi
    # A system user gets no subordinate ids: that is the point of the launches made as this user.
    if ! getent passwd coracle-test >/dev/null; then
        useradd --system --create-home --home-dir /var/lib/coracle-test --shell /bin/bash coracle-test
    fi
    # And one who has them, with a group that it may map as it is and one that it may not.
    if ! getent passwd coracle-subid >/dev/null; then
        useradd --system --create-home --home-dir /var/lib/coracle-subid --shell /bin/bash coracle-subid
    fi
    for group in coracle-granted coracle-refused; do
        getent group "$group" >/dev/null || groupadd --system "$group"
    done
    grep -qs '^coracle-subid:' /etc/subuid || echo coracle-subid:1000000:65536 >>/etc/subuid
    grep -qs '^coracle-subid:' /etc/subgid || echo coracle-subid:1000000:65536 >>/etc/subgid
    granted=$(getent group coracle-granted | cut -d: -f3)
    grep -qsx "coracle-subid:$granted:1" /etc/subgid || echo "coracle-subid:$granted:1" >>/etc/subgid
fi
