#!/usr/bin/env bash
# Makes the standard test image: a Debian root file system with python3, numpy, scipy, gcc and Open MPI in
# several layers, and the corner cases of image.py on top. Prints the layout's path.
#
#   standard-image.sh [DEST]
#
# DEST defaults to a cache folder and is made anew only when this script or image.py changed. Needs root
# (chroot, overlayfs); packages come through apt from where this machine gets its own.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${CORACLE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/coracle-test}
dest=${1:-$cache/standard-image}
stamp=$(cat "$here/standard-image.sh" "$here/image.py" | sha256sum | cut -d' ' -f1)

if [ "$(cat "$dest/stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "$dest"
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "make the standard test image: chroot and overlayfs need root; run scripts/standard-image.sh as root once" >&2
    exit 1
fi

# A second caller waits for the first instead of doing the same work.
mkdir -p "$(dirname "$dest")"
exec 9>"$dest.lock"
flock 9
if [ "$(cat "$dest/stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "$dest"
    exit 0
fi

work=$(mktemp -d "$dest.XXXXXX")
mounted=()
cleanup() {
    local at
    for ((at = ${#mounted[@]} - 1; at >= 0; at--)); do
        umount -l "${mounted[at]}" || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
log=$work/log
note() { echo "standard image: $*" >&2; }
quietly() { "$@" >>"$log" 2>&1 || { tail -n 40 "$log" >&2; note "failed: $*"; exit 1; }; }

# apt's own settings and Debian sources, so that a proxy or a mirror of this machine is used here too.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 TZ=UTC
apt-config dump --format '%F "%v";%n' Acquire | grep -E '^Acquire::(http|https|Retries|Check-)' >"$work/apt.conf" || true
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' |
    sed -n "s|^Packages Debian |deb [signed-by=$keyring] |p" | grep -E ' bookworm[^ ]* ' | sort -u >"$work/sources.list" || true
[ -s "$work/sources.list" ] || { note "no apt source of Debian bookworm is configured; run apt-get update"; exit 1; }

since=$(date +%s)
note "base system"
quietly mmdebstrap --mode=root --variant=minbase --format=directory --include=ca-certificates --aptopt="$work/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/doc/*/*.gz' bookworm "$work/base" "$work/sources.list"
# What tells of the machine it was made on, or of the time, goes.
tidy() {
    rm -rf "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/var/cache/ldconfig/aux-cache "$1"/var/cache/apt/*.bin \
        "$1"/var/lib/apt/lists/* "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old
}
tidy "$work/base"
: >"$work/base/etc/resolv.conf"
: >"$work/base/etc/apt/sources.list"
echo coracle >"$work/base/etc/hostname"

# layer NAME PACKAGE... : one overlayfs upper directory with these packages installed.
lower=$work/base
tars=()
open_layer() {
    mkdir -p "$work/$1/upper" "$work/$1/work" "$work/$1/root"
    mount -t overlay overlay "$work/$1/root" -o "lowerdir=$lower,upperdir=$work/$1/upper,workdir=$work/$1/work,redirect_dir=off,index=off,metacopy=off"
    mounted+=("$work/$1/root")
    root=$work/$1/root
}
close_layer() {
    tidy "$root"
    umount "$root"
    unset 'mounted[-1]'
    lower=$work/$1/upper:$lower
    pack "$1" "$work/$1/upper"
}
pack() {
    python3 "$here/image.py" layer --since "$since" "$2" "$work/$1.tar" &
    tars+=("$work/$1.tar")
}
packages_layer() {
    local name=$1
    shift
    note "layer $name: $*"
    open_layer "$name"
    mkdir -p "$work/$name/debs/partial"
    # The machine's apt downloads, by the layer's own record of what is installed; the chroot needs no network.
    quietly apt-get -y -o Dir::State::status="$root/var/lib/dpkg/status" -o Dir::Cache::archives="$work/$name/debs" \
        -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=0 -o Debug::NoLocking=1 install --download-only "$@"
    mount --bind "$work/$name/debs" "$root/mnt"
    mounted+=("$root/mnt")
    mount -t proc proc "$root/proc"
    mounted+=("$root/proc")
    quietly chroot "$root" sh -c 'apt-get -y -o APT::Install-Recommends=0 -o APT::Sandbox::User=root install /mnt/*.deb'
    umount "$root/proc" "$root/mnt"
    unset 'mounted[-1]' 'mounted[-1]'
    close_layer "$name"
}

pack base "$work/base"
packages_layer python python3 python3-numpy python3-scipy
packages_layer compilers gcc g++ gfortran
packages_layer mpi openmpi-bin libopenmpi-dev

note "layer changes: removals, a folder made anew, a changed program"
open_layer changes
rm -rf "$root"/usr/share/doc "$root"/usr/share/locale "$root"/usr/share/man/man3
mkdir "$root"/usr/share/doc
echo "The packages' documentation was removed from this image." >"$root/usr/share/doc/README"
rm -f "$root"/usr/share/info/dir "$root"/usr/bin/perror
cat >"$root/usr/local/bin/hello-mpi.c" <<'C'
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int rank, size, sum;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    printf("rank %d of %d, sum of ranks %d\n", rank, size, sum);
    MPI_Finalize();
    return 0;
}
C
chroot "$root" mpicc -O1 -o /usr/local/bin/hello-mpi /usr/local/bin/hello-mpi.c
close_layer changes

failed=0
for job in $(jobs -p); do wait "$job" || failed=1; done
[ "$failed" = 0 ] || { note "packing a layer failed"; exit 1; }
note "compressing"
python3 "$here/image.py" standard "$work/layout" "${tars[@]}"
echo "$stamp" >"$work/layout/stamp"
rm -rf "$dest"
mv "$work/layout" "$dest"
note "$(du -sh "$dest" | cut -f1) in $dest"
echo "$dest"
