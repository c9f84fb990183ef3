//! The command line of a launch, read without building the whole definition of the command line first.
//!
//! That takes longer than all the rest that a launch does before it looks for its session, and more with each option. What is
//! not plain – help, mistakes, what is rarely used – is left to clap; tests hold the table to clap's definition, and
//! what is read here to what clap reads.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{Cli, Command, Flags, Launch};

/// What an option does.
#[derive(Clone, Copy)]
enum Action {
    /// Is given once, without a value.
    Switch(fn(&mut Flags) -> &mut bool),
    /// Is given once, with a value.
    Value(fn(&mut Flags, OsString) -> bool),
    /// May be given several times, each with a value.
    Values(fn(&mut Flags, OsString)),
    /// Is clap's to read.
    Other,
}

/// Long names, and the letter if there is one.
type Row = (&'static [&'static str], Option<char>, Action);

/// All options of [`Flags`].
const TABLE: &[Row] = &[
    (&["bind"], Some('B'), Action::Values(|flags, value| flags.bind.push(value))),
    (&["mount"], None, Action::Values(|flags, value| flags.mount.push(value))),
    (&["no-mount"], None, Action::Values(|flags, value| flags.no_mount.push(value))),
    (&["home"], Some('H'), Action::Value(|flags, value| flags.home.replace(value).is_none())),
    (&["no-home"], None, Action::Switch(|flags| &mut flags.no_home)),
    (&["contain"], Some('c'), Action::Switch(|flags| &mut flags.contain)),
    (&["containall"], Some('C'), Action::Switch(|flags| &mut flags.containall)),
    (&["compat"], None, Action::Switch(|flags| &mut flags.compat)),
    (&["workdir"], Some('W'), Action::Value(|flags, value| flags.workdir.replace(value.into()).is_none())),
    (&["scratch"], Some('S'), Action::Values(|flags, value| flags.scratch.push(value))),
    (&["device"], None, Action::Values(|flags, value| flags.device.push(value))),
    (&["nv"], None, Action::Switch(|flags| &mut flags.nv)),
    (&["rocm"], None, Action::Switch(|flags| &mut flags.rocm)),
    (&["intel"], None, Action::Switch(|flags| &mut flags.intel)),
    (&["gpu"], None, Action::Values(|flags, value| flags.gpu.push(value))),
    (&["mpi"], None, Action::Other),
    (&["no-mpi"], None, Action::Other),
    (&["writable-tmpfs"], None, Action::Other),
    (&["overlay"], Some('o'), Action::Values(|flags, value| flags.overlay.push(value))),
    (&["writable"], Some('w'), Action::Other),
    (&["fakeroot"], Some('f'), Action::Switch(|flags| &mut flags.fakeroot)),
    (&["userns"], Some('u'), Action::Switch(|flags| &mut flags.userns)),
    (&["add-caps"], None, Action::Other),
    (&["drop-caps"], None, Action::Other),
    (&["keep-privs"], None, Action::Other),
    (&["no-privs"], None, Action::Other),
    (&["security"], None, Action::Values(|flags, value| flags.security.push(value))),
    (&["pid"], Some('p'), Action::Other),
    (&["no-pid"], None, Action::Other),
    (&["no-init"], None, Action::Switch(|flags| &mut flags.no_init)),
    (&["ipc"], Some('i'), Action::Switch(|flags| &mut flags.ipc)),
    (&["uts"], None, Action::Switch(|flags| &mut flags.uts)),
    (&["hostname"], None, Action::Other),
    (&["net"], Some('n'), Action::Switch(|flags| &mut flags.net)),
    (&["network"], None, Action::Other),
    (&["dns"], None, Action::Other),
    (&["pwd", "cwd"], None, Action::Value(|flags, value| flags.pwd.replace(value.into()).is_none())),
    (&["shell"], Some('s'), Action::Value(|flags, value| flags.shell.replace(value.into()).is_none())),
    (&["cdi-dirs"], None, Action::Values(|flags, value| flags.cdi_dirs.push(value))),
    (&["annotation"], None, Action::Values(|flags, value| flags.annotation.push(value))),
    (
        &["profile"],
        None,
        Action::Value(|flags, value| value.into_string().is_ok_and(|name| flags.profile.replace(name).is_none())),
    ),
    (&["dry-run"], None, Action::Other),
    (&["no-session"], None, Action::Switch(|flags| &mut flags.no_session)),
    (&["pull"], None, Action::Other),
    (&["env"], None, Action::Values(|flags, value| flags.env.push(value))),
    (&["env-file"], None, Action::Values(|flags, value| flags.env_file.push(value.into()))),
    (&["cleanenv"], Some('e'), Action::Switch(|flags| &mut flags.cleanenv)),
    (&["no-env"], None, Action::Values(|flags, value| flags.no_env.push(value))),
    (&["no-eval"], None, Action::Switch(|flags| &mut flags.accepted.no_eval)),
    (&["underlay"], None, Action::Switch(|flags| &mut flags.accepted.underlay)),
    (&["unsquash"], None, Action::Switch(|flags| &mut flags.accepted.unsquash)),
    // It cannot be used with another.
    (&["sharens"], None, Action::Other),
    (&["ignore-fakeroot-command"], None, Action::Switch(|flags| &mut flags.accepted.ignore_fakeroot_command)),
];

