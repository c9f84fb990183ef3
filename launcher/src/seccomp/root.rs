//! Being root for package managers, where there is no other user than root.
//!
//! With one id mapped the kernel refuses to make a file someone else's, to become someone else, and to make a device. Programs
//! that unpack packages insist on that and do not need it: with this filter such calls succeed and do nothing. Calls that ask for
//! no more than there is – root, or no change – are real, so that their errors are.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::calls::Table;

/// Calls by where among their arguments the ids are.
const CALLS: [(&[&str], &[usize]); 6] = [
    (&["chown", "lchown", "fchown", "chown32", "lchown32", "fchown32"], &[1, 2]),
    (&["fchownat"], &[2, 3]),
    (&["setuid", "setgid", "setuid32", "setgid32"], &[0]),
    (&["setreuid", "setregid", "setreuid32", "setregid32"], &[0, 1]),
    (&["setresuid", "setresgid", "setresuid32", "setresgid32"], &[0, 1, 2]),
    // The kernel refuses it whatever the groups.
    (&["setgroups", "setgroups32"], &[]),
];
/// Makes devices; where the mode is, which the device's number follows.
const NODES: [(&str, usize); 2] = [("mknod", 1), ("mknodat", 2)];
/// Ids are of 32 bits, and what is beyond them in a register means nothing.
const ID: u64 = 0xffff_ffff;

/// Whether there is such a filter for this machine.
#[must_use]
pub const fn available() -> bool {
    Table::here().is_some()
}

/// The filter, for a program with `all` capabilities or fewer.
///
/// # Errors
/// Never: all parts are there.
pub fn profile(all: bool) -> Result<LinuxSeccomp, OciSpecError> {
    let mut calls = Vec::new();
    for (names, ids) in CALLS {
        for choice in (0..1_u32 << ids.len()).filter(|_| !ids.is_empty()) {
            // Each id is 0 or -1.
            let value = |at: usize| if choice >> at & 1 == 0 { 0 } else { ID };
            let conditions = ids.iter().enumerate().map(|(at, index)| masked(*index, ID, value(at)));
            calls.push(rule(names, true, conditions.collect::<Result<_, _>>()?));
        }
        calls.push(rule(names, false, Vec::new()));
    }
    for (name, mode) in NODES {
        let kind = |kind: u32| masked(mode, libc::S_IFMT.into(), kind.into());
        // Number 0:0 is an overlay's mark for what has been removed, which anyone may make.
        calls.push(rule(&[name], true, vec![kind(libc::S_IFCHR)?, masked(mode + 1, ID, 0)?]));
        calls.push(rule(&[name], false, vec![kind(libc::S_IFCHR)?]));
        calls.push(rule(&[name], false, vec![kind(libc::S_IFBLK)?]));
    }
    if !all {
        calls.push(rule(&["capset"], false, Vec::new()));
    }
    let mut profile = LinuxSeccomp::default();
    let tables = Table::here().map(|(own, other)| std::iter::once(own).chain(other).map(Table::arch).collect());
    profile.set_default_action(Action::ScmpActAllow).set_architectures(tables).set_syscalls(Some(calls));
    Ok(profile)
}

fn masked(index: usize, mask: u64, value: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(mask).value_two(value);
    builder.op(Operator::ScmpCmpMaskedEq).build()
}

/// Lets calls happen, or has them return 0 and do nothing.
fn rule(names: &[&str], real: bool, conditions: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|&name| name.to_owned()).collect());
    rule.set_args((!conditions.is_empty()).then_some(conditions));
    if real {
        rule.set_action(Action::ScmpActAllow);
    } else {
        rule.set_action(Action::ScmpActErrno).set_errno_ret(Some(0));
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::super::bpf::run;
    use super::super::{Foreign, compile};
    use super::*;

    const REAL: u32 = 0x7fff_0000;
    const PRETENDED: u32 = 0x0005_0000;

    fn outcome(table: Table, all: bool, name: &str, arguments: &[u64]) -> u32 {
        let program = compile(&profile(all).unwrap(), Foreign::Allow).unwrap().instructions;
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        run(&program, table.audit(), table.number(name).unwrap(), six)
    }

    #[test]
    fn what_asks_for_nothing_new_is_real() {
        let (own, _) = Table::here().unwrap();
        let get = |name: &str, arguments: &[u64]| outcome(own, true, name, arguments);
        let none = u64::from(u32::MAX);
        for (name, arguments) in [
            ("fchownat", &[3, 0, 0, 0][..]),
            ("fchownat", &[3, 0, none, u64::MAX]),
            ("fchown", &[3, none, 0]),
            ("setuid", &[0]),
            ("setresuid", &[0, none, 0]),
            ("setreuid", &[none, 0]),
            ("mknodat", &[3, 0, libc::S_IFIFO.into(), 0]),
            ("mknodat", &[3, 0, (libc::S_IFREG | 0o644).into(), 0]),
            ("mknodat", &[3, 0, libc::S_IFCHR.into(), 0]),
            ("capset", &[0]),
            ("read", &[0]),
        ] {
            assert_eq!(get(name, arguments), REAL, "{name} {arguments:?}");
        }
        for (name, arguments) in [
            ("fchownat", &[3, 0, 0, 42][..]),
            ("fchownat", &[3, 0, 33, none]),
            ("fchown", &[3, 65534, 0]),
            ("setuid", &[33]),
            ("setgid", &[8]),
            ("setresuid", &[none, 33, none]),
            ("setresgid", &[0, 0, 33]),
            ("setgroups", &[0, 0]),
            ("mknodat", &[3, 0, (libc::S_IFCHR | 0o666).into(), 0x103]),
            ("mknodat", &[3, 0, (libc::S_IFBLK | 0o600).into(), 0x800]),
        ] {
            assert_eq!(get(name, arguments), PRETENDED, "{name} {arguments:?}");
        }
        assert_eq!(outcome(own, false, "capset", &[0]), PRETENDED);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn programs_of_32_bits_are_root_as_well() {
        let get = |name: &str, arguments: &[u64]| outcome(Table::X86, true, name, arguments);
        assert_eq!(get("chown32", &[0, 33, 33]), PRETENDED);
        assert_eq!(get("setuid32", &[0]), REAL);
        assert_eq!(get("setgroups32", &[0]), PRETENDED);
        let program = compile(&profile(true).unwrap(), Foreign::Allow).unwrap().instructions;
        assert_eq!(run(&program, 1, 2, [9; 6]), REAL, "a processor that is not known");
        assert_eq!(run(&program, Table::X86_64.audit(), 0x4000_0000 | 92, [9; 6]), REAL, "x32");
    }
}
