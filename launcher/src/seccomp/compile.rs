//! Makes a program for the kernel of a profile.
//!
//! For each kind of processor the program goes through the calls in the order of their numbers, neighbours with the same outcome
//! taken together. The kernel remembers which calls are always allowed (Linux 5.11) and does not run it for those.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::bpf::{Instruction, Test, and, end, jump, load, test};
use super::calls::Table;
use super::{Error, Filter};

/// Where `struct seccomp_data` has the number, the processor and the arguments.
const NUMBER: u32 = 0;
const PROCESSOR: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `BPF_MAXINSNS`
const INSTRUCTIONS_MAX: usize = 4096;
/// Calls of x86_64 with this bit are those of its x32 programs.
const X32: u32 = 0x4000_0000;
/// Largest error number (`MAX_ERRNO`).
const ERRNO_MAX: u32 = 4095;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// What happens to calls of programs for processors that the profile does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// The program is ended, since its calls could do anything: what other runtimes do.
    Kill,
    /// They are as if there was no filter.
    Allow,
}

/// A rule for one call: the first whose conditions hold counts.
struct Rule {
    conditions: Vec<Condition>,
    action: u32,
}

/// What an argument has to be.
#[derive(Clone, Copy)]
struct Condition {
    index: u32,
    operator: Operator,
    value: u64,
    two: u64,
}

impl From<&LinuxSeccompArg> for Condition {
    fn from(argument: &LinuxSeccompArg) -> Self {
        Self {
            index: argument.index() as u32,
            operator: argument.op(),
            value: argument.value(),
            two: argument.value_two().unwrap_or_default(),
        }
    }
}

/// Makes a program of a profile.
///
/// # Errors
/// When it asks for what cannot be had here.
pub fn compile(profile: &LinuxSeccomp, foreign: Foreign) -> Result<Filter, Error> {
    if profile.listener_path().is_some() {
        return Err(Error::Supervisor("a listener"));
    }
    let (own, other) = Table::here().ok_or(Error::Processor(std::env::consts::ARCH))?;
    let default = action(profile.default_action(), profile.default_errno_ret(), "the default")?;
    let listed = profile.architectures().as_deref().unwrap_or(&[Arch::ScmpArchNative]);
    let tables = std::iter::once(own).chain(other).filter(|table| {
        listed.contains(&table.arch())
            || (*table == own && (listed.is_empty() || listed.contains(&Arch::ScmpArchNative)))
    });
    let calls = profile.syscalls().as_deref().unwrap_or_default();
    let mut program = vec![load(PROCESSOR)];
    let elsewhere = if foreign == Foreign::Kill { KILL_PROCESS } else { ALLOW };
    for table in tables {
        let part = section(table, calls, default, foreign)?;
        program.extend([test(Test::Eq, table.audit(), 1, 0), jump(part.len() as u32)]);
        program.extend(part);
    }
    program.push(end(elsewhere));
    if program.len() > INSTRUCTIONS_MAX {
        return Err(Error::Long(program.len()));
    }
    let known = |name: &&String| own.number(name).or_else(|| other?.number(name)).is_some();
    let unknown = calls.iter().flat_map(LinuxSyscall::names).filter(|name| !known(name)).cloned().collect();
    Ok(Filter { instructions: program, flags: flags(profile.flags().as_deref())?, unknown })
}

