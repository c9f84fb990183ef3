//! What shapes a launch besides its command line: files of the site and of the user, profiles, variables, and what a site
//! does not let.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_squashfs, temp_dir};
use coracle_tests::needs;
use coracle_tests::process::{Finished, User, run};
use coracle_tests::site::Site;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

/// Runs a shell script in the image.
fn shell(site: &Site, options: &[&str], script: &str) -> Finished {
    shell_with(site, options, &[], script)
}

fn shell_with(site: &Site, options: &[&str], variables: &[(&str, &str)], script: &str) -> Finished {
    let mut command = site.coracle(["exec"]);
    command.args(options).arg(corner_squashfs()).args(["/bin/sh", "-c", script]);
    run(command.envs(variables.iter().copied()))
}

/// A directory with a file that says so.
fn data() -> tempfile::TempDir {
    let dir = temp_dir();
    fs::write(dir.path().join("file"), "data\n").unwrap();
    dir
}

#[test]
fn root_a_site_mounts_and_sets() {
    needs!(Coracle, Fuse, Root);
    let data = data();
    let data = data.path().display();
    let settings = format!(
        "[mounts]\nbind = [\"{data}:/site:ro\", \"/absent/${{USER}}:/absent\", \"${{NOT_SET}}/x:/not\"]\nno-mount = [\"tmp\"]\n\
         [environment]\nset = {{ SITE = \"of ${{USER}}\", MINE = \"site\" }}\nprepend = {{ PATH = \"/site/bin\" }}\nunset = [\"HOST_*\"]\n"
    );
    let site = Site::new(&settings);
    site.write_own("[environment]\nset = { MINE = \"user\" }\n");
    let script =
        "cat /site/file; touch /site/x 2>/dev/null || echo read-only; echo \"$SITE, $MINE, [$HOST_A], ${PATH%%:*}\"";
    let seen = shell_with(&site, &[], &[("HOST_A", "1")], script).success();
    let expected = format!("data\nread-only\nof {}, user, [], /site/bin\n", site.user.name);
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), (expected.as_str(), ""));
    let seen = shell(&site, &["--env", "MINE=flag"], "echo $MINE; ls /absent /not 2>&1 | grep -c 'No such'").success();
    assert_eq!(seen.stdout, "flag\n2\n");
    // Joined, it is the same.
    assert_eq!(shell(&site, &[], "cat /site/file").success().stdout, "data\n");
}

