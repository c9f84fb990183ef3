#!/usr/bin/env bash
# Builds `coracle` as one statically linked file, for copying to any machine, and checks that it is one. With --path,
# only says where the file is.
set -euo pipefail
cd "$(dirname "$0")/.."
# With --target given, the flags do not reach build scripts and procedural macros, which cannot be static.
triple=$(rustc -vV | sed -n 's/^host: //p')
file=${CARGO_TARGET_DIR:-target}/$triple/release/coracle
if [ "${1:-}" = --path ]; then
    echo "$file"
    exit
fi
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" cargo build --release --locked -p coracle --target "$triple"
if readelf -d "$file" | grep -q NEEDED || readelf -l "$file" | grep -q INTERP; then
    echo "link $file statically: it still names a loader or a library" >&2
    readelf -d "$file" >&2
    exit 1
fi
echo "$file: static, $(stat -c %s "$file") bytes"
