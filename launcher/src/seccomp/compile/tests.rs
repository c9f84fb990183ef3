//! Programs, run by an interpreter of their own.

use super::super::bpf::run;
use super::*;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn filter(json: &str) -> Vec<Instruction> {
    compile(&profile(json), Foreign::Kill).unwrap().instructions
}

fn outcome(program: &[Instruction], name: &str, arguments: &[u64]) -> u32 {
    let (own, _) = Table::here().unwrap();
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(program, own.audit(), own.number(name).unwrap(), all)
}

#[test]
fn calls_get_their_actions_and_others_the_default() {
    let program = filter(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":13,"syscalls":[
        {"names":["read","write","close","no_such_call","statx"],"action":"SCMP_ACT_ALLOW"},
        {"names":["getpid"],"action":"SCMP_ACT_ERRNO","errnoRet":7},
        {"names":["getppid"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
    );
    let get = |name| outcome(&program, name, &[]);
    for (name, action) in [
        ("read", ALLOW),
        ("write", ALLOW),
        ("close", ALLOW),
        ("statx", ALLOW),
        ("getpid", ERRNO | 7),
        ("getppid", KILL_PROCESS),
        ("openat", ERRNO | 13),
        ("mount", ERRNO | 13),
    ] {
        assert_eq!(get(name), action, "{name}");
    }
    assert_eq!(get("close_range"), ERRNO | libc::ENOSYS as u32, "younger than the profile");
    assert_eq!(run(&program, 1, 0, [0; 6]), KILL_PROCESS, "another processor");
}

#[test]
fn conditions_compare_64_bits() {
    let big = 0x1_0000_0005_u64;
    for (op, holds, fails) in [
        ("EQ", vec![big], vec![5, big + 1, big + (1 << 32)]),
        ("NE", vec![5, big + 1, 0], vec![big]),
        ("GT", vec![big + 1, 2 << 32, u64::MAX], vec![big, 6, 0]),
        ("GE", vec![big + 1, big, 2 << 32], vec![big - 1, 6, 0]),
        ("LT", vec![big - 1, 6, 0], vec![big, big + 1, 2 << 32]),
        ("LE", vec![big, big - 1, 6], vec![big + 1, 2 << 32]),
    ] {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["ioctl"],"action":"SCMP_ACT_ERRNO",
            "args":[{{"index":1,"value":{big},"op":"SCMP_CMP_{op}"}},{{"index":2,"value":9,"op":"SCMP_CMP_NE"}}]}}]}}"#
        );
        let program = filter(&json);
        for value in holds {
            assert_eq!(outcome(&program, "ioctl", &[0, value, 1]), ERRNO | 1, "{op} {value:#x}");
            assert_eq!(outcome(&program, "ioctl", &[0, value, 9]), ALLOW, "both conditions count");
        }
        for value in fails {
            assert_eq!(outcome(&program, "ioctl", &[0, value, 1]), ALLOW, "{op} {value:#x}");
        }
    }
}

#[test]
fn masks_and_several_rules_of_one_call() {
    let program = filter(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]},
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
        {"names":["kill"],"action":"SCMP_ACT_ALLOW"},
        {"names":["kill"],"action":"SCMP_ACT_LOG","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(outcome(&program, "clone", &[0x11]), ALLOW);
    assert_eq!(outcome(&program, "clone", &[0x1000_0000]), ERRNO | 1, "CLONE_NEWUSER");
    assert_eq!([0, 8, 4].map(|value| outcome(&program, "personality", &[value])), [ALLOW, ALLOW, ERRNO | 1]);
    assert_eq!([9, 15].map(|signal| outcome(&program, "kill", &[1, signal])), [LOG, ALLOW]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn programs_of_32_bits_are_not_a_way_around() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
        "syscalls":[{"names":["socket","chown32"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    let program = filter(json);
    let x86 = |number, first| run(&program, Table::X86.audit(), number, [first, 0, 0, 0, 0, 0]);
    assert_eq!(x86(359, 0), ERRNO | 1, "socket");
    assert_eq!([1, 2].map(|call| x86(102, call)), [ERRNO | 1, ALLOW], "socketcall");
    assert_eq!(x86(212, 0), ERRNO | 1, "chown32, which 64 bits do not have");
    assert_eq!(run(&program, Table::X86_64.audit(), X32 | 41, [0; 6]), ERRNO | libc::ENOSYS as u32);
    let only = filter(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}"#);
    assert_eq!(run(&only, Table::X86.audit(), 20, [0; 6]), KILL_PROCESS, "not named by the profile");
    assert_eq!(run(&only, Table::X86_64.audit(), 39, [0; 6]), ALLOW);
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let refuse = |json: &str| compile(&profile(json), Foreign::Kill).unwrap_err().to_string();
    let notify =
        refuse(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_NOTIFY"}]}"#);
    assert!(notify.contains("SCMP_ACT_NOTIFY") && notify.contains("supervising"), "{notify}");
    let listener = refuse(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}"#);
    assert!(listener.contains("listener"), "{listener}");
    let errno = refuse(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}"#);
    assert!(errno.contains("4095"), "{errno}");
    let argument = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO",
        "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert!(refuse(argument).contains("sixth"));
}

#[test]
fn unknown_names_are_counted() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["uretprobe_of_2099","chown32"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let unknown = compile(&profile(json), Foreign::Kill).unwrap().unknown;
    assert!(unknown.contains(&"uretprobe_of_2099".to_owned()));
    assert_eq!(
        unknown.contains(&"chown32".to_owned()),
        cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64")))
    );
}
