//! An image as an OCI image layout in a tar, its files in one layer.

use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::flatten::OWN_DIRECTORY;
use crate::image_info::{self, ImageInfo};
use crate::options::{Event, Options, Progress, Report};
use crate::output::Output;
use crate::repack::Packed;
use crate::sink::Content;
use crate::tar::writer::{Head, end, pad};
use coracle_squashfs::reader::{Inode, InodeRef, Kind, major, minor};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use zerocopy::IntoBytes;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Bytes written at a time.
const BUFFER: usize = 256 << 10;
/// Entries between two progress events.
const EVENT_EVERY: u64 = 256;

/// How the layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerPacking {
    /// As every tool reads it; level 0 to 9.
    Gzip(u32),
    /// Smaller and quicker to read, by newer tools; level 1 to 22.
    Zstd(u32),
}

impl Default for LayerPacking {
    fn default() -> Self {
        Self::Gzip(6)
    }
}

impl LayerPacking {
    fn media_type(self) -> String {
        match self {
            Self::Gzip(_) => format!("{LAYER}+gzip"),
            Self::Zstd(_) => format!("{LAYER}+zstd"),
        }
    }
}

/// Writes the whole archive, without publishing it.
///
/// # Errors
/// When the image is damaged, or the output cannot be written.
pub fn write(
    packed: &Packed,
    output: &Output,
    packing: LayerPacking,
    options: &Options,
    progress: &dyn Progress,
    report: &mut Report,
) -> Result<(), Error> {
    let image = &packed.image;
    let info = ImageInfo::read(image)?;
    let config = image_info::config_bytes(image)?;
    report.config_digest = config.as_deref().map(Digest::of);
    report.manifest_digest = image_info::manifest_bytes(image)?.as_deref().map(Digest::of);
    let failed = || Error::file("write", output.path());
    let file = output.writer()?;
    let mut out = BufWriter::with_capacity(BUFFER, file.try_clone().map_err(failed())?);

    // The layer's name and size are known when it is written: its header comes last.
    out.write_all(&[0; 512]).map_err(failed())?;
    let writing = Writing { packed, limit: options.max_layer_bytes, progress, report, failed: &failed };
    let (mut out, layer, diff_id) = writing.layer(out, packing)?;
    let head = blob_head(&layer.digest, layer.size);
    pad(&mut out, layer.size).map_err(failed())?;

    let config = new_config(config.as_deref(), &diff_id, report, options)?;
    let config = put(&mut out, config.to_string().as_bytes(), CONFIG).map_err(failed())?;
    let layer = descriptor(&packing.media_type(), &layer);
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let mut manifest = put(&mut out, manifest.to_string().as_bytes(), MANIFEST).map_err(failed())?;
    let name = info.and_then(|info| info.source).filter(|name| is_reference(name));
    let name = name.unwrap_or_else(|| "latest".to_owned());
    if let Some(manifest) = manifest.as_object_mut() {
        manifest.insert("annotations".into(), json!({"org.opencontainers.image.ref.name": name}));
    }
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [manifest]}).to_string();
    for (path, content) in [("index.json", index.as_str()), ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)] {
        member(&mut out, path.as_bytes(), content.as_bytes()).map_err(failed())?;
    }
    end(&mut out).and_then(|()| out.flush()).map_err(failed())?;
    file.write_all_at(head.as_bytes(), 0).map_err(failed())?;
    report.bytes = file.metadata().map_err(failed())?.len();
    Ok(())
}

