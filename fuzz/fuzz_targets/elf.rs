//! Reads bytes as an ELF file, as a launch reads the libraries of an image.
#![no_main]

use coracle::libraries::elf::Elf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(elf) = Elf::read(bytes) else { return };
    // Names are bounded, and no more of them come out than the file has tables for.
    assert!(elf.needed.iter().chain(&elf.defines).all(|name| name.len() <= 4 * 4096));
    assert_eq!(Elf::read(bytes).ok().as_ref(), Some(&elf));
});
