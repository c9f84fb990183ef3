//! Giving up capabilities for good.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// More than any kernel has; the kernel says where its own end.
const CAPABILITIES_MAX: u32 = 64;

/// Empties the bounding, ambient, effective, permitted and inheritable sets.
///
/// The bounding set comes first, because shrinking it needs `CAP_SETPCAP`. Without it a caller with uid 0 would get
/// everything back at `execve`; a non-empty inheritable set was CVE-2022-27650.
///
/// # Errors
/// What the kernel says; no set may be assumed to be empty then.
pub fn drop_all() -> Result<(), Errno> {
    for number in 0..CAPABILITIES_MAX {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            // The first number that the kernel does not know.
            Err(Errno::INVAL) if number > 0 => break,
            result => result?,
        }
    }
    drop_held()
}

/// Has a program that this process will execute keep the rights of a file system server over the caller's own files. A process without
/// capabilities may then not look into it (`cap_ptrace_access_check`).
///
/// # Errors
/// When this process does not have them.
pub fn keep_for_files() -> Result<(), Errno> {
    let kept =
        [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH, CapabilitySet::FOWNER, CapabilitySet::CHOWN];
    let held = capabilities(None)?;
    let inheritable = kept.iter().fold(held.inheritable, |all, one| all | *one);
    set_capabilities(None, CapabilitySets { inheritable, ..held })?;
    kept.into_iter().try_for_each(|one| configure_capability_in_ambient_set(one, true))
}

/// Like [`drop_all`] without the bounding set, for a process that will not `execve`.
///
/// # Errors
/// What the kernel says.
pub fn drop_held() -> Result<(), Errno> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}
