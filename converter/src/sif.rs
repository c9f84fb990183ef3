//! Finds the squashfs partition in a SIF file, Apptainer's image format.
//!
//! Layout: <https://github.com/apptainer/sif/blob/main/pkg/sif/sif.go>. Numbers are little-endian; descriptors are
//! packed. Only what leads to the partition is read, and no more than `DESCRIPTORS_MAX` descriptors.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::little_endian::{I32, I64, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// After the launch script.
const MAGIC: &[u8] = b"SIF_MAGIC\0";
/// Bytes of `#!/usr/bin/env run-singularity`.
const LAUNCH: usize = 32;
/// Apptainer's own limit is 48; a file that claims more than this is not read on.
const DESCRIPTORS_MAX: i64 = 1024;
/// `DataPartition`
const DATA_PARTITION: i32 = 0x4004;
/// `DataOCIRootIndex` and `DataOCIBlob`: an image in OCI's form inside.
const OCI: [i32; 2] = [0x400a, 0x400b];
/// `FsSquash`
const FS_SQUASH: i32 = 1;
/// `FsEncryptedSquashfs`
const FS_ENCRYPTED: i32 = 5;
/// `PartSystem`
const PART_SYSTEM: i32 = 1;
/// `PartPrimSys`
const PART_PRIMARY: i32 = 2;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    launch_script: [u8; LAUNCH],
    magic: [u8; 10],
    version: [u8; 3],
    arch: [u8; 3],
    id: [u8; 16],
    created_at: I64,
    modified_at: I64,
    descriptors_free: I64,
    descriptors_total: I64,
    descriptors_offset: I64,
    descriptors_size: I64,
    data_offset: I64,
    data_size: I64,
}
const _: () = assert!(size_of::<Header>() == 128);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Descriptor {
    data_type: I32,
    used: u8,
    id: U32,
    group: U32,
    link: U32,
    offset: I64,
    size: I64,
    size_with_padding: I64,
    created_at: I64,
    modified_at: I64,
    uid: I64,
    gid: I64,
    name: [u8; 128],
    fs_type: I32,
    part_type: I32,
    extra: [u8; 376],
}
const _: () = assert!(size_of::<Descriptor>() == 585);

/// What is wrong with a SIF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It cannot be read.
    #[error("read at byte {offset}: {cause}")]
    Io {
        /// In the file.
        offset: u64,
        /// The system's reason.
        cause: io::Error,
    },
    /// A number in its header cannot be true.
    #[error("its header gives {count} descriptors at byte {offset}")]
    Header {
        /// As read.
        count: i64,
        /// As read.
        offset: i64,
    },
    /// The root file system is encrypted.
    #[error("its root file system is encrypted, which coracle cannot open: build an unencrypted one")]
    Encrypted,
    /// The root file system is something else.
    #[error("its root file system is {kind}, not squashfs: rebuild it with apptainer build")]
    NotSquashfs {
        /// What it is.
        kind: &'static str,
    },
    /// There is no root file system.
    #[error("it holds no root file system")]
    NoPartition,
    /// There are OCI blobs instead.
    #[error(
        "it is an OCI-SIF, which holds OCI layers instead of a root file system: convert the image that it was made from"
    )]
    Oci,
    /// The partition's position is impossible.
    #[error("its root file system is said to begin at byte {offset}")]
    Offset {
        /// As read.
        offset: i64,
    },
}

/// Whether a file that begins so is a SIF file.
#[must_use]
pub fn is_sif(head: &[u8]) -> bool {
    head.get(LAUNCH..).is_some_and(|rest| rest.starts_with(MAGIC))
}

