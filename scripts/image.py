#!/usr/bin/env python3
"""Makes OCI images for demos, tests and benchmarks out of directories and of made-up entries.

Standard library only. Layers are deterministic: entries sorted by the caller or by name, no host names or
user names, gzip headers without time. `image.py --help` lists the commands; `standard-image.sh` and
`demo-image.sh` call them.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

EPOCH = 1735689600  # 2025-01-01: what is newer than the build's start was made by the build itself
XATTRS_OF_OVERLAYFS = ("trusted.overlay.", "user.overlay.")
MEDIA = "application/vnd.oci.image."
LAYER_MEDIA = {"gzip": "layer.v1.tar+gzip", "zstd": "layer.v1.tar+zstd", "none": "layer.v1.tar"}


class LayerTar:
    """Writes one uncompressed layer."""

    def __init__(self, path):
        self.file = open(path, "wb")
        self.tar = tarfile.open(
            fileobj=self.file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tar.close()
        self.file.close()

    def add(self, name, kind=tarfile.REGTYPE, data=b"", mode=0o644, owner=(0, 0), mtime=EPOCH, link="", device=(0, 0), xattrs=None):
        info = tarfile.TarInfo(os.fsdecode(name))
        info.type, info.mode, info.mtime, info.linkname = kind, mode, mtime, os.fsdecode(link)
        info.uid, info.gid = owner
        info.devmajor, info.devminor = device
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        self.set_xattrs(info, xattrs or {})
        self.tar.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)

    def directory(self, name, mode=0o755, **more):
        self.add(name, tarfile.DIRTYPE, mode=mode, **more)

    def symlink(self, name, target, **more):
        self.add(name, tarfile.SYMTYPE, mode=0o777, link=target, **more)

    def hardlink(self, name, target):
        self.add(name, tarfile.LNKTYPE, link=target)

    def whiteout(self, name):
        parent, leaf = os.path.split(name)
        self.add(os.path.join(parent, ".wh." + leaf))

    def opaque(self, directory):
        self.add(os.path.join(directory, ".wh..wh..opq"))

    @staticmethod
    def set_xattrs(info, xattrs):
        # The values are bytes; tarfile encodes header values with surrogateescape when it must, which
        # also makes it announce hdrcharset=BINARY, as the format demands.
        for name, value in sorted(xattrs.items()):
            info.pax_headers["SCHILY.xattr." + name] = value.decode("utf-8", "surrogateescape")

    def sparse(self, name, size, pieces):
        """A sparse file in PAX format 1.0: the map stands in front of the data."""
        table = [str(len(pieces) + 1)]
        for offset, data in pieces:
            table += [str(offset), str(len(data))]
        table += [str(size), "0"]
        header = ("\n".join(table) + "\n").encode()
        header += b"\0" * (-len(header) % 512)
        body = header + b"".join(data for _, data in pieces)
        info = tarfile.TarInfo(os.path.join(os.path.dirname(name), "GNUSparseFile.0", os.path.basename(name)))
        info.mode, info.mtime, info.size = 0o644, EPOCH, len(body)
        info.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": str(size),
        }
        self.tar.addfile(info, io.BytesIO(body))

    def old_gnu_sparse(self, name, size, pieces):
        """A sparse file as GNU tar writes it by default: type S, the map inside the header (4 pieces at most)."""
        body = b"".join(data for _, data in pieces)
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.size = b"S", 0o644, EPOCH, len(body)
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        at = 386
        for offset, data in pieces + [(size, b"")]:
            header[at:at + 24] = b"%011o\0%011o\0" % (offset, len(data))
            at += 24
        header[483:495] = b"%011o\0" % size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        self.tar.fileobj.write(header + body + b"\0" * (-len(body) % 512))
        self.tar.offset += len(header) + len(body) + (-len(body) % 512)

    def tree(self, root, since, skip=()):
        """Everything below `root`. An overlayfs upper directory's marks become white-outs and opaque marks."""
        seen = {}
        for directory, folders, files in os.walk(os.fsencode(root)):
            folders.sort()
            below = os.path.relpath(directory, os.fsencode(root))
            below = b"" if below == b"." else below
            if below:
                self.from_disk(directory, below, seen, since)
            if self.is_opaque(directory):
                self.opaque(os.fsdecode(below))
            links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
            for name in sorted(files + links):
                path = os.path.join(below, name)
                if path not in skip:
                    self.from_disk(os.path.join(directory, name), path, seen, since)
            folders[:] = [name for name in folders if os.path.join(below, name) not in skip]

    @staticmethod
    def is_opaque(directory):
        try:
            return os.getxattr(directory, "trusted.overlay.opaque") == b"y"
        except OSError:
            return False

    def from_disk(self, source, name, seen, since):
        status = os.lstat(source)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            self.whiteout(os.fsdecode(name))
            return
        info = self.tar.gettarinfo(os.fsdecode(source), os.fsdecode(name))
        if info is None:  # a socket: no layer can hold one
            return
        info.uname = info.gname = ""
        info.mtime = EPOCH if status.st_mtime >= since else int(status.st_mtime)
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            # Our own memory of inodes: tarfile's knows regular files alone.
            first = seen.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, os.fsdecode(first), 0
                self.tar.addfile(info)
                return
            if info.type == tarfile.LNKTYPE:
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", status.st_size
        if not stat.S_ISLNK(status.st_mode):
            names = [n for n in os.listxattr(source) if not n.startswith(XATTRS_OF_OVERLAYFS)]
            self.set_xattrs(info, {n: os.getxattr(source, n) for n in names})
        if info.type == tarfile.REGTYPE:
            with open(source, "rb") as content:
                self.tar.addfile(info, content)
        else:
            self.tar.addfile(info)


