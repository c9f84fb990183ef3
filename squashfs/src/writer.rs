//! Makes SquashFS 4.0 images whose bytes depend on the input and the options alone, not on threads or time.
//!
//! File content comes first, in any order ([`Writer::add_file`]), and is compressed in the background; the names are
//! gathered in a [`Tree`] meanwhile, and written with all inodes by [`Writer::finish`]. Content that is there already
//! is stored once, blocks of zeros not at all, and files shorter than a block share fragment blocks.

mod error;
mod file;
mod fragments;
mod inodes;
mod listing;
mod metadata;
mod pipeline;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod xattrs;

pub use error::Error;
pub use file::FileWriter;
pub use tree::{Metadata, Node, NodeId, NodeKind, Tree, clamp_time};
pub use xattrs::xattr_supported;

use crate::compress::Compression;
use crate::format::{
    BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, IMAGE_ALIGN, INVALID_TABLE, MAGIC, METADATA_UNCOMPRESSED, SuperBlock,
    VERSION_MAJOR, VERSION_MINOR, flags,
};
use fragments::Fragments;
use inodes::Inodes;
use metadata::{Output, Packing, write_table};
use pipeline::{Digest, Message, Pipeline, digest_of, is_zero};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use store::Stored;
use zerocopy::IntoBytes;

/// Most blocks of one file: a header that announces exabytes of hole must not cost memory or hours.
const FILE_BLOCKS_MAX: u32 = 1 << 26;

/// How an image is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// For data and metadata.
    pub compression: Compression,
    /// Power of two, 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Threads that compress; one more writes, and the caller's reads.
    pub threads: NonZeroUsize,
    /// The image's own time, seconds since 1970.
    pub mtime: u32,
    /// Whether there is a table from inode numbers to inodes, which NFS export needs.
    pub exportable: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            block_size: 128 << 10,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            mtime: 0,
            exportable: true,
        }
    }
}

/// File content that a [`Writer`] has taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(u32);

/// The id of all empty files.
const EMPTY: FileId = FileId(0);

/// Where a file's content is.
#[derive(Clone, Copy, Debug)]
enum Content {
    Empty,
    Fragment {
        index: u32,
        offset: u32,
        size: u32,
    },
    /// Index in [`Stored::files`].
    Blocks(u32),
}

/// What became of it all.
#[derive(Debug)]
#[non_exhaustive]
pub struct Summary {
    /// The image, complete; not yet synced.
    pub file: File,
    /// Bytes in use; the file is longer by padding to 4 KiB.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u32,
    /// Bytes of content taken in, holes and copies included.
    pub data_in: u64,
    /// Bytes that data and fragment blocks take.
    pub data_out: u64,
    /// Data blocks, without holes and fragment blocks.
    pub blocks: u64,
    /// Fragment blocks.
    pub fragments: u32,
    /// Files found equal to an earlier one.
    pub duplicates: u64,
    /// Their bytes.
    pub duplicate_bytes: u64,
    /// Data blocks that were in the image already and so needed no compression.
    pub blocks_reused: u64,
    /// Distinct owner and group ids.
    pub ids: u32,
    /// Distinct lists of extended attributes.
    pub xattr_lists: u32,
}

/// Makes one image. Dropped before [`Writer::finish`], it ends its threads and leaves an unfinished file.
pub struct Writer {
    options: WriterOptions,
    file: Arc<File>,
    data_start: u64,
    pipeline: Pipeline,
    fragments: Fragments,
    files: Vec<Content>,
    block_files: u32,
    small_files: HashMap<Digest, FileId>,
    bytes_in: u64,
    duplicates: u64,
    duplicate_bytes: u64,
}