/// Unless a profile says otherwise, the processor goes on guessing ahead: without that the kernel slows programs down by tens
/// of per cents (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`; Linux 5.16 has it so by itself).
fn flags(given: Option<&[Flag]>) -> Result<u32, Error> {
    given.unwrap_or(&[Flag::SeccompFilterFlagSpecAllow]).iter().try_fold(0, |all, flag| match flag {
        Flag::SeccompFilterFlagLog => Ok(all | libc::SECCOMP_FILTER_FLAG_LOG as u32),
        Flag::SeccompFilterFlagSpecAllow => Ok(all | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
        // There is one thread.
        Flag::SeccompFilterFlagTsync => Ok(all),
        Flag::SeccompFilterFlagWaitKillableRecv => Err(Error::Supervisor("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")),
    })
}

fn action(action: Action, errno: Option<u32>, call: &str) -> Result<u32, Error> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => KILL_THREAD,
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActTrap => TRAP,
        Action::ScmpActErrno if errno <= ERRNO_MAX => ERRNO | errno,
        Action::ScmpActErrno => {
            return Err(Error::Rule { call: call.to_owned(), what: "has an error number beyond 4095" });
        }
        Action::ScmpActTrace => TRACE | (errno & 0xffff),
        Action::ScmpActLog => LOG,
        Action::ScmpActAllow => ALLOW,
        Action::ScmpActNotify => return Err(Error::Supervisor("SCMP_ACT_NOTIFY")),
    })
}

/// What becomes of the calls of one kind of processor. Ends in any case.
fn section(table: Table, calls: &[LinuxSyscall], default: u32, foreign: Foreign) -> Result<Vec<Instruction>, Error> {
    let rules = rules(table, calls)?;
    let mut program = vec![load(NUMBER)];
    if table == Table::X86_64 {
        // As on kernels without them.
        let action = if foreign == Foreign::Kill { ERRNO | libc::ENOSYS as u32 } else { ALLOW };
        program.extend([test(Test::Ge, X32, 0, 1), end(action)]);
    }
    // A call that is younger than the profile does not exist, rather than being forbidden: programs then take an older one.
    // Other runtimes do the same.
    if !matches!(default, ALLOW | LOG)
        && default & 0xffff_0000 != TRACE
        && let Some((last, _)) = rules.last_key_value()
    {
        program.extend([test(Test::Gt, *last, 0, 1), end(ERRNO | libc::ENOSYS as u32)]);
    }
    let mut rules = rules.into_iter().peekable();
    while let Some((number, list)) = rules.next() {
        let [Rule { conditions, action }] = list.as_slice() else {
            program.extend(conditional(number, &list, default));
            continue;
        };
        if !conditions.is_empty() {
            program.extend(conditional(number, &list, default));
            continue;
        }
        let mut last = number;
        let same = |next: &(u32, Vec<Rule>), last: u32| {
            next.0 == last + 1
                && matches!(next.1.as_slice(), [Rule { conditions, action: other }] if conditions.is_empty() && other == action)
        };
        while rules.next_if(|next| same(next, last)).is_some() {
            last += 1;
        }
        if *action == default {
            continue;
        }
        if last == number {
            program.extend([test(Test::Eq, number, 0, 1), end(*action)]);
        } else {
            program.extend([test(Test::Ge, number, 0, 2), test(Test::Gt, last, 1, 0), end(*action)]);
        }
    }
    program.push(end(default));
    Ok(program)
}

/// The rules by number. Those without conditions come last, and count once.
fn rules(table: Table, calls: &[LinuxSyscall]) -> Result<BTreeMap<u32, Vec<Rule>>, Error> {
    let mut rules: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    let mut always: BTreeMap<u32, u32> = BTreeMap::new();
    for call in calls {
        let first = call.names().first().map(String::as_str).unwrap_or_default();
        let action = action(call.action(), call.errno_ret(), first)?;
        let conditions = call.args().as_deref().unwrap_or_default();
        if conditions.iter().any(|condition| condition.index() > 5) {
            return Err(Error::Rule { call: first.to_owned(), what: "looks at an argument beyond the sixth" });
        }
        for name in call.names() {
            if let Some(number) = table.number(name) {
                if conditions.is_empty() {
                    always.entry(number).or_insert(action);
                } else {
                    let conditions = conditions.iter().map(Condition::from).collect();
                    rules.entry(number).or_default().push(Rule { conditions, action });
                }
            }
            // Its other arguments are in memory, where a filter does not see them.
            if let (Some((number, argument)), true) = (table.behind(name), conditions.is_empty()) {
                let condition = Condition { index: 0, operator: Operator::ScmpCmpEq, value: argument, two: 0 };
                rules.entry(number).or_default().push(Rule { conditions: vec![condition], action });
            }
        }
    }
    for (number, action) in always {
        rules.entry(number).or_default().push(Rule { conditions: Vec::new(), action });
    }
    Ok(rules)
}