/// Position of the primary squashfs partition; a system partition is taken when none is primary.
///
/// # Errors
/// When there is none that can be used.
pub fn squashfs_offset(file: &File) -> Result<u64, Problem> {
    let header: Header = read(file, 0)?;
    let (count, start) = (header.descriptors_total.get(), header.descriptors_offset.get());
    let bad = || Problem::Header { count, offset: start };
    if !(0..=DESCRIPTORS_MAX).contains(&count) {
        return Err(bad());
    }
    let start = u64::try_from(start).map_err(|_| bad())?;
    let (mut found, mut oci) = (None::<Descriptor>, false);
    for index in 0..count.unsigned_abs() {
        let offset = start.checked_add(index * size_of::<Descriptor>() as u64).ok_or_else(bad)?;
        let descriptor: Descriptor = read(file, offset)?;
        oci |= descriptor.used != 0 && OCI.contains(&descriptor.data_type.get());
        if descriptor.used == 0 || descriptor.data_type.get() != DATA_PARTITION {
            continue;
        }
        match descriptor.part_type.get() {
            PART_PRIMARY => {
                found = Some(descriptor);
                break;
            }
            PART_SYSTEM if found.is_none() => found = Some(descriptor),
            _ => {}
        }
    }
    let found = found.ok_or(if oci { Problem::Oci } else { Problem::NoPartition })?;
    match found.fs_type.get() {
        FS_SQUASH => {
            let offset = found.offset.get();
            u64::try_from(offset).map_err(|_| Problem::Offset { offset })
        }
        FS_ENCRYPTED => Err(Problem::Encrypted),
        other => Err(Problem::NotSquashfs { kind: file_system(other) }),
    }
}

/// A file system's name by `FSType`.
fn file_system(kind: i32) -> &'static str {
    match kind {
        2 => "ext3",
        3 => "an archive of immutable data",
        4 => "raw data",
        _ => "of an unknown kind",
    }
}

fn read<T: FromBytes>(file: &File, offset: u64) -> Result<T, Problem> {
    // The largest structure here has 585 bytes.
    let mut bytes = vec![0; size_of::<T>()];
    file.read_exact_at(&mut bytes, offset).map_err(|cause| Problem::Io { offset, cause })?;
    T::read_from_bytes(&bytes).map_err(|_| Problem::Io { offset, cause: io::ErrorKind::InvalidData.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Numbers at the positions that Apptainer's Go code gives them.
    fn sif(count: i64, partitions: &[(i32, i32, i32, i64)]) -> File {
        let mut bytes = vec![0u8; 128];
        bytes[32..42].copy_from_slice(MAGIC);
        bytes[88..96].copy_from_slice(&count.to_le_bytes());
        bytes[96..104].copy_from_slice(&4096i64.to_le_bytes());
        bytes.resize(4096, 0);
        for (data_type, fs_type, part_type, offset) in partitions {
            let mut descriptor = vec![0u8; 585];
            descriptor[0..4].copy_from_slice(&data_type.to_le_bytes());
            descriptor[4] = 1;
            descriptor[17..25].copy_from_slice(&offset.to_le_bytes());
            descriptor[201..205].copy_from_slice(&fs_type.to_le_bytes());
            descriptor[205..209].copy_from_slice(&part_type.to_le_bytes());
            bytes.extend(descriptor);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        assert!(is_sif(&bytes));
        file
    }

    #[test]
    fn the_primary_partition_wins() {
        let file = sif(3, &[(0x4001, 0, 0, 1), (DATA_PARTITION, 1, 1, 5), (DATA_PARTITION, 1, 2, 8192)]);
        assert_eq!(squashfs_offset(&file).unwrap(), 8192);
        let file = sif(2, &[(DATA_PARTITION, 2, 4, 5), (DATA_PARTITION, 1, 1, 77)]);
        assert_eq!(squashfs_offset(&file).unwrap(), 77, "an overlay is no root file system");
    }

    #[test]
    fn lies_are_refused() {
        let text = |file: File| squashfs_offset(&file).unwrap_err().to_string();
        assert!(text(sif(-1, &[])).contains("-1 descriptors"));
        assert!(text(sif(i64::MAX, &[])).contains("descriptors at byte 4096"));
        assert!(text(sif(5, &[(DATA_PARTITION, 1, 4, 5)])).contains("read at byte 4681"));
        assert!(text(sif(1, &[(DATA_PARTITION, 5, 2, 5)])).contains("encrypted"));
        assert!(text(sif(1, &[(DATA_PARTITION, 2, 2, 5)])).contains("ext3, not squashfs"));
        assert!(text(sif(1, &[(DATA_PARTITION, 4, 2, 5)])).contains("raw data, not squashfs"));
        assert!(text(sif(2, &[(0x400a, 0, 0, 5), (0x400b, 0, 0, 5)])).contains("OCI-SIF"));
        assert!(text(sif(1, &[(DATA_PARTITION, 1, 2, -5)])).contains("byte -5"));
        assert!(text(sif(0, &[])).contains("no root file system"));
    }
}