impl Writer {
    /// Starts an image at the beginning of `output`, which should be empty and readable as well as writable: without
    /// reading, blocks that are there already are compressed again before they are found.
    ///
    /// # Errors
    /// [`Error::BlockSize`], [`Error::Codec`], [`Error::Output`], [`Error::Thread`].
    pub fn new(output: File, options: WriterOptions) -> Result<Self, Error> {
        let block_size = options.block_size;
        if !block_size.is_power_of_two() || !(BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&block_size) {
            return Err(Error::BlockSize(block_size));
        }
        // Zeros where the superblock will be: what is unfinished cannot be taken for an image.
        let mut start = vec![0; size_of::<SuperBlock>()];
        if let Some(settings) = options.compression.options() {
            start.extend_from_slice(&(settings.len() as u16 | METADATA_UNCOMPRESSED).to_le_bytes());
            start.extend_from_slice(&settings);
        }
        output.write_all_at(&start, 0).map_err(Error::output("write"))?;
        let file = Arc::new(output);
        let data_start = start.len() as u64;
        Ok(Self {
            pipeline: Pipeline::start(file.clone(), data_start, &options)?,
            options,
            file,
            data_start,
            fragments: Fragments::default(),
            files: vec![Content::Empty],
            block_files: 0,
            small_files: HashMap::new(),
            bytes_in: 0,
            duplicates: 0,
            duplicate_bytes: 0,
        })
    }

    /// Begins a file of exactly `size` bytes.
    ///
    /// # Errors
    /// [`Error::FileTooLarge`], or what stopped the image's making.
    pub fn begin_file(&mut self, size: u64) -> Result<FileWriter<'_>, Error> {
        FileWriter::new(self, size)
    }

    /// Takes in a whole file.
    ///
    /// # Errors
    /// As [`FileWriter::copy_from`]; [`Error::ContentLong`] when the reader has more.
    pub fn add_file(&mut self, size: u64, content: &mut dyn Read) -> Result<FileId, Error> {
        let mut file = self.begin_file(size)?;
        file.copy_from(content, size)?;
        loop {
            match content.read(&mut [0]) {
                Ok(0) => return file.finish(),
                Ok(_) => return Err(Error::ContentLong { size }),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(Error::Content { size, cause }),
            }
        }
    }

    /// Begins a group: files that come from here on lie together, behind all that came before, and share fragment
    /// blocks with each other alone.
    ///
    /// A file shorter than a block is stored again though an equal one lies outside of the group, since reading it there
    /// would take a fragment block of other files. A longer one is not: its blocks lie together wherever they are.
    ///
    /// # Errors
    /// What stopped the image's making.
    pub fn begin_group(&mut self) -> Result<(), Error> {
        self.small_files.clear();
        self.fragments.flush(&mut self.pipeline)
    }

    /// Writes inodes, directories, tables and the superblock.
    ///
    /// # Errors
    /// [`Error::UnknownFile`], one of the format's limits, or what stopped the image's making.
    pub fn finish(self, tree: &Tree) -> Result<Summary, Error> {
        let Self { options, file, mut pipeline, mut fragments, files, .. } = self;
        fragments.flush(&mut pipeline)?;
        let stored = pipeline.finish()?;
        let packing = Packing { compression: options.compression, threads: options.threads.get() };
        let mut output = Output { file: &file, position: stored.position };
        let inodes = Inodes::write(tree, &files, &stored, packing, &mut output)?;
        let xattr_lists = inodes.xattrs.len() as u32;
        let superblock = write_tables(&options, packing, &stored, inodes, &mut output)?;
        // All other handles went with the threads.
        let file = Arc::into_inner(file).ok_or(Error::ThreadDied("output"))?;
        Ok(Summary {
            file,
            bytes: superblock.bytes_used.get(),
            inodes: superblock.inodes.get(),
            data_in: self.bytes_in,
            data_out: stored.position - self.data_start,
            blocks: stored.data_blocks,
            fragments: superblock.fragments.get(),
            duplicates: self.duplicates + stored.duplicates,
            duplicate_bytes: self.duplicate_bytes + stored.duplicate_bytes,
            blocks_reused: stored.blocks_reused,
            ids: superblock.no_ids.get().into(),
            xattr_lists,
        })
    }

    fn new_file(&mut self, content: Content) -> Result<FileId, Error> {
        let max = u32::MAX;
        let id = u32::try_from(self.files.len()).map_err(|_| Error::TooMany { what: "files", max: max.into() })?;
        self.files.push(content);
        Ok(FileId(id))
    }

    fn end_blocks(&mut self, size: u64) -> Result<FileId, Error> {
        self.pipeline.message(Message::EndFile(size))?;
        let id = self.new_file(Content::Blocks(self.block_files))?;
        self.block_files += 1;
        Ok(id)
    }

    fn end_fragment(&mut self, size: usize) -> Result<FileId, Error> {
        let content = self.fragments.content();
        if is_zero(content) {
            self.fragments.forget();
            self.pipeline.message(Message::Holes(1))?;
            return self.end_blocks(size as u64);
        }
        let digest = digest_of(content);
        if let Some(&id) = self.small_files.get(&digest) {
            self.fragments.forget();
            self.duplicates += 1;
            self.duplicate_bytes += size as u64;
            return Ok(id);
        }
        let (index, offset) = self.fragments.keep(&mut self.pipeline)?;
        let id = self.new_file(Content::Fragment { index, offset, size: size as u32 })?;
        self.small_files.insert(digest, id);
        Ok(id)
    }
}

