//! Images made by hand, to put one lie at a time into them.

use super::*;
use crate::compress::Compression;
use crate::format::{
    self, BaseInode, DirHeader, FragmentEntry, INVALID_FRAGMENT, INVALID_TABLE, INVALID_XATTR, LDirInode, LRegInode,
    SuperBlock, SymlinkInode, XattrId, XattrTable, inode_type,
};
use zerocopy::{FromZeros, IntoBytes};

const BLOCK: u32 = 4096;

/// The parts of an image. The root directory's inode is the first one.
#[derive(Default)]
struct Parts {
    inodes: Vec<u8>,
    /// Metadata blocks that follow the inodes as they are.
    raw_inodes: Vec<u8>,
    listings: Vec<u8>,
    raw_listings: Vec<u8>,
    fragments: Vec<FragmentEntry>,
    xattrs: Vec<u8>,
    xattr_ids: Vec<XattrId>,
    data: Vec<u8>,
    block_size: u32,
}

/// Stores `bytes` as metadata blocks behind `image`, and the positions of the blocks.
fn store(image: &mut Vec<u8>, bytes: &[u8]) -> Vec<u64> {
    let mut positions = Vec::new();
    for block in bytes.chunks(format::METADATA_SIZE) {
        positions.push(image.len() as u64);
        image.extend((block.len() as u16 | format::METADATA_UNCOMPRESSED).to_le_bytes());
        image.extend(block);
    }
    positions
}

impl Parts {
    fn build(&self) -> Vec<u8> {
        let block_size = if self.block_size == 0 { BLOCK } else { self.block_size };
        let mut superblock = SuperBlock::new_zeroed();
        superblock.s_magic = format::MAGIC.into();
        superblock.inodes = 1000.into();
        superblock.block_size = block_size.into();
        superblock.block_log = (block_size.trailing_zeros() as u16).into();
        superblock.fragments = (self.fragments.len() as u32).into();
        superblock.compression = format::compression::ZSTD.into();
        superblock.no_ids = 1.into();
        superblock.s_major = 4.into();
        superblock.lookup_table_start = INVALID_TABLE.into();
        superblock.fragment_table_start = INVALID_TABLE.into();
        superblock.xattr_id_table_start = INVALID_TABLE.into();
        let mut image = vec![0; 96];
        image.extend(&self.data);
        superblock.inode_table_start = (image.len() as u64).into();
        store(&mut image, &self.inodes);
        image.extend(&self.raw_inodes);
        superblock.directory_table_start = (image.len() as u64).into();
        store(&mut image, &self.listings);
        image.extend(&self.raw_listings);
        if !self.fragments.is_empty() {
            let positions = store(&mut image, self.fragments.as_bytes());
            superblock.fragment_table_start = (image.len() as u64).into();
            image.extend(positions.as_bytes());
        }
        let positions = store(&mut image, &7u32.to_le_bytes());
        superblock.id_table_start = (image.len() as u64).into();
        image.extend(positions.as_bytes());
        if !self.xattr_ids.is_empty() {
            let start = image.len() as u64;
            store(&mut image, &self.xattrs);
            let positions = store(&mut image, self.xattr_ids.as_bytes());
            superblock.xattr_id_table_start = (image.len() as u64).into();
            let count = self.xattr_ids.len() as u32;
            let header = XattrTable { xattr_table_start: start.into(), xattr_ids: count.into(), unused: 0.into() };
            image.extend(header.as_bytes());
            image.extend(positions.as_bytes());
        }
        superblock.bytes_used = (image.len() as u64).into();
        image[..96].copy_from_slice(superblock.as_bytes());
        image
    }

    fn open(&self) -> Image<Vec<u8>> {
        Image::open(self.build(), OpenOptions::default()).unwrap()
    }