/// The image's config with one layer, and what was done in its history.
fn new_config(old: Option<&[u8]>, diff_id: &Digest, report: &Report, options: &Options) -> Result<Value, Error> {
    let mut config = match old {
        Some(old) => serde_json::from_slice(old)
            .map_err(|source| Error::Json { document: image_info::CONFIG.to_owned(), source })?,
        None => json!({"architecture": options.architecture, "os": "linux", "config": {}}),
    };
    let Some(fields) = config.as_object_mut() else {
        let reason = "it is no JSON object".to_owned();
        return Err(Error::ImageFile { file: image_info::CONFIG, reason });
    };
    // Steps stay for people to read; none of them has a layer any more.
    let mut history = match fields.remove("history") {
        Some(Value::Array(history)) => history,
        _ => Vec::new(),
    };
    for step in history.iter_mut().filter_map(Value::as_object_mut) {
        step.insert("empty_layer".into(), true.into());
    }
    let version = env!("CARGO_PKG_VERSION");
    let from = report.manifest_digest.or(report.config_digest);
    let comment =
        from.map_or_else(|| "from a plain root file system".to_owned(), |from| format!("flattened from {from}"));
    history.push(json!({"created_by": format!("coracle {version} build --format oci-archive"), "comment": comment}));
    fields.insert("history".into(), history.into());
    fields.insert("rootfs".into(), json!({"type": "layers", "diff_ids": [diff_id.to_string()]}));
    Ok(config)
}

/// Whether a layout's index may name an image so.
fn is_reference(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:@/+".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(plain)
        && !matches!(name, "tar" | "dir" | "squashfs")
}

struct Blob {
    digest: Digest,
    size: u64,
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.size})
}

fn blob_head(digest: &Digest, size: u64) -> crate::tar::writer::Block {
    let path = format!("blobs/sha256/{}", digest.hex());
    Head { path: path.as_bytes(), kind: b'0', mode: 0o644, size, ..Head::default() }.block()
}

/// Adds a document as a blob; its descriptor.
fn put(out: &mut dyn Write, content: &[u8], media_type: &str) -> io::Result<Value> {
    let blob = Blob { digest: Digest::of(content), size: content.len() as u64 };
    member(out, format!("blobs/sha256/{}", blob.digest.hex()).as_bytes(), content)?;
    Ok(descriptor(media_type, &blob))
}

fn member(out: &mut dyn Write, path: &[u8], content: &[u8]) -> io::Result<()> {
    Head { path, kind: b'0', mode: 0o644, size: content.len() as u64, ..Head::default() }.write(out)?;
    out.write_all(content)?;
    pad(out, content.len() as u64)
}

/// Hashes and counts what is written through it.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    count: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default(), count: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

type Out = Hashed<BufWriter<File>>;

enum Encoder {
    Gzip(GzEncoder<Out>),
    Zstd(zstd::stream::write::Encoder<'static, Out>),
}

impl Encoder {
    fn new(out: Out, packing: LayerPacking) -> io::Result<Self> {
        Ok(match packing {
            // Neither a name nor a time in its header.
            LayerPacking::Gzip(level) => Self::Gzip(GzBuilder::new().write(out, Compression::new(level.min(9)))),
            LayerPacking::Zstd(level) => {
                let level = i32::try_from(level.clamp(1, 22)).unwrap_or(3);
                Self::Zstd(zstd::stream::write::Encoder::new(out, level)?)
            }
        })
    }

