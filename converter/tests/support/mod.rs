//! Image layouts, archives, and what a converted image holds.
#![allow(dead_code, missing_docs, reason = "each test crate uses a part of it")]

pub mod tar;
pub mod unpacked;

use coracle_converter::{Digest, Error, Options, Source, convert};
use coracle_squashfs::compress::Compression;
use coracle_squashfs::reader::{FileType, Image, OpenOptions, ReadAt};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Files of an image layout by name.
#[derive(Clone, Default)]
pub struct Layout {
    pub files: BTreeMap<String, Vec<u8>>,
    pub manifests: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    Plain,
    Gzip,
    Zstd,
}

impl Layout {
    pub fn new() -> Self {
        let mut layout = Self::default();
        layout.files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        layout
    }

    /// Adds a blob and returns its descriptor.
    pub fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        self.files.insert(format!("blobs/sha256/{}", digest.hex()), content.to_vec());
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": content.len()})
    }

    pub fn config(layers: &[Vec<u8>], architecture: &str) -> Value {
        let diff_ids = layers.iter().map(|tar| Digest::of(tar).to_string()).collect::<Vec<_>>();
        json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
    }

    /// Adds an image's blobs and returns its manifest's descriptor.
    pub fn manifest(&mut self, layers: &[Vec<u8>], packed: Packed, config: &Value) -> Value {
        let config = self.blob(OCI_CONFIG, config.to_string().as_bytes());
        let layers = layers
            .iter()
            .map(|tar| match packed {
                Packed::Plain => self.blob(OCI_LAYER, tar),
                Packed::Gzip => self.blob(&format!("{OCI_LAYER}+gzip"), &gzip(tar)),
                Packed::Zstd => self.blob(&format!("{OCI_LAYER}+zstd"), &zstd::encode_all(&tar[..], 3).unwrap()),
            })
            .collect::<Vec<_>>();
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        self.blob(OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    /// Adds an image under a tag.
    pub fn image(mut self, tag: &str, layers: &[Vec<u8>], packed: Packed) -> Self {
        let config = Self::config(layers, coracle_converter::host_architecture());
        let mut descriptor = self.manifest(layers, packed, &config);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.manifests.push(descriptor);
        self
    }

    /// All files, the index included.
    pub fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.manifests});
        files.entry("index.json".into()).or_insert_with(|| index.to_string().into_bytes());
        files
    }

    pub fn write(&self, dir: &Path) {
        for (name, content) in self.all() {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    pub fn archive(&self) -> Vec<u8> {
        archive(&self.all())
    }
}

pub fn archive(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    files.iter().fold(tar::TarBuilder::new(), |tar, (name, content)| tar.file(name, content)).finish()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Quick to make, and compressed none the less.
pub fn options() -> Options {
    Options { compression: Compression::Zstd { level: 1 }, ..Options::default() }
}

/// Converts into a file of its own and lists the result.
pub fn converted(source: &Source) -> Result<Vec<String>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.sqfs");
    let result = convert(source, &output, &options(), &());
    let left = fs::read_dir(dir.path()).unwrap().count();
    match result {
        Ok(_) => {
            assert_eq!(left, 1, "more than the output was left");
            Ok(list(&output))
        }
        Err(error) => {
            assert_eq!(left, 0, "something was left after {}", chain(&error));
            Err(error)
        }
    }
}

/// The bytes of a conversion.
pub fn bytes(source: &Source, options: &Options) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.sqfs");
    convert(source, &output, options, &()).map_err(|error| chain(&error)).unwrap();
    fs::read(output).unwrap()
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source))).unwrap_or_default();
    format!("{error}{source}")
}

/// What was added to every image.
const ADDED: [&str; 17] = [
    "/.coracle",
    "/.coracle/config.json",
    "/.coracle/image.json",
    "/.coracle/manifest.json",
    "/.coracle/profile.json",
    "/dev",
    "/etc",
    "/etc/group",
    "/etc/hosts",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/var",
    "/var/tmp",
];

/// One line per file: type, mode, owner, time, links, path, and target, device or content. What conversion adds is
/// left out.
pub fn list(path: &Path) -> Vec<String> {
    list_all(path).into_iter().filter(|line| !ADDED.iter().any(|added| line.split(' ').nth(5) == Some(added))).collect()
}

pub fn list_all(path: &Path) -> Vec<String> {
    let image = Image::open(File::open(path).unwrap(), OpenOptions::default()).unwrap();
    let mut names: BTreeMap<u32, String> = BTreeMap::new();
    image
        .walk()
        .map(|entry| {
            let entry = entry.unwrap();
            let inode = &entry.inode;
            let path = entry.path.escape_ascii().to_string();
            let detail = match inode.file_type() {
                FileType::File if inode.size() > 200 => {
                    let mut content = vec![0; inode.size() as usize];
                    assert_eq!(image.read(inode, 0, &mut content).unwrap(), content.len());
                    format!("={}", Digest::of(&content).hex().get(..16).unwrap())
                }
                FileType::File => {
                    let mut content = vec![0; inode.size() as usize];
                    assert_eq!(image.read(inode, 0, &mut content).unwrap(), content.len());
                    format!("={}", content.escape_ascii())
                }
                FileType::Symlink => format!("->{}", image.read_link(inode).unwrap().escape_ascii()),
                _ => format!("{:?}", inode.kind).split('{').nth(1).map_or_else(String::new, |rdev| {
                    match inode.file_type() {
                        FileType::BlockDevice | FileType::CharDevice => {
                            format!(" {}", rdev.trim_end_matches('}').trim())
                        }
                        _ => String::new(),
                    }
                }),
            };
            let xattrs = image.xattrs(inode).unwrap();
            let xattrs = xattrs.iter().map(|one| format!(" {}={}", one.name.escape_ascii(), one.value.escape_ascii()));
            let same = match names.get(&inode.number) {
                Some(first) => format!(" @{first}"),
                None => String::new(),
            };
            names.entry(inode.number).or_insert_with(|| path.clone());
            format!(
                "{} {:o} {}:{} {} {} {path} {detail}{}{same}",
                inode.file_type().letter(),
                inode.mode,
                inode.uid,
                inode.gid,
                inode.mtime,
                inode.nlink,
                xattrs.collect::<String>(),
            )
        })
        .collect()
}

/// Notes which bytes are read.
struct Spy(File, Mutex<Vec<(u64, u64)>>);

impl ReadAt for &Spy {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.1.lock().unwrap().push((offset, offset + buf.len() as u64));
        ReadAt::read_exact_at(&self.0, buf, offset)
    }

    fn size(&self) -> std::io::Result<u64> {
        self.0.size()
    }
}

/// First byte of the first stored block of a file, and first byte behind the last one.
pub fn extent(image: &Path, path: &str) -> (u64, u64) {
    let spy = Spy(File::open(image).unwrap(), Mutex::default());
    let image = Image::open(&spy, OpenOptions::default()).unwrap();
    let inode = image.resolve(path.as_bytes()).unwrap().unwrap();
    spy.1.lock().unwrap().clear();
    for block in 0..image.block_count(&inode) {
        image.block(&inode, block).unwrap();
    }
    let tables = image.superblock().inode_table_start.get();
    let reads = spy.1.lock().unwrap();
    let data = reads.iter().filter(|(_, end)| *end <= tables);
    (data.clone().map(|read| read.0).min().unwrap(), data.map(|read| read.1).max().unwrap())
}

pub fn layout_source(dir: &Path, reference: Option<&str>) -> Source {
    Source::OciLayout { dir: dir.into(), reference: reference.map(str::to_owned) }
}

pub fn file(dir: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path
}
