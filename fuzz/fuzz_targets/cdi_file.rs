//! Reads bytes as a CDI file, and its hooks.
//!
//! Covers the YAML reader, which follows aliases with bounds, and the checks. A file that is taken is taken again after it
//! was written out, and means the same.
#![no_main]

use coracle::cdi::{hooks, spec::Spec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = Spec::parse(bytes) else { return };
    for device in &spec.devices {
        for hook in &device.container_edits.hooks {
            let _ = hooks::recognise(hook);
            let _ = hooks::title(hook);
        }
    }
    let text = serde_json::to_string(&spec).expect("it can be written");
    assert_eq!(Spec::parse(text.as_bytes()).expect("what was written can be read"), spec);
});
