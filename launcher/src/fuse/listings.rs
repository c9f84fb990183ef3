//! Answers to READDIR and READDIRPLUS, written straight into a buffer that is used again.

use zerocopy::IntoBytes;

use super::answer::{Answered, Worker};
use super::listing::{Listed, Target};
use super::protocol::{Attr, Dirent, EntryOut, ReadIn, Request};
use rustix::io::Errno;

/// Bytes that entries are aligned to.
const ALIGNMENT: usize = 8;
/// Most that the kernel asks for is 1 MiB; never believed beyond that.
const ROOM_MAX: usize = 1 << 20;

impl Worker<'_> {
    pub(super) fn readdir(&mut self, request: &Request<'_>, plus: bool) -> Answered {
        let argument: ReadIn = request.argument().ok_or(Errno::INVAL)?;
        let room = (argument.size as usize).min(ROOM_MAX);
        let (control, valid) = (self.control, self.valid());
        let tree = &control.tree;
        let mut listing = std::mem::take(&mut self.listing);
        let mut listed = std::mem::take(&mut self.listed);
        listing.clear();
        listed.clear();
        let result = tree.node(request.header.nodeid).and_then(|directory| {
            tree.list(directory, argument.offset, &mut |entry: Listed<'_>| {
                let front = if plus { size_of::<EntryOut>() } else { 0 } + size_of::<Dirent>();
                if listing.len() + (front + entry.name.len()).next_multiple_of(ALIGNMENT) > room {
                    return Ok(true);
                }
                let node = match entry.target {
                    Target::Dot(id) => id,
                    Target::Node(node) => tree.id(node),
                };
                if plus {
                    let mut answer =
                        EntryOut { nodeid: node, entry_valid: valid, attr_valid: valid, ..EntryOut::default() };
                    match entry.target {
                        // The kernel takes no reference to dots, and looks at the type alone.
                        Target::Dot(id) => {
                            answer.attr = Attr { ino: id, mode: entry.kind.mode_bits(), ..Attr::default() };
                        }
                        Target::Node(node) => {
                            let (attr, inode) = tree.attributes(node)?;
                            answer.attr = attr;
                            listed.extend(inode.map(|inode| (answer.nodeid, inode)));
                        }
                    }
                    listing.extend_from_slice(answer.as_bytes());
                }
                put(&mut listing, node, &entry);
                Ok(false)
            })
        });
        let answered = match result {
            Err(failure) if listing.is_empty() => Err(failure),
            // What precedes the damage is shown; the kernel then asks for the rest and gets the error.
            _ => {
                self.sent(self.device.reply(request.header.unique, &[&listing]));
                Ok(())
            }
        };
        for (id, inode) in listed.drain(..) {
            self.known(id, &inode);
        }
        (self.listing, self.listed) = (listing, listed);
        answered
    }
}

fn put(listing: &mut Vec<u8>, node: u64, entry: &Listed<'_>) {
    let dirent = Dirent {
        ino: node,
        off: entry.cookie,
        // At most 256.
        namelen: entry.name.len() as u32,
        r#type: entry.kind.mode_bits() >> 12,
    };
    listing.extend_from_slice(dirent.as_bytes());
    listing.extend_from_slice(entry.name);
    listing.resize(listing.len().next_multiple_of(ALIGNMENT), 0);
}
