//! Who the program is and what it may do: root without and with subordinate ids, groups, capabilities and filters.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_squashfs, standard_squashfs};
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, coracle_binary, run};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Has subordinate ids (scripts/setup.sh).
const SUBID_USER: &str = "coracle-subid";

/// A user's directory and an image.
struct Bench {
    user: User,
    dir: tempfile::TempDir,
    image: PathBuf,
}

impl Bench {
    fn new(user: User, image: PathBuf) -> Self {
        let dir = coracle_tests::fixtures::temp_dir();
        if needs::is_root() {
            chown(dir.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        Self { user, dir, image }
    }

    fn alone() -> Self {
        Self::new(User::unprivileged(), corner_squashfs())
    }

    fn with_subids() -> Self {
        Self::new(User::named(SUBID_USER), corner_squashfs())
    }

    /// In sessions of this test's own.
    fn command(&self, flags: &[&str], words: &[&str]) -> Command {
        let mut command = self.user.coracle(self.dir.path(), ["exec"]);
        command.env("CORACLE_SESSION_SCOPE", self.dir.path()).args(flags).arg(&self.image).args(words);
        command
    }

    #[track_caller]
    fn shell(&self, flags: &[&str], script: &str) -> Finished {
        run(&mut self.command(flags, &["/bin/sh", "-c", script]))
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A program of C, linked statically.
    fn compiled(&self, name: &str, source: &str) -> PathBuf {
        let program = self.dir.path().join(name);
        let source = self.file(&format!("{name}.c"), source);
        run(Command::new("gcc").args(["-static", "-no-pie", "-o"]).arg(&program).arg(source)).success();
        program
    }

    /// Without the warnings, which a test asks for by name.
    #[track_caller]
    fn quiet(&self, flags: &[&str], script: &str) -> String {
        let finished = self.shell(flags, script).success();
        assert_eq!(finished.stderr, "", "{script}");
        finished.stdout
    }
}

fn capabilities(status: &str) -> Vec<(&str, &str)> {
    status.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t")).collect()
}

#[test]
fn userns_fakeroot_without_subordinate_ids_is_root_alone() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let seen = bench.quiet(
        &["--fakeroot"],
        "id -u; id -g; whoami; echo $HOME $USER $LOGNAME; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /bin /bin/sh .",
    );
    let (uid, gid) = (bench.user.uid, bench.user.gid);
    let words = seen.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words, format!("0 0 root /root root root 0 {uid} 1 0 {gid} 1 0:0 0:0 0:0"));
    let status = bench.quiet(&["--fakeroot"], "cat /proc/self/status");
    let sets = capabilities(&status);
    assert_eq!(sets.iter().find(|(name, _)| *name == "Amb").unwrap().1, "0000000000000000");
    let held = |name: &str| u64::from_str_radix(sets.iter().find(|(one, _)| *one == name).unwrap().1, 16).unwrap();
    assert!(held("Eff") & (1 << 21) != 0 && held("Eff") == held("Prm") && held("Bnd") == held("Eff"), "{sets:?}");
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
}

#[test]
fn userns_fakeroot_makes_what_packages_do_succeed() {
    needs!(Coracle, Fuse, Tool("gcc"));
    let bench = Bench::alone();
    let program = bench.compiled("as-root", AS_ROOT);
    let seen = run(&mut bench.command(&["--fakeroot"], &[program.to_str().unwrap()]));
    assert_eq!((seen.code(), seen.stderr.as_str(), seen.stdout.as_str()), (Some(0), "", "all as it should be\n"));
    // Without, the kernel's answers are the program's.
    let refused = run(&mut bench.command(&[], &[program.to_str().unwrap()]));
    assert!(refused.code() == Some(1) && refused.stderr.contains("chown"), "{refused:?}");
}

const AS_ROOT: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void ok(const char *what, int result) {
    if (result != 0) { perror(what); exit(1); }
}

int main(void) {
    gid_t groups[] = {8, 33};
    struct stat status;
    unlink("f"); unlink("p");
    int file = open("f", O_CREAT | O_RDWR, 0644);
    ok("chown", chown("f", 33, 33));
    ok("lchown", lchown("f", 0, 8));
    ok("fchown", fchown(file, 12, -1));
    ok("fchownat", fchownat(AT_FDCWD, "f", -1, 65534, 0));
    ok("chown to root", chown("f", 0, 0));
    ok("mknod of a device", mknod("null", S_IFCHR | 0666, makedev(1, 3)));
    ok("mknodat of a device", mknodat(AT_FDCWD, "disk", S_IFBLK | 0600, makedev(8, 0)));
    if (stat("null", &status) == 0) { fputs("a device was made\n", stderr); return 1; }
    ok("a fifo", mkfifo("p", 0600));
    if (stat("p", &status) != 0 || !S_ISFIFO(status.st_mode)) { fputs("no fifo\n", stderr); return 1; }
    ok("setgroups", setgroups(2, groups));
    ok("setgroups to none", setgroups(0, NULL));
    ok("setresgid", setresgid(33, 33, 33));
    ok("setegid", setegid(8));
    ok("setresuid", setresuid(-1, 33, -1));
    ok("seteuid", seteuid(33));
    ok("setreuid", setreuid(33, 33));
    ok("setuid", setuid(33));
    ok("setuid to root", setuid(0));
    if (getuid() != 0 || geteuid() != 0) { fputs("not root\n", stderr); return 1; }
    if (chown("no-such-file", 0, 0) == 0 || errno != ENOENT) { fputs("an error is hidden\n", stderr); return 1; }
    puts("all as it should be");
    return 0;
}
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn userns_programs_of_32_bits_are_filtered_by_their_own_numbers() {
    needs!(Coracle, Fuse, Tool("gcc"));
    let bench = Bench::alone();
    // Calls of 32-bit programs, from a program that need not be one: chown32 is 212, getpid 20.
    let source = r#"
#include <stdio.h>
static const char path[] = "f32";
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
int main(void) {
    fclose(fopen(path, "w"));
    printf("%d %ld\n", call(20, 0, 0, 0) > 0, call(212, (long)path, 33, 33));
    return 0;
}
"#;
    let program = bench.compiled("compat", source);
    let program = program.to_str().unwrap();
    if run(&mut bench.command(&[], &[program])).stdout != "1 -22\n" {
        eprintln!("this kernel has no calls of 32-bit programs");
        return;
    }
    assert_eq!(run(&mut bench.command(&["--fakeroot"], &[program])).success().stdout, "1 0\n");
    let profile = |arches: &str| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":[{arches}],"syscalls":[{{"names":["chown32"],"action":"SCMP_ACT_ERRNO","errnoRet":77}}]}}"#
        )
    };
    let both = bench.file("both.json", &profile(r#""SCMP_ARCH_X86_64","SCMP_ARCH_X86""#));
    let both = format!("seccomp:{}", both.display());
    assert_eq!(run(&mut bench.command(&["--security", &both], &[program])).success().stdout, "1 -77\n");
    let one = bench.file("one.json", &profile(r#""SCMP_ARCH_X86_64""#));
    let ended = run(&mut bench.command(&["--security", &format!("seccomp:{}", one.display())], &[program]));
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(31), "{ended:?}");
}

#[test]
fn root_fakeroot_with_subordinate_ids_has_many_users() {
    needs!(Coracle, Fuse, Root, Tool("newuidmap"));
    let bench = Bench::with_subids();
    let script =
        "id -u; touch f; chown 33:8 f; stat -c %u:%g f; cat /proc/self/uid_map; grep Seccomp: /proc/self/status; rm f";
    let seen = bench.quiet(&["--fakeroot"], script);
    assert!(seen.starts_with("0\n33:8\n"), "{seen}");
    assert!(seen.ends_with("Seccomp:\t0\n"), "{seen}");
    let lines: Vec<Vec<u32>> = seen
        .lines()
        .filter_map(|line| line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<_>>>())
        .filter(|words| words.len() == 3)
        .collect();
    assert_eq!(lines[0], [0, bench.user.uid, 1]);
    assert_eq!((lines[1][0], lines[1][2]), (1, 65536), "{seen}");
    // Joining needs no program: the second launch finds the map there.
    let mut joining = bench.command(&["--fakeroot"], &["cat", "/proc/self/gid_map"]);
    assert!(run(&mut joining).success().stdout.lines().count() >= 2);
}

#[test]
fn root_fakeroot_with_subordinate_ids_shows_the_images_owners() {
    needs!(Coracle, Fuse, Root, StandardImage, Tool("newuidmap"));
    let bench = Bench::new(User::named(SUBID_USER), standard_squashfs());
    let seen = bench.quiet(
        &["--fakeroot"],
        "stat -c %U:%G /etc/shadow /etc/passwd; cat /etc/shadow >/dev/null && setpriv --reuid 33 --regid 33 --clear-groups sh -c 'id -un; cat /etc/shadow 2>&1; :'",
    );
    assert!(seen.starts_with("root:shadow\nroot:root\nwww-data\n"), "{seen}");
    assert!(seen.contains("Permission denied"), "another user of the container is another: {seen}");
    let own = bench.quiet(&[], "stat -c %u /etc/shadow");
    assert_eq!(own.trim(), bench.user.uid.to_string());
}

#[test]
fn root_a_program_that_cannot_map_is_named_and_done_without() {
    needs!(Coracle, Fuse, Root, Tool("newuidmap"));
    let bench = Bench::with_subids();
    let bin = bench.dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let fake = |name: &str, content: &str| {
        fs::write(bin.join(name), content).unwrap();
        fs::set_permissions(bin.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    };
    fake("newuidmap", "#!/bin/sh\necho 'newuidmap: no ids today' >&2; exit 1\n");
    fake("newgidmap", "#!/bin/sh\nexec /usr/bin/newgidmap \"$@\"\n");
    let script = "id -u; cat /proc/self/uid_map; touch f; chown 33:8 f; stat -c %u:%g f; sleep 1";
    let mut first = bench.command(&["--fakeroot"], &["/bin/sh", "-c", script]);
    let seen = run(first.env("PATH", &bin)).success();
    assert!(seen.stderr.contains("newuidmap: no ids today"), "{}", seen.stderr);
    assert_eq!(seen.stderr.lines().count(), 1, "{}", seen.stderr);
    let words: Vec<&str> = seen.stdout.split_whitespace().collect();
    assert_eq!(words[..4], ["0", "0", &bench.user.uid.to_string(), "1"], "{}", seen.stdout);
    assert_eq!(words[4], "0:0");
    // Those who join are told as well, and are who the session's container knows.
    let mut second = bench.command(&["--fakeroot"], &["/bin/sh", "-c", "chown 33:8 f; stat -c %u:%g f"]);
    let seen = run(second.env("PATH", &bin)).success();
    assert_eq!(seen.stdout, "0:0\n");
    assert!(
        seen.stderr.contains("subordinate ids could not be mapped") || seen.stderr.contains("no ids today"),
        "{}",
        seen.stderr
    );
}

/// `coracle` as a user with these supplementary groups.
fn in_groups(bench: &Bench, groups: &[&str], flags: &[&str], script: &str) -> Finished {
    let numbers: Vec<String> = groups.iter().map(|name| gid_of(name).to_string()).collect();
    let mut command = Command::new("setpriv");
    let (uid, gid) = (bench.user.uid.to_string(), bench.user.gid.to_string());
    command.args(["--reuid", &uid, "--regid", &gid, "--groups", &numbers.join(",")]).arg(coracle_binary().unwrap());
    command.arg("exec").args(flags).arg(&bench.image).args(["/bin/sh", "-c", script]);
    command.env_clear().env("HOME", &bench.user.home).env("PATH", "/usr/bin:/bin").current_dir(bench.dir.path());
    run(command.env("CORACLE_SESSION_SCOPE", bench.dir.path()))
}

fn gid_of(name: &str) -> u32 {
    let group = nix::unistd::Group::from_name(name).unwrap();
    group.unwrap_or_else(|| panic!("the group {name} is missing; run scripts/setup.sh test")).gid.as_raw()
}

#[test]
fn root_supplementary_groups_are_mapped_as_far_as_they_are_granted() {
    needs!(Coracle, Fuse, Root, Tool("newgidmap"));
    let bench = Bench::with_subids();
    let shared = bench.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, Some(0), Some(gid_of("coracle-granted"))).unwrap();
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o2770)).unwrap();
    let groups = ["coracle-granted", "coracle-refused"];
    let script = "id -Gn; stat -c %G shared; touch shared/f; stat -c %U:%G shared/f";
    let seen = in_groups(&bench, &groups, &["--userns"], script).success();
    assert!(seen.stdout.contains("coracle-granted"), "{}", seen.stdout);
    assert!(!seen.stdout.contains("coracle-refused"), "{}", seen.stdout);
    let lines: Vec<&str> = seen.stdout.lines().collect();
    assert_eq!(lines[1..], ["coracle-granted", &format!("{SUBID_USER}:coracle-granted")]);
    assert!(!seen.stderr.contains("coracle"), "{}", seen.stderr);
    // None: said once, with the rights kept.
    let seen = in_groups(&bench, &["coracle-refused"], &["--userns"], "id -u").success();
    assert!(
        seen.stderr.contains(&gid_of("coracle-refused").to_string()) && seen.stderr.contains("/etc/subgid"),
        "{seen:?}"
    );
    let kept = in_groups(&bench, &groups, &[], "cat shared/f && stat -c %g shared").success();
    assert_eq!((kept.stdout.trim(), kept.stderr.as_str()), ("65534", ""));
}