/// Writes what comes behind the directory table, in the order that the kernel checks, and the superblock last of all.
fn write_tables(
    options: &WriterOptions,
    packing: Packing,
    stored: &Stored,
    inodes: Inodes<'_>,
    output: &mut Output<'_>,
) -> Result<SuperBlock, Error> {
    let compression = options.compression;
    let mut flags = flags::DUPLICATE;
    let fragment_table = if stored.fragments.is_empty() {
        flags |= flags::NO_FRAG;
        INVALID_TABLE
    } else {
        write_table(output, packing, &stored.fragments, &[])?
    };
    let lookup_table = if options.exportable {
        flags |= flags::EXPORT;
        write_table(output, packing, &inodes.references, &[])?
    } else {
        INVALID_TABLE
    };
    let id_table = write_table(output, packing, &inodes.ids, &[])?;
    let xattr_table = inodes.xattrs.write(output, packing)?;
    flags |= if xattr_table == INVALID_TABLE { flags::NO_XATTR } else { 0 };
    flags |= if compression.options().is_some() { flags::COMP_OPT } else { 0 };
    let superblock = SuperBlock {
        s_magic: MAGIC.into(),
        inodes: (inodes.references.len() as u32).into(),
        mkfs_time: options.mtime.into(),
        block_size: options.block_size.into(),
        fragments: (stored.fragments.len() as u32).into(),
        compression: compression.id().into(),
        block_log: (options.block_size.ilog2() as u16).into(),
        flags: flags.into(),
        no_ids: (inodes.ids.len() as u16).into(),
        s_major: VERSION_MAJOR.into(),
        s_minor: VERSION_MINOR.into(),
        root_inode: inodes.root.0.into(),
        bytes_used: output.position.into(),
        id_table_start: id_table.into(),
        xattr_id_table_start: xattr_table.into(),
        inode_table_start: inodes.inode_table.into(),
        directory_table_start: inodes.directory_table.into(),
        fragment_table_start: fragment_table.into(),
        lookup_table_start: lookup_table.into(),
    };
    // Also cuts off what is left of blocks that were taken back.
    let length = output.position.next_multiple_of(IMAGE_ALIGN);
    output.file.set_len(output.position).and_then(|()| output.file.set_len(length)).map_err(Error::output("resize"))?;
    output.file.write_all_at(superblock.as_bytes(), 0).map_err(Error::output("write"))?;
    Ok(superblock)
}