/// Reads a plain launch; `None` when it is something else, or not plain. `words` begin with the program's name.
#[must_use]
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Option<Cli> {
    let mut words = words.into_iter();
    let verb = words.nth(1)?;
    let verb: fn(Launch) -> Command = match verb.to_str()? {
        "run" => Command::Run,
        "exec" => Command::Exec,
        "shell" => Command::Shell,
        _ => return None,
    };
    let mut flags = Flags::default();
    let image = loop {
        let word = words.next()?;
        if !word.as_bytes().starts_with(b"-") {
            break word;
        }
        option(&word, &mut words, &mut flags)?;
    };
    // An empty word is most likely a variable that was not set.
    if image.is_empty() || (flags.no_home && flags.home.is_some()) {
        return None;
    }
    Some(Cli { command: verb(Launch { flags, words: std::iter::once(image).chain(words).collect() }) })
}

fn option(word: &OsStr, rest: &mut impl Iterator<Item = OsString>, flags: &mut Flags) -> Option<()> {
    let bytes = word.as_bytes();
    let (row, attached) = if let Some(long) = bytes.strip_prefix(b"--") {
        let mut parts = long.splitn(2, |byte| *byte == b'=');
        let name = parts.next()?;
        let row = TABLE.iter().find(|(names, ..)| names.iter().any(|one| one.as_bytes() == name))?;
        (row, parts.next())
    } else {
        let (letter, attached) = bytes.get(1..)?.split_first()?;
        let row = TABLE.iter().find(|(_, short, _)| *short == Some(char::from(*letter)))?;
        (row, (!attached.is_empty()).then_some(attached))
    };
    // What looks like an option, or like nothing, is no value without a second look.
    let mut value = || {
        let value = attached.map_or_else(|| rest.next(), |value| Some(OsString::from_vec(value.to_vec())))?;
        let plain = value.as_bytes().first().is_some_and(|first| !b"-=".contains(first));
        plain.then_some(value)
    };
    match row.2 {
        Action::Switch(_) if attached.is_some() => None,
        Action::Switch(field) => (!std::mem::replace(field(flags), true)).then_some(()),
        Action::Value(set) => set(flags, value()?).then_some(()),
        Action::Values(add) => {
            add(flags, value()?);
            Some(())
        }
        Action::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::{ArgAction, CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_table_is_claps() {
        let command = Cli::command();
        for verb in ["run", "exec", "shell"] {
            let mut command = command.clone();
            let command = command.find_subcommand_mut(verb).unwrap();
            command.build();
            let mut options = 0;
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "help")) {
                options += 1;
                let row = TABLE.iter().find(|(names, ..)| names.first().copied() == arg.get_long());
                let (names, short, action) = row.unwrap_or_else(|| panic!("{arg} is missing from the table"));
                let aliases = arg.get_all_aliases().unwrap_or_default();
                assert_eq!(names[1..], aliases, "{arg}");
                assert_eq!(*short, arg.get_short(), "{arg}");
                let agrees = match arg.get_action() {
                    ArgAction::SetTrue => matches!(action, Action::Switch(_) | Action::Other),
                    ArgAction::Set => matches!(action, Action::Value(_) | Action::Other),
                    ArgAction::Append => matches!(action, Action::Values(_) | Action::Other),
                    other => panic!("{arg}: {other:?}"),
                };
                assert!(agrees, "{arg}");
            }
            assert_eq!(options, TABLE.len());
        }
    }

    #[test]
    fn what_is_read_is_what_clap_reads() {
        let pieces = [
            "run",
            "exec",
            "shell",
            "pull",
            "-B",
            "-B/a:/b",
            "-B=/a",
            "--bind",
            "--bind=/x",
            "--bind=",
            "/c",
            "i.sqfs",
            "-e",
            "--cleanenv",
            "-ce",
            "-c",
            "--contain=1",
            "--home",
            "/h",
            "-H/h",
            "--no-home",
            "--pwd",
            "--cwd=/w",
            "--env",
            "A=1",
            "--env=A=-1",
            "--",
            "-",
            "",
            "--help",
            "-h",
            "--no-session",
            "--no-mount",
            "tmp,home",
            "--env-file",
            "f",
            "--pull",
            "never",
            "-C",
            "-o",
            "-w",
            "--fakeroot",
            "-f",
            "--no-env=A*",
            "--profile=p",
            "--pid",
            "-ip",
            "--writable-tmpfs",
            "--nonsense",
            "--con",
            "-x",
            "=",
        ];
        let mut number = crate::repeatable::numbers();
        let mut read = 0;
        for _ in 0..20_000 {
            let mut words = vec![OsString::from("coracle")];
            // Mostly a verb, so that what follows is looked at.
            words.push(pieces[number(4)].into());
            words.extend((0..number(6)).map(|_| OsString::from(pieces[number(pieces.len())])));
            let Some(quick) = parse(words.clone()) else { continue };
            read += 1;
            let clap = Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            assert_eq!(format!("{quick:?}"), format!("{clap:?}"), "{words:?}");
        }
        assert!(read > 1000, "{read} plain ones");
    }

    #[test]
    fn a_usual_launch_is_read_here() {
        let words = ["coracle", "exec", "-e", "--bind", "/data:/d:ro", "i.sqfs", "ls", "--bind"];
        assert!(parse(words.map(OsString::from)).is_some());
        assert!(parse(["coracle", "exec", "--help"].map(OsString::from)).is_none());
        assert!(parse(["coracle", "exec", "--bind", "-e", "i.sqfs"].map(OsString::from)).is_none());
    }
}