    /// Adds an inode and returns its reference; all are in the first block.
    fn inode(&mut self, kind: u16, number: u32, rest: &[u8]) -> InodeRef {
        let at = InodeRef::new(0, self.inodes.len() as u16);
        let base = BaseInode {
            inode_type: kind.into(),
            mode: 0o644.into(),
            uid: 0.into(),
            guid: 0.into(),
            mtime: 0.into(),
            inode_number: number.into(),
        };
        self.inodes.extend(base.as_bytes());
        self.inodes.extend(rest);
        at
    }

    fn directory(&mut self, number: u32, size: u32, index: &[(u32, u32, &[u8])]) -> InodeRef {
        let raw = LDirInode {
            nlink: 2.into(),
            file_size: (size + 3).into(),
            start_block: 0.into(),
            parent_inode: 1.into(),
            i_count: (index.len() as u16).into(),
            offset: 0.into(),
            xattr: INVALID_XATTR.into(),
        };
        let at = self.inode(inode_type::LDIR, number, raw.as_bytes());
        for (position, block, name) in index {
            let size = (name.len() as u32).wrapping_sub(1);
            for number in [*position, *block, size] {
                self.inodes.extend(number.to_le_bytes());
            }
            self.inodes.extend(*name);
        }
        at
    }

    fn file(&mut self, number: u32, size: u64, start: u64, fragment: (u32, u32), blocks: &[u32]) -> InodeRef {
        let raw = LRegInode {
            start_block: start.into(),
            file_size: size.into(),
            sparse: 0.into(),
            nlink: 1.into(),
            fragment: fragment.0.into(),
            offset: fragment.1.into(),
            xattr: 0.into(),
        };
        let at = self.inode(inode_type::LREG, number, raw.as_bytes());
        self.inodes.extend(blocks.as_bytes());
        at
    }

    /// Adds a header and entries to the listings; returns their size.
    fn entries(&mut self, entries: &[(&[u8], InodeRef, u16, u16)]) -> u32 {
        let start = self.listings.len();
        let header =
            DirHeader { count: (entries.len() as u32 - 1).into(), start_block: 0.into(), inode_number: 0.into() };
        self.listings.extend(header.as_bytes());
        for (name, inode, number, kind) in entries {
            let size = (name.len() as u16).wrapping_sub(1);
            for field in [inode.offset(), *number, *kind, size] {
                self.listings.extend(field.to_le_bytes());
            }
            self.listings.extend(*name);
        }
        (self.listings.len() - start) as u32
    }
}

const NO_FRAGMENT: (u32, u32) = (INVALID_FRAGMENT, 0);
const ROOT: InodeRef = InodeRef::new(0, 0);

/// An image whose root directory lists `entries`, all naming the root's own inode.
fn listing(entries: &[(&[u8], u16)]) -> Parts {
    let mut parts = Parts::default();
    let entries: Vec<_> = entries.iter().map(|(name, kind)| (*name, ROOT, 1, *kind)).collect();
    let size = parts.entries(&entries);
    parts.directory(1, size, &[]);
    parts
}

/// An image with one file besides the root, and that file.
fn one_file(size: u64, start: u64, fragment: (u32, u32), blocks: &[u32]) -> (Parts, InodeRef) {
    let mut parts = Parts::default();
    parts.directory(1, 0, &[]);
    let file = parts.file(2, size, start, fragment, blocks);
    (parts, file)
}

fn list_error(parts: &Parts) -> String {
    let image = parts.open();
    let root = image.inode(image.root()).unwrap();
    let error = match image.read_dir(&root) {
        Ok(mut entries) => entries.find_map(Result::err).unwrap(),
        Err(error) => error,
    };
    // A lookup that passes the same entry says the same.
    assert_eq!(image.lookup(&root, b"\xff").unwrap_err().to_string(), error.to_string());
    error.to_string()
}