fn conditional(number: u32, rules: &[Rule], default: u32) -> Vec<Instruction> {
    let mut body: Vec<Instruction> = rules.iter().flat_map(rule).collect();
    if !rules.last().is_some_and(|rule| rule.conditions.is_empty()) {
        body.push(end(default));
    }
    let mut program = vec![test(Test::Eq, number, 1, 0), jump(body.len() as u32)];
    program.extend(body);
    program
}

/// Where a test leads.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Holds,
    /// The rule does not.
    Fails,
}

enum Item {
    Plain(Instruction),
    Test(Test, u32, To, To),
}

fn rule(rule: &Rule) -> Vec<Instruction> {
    let conditions: Vec<Vec<Item>> = rule.conditions.iter().map(condition).collect();
    // The action follows the last condition.
    let whole: usize = conditions.iter().map(Vec::len).sum();
    let mut program = Vec::with_capacity(whole + 1);
    let mut holds = 0;
    for items in conditions {
        holds += items.len();
        for item in items {
            let after = program.len() + 1;
            // Six conditions take less than 50 instructions.
            let distance = |to: To| match to {
                To::Next => 0,
                To::Holds => (holds - after) as u8,
                To::Fails => (whole + 1 - after) as u8,
            };
            program.push(match item {
                Item::Plain(instruction) => instruction,
                Item::Test(kind, k, yes, no) => test(kind, k, distance(yes), distance(no)),
            });
        }
    }
    program.push(end(rule.action));
    program
}

/// Compares 64 bits, of which the kernel's programs see half at a time.
fn condition(condition: &Condition) -> Vec<Item> {
    use Item::{Plain, Test as Is};
    use To::{Fails, Holds, Next};
    let at = ARGUMENTS + 8 * condition.index;
    let (low_at, high_at) = if cfg!(target_endian = "little") { (at, at + 4) } else { (at + 4, at) };
    let (low, high) = (|| Plain(load(low_at)), || Plain(load(high_at)));
    let value = condition.value;
    let (vl, vh) = (value as u32, (value >> 32) as u32);
    match condition.operator {
        Operator::ScmpCmpEq => vec![high(), Is(Test::Eq, vh, Next, Fails), low(), Is(Test::Eq, vl, Holds, Fails)],
        Operator::ScmpCmpNe => vec![high(), Is(Test::Eq, vh, Next, Holds), low(), Is(Test::Eq, vl, Fails, Holds)],
        Operator::ScmpCmpGt | Operator::ScmpCmpGe => {
            let last = if condition.operator == Operator::ScmpCmpGt { Test::Gt } else { Test::Ge };
            let same = [high(), Is(Test::Gt, vh, Holds, Next), Is(Test::Eq, vh, Next, Fails), low()];
            same.into_iter().chain([Is(last, vl, Holds, Fails)]).collect()
        }
        Operator::ScmpCmpLt | Operator::ScmpCmpLe => {
            let last = if condition.operator == Operator::ScmpCmpLt { Test::Ge } else { Test::Gt };
            let same = [high(), Is(Test::Gt, vh, Fails, Next), Is(Test::Eq, vh, Next, Holds), low()];
            same.into_iter().chain([Is(last, vl, Fails, Holds)]).collect()
        }
        Operator::ScmpCmpMaskedEq => {
            let wanted = condition.two & value;
            let (wl, wh) = (wanted as u32, (wanted >> 32) as u32);
            vec![
                high(),
                Plain(and(vh)),
                Is(Test::Eq, wh, Next, Fails),
                low(),
                Plain(and(vl)),
                Is(Test::Eq, wl, Holds, Fails),
            ]
        }
    }
}

#[cfg(test)]
mod tests;
