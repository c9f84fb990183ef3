//! Images are judged by the kernel, `unsquashfs`, `rdsquashfs` and our own reader, entry by entry.

mod group;
mod images;
mod input;
mod limits;
mod sharing;
mod support;
