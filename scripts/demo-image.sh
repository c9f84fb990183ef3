#!/usr/bin/env bash
# Makes a small OCI image, a static busybox in one layer, at DEST. Needs no network.
#
#   demo-image.sh DEST
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dest=${1:?usage: demo-image.sh DEST}
busybox=$(command -v busybox)
if ldd "$busybox" >/dev/null 2>&1; then
    echo "make the demo image: $busybox is not static; install busybox-static" >&2
    exit 1
fi
rm -rf "$dest"
exec python3 "$here/image.py" demo --busybox "$busybox" "$dest"