#[test]
fn root_mounts_of_the_site_are_refused_unless_forced() {
    needs!(Coracle, Fuse, Root);
    let data = data();
    let settings = format!("[mounts]\nbind = [\"{}:/site\"]\n", data.path().display());
    let site = Site::new(&settings);
    let there = |options: &[&str]| shell(&site, options, "test -e /site/file").code() == Some(0);
    assert!(there(&[]));
    for options in [["--no-mount", "bind-paths"], ["--no-mount", "/site"], ["--contain", "--cleanenv"]] {
        assert!(!there(&options), "{options:?}");
    }
    site.write("coracle.toml", &format!("{settings}force-bind = true\n"));
    for options in [["--no-mount", "bind-paths"], ["--no-mount", "/site"], ["--contain", "--cleanenv"]] {
        assert!(there(&options), "{options:?}");
    }
    for options in [
        ["--bind", "/opt:/site"],
        ["--bind", "/opt:/site/deeper"],
        ["--bind", "/opt:/var/../site"],
        ["--bind", "/dev/null:/site"],
        ["--scratch", "/site"],
        ["--home", "/opt:/site"],
    ] {
        let refused = shell(&site, &options, "true").exited(125);
        let says = "it would hide /site, which this site's [mounts] force-bind = true puts on top";
        assert!(refused.stderr.contains(says), "{options:?}: {}", refused.stderr);
    }
    // Below another directory it is on top all the same.
    site.write(
        "coracle.toml",
        &format!("[mounts]\nforce-bind = true\nbind = [\"{}:/up/site\"]\n", data.path().display()),
    );
    let refused = shell(&site, &["--bind", "/dev/null:/up"], "true").exited(125);
    assert!(refused.stderr.contains("force-bind"), "{}", refused.stderr);
    let above = temp_dir();
    fs::set_permissions(above.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let bind = format!("{}:/up", above.path().display());
    shell(&site, &["--bind", &bind], "true").exited(125);
    fs::create_dir(above.path().join("site")).unwrap();
    assert_eq!(shell(&site, &["--bind", &bind], "cat /up/site/file").success().stdout, "data\n");
    site.write_own("[mounts]\nforce-bind = false\n");
    let refused = shell(&site, &[], "true").exited(125);
    assert!(refused.stderr.contains("line 2: mounts.force-bind can be set by the site alone"), "{}", refused.stderr);
}

#[test]
fn root_mistakes_have_their_file_and_line() {
    needs!(Coracle, Fuse, Root);
    let site = Site::new("[session]\n");
    site.write("conf.d/10-x.toml", "[mounts]\n\nbinds = []\n");
    let failed = shell(&site, &[], "true").exited(125);
    for part in ["/etc/coracle/conf.d/10-x.toml", "line 3", "unknown field `binds`"] {
        assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
    }
    let check = run(&mut site.coracle(["config", "check"])).exited(1);
    assert!(check.stdout.starts_with("/etc/coracle/conf.d/10-x.toml:3: unknown field `binds`"), "{}", check.stdout);
    site.write("conf.d/10-x.toml", "");
    assert_eq!(run(&mut site.coracle(["config", "check"])).exited(0).stdout, "nothing is wrong\n");
}

#[test]
fn root_files_of_others_are_not_believed() {
    needs!(Coracle, Fuse, Root);
    let site = Site::new("");
    site.write("conf.d/10-x.toml", "");
    let says = || shell(&site, &[], "true").exited(125).stderr;
    let id = Some(site.user.uid);
    for (path, shown) in [
        ("coracle.toml", "coracle/coracle.toml"),
        ("", "/etc/coracle"),
        ("conf.d", "coracle/conf.d"),
        ("conf.d/10-x.toml", "10-x.toml"),
    ] {
        chown(site.file(path), id, None).unwrap();
        let text = says();
        let whose = format!("it belongs to user {} and not to root", site.user.uid);
        assert!(text.contains(shown) && text.contains(&whose) && text.contains("chown root"), "{path}: {text}");
        chown(site.file(path), Some(0), None).unwrap();
        let mode = fs::metadata(site.file(path)).unwrap().permissions().mode();
        fs::set_permissions(site.file(path), PermissionsExt::from_mode(mode | 0o002)).unwrap();
        let text = says();
        assert!(text.contains(shown) && text.contains("chmod go-w"), "{path}: {text}");
        fs::set_permissions(site.file(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    shell(&site, &[], "true").success();
    site.write_own("");
    let own = site.own().join(".config/coracle/coracle.toml");
    shell(&site, &[], "true").success();
    chown(&own, Some(1), None).unwrap();
    assert!(says().contains("it belongs to user 1, neither to you nor to root"));
    chown(&own, Some(0), None).unwrap();
    shell(&site, &[], "true").success();
    fs::set_permissions(&own, PermissionsExt::from_mode(0o666)).unwrap();
    assert!(says().contains("mode 0666"));
}

/// In a user namespace root's files are nobody's, and are the site's all the same.
#[test]
fn root_a_site_is_believed_in_user_namespaces() {
    needs!(Coracle, Fuse, Root);
    let site = Site::new("[defaults]\nprofile = \"none\"\n");
    let binary = coracle_tests::process::coracle_binary().unwrap();
    for map in ["--map-current-user", "--map-root-user"] {
        let mut command = site.program(["unshare", "--user", map]);
        let shown = run(command.arg(&binary).args(["config", "show"])).success();
        assert!(shown.stdout.contains("defaults.profile = \"none\"\n"), "{map}: {}", shown.stdout);
        let mut command = site.program(["unshare", "--user", map]);
        run(command.arg(&binary).args(["exec", "--no-session"]).arg(corner_squashfs()).arg("/bin/true")).success();
    }
    // Somebody's who is not root is nobody there as well, but what root mapped is told.
    chown(site.file("coracle.toml"), Some(site.user.uid), None).unwrap();
    let mut command = site.program(["unshare", "--user", "--map-current-user"]);
    let failed = run(command.arg(&binary).args(["config", "show"])).exited(125);
    assert!(failed.stderr.contains("not to root"), "{}", failed.stderr);
}

#[test]
fn root_images_lie_where_the_site_lets_them() {
    needs!(Coracle, Fuse, Root);
    let shelf = temp_dir();
    let at = |name: &str| shelf.path().join(name);
    for name in ["images/sub", "images2", "other"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for name in ["images/a.sqfs", "images/sub/b.sqfs", "images2/c.sqfs", "other/d.sqfs"] {
        fs::copy(corner_squashfs(), at(name)).unwrap();
    }
    symlink(at("other/d.sqfs"), at("images/out.sqfs")).unwrap();
    symlink(at("images/a.sqfs"), at("other/in.sqfs")).unwrap();
    let site = Site::new(&format!("[images]\nallowed-paths = [\"{}\"]\n", at("images").display()));
    let exec = |image: &Path| run(site.coracle(["exec"]).arg(image).args(["/bin/echo", "runs"]));
    for good in ["images/a.sqfs", "images/sub/b.sqfs", "other/in.sqfs", "other/../images/a.sqfs"] {
        assert_eq!(exec(&at(good)).success().stdout, "runs\n", "{good}");
    }
    symlink(at("other/d.sqfs"), site.own().join("mine.sqfs")).unwrap();
    let bad = [
        "images2/c.sqfs",
        "other/d.sqfs",
        "images/out.sqfs",
        "images/../other/d.sqfs",
        "images/sub/../../images2/c.sqfs",
    ];
    for bad in bad.map(at).iter().chain([&site.own().join("mine.sqfs")]) {
        let refused = exec(bad).exited(125);
        assert!(
            refused.stderr.contains("[images] allowed-paths lets run only what lies in"),
            "{bad:?}: {}",
            refused.stderr
        );
    }
    let d = at("other/d.sqfs");
    for words in [["spec"].as_slice(), &["run", "--dry-run"], &["exec", "--no-session"], &["profile", "record"]] {
        let refused = run(site.coracle(words).arg(&d).arg("/bin/true")).exited(125);
        assert!(refused.stderr.contains("allowed-paths"), "{words:?}: {}", refused.stderr);
    }
    // Directories are images, too.
    for (name, may) in [("images/tree", true), ("images2/tree", false)] {
        fs::create_dir_all(at(name).join("bin")).unwrap();
        fs::copy("/bin/busybox", at(name).join("bin/echo")).unwrap();
        let ran = exec(&at(name));
        assert_eq!(ran.code() == Some(0), may, "{name}: {}", ran.stderr);
        assert_eq!(ran.stderr.contains("allowed-paths"), !may, "{name}: {}", ran.stderr);
    }
    // A user does not widen it.
    site.write_own("[images]\nallowed-paths = [\"/\"]\n");
    let refused = exec(&d).exited(125);
    assert!(refused.stderr.contains("images can be set by the site alone"), "{}", refused.stderr);
    // An absent directory lets nothing run.
    fs::remove_file(site.own().join(".config/coracle/coracle.toml")).unwrap();
    site.write("coracle.toml", "[images]\nallowed-paths = [\"/absent\"]\n");
    exec(&d).exited(125);
}

#[test]
fn root_registries_are_the_sites_choice() {
    needs!(Coracle, Root);
    let site = Site::new("[images]\nallowed-registries = [\"docker.io/library\", \"127.0.0.1:9/team\"]\n");
    for bad in
        ["docker://someone/app", "docker://127.0.0.1:9/team2/app", "oras://127.0.0.1:9/other:1", "docker://ghcr.io#a/b"]
    {
        for words in [["pull", bad].as_slice(), &["build", "x.sqfs", bad], &["exec", bad, "true"]] {
            let refused = run(&mut site.coracle(words)).exited(125);
            assert!(
                refused
                    .stderr
                    .contains("[images] allowed-registries lets fetch only from docker.io/library, 127.0.0.1:9/team"),
                "{words:?}: {}",
                refused.stderr
            );
        }
    }
    let user = "[registry.hosts.\"docker.io\"]\nmirrors = [\"127.0.0.1:9\"]\ninsecure = true\n";
    site.write_own(user);
    for words in [["pull", "docker://debian"].as_slice(), &["config", "check"]] {
        let refused = run(&mut site.coracle(words));
        let text = format!("{}{}", refused.stdout, refused.stderr);
        assert!(refused.code() != Some(0) && text.contains("line 2: registry.hosts.\"docker.io\".mirrors"), "{text}");
        assert!(text.contains("allowed-registries") && text.contains(".config/coracle/coracle.toml"), "{text}");
    }
    site.write_own("");
    let certificates = run(site.coracle(["pull", "docker://debian"]).env("SSL_CERT_FILE", "/tmp/c.pem")).exited(125);
    assert!(certificates.stderr.contains("cannot fetch with SSL_CERT_FILE set"), "{}", certificates.stderr);
    // Nobody listens there, and that is what is said.
    let tried = run(&mut site.coracle(["pull", "docker://127.0.0.1:9/team/app"])).exited(125);
    assert!(!tried.stderr.contains("allowed-registries") && tried.stderr.contains("127.0.0.1:9"), "{}", tried.stderr);
}

#[test]
fn root_nothing_is_written_where_the_site_forbids_it() {
    needs!(Coracle, Fuse, Root);
    let site = Site::new("[images]\nread-only = true\n[profile.w]\nwritable-tmpfs = true\n");
    for options in
        [["--writable-tmpfs"].as_slice(), &["--overlay", "o"], &["--writable"], &["--compat"], &["--profile", "w"]]
    {
        let refused = shell(&site, options, "true").exited(125);
        assert!(refused.stderr.contains("[images] read-only = true forbids"), "{options:?}: {}", refused.stderr);
    }
    let refused = shell_with(&site, &[], &[("CORACLE_WRITABLE_TMPFS", "1")], "true").exited(125);
    assert!(refused.stderr.contains("read-only = true"), "{}", refused.stderr);
    shell(&site, &[], "true").success();
}

#[test]
fn root_profiles_are_chosen_by_name() {
    needs!(Coracle, Fuse, Root);
    let data = data();
    let settings = format!(
        "[profile.base]\nbind = [\"{}:/base\"]\nenvironment.set.WHO = \"base\"\n\
         [profile.ml]\ninherit = [\"base\"]\npwd = \"/base\"\nenvironment.append.WHO = \"ml\"\n[profile.loop]\ninherit = [\"loop\"]\n",
        data.path().display()
    );
    let site = Site::new(&settings);
    let script = "pwd; echo $WHO; cat /base/file";
    let all = "/base\nbase:ml\ndata\n";
    assert_eq!(shell(&site, &["--profile", "ml"], script).success().stdout, all);
    assert_eq!(shell_with(&site, &[], &[("CORACLE_PROFILE", "ml")], script).success().stdout, all);
    let flags = ["--profile=ml", "--pwd=/etc", "--env=WHO=flag"];
    assert_eq!(shell(&site, &flags, script).success().stdout, "/etc\nflag\ndata\n");
    site.write_own("[defaults]\nprofile = \"ml\"\n");
    assert_eq!(shell(&site, &[], script).success().stdout, all);
    shell(&site, &["--profile", "none"], "test ! -e /base").success();
    let unknown = shell(&site, &["--profile", "mll"], "true").exited(125);
    assert!(unknown.stderr.contains("there is no profile \"mll\": there are base, loop, ml"), "{}", unknown.stderr);
    let cycle = shell(&site, &["--profile", "loop"], "true").exited(125);
    assert!(cycle.stderr.contains("loop -> loop inherits itself"), "{}", cycle.stderr);
    // A user's of the same name takes its place.
    site.write_own("[profile.ml]\npwd = \"/etc\"\n");
    assert_eq!(shell(&site, &["--profile", "ml"], "pwd; ls -d /base 2>&1 | grep -c No").success().stdout, "/etc\n1\n");
    let check = run(&mut site.coracle(["config", "check"])).exited(1);
    assert!(check.stdout.contains("loop -> loop"), "{}", check.stdout);
}

#[test]
fn userns_variables_stand_for_flags() {
    needs!(Coracle, Fuse);
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let data = data();
    let bind = format!("{}:/seen", data.path().display());
    let image = corner_squashfs();
    let exec = |options: &[&str], variables: &[(&str, &str)], script: &str| {
        let mut command = user.coracle(dir.path(), ["exec"]);
        command.args(options).arg(&image).args(["/bin/sh", "-c", script]).envs(variables.iter().copied());
        run(&mut command)
    };
    let seen =
        exec(&[], &[("CORACLE_BIND", &bind), ("CORACLE_PWD", "/seen"), ("CORACLEENV_X", "y")], "cat file; echo $X")
            .success();
    assert_eq!(seen.stdout, "data\ny\n");
    let seen = exec(
        &["--pwd", "/etc", "--bind", &format!("{bind}2")],
        &[("CORACLE_BIND", &bind), ("CORACLE_PWD", "/seen")],
        "pwd; ls -d /seen*",
    )
    .success();
    assert_eq!(seen.stdout, "/etc\n/seen\n/seen2\n");
    let seen =
        exec(&[], &[("CORACLE_CLEANENV", "1"), ("FOO", "x"), ("CORACLE_CONTAIN", "")], "echo [$FOO]; ls /dev | wc -l")
            .success();
    assert!(seen.stdout.starts_with("[]\n"), "{}", seen.stdout);
    // Apptainer's are nothing to us unless the site says so.
    exec(&[], &[("APPTAINER_BIND", &bind), ("SINGULARITYENV_X", "y")], "test ! -e /seen/file && test -z \"$X\"")
        .success();
    let wrong = exec(&[], &[("CORACLE_CONTAIN", "maybe")], "true").exited(125);
    assert!(
        wrong.stderr.contains("cannot use variable CORACLE_CONTAIN: \"maybe\" is neither yes nor no"),
        "{}",
        wrong.stderr
    );
    let wrong = exec(&[], &[("CORACLE_BIND", "/a:b")], "true").exited(125);
    assert!(wrong.stderr.contains("cannot use variable CORACLE_BIND: bind \"/a:b\""), "{}", wrong.stderr);
}

#[test]
fn root_apptainers_variables_where_the_site_lets_them() {
    needs!(Coracle, Fuse, Root);
    let data = data();
    let bind = format!("{}:/seen", data.path().display());
    let site = Site::new("[compatibility]\napptainer-variables = true\n");
    let variables = [
        ("SINGULARITY_BINDPATH", bind.as_str()),
        ("APPTAINER_CWD", "/seen"),
        ("APPTAINERENV_X", "y"),
        ("APPTAINER_CACHEDIR", "/c"),
    ];
    let seen = shell_with(&site, &[], &variables, "cat file; echo $X").success();
    assert_eq!(seen.stdout, "data\ny\n");
    let seen = shell_with(&site, &["--pwd", "/etc"], &variables, "pwd").success();
    assert_eq!(seen.stdout, "/etc\n");
}

#[test]
fn userns_variables_that_the_host_keeps_and_another_shell() {
    needs!(Coracle, Fuse);
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let run_with = |words: &[&str], script: &str| {
        let mut command = user.coracle(dir.path(), words);
        command.arg(corner_squashfs()).args(["-c", script]).env("FOO_A", "1").env("FOO_B", "2").env("BAR", "3");
        run(&mut command)
    };
    let seen =
        run_with(&["shell", "--no-env", "FOO_*,QUX", "--env", "FOO_B"], "echo [$FOO_A] [$FOO_B] [$BAR]").success();
    assert_eq!(seen.stdout, "[] [2] [3]\n");
    let seen = run_with(&["shell", "--shell", "/bin/busybox", "--env", "A=1"], "true");
    assert_ne!(seen.code(), Some(125), "{}", seen.stderr);
    assert_eq!(run_with(&["shell", "--shell", "/bin/sh"], "echo $0").success().stdout, "/bin/sh\n");
    run_with(&["shell", "--shell", "/bin/zsh"], "true").exited(127);
    let wrong = run_with(&["exec", "--shell", "/bin/sh"], "true").exited(125);
    assert!(wrong.stderr.contains("--shell"), "{}", wrong.stderr);
}

#[test]
fn root_what_is_in_force_is_shown_with_its_origin() {
    needs!(Coracle, Root);
    let site = Site::new("[mounts]\nbind = [\"/opt\"]\n[session]\nidle-seconds = 3\n");
    site.write_own("# mine\n[session]\nidle-seconds = 4\n");
    let show =
        |words: &[&str]| run(site.coracle(["config", "show"]).args(words).env("CORACLE_PWD", "/x")).success().stdout;
    let text = show(&["--origin"]);
    let own = site.own().join(".config/coracle/coracle.toml");
    for line in [
        "mounts.bind = [\"/opt\"]  # /etc/coracle/coracle.toml:2".to_owned(),
        format!("session.idle-seconds = 4  # {}:3", own.display()),
        "images.read-only = false  # default".to_owned(),
        "CORACLE_PWD = \"/x\"  # environment".to_owned(),
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    assert!(show(&[]).lines().any(|line| line == "session.idle-seconds = 4"));
    let json: serde_json::Value = serde_json::from_str(&show(&["--json"])).unwrap();
    let bind = json.as_array().unwrap().iter().find(|entry| entry["key"] == "mounts.bind").unwrap();
    assert_eq!((&bind["value"][0], &bind["line"]), (&"/opt".into(), &2.into()));
}

#[test]
fn userns_files_are_checked_before_they_are_put_in_place() {
    needs!(Coracle);
    let user = User::unprivileged();
    let dir = user.temp_dir();
    let path = dir.path().join("new.toml");
    let check = || run(&mut user.coracle(dir.path(), [Path::new("config"), Path::new("check"), &path]));
    fs::write(&path, "[mounts]\nbind = [\"/a:b\"]\nbnd = 1\n[defaults]\nprofile = \"x\"\n").unwrap();
    let said = check().exited(1).stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].contains("new.toml:2: bind") && lines[1].contains("new.toml:3: unknown field `bnd`"), "{said}");
    assert!(lines[2].contains("no profile \"x\": none is configured"), "{said}");
    fs::write(&path, "[defaults]\nprofile = \"x\"\n[profile.x]\n").unwrap();
    assert_eq!(check().exited(0).stdout, "nothing is wrong\n");
}

/// What this file's helper does must not be seen by others.
#[test]
fn root_sites_of_tests_stay_theirs() {
    needs!(Root);
    let site = Site::new("x");
    let inside = run(&mut site.program(["cat", "/etc/coracle/coracle.toml"])).success();
    assert_eq!(inside.stdout, "x");
    let outside = fs::read_to_string("/etc/coracle/coracle.toml").ok();
    assert_ne!(outside.as_deref(), Some("x"));
    let who = run(&mut site.program(["id", "-u"])).success();
    assert_eq!(who.stdout.trim(), site.user.uid.to_string());
    drop(Command::new("true"));
}
