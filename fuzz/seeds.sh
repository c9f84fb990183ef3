#!/bin/sh
# Makes the seeds that fuzzing starts from, below fuzz/corpus. One function per target.
# Needs mksquashfs and GNU tar; run it from anywhere.
set -eu
cd "$(dirname "$0")"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

# Small images with every kind of inode, in every compressor. Those with plain tables matter most: in them a flipped
# bit reaches the parser instead of failing in the codec.
squashfs_read() {
    out=$PWD/corpus/squashfs_read
    mkdir -p "$out" "$tree/dir/deeper" "$tree/empty"
    printf 'short' >"$tree/dir/short"
    : >"$tree/dir/nothing"
    seq 1 3000 >"$tree/dir/blocks"
    truncate -s 20000 "$tree/hole"
    ln -s dir/short "$tree/link"
    ln "$tree/dir/short" "$tree/dir/deeper/hard"
    mkfifo "$tree/fifo"
    if command -v setfattr >/dev/null; then
        setfattr -n user.name -v value "$tree/dir/short"
        setfattr -n user.name -v value "$tree/dir"
    fi
    make() {
        name=$1
        shift
        mksquashfs "$tree" "$out/$name" -noappend -no-progress -quiet -nopad -b 4096 -all-time 1 \
            -p 'null c 666 0 0 1 3' -p 'disk b 660 0 6 8 300' "$@" >/dev/null
    }
    for compressor in gzip lzo xz lz4 zstd; do
        make "$compressor" -comp "$compressor"
    done
    make plain-tables -noI -noX -noId
    make plain -noI -noX -noId -noD -noF
    make no-fragments -noI -no-fragments -no-exports
    i=0
    while [ $i -lt 700 ]; do
        : >"$tree/dir/deeper/an-entry-of-a-large-directory-$i"
        i=$((i + 1))
    done
    make large-directory -noI
}

# The same tree, without the large directory, in every dialect of tar.
tar_convert() {
    out=$PWD/corpus/tar_convert
    mkdir -p "$out"
    rm -rf "$tree/dir/deeper"
    long=$(printf '%0120d' 0)
    : >"$tree/dir/$long"
    ln -s "$long" "$tree/dir/to-long"
    for format in v7 ustar oldgnu gnu pax; do
        # v7 has neither long names nor pipes; what it can hold is a seed all the same.
        tar -C "$tree" --format="$format" --numeric-owner -cf "$out/$format" . 2>/dev/null || true
    done
    tar -C "$tree" --format=pax --xattrs -cf "$out/pax-xattrs" .
    for version in 0.0 0.1 1.0; do
        tar -C "$tree" --format=pax --sparse --sparse-version=$version -cf "$out/sparse-$version" .
    done
    tar -C "$tree" --format=gnu --sparse -cf "$out/sparse-gnu" .
    gzip -9nc "$out/gnu" >"$out/gnu.gz"
}

# A file with every field, in both forms, and one that leans on what only YAML has.
cdi_file() {
    out=$PWD/corpus/cdi_file
    mkdir -p "$out"
    cat >"$out/all.json" <<'END'
{"cdiVersion": "1.1.0", "kind": "vendor.com/thing.x", "annotations": {"a/b": "c"}, "containerEdits": {"env": ["A=1"]},
 "devices": [{"name": "0", "annotations": {}, "containerEdits": {
  "deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b", "type": "c", "major": 1, "minor": 2, "fileMode": 438,
   "permissions": "rw", "uid": 0, "gid": 0}],
  "netDevices": [{"hostInterfaceName": "a", "name": "b"}],
  "mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "tmpfs", "options": ["ro"]}],
  "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-ctk", "timeout": 1, "env": ["A=1"],
   "args": ["nvidia-ctk", "hook", "create-symlinks", "--link", "a::/b,c::/d"]}],
  "intelRdt": {"closID": "x", "schemata": ["a"], "enableMonitoring": true}, "additionalGids": [44]}}]}
END
    cat >"$out/all.yaml" <<'END'
---
cdiVersion: 0.5.0
kind: vendor.com/thing
devices:
- name: 0
  containerEdits: &edits
    deviceNodes: [{path: /dev/a, fileMode: 0666, permissions: "rw"}]
    hooks:
    - {hookName: createContainer, path: /x/nvidia-cdi-hook, args: [x, chmod, --mode=755, --path, /dev/dri]}
- name: one
  containerEdits: *edits
END
}

gpu_require() {
    out=$PWD/corpus/gpu_require
    mkdir -p "$out"
    printf 'cuda>=12.4 brand=tesla,driver>=470,driver<471 arch!=7.0,brand=geforce' >"$out/require"
    printf '0,GPU-8932f937,MIG-GPU-8932f937/1/0,0:1,2-5' >"$out/list"
}

squashfs_read
tar_convert
cdi_file
gpu_require
echo "seeds are in $PWD/corpus"
