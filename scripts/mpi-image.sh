#!/usr/bin/env bash
# Makes a squashfs image of a program and what it needs of this machine: its libraries, directories that they load more from,
# a shell, and the loader's cache.
#
#   mpi-image.sh IMAGE COMPILER SOURCE [DIRECTORY]...
#
# The program, /usr/bin/mpi-hello, is compiled from SOURCE. DIRECTORY, called lib, becomes a place where the loader looks.
set -euo pipefail

image=$1 compiler=$2 source=$3
shift 3
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 755 "$root"
mkdir -p "$root"/{dev,etc,proc,sys,tmp} "$root"/usr/{bin,lib,lib64}
ln -s usr/bin usr/lib usr/lib64 "$root"

# Libraries of a program or library, each where its directory really is.
libraries() {
    local path place
    while read -r path; do
        place=$root$(readlink -f "$(dirname "$path")")
        mkdir -p "$place"
        [ -e "$place/$(basename "$path")" ] || cp -L "$path" "$place/"
    done < <({ ldd "$1" 2>/dev/null || true; } | grep -o '/[^ ]*')
}

"$compiler" -O1 -o "$root/usr/bin/mpi-hello" "$source"
cp /usr/bin/dash "$root/usr/bin/sh"
cp /usr/bin/id "$root/usr/bin/id"
for program in mpi-hello sh id; do
    libraries "$root/usr/bin/$program"
done
for directory in "$@"; do
    mkdir -p "$root$directory"
    cp -a "$directory/." "$root$directory"
    case $directory in
        */lib) echo "$directory" >>"$root/etc/ld.so.conf" ;;
    esac
    while read -r library; do
        libraries "$library"
    done < <(find "$directory" -name '*.so*' -type f)
done
loader=$(readlink -f "/lib64/ld-linux-x86-64.so.2")
cp "$loader" "$root/usr/lib64/ld-linux-x86-64.so.2"
touch "$root/etc/ld.so.conf"
/sbin/ldconfig -r "$root"
rm -f "$image"
mksquashfs "$root" "$image" -quiet -no-progress -all-root >/dev/null
chmod 644 "$image"