fn read_error((parts, file): &(Parts, InodeRef)) -> String {
    let image = parts.open();
    match image.inode(*file) {
        Ok(inode) => {
            let last = inode.size().saturating_sub(1);
            image.read(&inode, last, &mut [0; 10]).unwrap_err().to_string()
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_sound_image_made_by_hand_is_read() {
    let mut parts = Parts { data: b"data of a file, stored plainly".to_vec(), ..Parts::default() };
    let file = InodeRef::new(0, 40);
    let size = parts.entries(&[(b"file", file, 2, 2)]);
    parts.directory(1, size, &[]);
    assert_eq!(parts.file(2, 30, 96, NO_FRAGMENT, &[30 | format::DATA_UNCOMPRESSED]), file);
    let image = parts.open();
    let inode = image.resolve(b"//./file").unwrap().unwrap();
    assert_eq!((inode.uid, inode.size()), (7, 30));
    let mut buf = [0; 100];
    assert_eq!(image.read(&inode, 8, &mut buf).unwrap(), 22);
    assert_eq!(&buf[..22], b"a file, stored plainly");
    assert!(image.resolve(b"/file/below").unwrap().is_none());
    assert!(image.resolve(b"/..").unwrap().is_none());
    assert!(matches!(image.inode_by_number(2), Err(Error::NoExportTable(2))));
    assert!(matches!(image.read_dir(&inode), Err(Error::WrongType { number: 2, .. })));
    assert!(matches!(image.read_link(&inode), Err(Error::WrongType { number: 2, .. })));
}

#[test]
fn metadata_blocks_that_lie_about_their_size() {
    for (header, problem) in [
        (9000 | format::METADATA_UNCOMPRESSED, "block claims 9000 bytes, at most 8192 fit"),
        (0, "block is empty"),
        (format::METADATA_UNCOMPRESSED, "block is empty"),
    ] {
        let mut parts = Parts::default();
        parts.directory(1, 100, &[]);
        parts.raw_listings = header.to_le_bytes().to_vec();
        parts.raw_listings.resize(12_000, 0);
        let at = parts.open().superblock().directory_table_start.get();
        assert_eq!(list_error(&parts), format!("read directory table at byte {at}: {problem}"));
    }
    let mut parts = Parts::default();
    parts.directory(1, 100, &[]);
    parts.raw_listings = 5000u16.to_le_bytes().to_vec();
    let end = parts.open().superblock().id_table_start.get();
    assert_eq!(
        list_error(&parts),
        format!(
            "read directory table at byte {}: block of 5000 bytes reaches behind byte {end}, where it must end",
            end - 8
        )
    );
}

#[test]
fn names_that_lead_out_of_a_directory() {
    for name in [b".".as_slice(), b"..", b"a/b", b"/", b"a\0"] {
        let error = list_error(&listing(&[(name, 2)]));
        let name = name.escape_ascii();
        assert_eq!(
            error,
            format!("read directory table at byte 138: directory entry has the forbidden name \"{name}\"")
        );
    }
    let mut empty = Parts::default();
    let size = empty.entries(&[(b"", ROOT, 1, 2)]);
    empty.directory(1, size, &[]);
    assert!(list_error(&empty).contains("ends within an entry"));
    let long = [b'n'; 257];
    assert!(list_error(&listing(&[(&long, 2)])).ends_with("name of 257 bytes, at most 256 fit"));
    assert!(parts_list(&listing(&[(&long[..256], 2)])) == 1);
}

fn parts_list(parts: &Parts) -> usize {
    let image = parts.open();
    let root = image.inode(image.root()).unwrap();
    image.read_dir(&root).unwrap().filter(Result::is_ok).count()
}

#[test]
fn entries_out_of_order_of_unknown_type_or_too_many() {
    assert!(list_error(&listing(&[(b"b", 2), (b"a", 2)])).ends_with("directory entry \"a\" is out of order"));
    assert!(list_error(&listing(&[(b"a", 2), (b"a", 2)])).ends_with("directory entry \"a\" is out of order"));
    assert!(list_error(&listing(&[(b"a", 8)])).ends_with("directory entry has unknown type 8"));
    assert!(list_error(&listing(&[(b"a", 0)])).ends_with("directory entry has unknown type 0"));
    let names: Vec<_> = (0..257).map(|index| format!("{index:03}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_bytes(), 2)).collect();
    assert_eq!(parts_list(&listing(&entries[..256])), 256);
    assert!(list_error(&listing(&entries)).ends_with("directory header claims 257 entries, at most 256 fit"));
}

#[test]
fn listings_and_indexes_that_point_elsewhere() {
    let mut parts = Parts::default();
    let size = parts.entries(&[(b"a", ROOT, 1, 2)]);
    parts.directory(1, size + 5, &[]);
    parts.listings.extend([0; 100]);
    assert!(list_error(&parts).ends_with("listing of inode 1 ends within an entry"));

    let mut parts = Parts::default();
    let size = parts.entries(&[(b"a", ROOT, 1, 2)]);
    parts.directory(1, size, &[(5000, 0, b"a")]);
    let image = parts.open();
    let root = image.inode(image.root()).unwrap();
    let error = image.lookup(&root, b"a").unwrap_err().to_string();
    assert!(error.ends_with("directory index of inode 1 points to byte 5000 of a listing of 21"), "{error}");

    let mut parts = Parts::default();
    let size = parts.entries(&[(b"a", ROOT, 1, 2)]);
    parts.directory(1, size, &[(0, 70_000, b"a")]);
    let image = parts.open();
    let root = image.inode(image.root()).unwrap();
    let error = image.lookup(&root, b"a").unwrap_err();
    assert!(matches!(error, Error::Corrupt { problem: Problem::OutOfTable { .. }, .. }), "{error}");
}

#[test]
fn a_directory_in_itself_ends_a_walk_with_an_error() {
    let parts = listing(&[(b"a", 1), (b"b", 1)]);
    let image = parts.open();
    let walked: Vec<_> = image.walk().collect();
    assert_eq!(walked.len(), 3);
    let error = walked[1].as_ref().unwrap_err().to_string();
    assert!(error.starts_with("\"/a\": ") && error.ends_with("directory inode 1 is reached a second time"), "{error}");
    let mut text = Vec::new();
    assert!(crate::dump::tree(&image, &mut text).is_err());
}

#[test]
fn entries_that_disagree_with_their_inodes() {
    let image = listing(&[(b"a", 2)]).open();
    let error = image.walk().find_map(Result::err).unwrap();
    assert!(matches!(error.error, Error::Corrupt { problem: Problem::EntryTypeDiffers { number: 1 }, .. }));
}

#[test]
fn inodes_of_unknown_type_or_number() {
    for (kind, number, message) in [
        (0, 2, "inode at offset 40 of the block has unknown type 0"),
        (15, 2, "inode at offset 40 of the block has unknown type 15"),
        (2, 0, "inode number 0 is not in 1 to 1000"),
        (2, 1001, "inode number 1001 is not in 1 to 1000"),
    ] {
        let mut parts = Parts::default();
        parts.directory(1, 0, &[]);
        let at = parts.inode(kind, number, &[0; 40]);
        let error = parts.open().inode(at).unwrap_err().to_string();
        assert_eq!(error, format!("read inode table at byte 96: {message}"));
    }
    let image = listing(&[(b"a", 2)]).open();
    for at in [InodeRef(u64::MAX), InodeRef(1 << 16), InodeRef(0xffff), InodeRef(41), InodeRef(u64::MAX << 16)] {
        assert!(image.inode(at).is_err(), "{at:?}");
    }
}

#[test]
fn links_of_impossible_size() {
    for size in [0, 65_537, u32::MAX] {
        for kind in [inode_type::SYMLINK, inode_type::LSYMLINK] {
            let mut parts = Parts::default();
            parts.directory(1, 0, &[]);
            let raw = SymlinkInode { nlink: 1.into(), symlink_size: size.into() };
            let at = parts.inode(kind, 2, raw.as_bytes());
            let error = parts.open().inode(at).unwrap_err().to_string();
            assert!(error.ends_with(&format!("inode 2 has an impossible link target of {size} bytes")), "{error}");
        }
    }
    let mut parts = Parts::default();
    parts.directory(1, 0, &[]);
    let raw = SymlinkInode { nlink: 1.into(), symlink_size: 5.into() };
    let at = parts.inode(inode_type::SYMLINK, 2, raw.as_bytes());
    parts.inodes.extend(b"nul\0x");
    let image = parts.open();
    let link = image.inode(at).unwrap();
    assert!(image.read_link(&link).is_err());
}

#[test]
fn files_whose_blocks_are_not_there() {
    let bits = read_error(&one_file(100, 96, NO_FRAGMENT, &[1 << 25 | 100]));
    assert!(bits.ends_with("block size 0x2000064 has unknown bits set"), "{bits}");
    let large = read_error(&one_file(100, 96, NO_FRAGMENT, &[5000]));
    assert!(large.ends_with("read data block at byte 96: block claims 5000 bytes, at most 4096 fit"), "{large}");
    let before = read_error(&one_file(100, 0, NO_FRAGMENT, &[100]));
    assert!(before.contains("read data block at byte 0: position is outside of bytes 96 to"), "{before}");
    let behind = read_error(&one_file(100, u64::MAX, NO_FRAGMENT, &[100]));
    assert!(behind.contains("reaches behind byte"), "{behind}");
    let short = read_error(&one_file(100, 96, NO_FRAGMENT, &[50 | format::DATA_UNCOMPRESSED]));
    assert!(short.ends_with("block unpacks to 50 bytes, 100 are needed"), "{short}");
    let garbage = read_error(&one_file(100, 96, NO_FRAGMENT, &[50]));
    assert!(garbage.starts_with("read data block at byte 96: invalid zstd data"), "{garbage}");
    let list = read_error(&one_file(1 << 50, 96, NO_FRAGMENT, &[0; 10]));
    assert!(list.starts_with("read inode table at byte"), "{list}");
    let size = read_error(&one_file(1 << 63, 96, NO_FRAGMENT, &[]));
    assert!(size.ends_with("inode 2 claims a file of 9223372036854775808 bytes"), "{size}");
}

#[test]
fn tails_that_are_not_in_their_fragment_block() {
    let index = read_error(&one_file(100, 96, (3, 0), &[]));
    assert!(index.ends_with("index 3 into a table of 0"), "{index}");
    let stored = 50 | format::DATA_UNCOMPRESSED;
    let with_fragment = |size: u32, offset| {
        let (mut parts, file) = one_file(40, 96, (0, offset), &[]);
        parts.fragments = vec![FragmentEntry { start_block: 96.into(), size: size.into(), unused: 0.into() }];
        (parts, file)
    };
    let offset = read_error(&with_fragment(stored, 4090));
    assert!(offset.ends_with("inode 2 has bytes 4090 to 4130 of a fragment block of 4096"), "{offset}");
    let short = read_error(&with_fragment(stored, 11));
    assert!(short.ends_with("inode 2 has bytes 11 to 51 of a fragment block of 50"), "{short}");
    let hole = read_error(&with_fragment(0, 0));
    assert!(hole.ends_with("read fragment block at byte 96: block is empty"), "{hole}");
    let (parts, file) = with_fragment(stored, 10);
    let image = parts.open();
    let inode = image.inode(file).unwrap();
    assert_eq!(inode.fragment(), Some((0, 10)));
    assert_eq!(image.read(&inode, 0, &mut [0; 100]).unwrap(), 40);
    assert_eq!(image.block(&inode, 0).unwrap().len(), 40);
}

#[test]
fn a_sparse_file_of_16_tib_is_read_at_random() {
    // 16 Mi blocks of 1 MiB; their list is 8192 copies of one block of zeros, with one block of data at the end.
    let list = |tail: u32| {
        let mut sizes = vec![0; format::METADATA_SIZE];
        sizes[format::METADATA_SIZE - 4..].copy_from_slice(&tail.to_le_bytes());
        let mut packed = Vec::new();
        assert!(Compression::Zstd { level: 1 }.compressor(1 << 20).unwrap().compress(&sizes, &mut packed).unwrap());
        let mut block = (packed.len() as u16).to_le_bytes().to_vec();
        block.extend(packed);
        block
    };
    let size = 1 << 44;
    let data = vec![b'd'; 1 << 20];
    let mut parts = Parts { block_size: 1 << 20, data, ..Parts::default() };
    parts.directory(1, 0, &[]);
    let file = parts.file(2, size, 96, NO_FRAGMENT, &[]);
    for _ in 0..8191 {
        parts.raw_inodes.extend(list(0));
    }
    parts.raw_inodes.extend(list(1 << 20 | format::DATA_UNCOMPRESSED));
    let image = parts.open();
    let inode = image.inode(file).unwrap();
    let mut buf = [1; 8];
    assert_eq!(image.read(&inode, size - 3, &mut buf).unwrap(), 3);
    assert_eq!(&buf[..3], b"ddd");
    let before = image.stats();
    for step in 0..1000 {
        assert_eq!(image.read(&inode, step * 17_000_000_000, &mut buf).unwrap(), 8);
        assert_eq!(buf, [0; 8]);
    }
    let after = image.stats();
    let touched = after.metadata_blocks + after.metadata_hits - before.metadata_blocks - before.metadata_hits;
    assert!(touched < 6000, "1000 random reads touched {touched} metadata blocks");
}

#[test]
fn superblocks_that_contradict_themselves() {
    let image = listing(&[(b"a", 2)]).build();
    let try_with = |change: &dyn Fn(&mut SuperBlock)| {
        let mut superblock = SuperBlock::new_zeroed();
        superblock.as_mut_bytes().copy_from_slice(&image[..96]);
        change(&mut superblock);
        let mut image = image.clone();
        image[..96].copy_from_slice(superblock.as_bytes());
        Image::open(image, OpenOptions::default()).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(try_with(&|_| {}), "");
    let used = image.len() as u64;
    type Change = &'static dyn Fn(&mut SuperBlock);
    let changes: [(Change, &str); 17] = [
        (&|s| s.s_magic = 1.into(), "no squashfs superblock there"),
        (&|s| s.s_major = 3.into(), "squashfs version 3.0 is not supported"),
        (&|s| s.s_minor = 1.into(), "squashfs version 4.1 is not supported"),
        (&|s| s.block_size = 5000.into(), "block_size is 5000: it must be a power of two"),
        (&|s| s.block_size = 2048.into(), "block_size is 2048: it must be a power of two"),
        (&|s| s.block_size = (1 << 21).into(), "block_size is 2097152: it must be a power of two"),
        (&|s| s.block_log = 13.into(), "block_log is 13: it is not the logarithm of block_size"),
        (&|s| s.compression = 2.into(), "compressor 2 is not supported: make it again with zstd"),
        (&|s| s.inodes = 0.into(), "inodes is 0"),
        (&|s| s.no_ids = 0.into(), "no_ids is 0"),
        (&|s| s.no_ids = 65_535.into(), "the table's index reaches behind bytes_used"),
        (&|s| s.inode_table_start = 50.into(), "inode_table_start is 50: the superblock is there"),
        (&|s| s.directory_table_start = 96.into(), "directory_table_start is 96: it must be behind"),
        (&|s| s.id_table_start = 100.into(), "id_table_start is 100: another table is there"),
        (&|s| s.lookup_table_start = 100.into(), "lookup_table_start is 100: another table is there"),
        (
            &|s| {
                s.fragments = u32::MAX.into();
                s.fragment_table_start = s.directory_table_start;
            },
            "the table's index reaches behind bytes_used",
        ),
        (&|s| s.root_inode = (1 << 40).into(), "it is outside of the inode table"),
    ];
    for (change, message) in changes {
        let error = try_with(change);
        assert!(error.contains(message), "\"{error}\" has no \"{message}\"");
    }
    let error = try_with(&|s| s.bytes_used = (s.bytes_used.get() + 1).into());
    assert!(error.contains(&format!("{} bytes are in use, but the file has {used}", used + 1)), "{error}");
    assert!(try_with(&|s| s.xattr_id_table_start = 10.into()).contains("xattr_id_table_start is 10"));
    assert!(try_with(&|s| s.xattr_id_table_start = (u64::MAX - 1).into()).contains("xattr_id_table_start is"));
}

/// An image whose file has the attributes `raw`, claiming `count` of them.
fn attributes(raw: Vec<u8>, count: u32) -> Result<Vec<Xattr>, Error> {
    let (mut parts, file) = one_file(0, 96, NO_FRAGMENT, &[]);
    parts.xattrs = raw;
    parts.xattr_ids = vec![XattrId { xattr: 0.into(), count: count.into(), size: 0.into() }];
    let image = parts.open();
    image.xattrs(&image.inode(file)?)
}

/// One stored attribute.
fn attribute(kind: u16, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut raw = kind.to_le_bytes().to_vec();
    raw.extend((name.len() as u16).to_le_bytes());
    raw.extend(name);
    raw.extend((value.len() as u32).to_le_bytes());
    raw.extend(value);
    raw
}

#[test]
fn attributes_in_and_out_of_line() {
    let mut raw = attribute(0, b"a", b"value");
    let reference = InodeRef::new(0, (raw.len() - 9) as u16);
    raw.extend(attribute(0x101, b"b", &reference.0.to_le_bytes()));
    let xattrs = attributes(raw, 2).unwrap();
    assert_eq!(xattrs[0], Xattr { name: b"user.a".to_vec(), value: b"value".to_vec() });
    assert_eq!(xattrs[1], Xattr { name: b"trusted.b".to_vec(), value: b"value".to_vec() });
}

#[test]
fn attributes_that_lie() {
    let text = |raw, count| attributes(raw, count).unwrap_err().to_string();
    assert!(text(attribute(3, b"a", b""), 1).ends_with("extended attribute has unknown prefix 3"));
    assert!(text(attribute(0, b"", b""), 1).ends_with("impossible extended attribute name of 5 bytes"));
    assert!(text(attribute(0, &[b'n'; 251], b""), 1).ends_with("impossible extended attribute name of 256 bytes"));
    assert!(text(attribute(0, b"a\0b", b""), 1).ends_with("impossible extended attribute name of 8 bytes"));
    assert!(
        text(attribute(0x100, b"a", b"1234"), 1).ends_with("extended attribute value of 4 bytes, at most 65536 fit")
    );
    let mut long = attribute(0, b"a", b"");
    let size = long.len();
    long[size - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(text(long, 1).ends_with("extended attribute value of 4294967295 bytes, at most 65536 fit"));
    let outside = attribute(0x100, b"a", &u64::MAX.to_le_bytes());
    assert!(text(outside, 1).contains("position is outside of bytes"));
    assert!(text(attribute(0, b"a", b"value"), u32::MAX).contains("read xattr table at byte"));
}

#[test]
fn attributes_that_would_fill_the_memory() {
    // One value of 64 KiB that every attribute names.
    let mut raw = attribute(0, b"v", &[0; 65_536]);
    let reference = InodeRef::new(0, 5);
    for index in 0..5000 {
        raw.extend(attribute(0x100, format!("{index}").as_bytes(), &reference.0.to_le_bytes()));
    }
    let error = attributes(raw, 5001).unwrap_err().to_string();
    assert!(error.ends_with("extended attributes of one inode take more than 8388608 bytes"), "{error}");
    let raw: Vec<_> = (0..20_000).flat_map(|index| attribute(0, format!("{index}").as_bytes(), b"")).collect();
    let error = attributes(raw, 20_000).unwrap_err().to_string();
    assert!(error.ends_with("extended attributes of one inode take more than 65536 bytes"), "{error}");
}