#[test]
fn userns_capabilities_are_those_asked_for() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let sets = |flags: &[&str]| {
        let status = bench.quiet(flags, "cat /proc/self/status");
        capabilities(&status)
            .iter()
            .map(|(name, bits)| ((*name).to_owned(), u64::from_str_radix(bits, 16).unwrap()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let all_equal = |sets: &std::collections::BTreeMap<String, u64>, bits: u64| {
        assert!(sets.values().all(|set| *set == bits), "{sets:?}");
    };
    all_equal(&sets(&[]), 0);
    // CAP_NET_RAW is 13, CAP_SYS_NICE 23.
    all_equal(&sets(&["--add-caps", "net_raw,CAP_SYS_NICE"]), 1 << 13 | 1 << 23);
    all_equal(&sets(&["--add-caps", "net_raw,sys_nice", "--drop-caps", "sys_nice"]), 1 << 13);
    let kept = sets(&["--keep-privs"]);
    all_equal(&kept, kept["Bnd"]);
    assert!(kept["Bnd"].count_ones() >= 38, "{kept:?}");
    all_equal(&sets(&["--fakeroot", "--no-privs"]), 0);
    let fewer = sets(&["--fakeroot", "--drop-caps", "CAP_SYS_ADMIN"]);
    assert_eq!((fewer["Eff"] >> 21 & 1, fewer["Bnd"] >> 21 & 1, fewer["Eff"] & 1), (0, 0, 1), "{fewer:?}");
    let wrong = bench.shell(&["--add-caps", "CAP_FLY"], "true").exited(125);
    assert!(wrong.stderr.contains("CAP_FLY"), "{}", wrong.stderr);
}

#[test]
fn userns_what_a_powerful_program_mounts_is_its_own() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let mut sleeper = bench.command(&[], &["sleep", "30"]).spawn().unwrap();
    bench.quiet(&["--add-caps", "CAP_SYS_ADMIN"], "mount -t tmpfs none /var && touch /var/mine && test -e /var/mine");
    bench.quiet(&["--add-caps", "CAP_SYS_ADMIN"], "test ! -e /var/mine");
    bench.quiet(&[], "test ! -e /var/mine");
    let refused = bench.shell(&[], "mount -t tmpfs none /var");
    assert_ne!(refused.code(), Some(0));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn userns_launches_with_other_ids_do_not_share_a_session() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let namespace = |flags: &[&str]| bench.quiet(flags, "readlink /proc/self/ns/user");
    let (own, root) = (namespace(&[]), namespace(&["--fakeroot"]));
    assert_ne!(own, root);
    assert_eq!((namespace(&[]), namespace(&["--fakeroot"])), (own, root), "those with the same do");
}

#[test]
fn userns_no_seccomp_profile_of_several_is_left_out() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let path = |name: &str| bench.file(name, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).display().to_string();
    let (one, two) = (format!("seccomp:{}", path("one.json")), format!("seccomp:{}", path("two.json")));
    let said = bench.shell(&["--security", &one, "--security", &two], "true").exited(125).stderr;
    assert!(said.contains("two seccomp profiles") && said.contains("one.json") && said.contains("two.json"), "{said}");
    let mut command = bench.command(&["--security", &one], &["true"]);
    let said = run(command.env("CORACLE_SECURITY", &two)).exited(125).stderr;
    assert!(said.contains("one.json of the command line's --security"), "{said}");
    assert!(said.contains("two.json of a variable for --security"), "{said}");
}

