//! `coracle registry` and `coracle push`: credentials, and finished images to registries.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use coracle::cli::Pull;
use coracle::cli::registry::{Push, RegistryCommand};
use coracle::exit::Exit;
use coracle::inspect::bytes;
use coracle_converter::registry::credentials::{self, Credential};
use coracle_converter::registry::{Client, Reference};
use coracle_converter::{Source, push as push_image};
use serde_json::json;

use super::build::told;
use super::{images, print, progress, settings};

/// Longest password that is read, in bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// The client that the settings make.
pub fn client() -> anyhow::Result<Arc<Client>> {
    Ok(Arc::new(Client::new(settings()?.registry.settings())))
}

/// Stores an image in a registry, and says what was done.
pub(super) fn push(arguments: &Push) -> anyhow::Result<()> {
    told(&arguments.showing, || push_to(arguments))
}

fn push_to(arguments: &Push) -> anyhow::Result<()> {
    let Source::Artifact { reference } = arguments.reference.parse::<Source>()? else {
        bail!("cannot push to {}: a finished image goes to oras://HOST/NAME:TAG", arguments.reference);
    };
    let image = images::find(&arguments.image, Pull::Never, &settings()?)?.path;
    let client = client()?;
    let start = Instant::now();
    let shown = progress::start(&arguments.showing);
    let pushed = push_image(&image, &reference, &client, &*shown);
    shown.end();
    let pushed = pushed?;
    let (manifest, seconds) = (pushed.manifest, start.elapsed().as_secs_f64());
    let name = format!("oras://{}", reference.pinned(manifest));
    let image_of = pushed.attached.map(|digest| format!("docker://{}@{digest}", reference.name()));
    if arguments.showing.json {
        progress::write_json(&json!({
            "event": "done", "reference": name, "manifest_digest": manifest.to_string(), "present": pushed.present,
            "image": image_of, "seconds": seconds,
        }));
    } else if !arguments.showing.quiet {
        let size = bytes(image.metadata().map_or(0, |metadata| metadata.len()));
        let how = if pushed.present { "was there" } else { "pushed" };
        print(|out| {
            writeln!(out, "{name}: {size} {how}, {seconds:.1} s")?;
            Ok(image_of.iter().try_for_each(|image| writeln!(out, "found from now on by pulling {image}"))?)
        })?;
    }
    Ok(())
}

/// Carries out `coracle registry`.
pub(super) fn registry(command: &RegistryCommand) -> anyhow::Result<Exit> {
    let mut exit = Exit::Success;
    print(|out| {
        match command {
            RegistryCommand::Login { registry, username, password_stdin } => {
                login(registry, username.as_deref(), *password_stdin, out)?;
            }
            RegistryCommand::Logout { registry, all } => exit = logout(registry.as_deref().filter(|_| !all), out)?,
            RegistryCommand::List { json } => list(*json, out)?,
        }
        Ok(())
    })?;
    Ok(exit)
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
