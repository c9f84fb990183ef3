#!/usr/bin/env bash
# Installs what building, testing or benchmarking needs and this machine lacks. Says nothing when there is
# nothing to do.
#
#   setup.sh demo|test|bench
set -euo pipefail

build=(gcc libc6-dev make)
demo=("${build[@]}" busybox-static python3)
tests=("${demo[@]}" acl apache2-utils attr bindfs binutils debian-archive-keyring docker-registry e2fsprogs faketime file fuse-overlayfs g++ hostname libarchive-tools
    libclang-dev libsquashfs-dev mmdebstrap openssl pkg-config podman shellcheck skopeo squashfs-tools squashfs-tools-ng umoci util-linux zstd)
# Programs that containers are started with by others, and readers of manual pages and completions.
tests+=(fish man-db mandoc runc zsh)
bench=("${tests[@]}" charliecloud fuse3 python3-lark python3-requests squashfuse)

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
fi