class Layout:
    """An OCI image layout directory under construction."""

    def __init__(self, path):
        self.path = Path(path)
        self.manifests = []
        (self.path / "blobs/sha256").mkdir(parents=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": "sha256:" + digest, "size": len(data)}

    def layer(self, tar, compression):
        """Stores a layer; returns its descriptor and its diff-id."""
        temporary = self.path / "blobs/sha256/incoming"
        with open(temporary, "wb") as out:
            if compression == "gzip":
                with open(tar, "rb") as raw, gzip.GzipFile("", "wb", 6, out, 0) as packed:
                    copy(raw, packed)
            elif compression == "zstd":
                subprocess.run(["zstd", "-q", "-c", "-3", str(tar)], stdout=out, check=True)
            else:
                with open(tar, "rb") as raw:
                    copy(raw, out)
        digest, size = digest_of(temporary), temporary.stat().st_size
        temporary.rename(self.path / "blobs/sha256" / digest)
        media = MEDIA + LAYER_MEDIA[compression]
        return {"mediaType": media, "digest": "sha256:" + digest, "size": size}, "sha256:" + digest_of(tar)

    def manifest(self, tag, layers, diff_ids, config):
        document = {
            "created": "2025-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": "2025-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(layers))],
        }
        config = {"mediaType": MEDIA + "config.v1+json", **self.blob(compact(document))}
        manifest = {"schemaVersion": 2, "mediaType": MEDIA + "manifest.v1+json", "config": config, "layers": layers}
        entry = {"mediaType": MEDIA + "manifest.v1+json", **self.blob(compact(manifest))}
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        entry["platform"] = {"architecture": "amd64", "os": "linux"}
        self.manifests.append(entry)

    def finish(self):
        index = {"schemaVersion": 2, "mediaType": MEDIA + "index.v1+json", "manifests": self.manifests}
        (self.path / "index.json").write_bytes(compact(index))


def compact(document):
    return json.dumps(document, separators=(",", ":")).encode()


def copy(source, target):
    while chunk := source.read(1 << 20):
        target.write(chunk)


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def noise(size, seed):
    """Bytes that do not compress, the same for the same seed."""
    return hashlib.shake_128(seed.encode()).digest(size)


def capability(bits):
    """A security.capability value, version 2: the permitted set, and effective."""
    return struct.pack("<IIIII", 0x02000001, bits & 0xFFFFFFFF, 0, bits >> 32, 0)


def acl(*entries):
    """A system.posix_acl_* value: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACL = acl((1, 6, NOBODY), (2, 4, 1000), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
DEFAULT_ACL = acl((1, 7, NOBODY), (4, 5, NOBODY), (16, 5, NOBODY), (32, 5, NOBODY))
DEEP = "/".join(f"{n:02}-" + "d" * 47 for n in range(12))


def corner_layer_one(path, old_gnu=True):
    """Every kind of entry, and the things that the next layers change."""
    with LayerTar(path) as t:
        t.directory("corner")
        t.add("corner/keep", data=b"keep\n")
        kinds_of_entry(t)
        names_and_owners(t)
        contents(t, old_gnu)
        for name in ("gone-file", "file-becomes-dir", "file-becomes-link", "readded", "chmodded"):
            t.add("corner/" + name, data=f"lower {name}\n".encode())
        for name in ("gone-dir", "gone-dir/sub", "opaque", "opaque/sub", "dir-becomes-file", "dir-becomes-link", "real"):
            t.directory("corner/" + name)
        for name in ("gone-dir/a", "gone-dir/sub/b", "opaque/old", "opaque/sub/old", "dir-becomes-file/x", "dir-becomes-link/x"):
            t.add("corner/" + name, data=f"lower {name}\n".encode())
        t.symlink("corner/link-becomes-file", "keep")
        t.symlink("corner/link-becomes-dir", "real")
        t.symlink("corner/via-link", "real")
        t.directory("corner/merged", mode=0o700, owner=(7, 7))
        t.add("corner/merged/lower", data=b"lower\n")
        t.directory("corner/hard")
        t.add("corner/hard/one", data=b"one inode, two names\n", mode=0o640)
        t.hardlink("corner/hard/two", "corner/hard/one")
        t.hardlink("corner/hard/to-symlink", "corner/dangling")
        t.add("corner/hard/split", data=b"two names, then one is replaced\n")
        t.hardlink("corner/hard/split-other", "corner/hard/split")
        t.add("corner/hard/target", data=noise(70000, "target"), owner=(1000, 1000))
        t.add("corner/hard/dying", data=b"the first name is removed above\n")
        t.hardlink("corner/hard/surviving", "corner/hard/dying")


def kinds_of_entry(t):
    t.add("corner/fifo", tarfile.FIFOTYPE, mode=0o600)
    t.add("corner/char", tarfile.CHRTYPE, mode=0o666, device=(1, 3))
    t.add("corner/block", tarfile.BLKTYPE, mode=0o660, device=(259, 70000), owner=(0, 6))
    t.symlink("corner/dangling", "/does/not/exist")
    t.symlink("corner/long-link", "x" * 1500)
    t.add("corner/setuid", data=b"#!/bin/sh\n", mode=0o4755)
    t.directory("corner/setgid", mode=0o2775, owner=(0, 50))
    t.directory("corner/sticky", mode=0o1777)
    t.directory("corner/empty-dir", mode=0o500)
    t.directory("corner/xattrs", xattrs={"user.on-directory": b"yes"})
    t.add("corner/xattrs/user", data=b"x", xattrs={"user.coracle": b"value", "user.binary": bytes(range(256)), "user.empty": b""})
    t.add("corner/xattrs/same-as-user", data=b"y", xattrs={"user.coracle": b"value"})
    t.add("corner/xattrs/large", data=b"z", xattrs={"user.large": noise(3000, "large")})
    t.add("corner/xattrs/capability", data=b"#!/bin/sh\n", mode=0o755, xattrs={"security.capability": capability(1 << 13)})
    t.add("corner/xattrs/trusted", data=b"t", xattrs={"trusted.coracle": b"root only"})
    t.add("corner/xattrs/acl", data=b"acl", xattrs={"system.posix_acl_access": ACL})
    t.directory("corner/xattrs/default-acl", xattrs={"system.posix_acl_default": DEFAULT_ACL})


def names_and_owners(t):
    t.directory("corner/names")
    t.add("corner/names/" + "n" * 120, data=b"more than a ustar name field\n")
    t.add("corner/names/" + "m" * 255, data=b"as long as a name may be\n")
    t.add(b"corner/names/latin1-\xe9\xff", data=b"not UTF-8\n")
    t.add("corner/names/grüße-☃", data=b"UTF-8\n")
    t.add("corner/names/with space, \"quotes\" and \\", data=b"quoting\n")
    t.add("corner/names/line\nbreak", data=b"line break\n")
    t.add("corner/names/-dash", data=b"dash\n")
    t.add("corner/names/.hidden", data=b"hidden\n")
    below = "corner/deep"
    t.directory(below)
    for part in DEEP.split("/"):
        below += "/" + part
        t.directory(below)
    t.add(below + "/bottom", data=b"a path of more than 600 bytes\n")
    t.directory("corner/owners")
    for uid, gid in ((1000, 100), (65534, 65534), (4000000, 5000000), (0, 4)):
        t.add(f"corner/owners/{uid}-{gid}", data=b"owned\n", owner=(uid, gid))
    t.directory("corner/times", mtime=1)
    for name, mtime in (("zero", 0), ("one", 1), ("fraction", 1500000000.75), ("2038", 2**31 + 5), ("2106", 2**32 - 1)):
        t.add("corner/times/" + name, data=b"time\n", mtime=mtime)
    t.directory("corner/many", mode=0o755)
    for number in range(3000):
        t.add(f"corner/many/entry-{number:05}", data=b"" if number % 3 else b"%d\n" % number)


def contents(t, old_gnu):
    t.directory("corner/content")
    block = 128 * 1024
    sizes = {"empty": 0, "one-byte": 1, "block-less-one": block - 1, "block": block, "block-and-one": block + 1, "mib-and-half": 3 << 19}
    for name, size in sizes.items():
        t.add("corner/content/" + name, data=noise(size, name))
    t.add("corner/content/text", data=b"".join(b"line %d of a file that compresses well\n" % n for n in range(30000)))
    t.add("corner/content/zeros", data=bytes(1 << 20))
    t.add("corner/content/zeros-then-one", data=bytes(block * 3) + b"1")
    for number in (1, 2, 3):
        t.add(f"corner/content/duplicate-{number}", data=noise(300000, "duplicate"))
        t.add(f"corner/content/duplicate-small-{number}", data=b"the same small content\n")
    t.add("corner/content/duplicate-prefix", data=noise(300000, "duplicate")[:block * 2])
    pieces = [(0, noise(5000, "s0")), (3 << 20, noise(70000, "s1")), (6 << 20, noise(4096, "s2"))]
    t.sparse("corner/content/sparse", 8 << 20, pieces)
    t.sparse("corner/content/all-hole", 4 << 20, [])
    old_sparse = t.old_gnu_sparse if old_gnu else t.sparse
    old_sparse("corner/content/sparse-gnu", 5 << 20, [(1 << 20, noise(4096, "g0")), (4 << 20, noise(512, "g1"))])


def corner_layer_two(path, base_file):
    """White-outs, an opaque directory, changes of type, links to what lies below."""
    with LayerTar(path) as t:
        t.directory("corner", mode=0o755)
        t.whiteout("corner/gone-file")
        t.whiteout("corner/gone-dir")
        t.whiteout("corner/never-was")
        t.directory("corner/opaque", mode=0o750)
        t.opaque("corner/opaque")
        t.add("corner/opaque/new", data=b"new\n")
        t.directory("corner/file-becomes-dir")
        t.add("corner/file-becomes-dir/inside", data=b"inside\n")
        t.add("corner/dir-becomes-file", data=b"a file now\n")
        t.symlink("corner/dir-becomes-link", "real")
        t.symlink("corner/file-becomes-link", "keep")
        t.add("corner/link-becomes-file", data=b"a file now, not written through the link\n")
        t.whiteout("corner/link-becomes-dir")
        t.directory("corner/link-becomes-dir")
        t.whiteout("corner/readded")
        t.add("corner/readded", data=b"added again\n")
        t.add("corner/chmodded", data=b"lower chmodded\n", mode=0o400, owner=(3, 3), mtime=EPOCH + 100)
        t.add("corner/via-link/added", data=b"written through a symlink to a directory\n")
        t.directory("corner/merged", mode=0o711, owner=(8, 8), mtime=EPOCH + 7)
        t.add("corner/merged/upper", data=b"upper\n")
        t.hardlink("corner/hard/across", "corner/hard/target")
        t.hardlink("corner/hard/across-twice", "corner/hard/across")
        t.hardlink("corner/hard/to-base", base_file)
        t.add("corner/hard/split", data=b"replaced\n")
        t.whiteout("corner/hard/dying")


def corner_layer_three(path):
    """A removed directory comes back without what it held."""
    with LayerTar(path) as t:
        t.directory("corner/gone-dir", mode=0o700)
        t.add("corner/gone-dir/fresh", data=b"fresh\n")
        t.hardlink("corner/hard/third-layer", "corner/hard/across-twice")


def with_corners(layout, work, bases, base_file, config):
    """Adds the layers `bases` and the corner layers as two tags of the same content.

    `latest` has a layer of each compression and both formats of sparse files; `gzip` is for tools that know
    neither zstd nor the old format.
    """
    tar = Path(work) / "corner.tar"

    def stored(make, compression):
        make(tar)
        result = layout.layer(tar, compression)
        tar.unlink()
        return result

    base = [layout.layer(path, "gzip") for path in bases]
    upper = [
        stored(lambda path: corner_layer_two(path, base_file), "gzip"),
        stored(corner_layer_three, "none"),
    ]
    first = {"latest": stored(corner_layer_one, "zstd"), "gzip": stored(lambda path: corner_layer_one(path, False), "gzip")}
    for tag, one in first.items():
        layers = base + [one] + upper
        layout.manifest(tag, [descriptor for descriptor, _ in layers], [diff_id for _, diff_id in layers], config)
    layout.finish()


def busybox_layer(path, busybox):
    """A root file system that is one static program and its names."""
    applets = subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True).stdout.split()
    with LayerTar(path) as t:
        for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin"):
            t.directory(name)
        t.directory("tmp", mode=0o1777)
        t.add("bin/busybox", data=Path(busybox).read_bytes(), mode=0o755)
        for applet in sorted(set(applets) - {"busybox"}):
            t.symlink("bin/" + applet, "busybox")
        t.add("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n")
        t.add("etc/group", data=b"root:x:0:\n")
        t.add("etc/motd", data=b"Afloat in a coracle.\n")


BUSYBOX_CONFIG = {"Env": ["PATH=/bin:/usr/bin", "VESSEL=coracle"], "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["cat /etc/motd"], "WorkingDir": "/"}
STANDARD_CONFIG = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"], "WorkingDir": "/"}


def command_layer(options):
    skip = {os.fsencode(path.strip("/")) for path in options.skip}
    with LayerTar(options.tar) as t:
        t.tree(options.root, options.since, skip)


def command_demo(options):
    layout = Layout(options.layout)
    tar = Path(options.layout) / "layer.tar"
    busybox_layer(tar, options.busybox)
    descriptor, diff_id = layout.layer(tar, "gzip")
    tar.unlink()
    layout.manifest("latest", [descriptor], [diff_id], BUSYBOX_CONFIG)
    layout.finish()


def command_corner(options):
    layout = Layout(options.layout)
    tar = Path(options.layout) / "base.tar"
    busybox_layer(tar, options.busybox)
    with_corners(layout, options.layout, [tar], "bin/busybox", BUSYBOX_CONFIG)
    tar.unlink()


def command_standard(options):
    with_corners(Layout(options.layout), options.layout, options.layers, "usr/bin/x86_64-linux-gnu-gcc-12", STANDARD_CONFIG)


def command_export(options):
    """An archive with the layout's blobs, as `docker save` and as OCI tools write them."""
    layout = Path(options.layout)
    manifest, index_entry = find_manifest(layout, options.tag)
    with LayerTar(options.file) as t:
        if options.format == "oci-archive":
            t.directory("blobs")
            t.directory("blobs/sha256")
            for digest in [index_entry["digest"], manifest["config"]["digest"]] + [l["digest"] for l in manifest["layers"]]:
                add_blob(t, layout, digest, "blobs/sha256/" + digest.split(":")[1])
            t.add("oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}')
            t.add("index.json", data=compact({"schemaVersion": 2, "manifests": [index_entry]}))
        else:
            config = manifest["config"]["digest"].split(":")[1] + ".json"
            add_blob(t, layout, manifest["config"]["digest"], config)
            names = []
            for layer in manifest["layers"]:
                names.append(layer["digest"].split(":")[1] + "/layer.tar")
                add_blob(t, layout, layer["digest"], names[-1])
            t.add("manifest.json", data=compact([{"Config": config, "RepoTags": ["coracle/test:" + options.tag], "Layers": names}]))


def command_flatten(options):
    """One plain tar of a directory, as `tar2sqfs` and `coracle build tar:` read it."""
    with LayerTar(options.tar) as t:
        t.tree(options.root, 1 << 62)


def add_blob(t, layout, digest, name):
    path = layout / "blobs" / digest.replace(":", "/")
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = path.stat().st_size, 0o644, EPOCH
    with open(path, "rb") as data:
        t.tar.addfile(info, data)


def find_manifest(layout, tag):
    for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
            return json.loads((layout / "blobs" / entry["digest"].replace(":", "/")).read_bytes()), entry
    sys.exit(f"find tag {tag} in {layout}: there is none")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name, run, help, *arguments):
        sub = commands.add_parser(name, help=help)
        sub.set_defaults(run=run)
        for argument, more in arguments:
            sub.add_argument(argument, **more)

    busybox = ("--busybox", {"default": "/bin/busybox"})
    command("layer", command_layer, "a layer from a directory or an overlayfs upper directory",
            ("root", {}), ("tar", {}), ("--since", {"type": float, "default": 1 << 62}), ("--skip", {"action": "append", "default": []}))
    command("flatten", command_flatten, "one tar from a directory", ("root", {}), ("tar", {}))
    command("demo", command_demo, "a layout with a busybox in one layer", ("layout", {}), busybox)
    command("corner", command_corner, "a small layout with every corner case", ("layout", {}), busybox)
    command("standard", command_standard, "a layout from layer tars and the corner cases", ("layout", {}), ("layers", {"nargs": "+"}))
    command("export", command_export, "one tag of a layout as an archive",
            ("format", {"choices": ["oci-archive", "docker-archive"]}), ("layout", {}), ("tag", {}), ("file", {}))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
