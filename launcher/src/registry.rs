//! `coracle registry` and `coracle push`: credentials, and finished images to registries.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use coracle::cli::registry::{Push, RegistryCommand};
use coracle::config::Config;
use coracle::exit::Exit;
use coracle::inspect::bytes;
use coracle_converter::registry::credentials::{self, Credential};
use coracle_converter::registry::{Client, Reference};
use coracle_converter::{Source, push as push_image};

use crate::build::Bar;

/// Longest password that is read, in bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// The client that the settings make.
pub fn client() -> anyhow::Result<Arc<Client>> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    Ok(Arc::new(Client::new(Config::read(home.as_deref())?.registry.settings())))
}

/// Stores an image, and describes what was done.
pub fn push(arguments: &Push) -> anyhow::Result<String> {
    let Source::Artifact { reference } = arguments.reference.parse::<Source>()? else {
        bail!("cannot push to {}: a finished image goes to oras://HOST/NAME:TAG", arguments.reference);
    };
    let client = client()?;
    let start = Instant::now();
    let bar = Bar::new(!arguments.quiet && io::stderr().is_terminal());
    let pushed = push_image(&arguments.image, &reference, &client, &bar);
    bar.finish();
    let pushed = pushed?;
    let size = bytes(arguments.image.metadata().map_or(0, |metadata| metadata.len()));
    let how = if pushed.present { "was there" } else { "pushed" };
    let mut text = format!(
        "oras://{}: {size} {how}, manifest {}, {:.1} s",
        reference.pinned(pushed.manifest),
        pushed.manifest,
        start.elapsed().as_secs_f64()
    );
    if let Some(image) = pushed.attached {
        text.push_str(&format!("\nfound from now on by pulling docker://{}", reference.name()));
        text.push_str(&format!("@{image}"));
    }
    Ok(text)
}

/// Carries out `coracle registry`.
pub fn registry(command: &RegistryCommand, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match command {
        RegistryCommand::Login { registry, username, password_stdin } => {
            login(registry, username.as_deref(), *password_stdin, out)?;
        }
        RegistryCommand::Logout { registry, all } => return logout(registry.as_deref().filter(|_| !all), out),
        RegistryCommand::List { json } => list(*json, out)?,
    }
    Ok(Exit::Success)
}

/// What a registry is known by: `docker.io` for all names of Docker Hub.
fn known_as(registry: &str) -> anyhow::Result<String> {
    let given = registry.trim_start_matches("https://").trim_end_matches('/').trim_end_matches("/v1");
    let (host, space) = given.split_once('/').map_or((given, None), |(host, space)| (host, Some(space)));
    // A host alone is no name; with something behind it, its rules can be asked.
    let reference: Reference = format!("{host}#{}", space.unwrap_or("x")).parse()?;
    Ok(space.map_or_else(|| reference.host().to_owned(), |_| reference.name()))
}

fn login(registry: &str, user: Option<&str>, from_stdin: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let name = known_as(registry)?;
    let user = match user {
        Some(user) => user.to_owned(),
        None if from_stdin => bail!("cannot log in to {name}: with --password-stdin, give --username as well"),
        None => terminal("user name: ", true)?,
    };
    if user.is_empty() || user.contains(':') {
        bail!("cannot log in to {name}: a user name is not empty and has no colon");
    }
    let password = if from_stdin { from_standard_input()? } else { terminal("password: ", false)? };
    if password.is_empty() {
        bail!("cannot log in to {name}: the password is empty");
    }
    let credential = Credential::Password(user, password);
    client()?.check_login(&name, &credential)?;
    let file = credentials::login_file()?;
    credentials::store(&file, &name, &credential)?;
    Ok(writeln!(out, "logged in to {name}; kept in {}", file.display())?)
}

/// One line, without its end.
fn from_standard_input() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin().take(PASSWORD_MAX).read_to_string(&mut text).context("cannot read the password from standard input")?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on the terminal, whatever standard input and output are.
fn terminal(question: &str, echo: bool) -> anyhow::Result<String> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let opened = std::fs::File::options().read(true).write(true).open("/dev/tty");
    let mut tty =
        opened.context("cannot ask for the password without a terminal: use --username and --password-stdin")?;
    let before = tcgetattr(&tty).context("cannot use the terminal")?;
    write!(tty, "{question}").context("cannot use the terminal")?;
    if !echo {
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(&tty, SetArg::TCSAFLUSH, &silent).context("cannot switch the terminal's echo off")?;
    }
    let mut answer = String::new();
    let read = io::BufReader::new((&tty).take(PASSWORD_MAX)).read_line(&mut answer);
    if !echo {
        // Before anything can fail: a terminal without echo is no use to anybody.
        tcsetattr(&tty, SetArg::TCSAFLUSH, &before).context("cannot switch the terminal's echo on")?;
    }
    read.context("cannot read from the terminal")?;
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

fn logout(registry: Option<&str>, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let name = registry.map(known_as).transpose()?;
    let file = credentials::login_file()?;
    let files = client()?.credential_files();
    let names = match &name {
        Some(name) => vec![name.clone()],
        None => {
            let own = credentials::list(std::slice::from_ref(&file))?;
            own.into_iter().map(|stored| stored.key).collect()
        }
    };
    for name in &names {
        if credentials::erase(&file, name)? {
            writeln!(out, "logged out of {name}")?;
        } else {
            writeln!(out, "{} has no credentials for {name}", file.display())?;
        }
    }
    // Those of other programs are theirs to keep.
    for stored in credentials::list(&files)?.into_iter().filter(|stored| names.contains(&stored.key)) {
        writeln!(out, "{} still has credentials for {}", stored.file.display(), stored.key)?;
    }
    Ok(Exit::Success)
}

fn list(json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let stored = credentials::list(&client()?.credential_files())?;
    if json {
        let entry = |one: &credentials::Stored| serde_json::json!({"registry": one.key, "user": one.user, "file": one.file.display().to_string()});
        let list = stored.iter().map(entry).collect::<Vec<_>>();
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?);
    }
    for one in &stored {
        let user = one.user.as_deref().unwrap_or("(kept by a helper)");
        writeln!(out, "{}\t{user}\t{}", one.key, one.file.display())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_known_by_one_name() {
        for (given, name) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("r.example:5000/", "r.example:5000"),
            ("r.example/team/a", "r.example/team/a"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(known_as(given).unwrap(), name);
        }
        assert!(known_as("").is_err() && known_as("ho_st").is_err());
    }
}
