//! OCI layouts made by hand, so that each of their parts can be wrong: layers from a list of raw tar entries,
//! manifests and configs edited and stored again under their new digest.

use crate::tree::sha256_hex;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A tar file in the making, in the old portable format, with no check of what is put in.
#[derive(Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// A regular file.
    #[must_use]
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, b'0', "", content.len() as u64, content)
    }

    /// A directory.
    #[must_use]
    pub fn directory(self, name: &str) -> Self {
        self.entry(name, b'5', "", 0, b"")
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', target, 0, b"")
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', target, 0, b"")
    }

    /// Any header, followed by any bytes: `size` need not be the content's.
    ///
    /// # Panics
    /// When name or link do not fit their fields.
    #[must_use]
    pub fn entry(mut self, name: &str, kind: u8, link: &str, size: u64, content: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        assert!(name.len() <= 100 && link.len() <= 100);
        put(0, name.as_bytes());
        put(100, if kind == b'5' { b"0000755" } else { b"0000644" });
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{size:011o}").as_bytes());
        put(136, b"14735347200");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        put(148, b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// The file with its end mark.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// An OCI layout directory with one image, tag `latest`.
#[derive(Debug)]
pub struct Layout {
    /// The directory.
    pub path: PathBuf,
}

impl Layout {
    /// Uncompressed layers, everything about them true.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn new(path: &Path, layers: &[Vec<u8>]) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self { path: path.to_path_buf() };
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", sha256_hex(layer))).collect();
        let descriptors: Vec<_> =
            layers.iter().map(|layer| layout.store(layer, "application/vnd.oci.image.layer.v1.tar")).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = layout.store(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        layout.set_manifest(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": descriptors,
        }));
        layout
    }

    /// A copy of another layout's tag.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn copy_of(other: &Path, tag: &str, path: &Path) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        for blob in fs::read_dir(other.join("blobs/sha256")).unwrap().flatten() {
            fs::copy(blob.path(), path.join("blobs/sha256").join(blob.file_name())).unwrap();
        }
        fs::copy(other.join("oci-layout"), path.join("oci-layout")).unwrap();
        let mut index: Value = serde_json::from_slice(&fs::read(other.join("index.json")).unwrap()).unwrap();
        let manifests = index["manifests"].as_array_mut().unwrap();
        manifests.retain(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag);
        fs::write(path.join("index.json"), index.to_string()).unwrap();
        Self { path: path.to_path_buf() }
    }

    /// As a source for `coracle build`.
    #[must_use]
    pub fn source(&self) -> String {
        format!("oci:{}", self.path.display())
    }

    /// Where a blob lies.
    #[must_use]
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Stores a blob under its digest; returns its descriptor.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn store(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = format!("sha256:{}", sha256_hex(bytes));
        fs::write(self.blob(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// The image's manifest.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn manifest(&self) -> Value {
        let index: Value = serde_json::from_slice(&fs::read(self.path.join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        serde_json::from_slice(&fs::read(self.blob(digest)).unwrap()).unwrap()
    }

    /// Replaces the manifest, and the index that names it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_manifest(&self, manifest: &Value) {
        let mut descriptor = self.store(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        fs::write(self.path.join("index.json"), index.to_string()).unwrap();
    }

    /// Changes the config and stores it and the manifest anew.
    ///
    /// # Panics
    /// When it cannot be read or written.
    pub fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest();
        let digest = manifest["config"]["digest"].as_str().unwrap().to_owned();
        let mut config: Value = serde_json::from_slice(&fs::read(self.blob(&digest)).unwrap()).unwrap();
        edit(&mut config);
        manifest["config"] = self.store(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        self.set_manifest(&manifest);
    }

    /// Digest of a layer as the manifest names it.
    ///
    /// # Panics
    /// When there is no such layer.
    #[must_use]
    pub fn layer_digest(&self, index: usize) -> String {
        self.manifest()["layers"][index]["digest"].as_str().unwrap().to_owned()
    }
}