#[test]
fn userns_launches_with_other_rights_do_not_share_a_session() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let profile = |name: &str, error: u32| {
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": {error}}}]}}"#
        );
        format!("seccomp:{}", bench.file(name, &json).display())
    };
    let (one, same, other) = (profile("1.json", 28), profile("2.json", 28), profile("3.json", 27));
    let namespace = |flags: &[&str]| bench.quiet(flags, "readlink /proc/self/ns/user");
    let kinds: [&[&str]; 7] = [
        &[],
        &["--add-caps", "all"],
        &["--add-caps", "sys_admin"],
        &["--fakeroot"],
        &["--fakeroot", "--drop-caps", "all"],
        &["--security", &one],
        &["--security", &other],
    ];
    let seen = kinds.map(namespace);
    let distinct: std::collections::BTreeSet<&String> = seen.iter().collect();
    assert_eq!(distinct.len(), kinds.len(), "{seen:?}");
    assert_eq!(kinds.map(namespace), seen, "those with the same do");
    assert_eq!(namespace(&["--security", &same]), seen[5], "a filter counts by what is in it");
}

#[test]
fn userns_a_seccomp_profile_is_carried_out() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW",
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},
            {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
        "syscalls":[{"names":["mkdir","mkdirat","call_of_2099"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
            {"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
    let security = format!("seccomp:{}", bench.file("p.json", json).display());
    let flags = ["--security", &security];
    let refused =
        bench.shell(&flags, "mkdir d; touch f; chmod 600 f; echo ended; grep Seccomp: /proc/self/status").success();
    assert!(refused.stdout.ends_with("ended\nSeccomp:\t2\n"), "{refused:?}");
    assert!(refused.stderr.contains("No space left") && refused.stderr.contains("not permitted"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("call_of_2099"), "{}", refused.stderr);
    // Rules may depend on capabilities.
    let root = bench.shell(&["--security", &security, "--fakeroot"], "chmod 600 f && chown 33 f && mkdir e").exited(1);
    assert!(root.stderr.contains("No space left") && !root.stderr.contains("not permitted"), "{}", root.stderr);
    // It can be read before it happens.
    let mut spec = bench.user.coracle(bench.dir.path(), ["spec", "--security", &security]);
    let spec: serde_json::Value = serde_json::from_str(&run(spec.arg(&bench.image)).success().stdout).unwrap();
    assert_eq!(spec["linux"]["seccomp"]["syscalls"][0]["errnoRet"], 28);
}

#[test]
fn userns_podmans_own_profile_is_understood() {
    needs!(Coracle, Fuse, Tool("podman"));
    let bench = Bench::alone();
    let security = "seccomp:/usr/share/containers/seccomp.json";
    let mount = "mkdir -p m && mount -t tmpfs none m";
    let seen = bench.quiet(&["--security", security], "ls / | grep -c . && date +%Y && echo ended");
    assert!(seen.ends_with("ended\n"), "{seen}");
    let refused = bench.shell(&["--security", security, "--add-caps", "sys_chroot"], mount);
    assert_ne!(refused.code(), Some(0), "{refused:?}");
    // Its rule for mount(2) asks for the capability.
    bench.quiet(&["--security", security, "--fakeroot"], &format!("{mount} && chown 33 m"));
}

#[test]
fn root_many_launches_at_once_have_the_same_ids() {
    needs!(Coracle, Fuse, Root, Tool("newuidmap"));
    let bench = Bench::with_subids();
    let script = "readlink /proc/self/ns/user; grep -c . /proc/self/uid_map; sleep 2";
    let children: Vec<_> = (0..8)
        .map(|_| {
            let mut command = bench.command(&["--fakeroot"], &["/bin/sh", "-c", script]);
            command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let outputs: Vec<String> = children
        .into_iter()
        .map(|child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
        .collect();
    assert!(outputs[0].starts_with("user:["), "{outputs:?}");
    assert!(outputs.iter().all(|output| *output == outputs[0]), "one session: {outputs:?}");
}

#[test]
fn root_as_caller_is_root_with_and_without_asking() {
    needs!(Coracle, Fuse, Root);
    let dir = coracle_tests::fixtures::temp_dir();
    let seen = |flags: &[&str]| {
        let mut command = coracle_tests::process::coracle(["exec"]);
        command.env("CORACLE_SESSION_SCOPE", dir.path()).env("HOME", dir.path()).env("USER", "root");
        let script = "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status; echo $HOME";
        let finished = run(command.args(flags).arg(corner_squashfs()).args(["/bin/sh", "-c", script])).success();
        assert_eq!(finished.stderr, "");
        finished.stdout.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let plain = seen(&[]);
    assert_eq!(plain[..6], ["0", "0", "0", "1", "CapEff:", "0000000000000000"], "{plain:?}");
    assert_eq!(plain[6], dir.path().display().to_string());
    let asked = seen(&["--fakeroot"]);
    assert_eq!((asked[0].as_str(), asked.last().map(String::as_str)), ("0", Some("/root")), "{asked:?}");
    assert!(!asked.contains(&"0000000000000000".to_owned()), "{asked:?}");
    assert_eq!(seen(&[]), plain, "they do not meet");
}

#[test]
fn userns_a_seccomp_profile_that_cannot_be_had_ends_the_launch() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let fail = |name: &str, content: &str| {
        let path = bench.file(name, content);
        bench.shell(&["--security", &format!("seccomp:{}", path.display())], "true").exited(125).stderr
    };
    let notify = fail(
        "n.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    );
    assert!(notify.contains("SCMP_ACT_NOTIFY") && notify.contains("supervising process"), "{notify}");
    let broken = fail("b.json", "{");
    assert!(broken.contains("cannot understand seccomp profile") && broken.contains("b.json"), "{broken}");
    let missing = bench.shell(&["--security", "seccomp:/no/such.json"], "true").exited(125).stderr;
    assert!(missing.contains("cannot read seccomp profile /no/such.json"), "{missing}");
    let kind = bench.shell(&["--security", "apparmor:x"], "true").exited(125).stderr;
    assert!(kind.contains("apparmor:x"), "{kind}");
}

#[test]
fn userns_a_fakeroot_program_uses_fuse_inside() {
    needs!(Coracle, Fuse, StandardImage, Tool("squashfuse"), Tool("mksquashfs"));
    let bench = Bench::new(User::unprivileged(), standard_squashfs());
    let tree = bench.dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("hello"), "afloat\n").unwrap();
    run(Command::new("mksquashfs").arg(&tree).arg(bench.dir.path().join("data.sqfs")).args(["-quiet", "-no-progress"]))
        .success();
    fs::create_dir(bench.dir.path().join("at")).unwrap();
    chown(bench.dir.path().join("at"), Some(bench.user.uid), Some(bench.user.gid)).unwrap();
    // The host's program, whose libraries the image may not have.
    let script = "squashfuse data.sqfs at && cat at/hello; umount at";
    let host = ["--bind", "/usr:/usr:ro"];
    let device = [
        "--contain",
        "--device",
        "/dev/fuse",
        "--bind",
        bench.dir.path().to_str().unwrap(),
        "--pwd",
        bench.dir.path().to_str().unwrap(),
    ];
    for flags in
        [vec!["--fakeroot"], vec!["--add-caps", "CAP_SYS_ADMIN"], [&["--fakeroot"], device.as_slice()].concat()]
    {
        let seen = bench.shell(&[flags.as_slice(), &host].concat(), script);
        assert_eq!(seen.stdout, "afloat\n", "{flags:?}: {}", seen.stderr);
    }
    let refused = bench.shell(&host, script);
    assert_eq!(refused.stdout, "", "without capabilities there is nothing to mount with");
}

#[test]
fn userns_homes_are_found_through_links_and_closed_doors() {
    needs!(Coracle, Fuse);
    let bench = Bench::alone();
    let (real, link) = (bench.dir.path().join("real"), bench.dir.path().join("link"));
    fs::create_dir(&real).unwrap();
    fs::write(real.join("note"), "at home\n").unwrap();
    if needs::is_root() {
        chown(&real, Some(bench.user.uid), Some(bench.user.gid)).unwrap();
    }
    fs::set_permissions(&real, PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let seen = |flags: &[&str], cwd: &Path| {
        let mut command = bench.command(flags, &["/bin/sh", "-c", "echo $HOME; cat ~/note; pwd; cat note"]);
        run(command.env("HOME", &link).env("PWD", cwd).current_dir(cwd)).success().stdout
    };
    let at = link.display();
    assert_eq!(seen(&[], &link), format!("{at}\nat home\n{at}\nat home\n"));
    assert_eq!(seen(&["--fakeroot"], &link), format!("/root\nat home\n{at}\nat home\n"));
}

#[test]
fn root_a_home_that_not_even_root_can_read_is_no_obstacle() {
    needs!(Coracle, Fuse, Root, Tool("squashfuse"), Tool("mksquashfs"), Tool("fusermount3"));
    let bench = Bench::alone();
    // A FUSE file system without allow_other: root gets EACCES, as from NFS with root_squash.
    let (tree, home) = (bench.dir.path().join("tree"), bench.dir.path().join("home"));
    for dir in [&tree, &home] {
        fs::create_dir(dir).unwrap();
        chown(dir, Some(bench.user.uid), Some(bench.user.gid)).unwrap();
    }
    fs::write(tree.join("note"), "at home\n").unwrap();
    run(Command::new("mksquashfs").arg(&tree).arg(bench.dir.path().join("home.sqfs")).args(["-quiet", "-no-progress"]))
        .success();
    let mut mount = bench.user.command("squashfuse");
    run(mount.env("PATH", "/usr/bin:/bin").arg(bench.dir.path().join("home.sqfs")).arg(&home)).success();
    let closed = fs::read(home.join("note")).is_err();
    let script = "cat ~/note note";
    let launches: Vec<Finished> = [&[][..], &["--fakeroot"], &["--no-session"]]
        .iter()
        .map(|flags| run(bench.command(flags, &["/bin/sh", "-c", script]).env("HOME", &home).current_dir("/").arg("-")))
        .collect();
    let inside = {
        // The directory of this process is not the home: root may not enter it.
        let mut command = bench.user.command("/bin/sh");
        command
            .args(["-c", "cd \"$HOME\" && exec \"$0\" exec \"$1\" cat note"])
            .arg(coracle_binary().unwrap())
            .arg(&bench.image);
        run(command.env("HOME", &home).env("CORACLE_SESSION_SCOPE", bench.dir.path()))
    };
    run(Command::new("umount").arg("-l").arg(&home)).success();
    assert!(closed, "root can read it here, so this shows nothing");
    for seen in launches {
        assert!(seen.stdout.starts_with("at home\n"), "{seen:?}");
    }
    assert_eq!(inside.success().stdout, "at home\n");
}

/// Runs `script` as root in the image with something to write to over it.
fn writable(bench: &Bench, over: &[&str], script: &str) -> Finished {
    let here = format!("{}:/here", bench.dir.path().display());
    let flags = ["--fakeroot", "--bind", &here];
    run(&mut bench.command(&[over, &flags].concat(), &["/bin/sh", "-ec", script]))
}

/// A package for dpkg whose files belong to others and whose script makes a user.
fn deb(dir: &Path) {
    let script = r#"set -e
        mkdir -p control data/usr/share/afloat data/usr/games data/var/spool/afloat
        printf 'Package: afloat\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: floats\n' >control/control
        cat >control/postinst <<'END'
#!/bin/sh
set -e
groupadd --system afloat
useradd --system --gid afloat --home-dir /var/spool/afloat --no-create-home --shell /usr/sbin/nologin afloat
chown -R afloat:afloat /var/spool/afloat
chown root:mail /usr/games/raft
chmod 2755 /usr/games/raft
install -d -o afloat -g afloat -m 0750 /var/lib/afloat
END
        chmod 755 control/postinst
        echo wood >data/usr/games/raft; echo oar >data/usr/share/afloat/oar
        tar -C control --owner=0 --group=0 -czf control.tar.gz .
        tar -C data --owner=games:5 --group=mail:8 -czf data.tar.gz .
        echo 2.0 >debian-binary
        mkdir -p repo; ar rc repo/afloat_1_all.deb debian-binary control.tar.gz data.tar.gz
        { cat control/control; echo "Filename: ./afloat_1_all.deb"; echo "Size: $(stat -c %s repo/*.deb)"
          echo "SHA256: $(sha256sum repo/*.deb | cut -d' ' -f1)"; } >repo/Packages
        chmod -R a+rX ."#;
    run(Command::new("sh").args(["-c", script]).current_dir(dir)).success();
}

const APT: &str = "
    rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
    echo 'deb [trusted=yes] file:/here/repo ./' >/etc/apt/sources.list
    apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get -q -y install afloat
    getent passwd afloat; stat -c '%a' /usr/games/raft; cat /usr/share/afloat/oar; stat -c '%U:%G' /var/lib/afloat /usr/games/raft";

#[test]
fn userns_apt_installs_a_package_as_a_root_who_is_alone() {
    needs!(Coracle, Fuse, StandardImage, Tool("ar"));
    let bench = Bench::new(User::unprivileged(), standard_squashfs());
    deb(bench.dir.path());
    let layer = bench.dir.path().join("layer");
    fs::create_dir(&layer).unwrap();
    if needs::is_root() {
        chown(&layer, Some(bench.user.uid), Some(bench.user.gid)).unwrap();
    }
    for over in [&["--writable-tmpfs"][..], &["--overlay", layer.to_str().unwrap()]] {
        let seen = writable(&bench, over, APT).success();
        assert!(seen.stdout.contains("\nafloat:x:"), "{seen:?}");
        assert!(seen.stdout.ends_with("\n2755\noar\nroot:root\nroot:root\n"), "{seen:?}");
    }
    let kept = bench.shell(&["--overlay", layer.to_str().unwrap()], "cat /usr/share/afloat/oar; id -u afloat");
    assert!(kept.success().stdout.starts_with("oar\n"), "the layer keeps it");
}

#[test]
fn userns_apt_installs_a_package_into_a_directory() {
    needs!(Coracle, Fuse, StandardImage, Tool("ar"), Tool("unsquashfs"));
    let mut bench = Bench::new(User::unprivileged(), standard_squashfs());
    deb(bench.dir.path());
    let directory = bench.dir.path().join("unpacked");
    let mut unpack = bench.user.command("unsquashfs");
    unpack.args(["-q", "-n", "-no-xattrs", "-d"]).arg(&directory).arg(&bench.image);
    let unpacked = run(unpack.env("PATH", "/usr/bin:/bin"));
    assert!(directory.join("etc/apt/apt.conf.d").is_dir(), "{unpacked:?}");
    bench.image = directory;
    let seen = writable(&bench, &["--writable"], APT).success();
    assert!(seen.stdout.ends_with("\n2755\noar\nroot:root\nroot:root\n"), "{seen:?}");
    let setting = fs::read_to_string(bench.image.join("etc/apt/apt.conf.d/99coracle")).unwrap();
    assert_eq!(setting, "APT::Sandbox::User \"root\";\n");
}

#[test]
fn root_apt_installs_a_package_with_subordinate_ids() {
    needs!(Coracle, Fuse, Root, StandardImage, Tool("ar"), Tool("newuidmap"));
    let bench = Bench::new(User::named(SUBID_USER), standard_squashfs());
    deb(bench.dir.path());
    let seen = writable(&bench, &["--writable-tmpfs"], APT).success();
    assert!(seen.stdout.ends_with("\n2755\noar\nafloat:afloat\nroot:mail\n"), "{seen:?}");
}

#[test]
fn userns_dnf_installs_a_package_as_a_root_who_is_alone() {
    needs!(Coracle, Fuse, StandardImage, Tool("dnf"), Tool("rpmbuild"), Tool("createrepo_c"));
    let bench = Bench::new(User::unprivileged(), standard_squashfs());
    let dir = bench.dir.path();
    let make = r#"set -e
        mkdir -p build repo root/etc root/var root/tmp
        printf 'root:x:0:0::/root:/bin/sh\ngames:x:5:60::/:/bin/sh\n' >root/etc/passwd
        printf 'root:x:0:\nmail:x:8:\n' >root/etc/group
        cat >afloat.spec <<'END'
Name: afloat
Version: 1
Release: 1
Summary: floats
License: none
BuildArch: noarch
%description
Floats.
%install
mkdir -p %{buildroot}/usr/games %{buildroot}/var/spool/afloat
echo wood >%{buildroot}/usr/games/raft
echo sail >%{buildroot}/usr/games/sail
%files
%attr(2755, games, mail) /usr/games/raft
%attr(0755, root, root) %caps(cap_net_raw=ep) /usr/games/sail
%dir %attr(0770, games, mail) /var/spool/afloat
END
        rpmbuild -bb --define "_topdir $PWD/build" --define "_rpmdir $PWD/repo" afloat.spec
        createrepo_c -q repo
        chmod -R a+rX ."#;
    run(Command::new("sh").args(["-c", make]).env("HOME", dir).current_dir(dir)).success();
    if needs::is_root() {
        run(Command::new("chown").args(["-R", &bench.user.uid.to_string()]).arg(dir.join("root"))).success();
    }
    // The host's dnf, on a root directory of its own.
    let script = "set -e; mkdir -p log
        options='--setopt=cachedir=$PWD/cache --setopt=logdir=$PWD/log --setopt=persistdir=$PWD/persist --setopt=reposdir=/nowhere --setopt=gpgcheck=0'
        eval dnf -q -y --installroot=$PWD/root --releasever=1 --repofrompath=here,file://$PWD/repo $options install afloat
        stat -c '%a %U' root/usr/games/raft root/var/spool/afloat; getcap root/usr/games/sail; rpm --root $PWD/root -q afloat";
    let usr = ["--fakeroot", "--bind", "/usr:/usr:ro"];
    let seen = bench.shell(&usr, script).success();
    assert!(seen.stdout.contains("2755 root\n770 root\n"), "{seen:?}");
    assert!(seen.stdout.contains("sail cap_net_raw=ep") && seen.stdout.ends_with("afloat-1-1.noarch\n"), "{seen:?}");
}

#[test]
fn userns_pip_installs_a_wheel_as_root() {
    needs!(Coracle, Fuse, StandardImage, Tool("pip3"), Tool("python3"));
    let bench = Bench::new(User::unprivileged(), standard_squashfs());
    let make = r#"
import zipfile
info = "afloat-1.dist-info/"
with zipfile.ZipFile("afloat-1-py3-none-any.whl", "w") as wheel:
    wheel.writestr("afloat.py", "print('afloat')\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: afloat\nVersion: 1\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "afloat.py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n")
"#;
    run(Command::new("python3").args(["-c", make]).current_dir(bench.dir.path())).success();
    let script = "pip3 install -q --no-index --break-system-packages --target site ./afloat-1-py3-none-any.whl && PYTHONPATH=site python3 -m afloat";
    let seen = bench.shell(&["--fakeroot", "--bind", "/usr:/usr:ro"], script).success();
    assert_eq!(seen.stdout, "afloat\n", "{seen:?}");
}

#[test]
fn root_fakeroot_has_many_users_where_the_caller_ignores_ends_of_children() {
    needs!(Coracle, Fuse, Root, Tool("newuidmap"));
    let bench = Bench::with_subids();
    let mut command = bench.user.command("/usr/bin/env");
    command.current_dir(bench.dir.path()).env("CORACLE_SESSION_SCOPE", bench.dir.path()).arg("--ignore-signal=CHLD");
    command.arg(coracle_tests::process::coracle_binary().unwrap()).args(["exec", "--fakeroot"]).arg(&bench.image);
    let seen = run(command.args(["cat", "/proc/self/uid_map"])).success();
    assert_eq!((seen.stdout.lines().count(), seen.stderr.as_str()), (2, ""), "{seen:?}");
}