    fn finish(self) -> io::Result<Out> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// The layer's tar being written.
struct Layer {
    /// Small pieces are gathered before they are hashed and compressed.
    tar: BufWriter<Hashed<Encoder>>,
}

struct Writing<'a, F> {
    packed: &'a Packed,
    limit: u64,
    progress: &'a dyn Progress,
    report: &'a mut Report,
    failed: &'a dyn Fn() -> F,
}

impl<F: FnOnce(io::Error) -> Error> Writing<'_, F> {
    /// The output behind the layer, the layer as a blob, and the digest of its tar.
    fn layer(self, out: BufWriter<File>, packing: LayerPacking) -> Result<(BufWriter<File>, Blob, Digest), Error> {
        let Self { packed, limit, progress, report, failed } = self;
        let image = &packed.image;
        progress.event(Event::ImageStarted { inodes: image.superblock().inodes.get() });
        let encoder = Encoder::new(Hashed::new(out), packing).map_err(failed())?;
        let mut layer = Layer { tar: BufWriter::with_capacity(BUFFER, Hashed::new(encoder)) };
        let mut linked: HashMap<InodeRef, Vec<u8>> = HashMap::new();
        let (mut entries, mut logical) = (0u64, 0u64);
        for entry in image.walk() {
            let entry = entry.map_err(|error| packed.failed(&error.path)(error.error))?;
            let path = entry.path.strip_prefix(b"/").unwrap_or(&entry.path);
            if path.split(|&byte| byte == b'/').next() == Some(OWN_DIRECTORY) {
                continue;
            }
            entries += 1;
            if entries.is_multiple_of(EVENT_EVERY) {
                progress.event(Event::Entries { count: entries });
            }
            let inode = &entry.inode;
            let several = inode.nlink > 1 && !matches!(inode.kind, Kind::Directory { .. } | Kind::Socket);
            if several && let Some(first) = linked.get(&inode.reference) {
                let head = Head {
                    path,
                    kind: b'1',
                    link: first,
                    mode: inode.mode,
                    mtime: inode.mtime,
                    uid: inode.uid,
                    gid: inode.gid,
                    ..Head::default()
                };
                head.write(&mut layer.tar).map_err(failed())?;
                continue;
            }
            report.inodes += 1;
            logical = logical.saturating_add(inode.size());
            if logical > limit {
                return Err(Error::LayerTooLarge { layer: format!("image {}", packed.path().display()), limit });
            }
            layer.entry(packed, path, inode, report, failed)?;
            if several {
                linked.insert(inode.reference, path.to_vec());
            }
        }
        end(&mut layer.tar).map_err(failed())?;
        let tar = layer.tar.into_inner().map_err(|error| failed()(error.into_error()))?;
        let blob = tar.inner.finish().map_err(failed())?;
        let described = Blob { digest: blob.hasher.finish(), size: blob.count };
        Ok((blob.inner, described, tar.hasher.finish()))
    }
}

impl Layer {
    fn entry<F: FnOnce(io::Error) -> Error>(
        &mut self,
        packed: &Packed,
        path: &[u8],
        inode: &Inode,
        report: &mut Report,
        failed: &dyn Fn() -> F,
    ) -> Result<(), Error> {
        let corrupt = packed.failed(path);
        let (mut name, mut target, mut size, mut device) = (path.to_vec(), Vec::new(), 0, (0, 0));
        let kind = match inode.kind {
            Kind::Directory { .. } => {
                // The root is `./`.
                if name.is_empty() {
                    name.push(b'.');
                }
                name.push(b'/');
                b'5'
            }
            Kind::File { .. } => {
                size = inode.size();
                b'0'
            }
            Kind::Symlink { .. } => {
                target = packed.image.read_link(inode).map_err(&corrupt)?;
                b'2'
            }
            Kind::BlockDevice { rdev } => {
                device = (major(rdev), minor(rdev));
                b'4'
            }
            Kind::CharDevice { rdev } => {
                device = (major(rdev), minor(rdev));
                b'3'
            }
            Kind::Fifo => b'6',
            Kind::Socket => {
                report.left_out.devices += 1;
                return Ok(());
            }
        };
        let xattrs = packed.image.xattrs(inode).map_err(&corrupt)?;
        let all = xattrs.len();
        // A record's keyword ends at the first such sign.
        let mut xattrs = xattrs.into_iter().map(|one| (one.name, one.value)).collect::<Vec<_>>();
        xattrs.retain(|(name, _)| !name.contains(&b'='));
        xattrs.sort();
        report.left_out.xattrs += (all - xattrs.len()) as u64;
        let head = Head {
            path: &name,
            kind,
            link: &target,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            size,
            device,
            xattrs: &xattrs,
        };
        head.write(&mut self.tar).map_err(failed())?;
        if kind == b'0' {
            packed.content(path, inode, &mut TarContent { tar: &mut self.tar, failed: &|error| failed()(error) })?;
            pad(&mut self.tar, size).map_err(failed())?;
        }
        Ok(())
    }
}

/// A file's content in the tar; holes are zeros there.
struct TarContent<'a> {
    tar: &'a mut dyn Write,
    failed: &'a dyn Fn(io::Error) -> Error,
}

impl Content for TarContent<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.tar.write_all(bytes).map_err(self.failed)
    }

    fn hole(&mut self, length: u64) -> Result<(), Error> {
        io::copy(&mut io::Read::take(io::repeat(0), length), self.tar).map(drop).map_err(self.failed)
    }
}
