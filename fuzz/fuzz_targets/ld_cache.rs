//! Reads bytes as the dynamic loader's cache, and writes what was understood.
#![no_main]

use coracle::libraries::Abi;
use coracle::libraries::cache::{Cache, Entry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut cache) = Cache::parse(bytes) else { return };
    let again = Cache::parse(&cache.write()).expect("what is written can be read");
    // Damaged tables may name an entry twice, of which the order is not kept.
    assert_eq!(again.entries().len(), cache.entries().len());
    cache.add(Entry::new("libz.so.1", "/lib/libz.so.1", Abi::X86_64));
    let names: Vec<_> = cache.entries().iter().map(|entry| entry.soname.clone()).collect();
    for name in names.iter().take(50) {
        let _ = cache.find(name, Abi::X86_64).count();
    }
    cache.remove(|entry| entry.is_for(Abi::X86_64));
    let _ = cache.write();
});
