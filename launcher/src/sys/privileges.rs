//! Giving up capabilities for good, all or some.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::capabilities::Capabilities;

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
    bound(0)?;
    drop_held()
}

/// Sets all sets to these, as far as the kernel knows what is in them. What the process does not have, it does not get.
///
/// # Errors
/// What the kernel says; nothing may be assumed of any set then.
pub fn set(sets: &Capabilities) -> Result<(), Errno> {
    bound(sets.bounding.0)?;
    clear_ambient_capability_set()?;
    let held = capabilities(None)?.permitted;
    let within = |set: crate::capabilities::CapabilitySet| CapabilitySet::from_bits_retain(set.0) & held;
    let (permitted, effective, inheritable) =
        (within(sets.permitted), within(sets.effective), within(sets.inheritable));
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?;
    // An ambient capability must be permitted and inheritable.
    (within(sets.ambient) & permitted & inheritable)
        .iter()
        .try_for_each(|capability| configure_capability_in_ambient_set(capability, true))
}

/// As [`set`], but keeps the right to be looked into by nobody without `CAP_SYS_PTRACE` (`cap_ptrace_access_check`): it is
/// permitted besides, and of no effect. The caller of the container, who owns the user namespace, may look.
///
/// # Errors
/// What the kernel says.
pub fn set_guarded(sets: &Capabilities) -> Result<(), Errno> {
    set(&Capabilities { permitted: sets.permitted.with_ptrace(), ..*sets })
}

/// Gives up what [`set_guarded`] has kept beyond these.
///
/// # Errors
/// What the kernel says.
pub fn give_up_guard(sets: &Capabilities) -> Result<(), Errno> {
    let held = capabilities(None)?;
    let permitted = held.permitted & CapabilitySet::from_bits_retain(sets.permitted.0);
    set_capabilities(None, CapabilitySets { permitted, ..held })
}

/// Takes everything else out of the bounding set; bit N stands for number N.
fn bound(kept: u64) -> Result<(), Errno> {
    for number in (0..CAPABILITIES_MAX).filter(|number| kept >> number & 1 == 0) {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            // Beyond the last number that the kernel knows.
            Err(Errno::INVAL) if number > 0 => break,
            result => result?,
        }
    }
    Ok(())
}

/// Has a program that this process will execute keep all rights that it has. A process may look into another only if it has
/// all that the other has, or `CAP_SYS_PTRACE` (`cap_ptrace_access_check`): without the latter, none can then look into it.
///
/// # Errors
/// What the kernel says.
pub fn keep_all() -> Result<(), Errno> {
    let held = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: held.permitted, ..held })?;
    held.permitted.iter().try_for_each(|one| configure_capability_in_ambient_set(one, true))
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
