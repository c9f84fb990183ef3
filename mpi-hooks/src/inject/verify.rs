//! Whether a program would start with what is brought: each library is found, defines the versions and has the symbols that
//! others want of it.

use std::collections::HashSet;
use std::io;

use super::{Brought, Error, Injection, Overlay, Question};
use crate::files::{Files, InFiles};
use crate::libraries::elf::{self, Symbols};
use crate::loader::{Closure, Object};

/// Names that a file has, and those that it cannot do without.
struct Names {
    has: HashSet<String>,
    wants: HashSet<String>,
}

fn names(files: &dyn Files, object: &Object) -> io::Result<Names> {
    let source = InFiles { files, path: &object.path };
    let all = match Symbols::read(&source) {
        Ok(symbols) => symbols.all,
        Err(elf::Error::Read(error)) => return Err(error),
        // It would be loaded all the same: what it lacks shows with those who want it.
        Err(_) => Vec::new(),
    };
    let mut names = Names { has: HashSet::new(), wants: HashSet::new() };
    for symbol in all {
        match (symbol.defined, symbol.weak) {
            (true, _) => names.has.insert(symbol.name),
            (false, false) => names.wants.insert(symbol.name),
            (false, true) => false,
        };
    }
    names.wants.remove("");
    Ok(names)
}

/// Whether a library of the container does for the host's libraries what the host's own of that name does.
pub(super) fn serves(question: &Question<'_>, own: &Object, host: &Object, brought: &Brought) -> Result<bool, Error> {
    let soname = own.elf.soname.as_deref().unwrap_or_default();
    let lacks = |object: &Object| {
        object.elf.needs.get(soname).is_some_and(|all| all.iter().any(|version| !own.elf.defines.contains(version)))
    };
    if brought.objects.values().any(lacks) {
        return Ok(false);
    }
    let theirs = names(question.container, own)?;
    let ours = names(question.host, host)?;
    for object in brought.objects.values().filter(|object| object.elf.needed.iter().any(|name| name == soname)) {
        let wants = names(question.host, object)?.wants;
        if wants.iter().any(|name| ours.has.contains(name) && !theirs.has.contains(name)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tries it.
pub(super) fn verify(
    question: &Question<'_>,
    before: &Closure,
    brought: &Brought,
    injection: &Injection,
) -> Result<(), Error> {
    let after = Overlay::closure(question, injection)?;
    let lacked = |name: &str| before.missing.iter().any(|(missing, _)| missing == name);
    if let Some((library, by)) = after.missing.iter().find(|(name, _)| !lacked(name)) {
        return Err(Error::Lacks { library: library.clone(), by: by.clone() });
    }
    let overlay = Overlay { container: question.container, host: question.host, injection };
    for name in &brought.always {
        let loaded = after.named(name).ok_or_else(|| Error::NoMpi { program: question.program.to_path_buf() })?;
        let wanted = brought.objects.get(name).map(|object| &object.path);
        if overlay.source(&loaded.path).as_ref() != wanted {
            return Err(Error::Both { path: loaded.path.clone() });
        }
    }
    versions(&overlay, &after)?;
    symbols(question, &overlay, before, &after)
}

/// Of an object, as messages name it: on the host if it is the host's.
fn file(overlay: &Overlay<'_>, object: &Object) -> std::path::PathBuf {
    overlay.source(&object.path).unwrap_or_else(|| object.path.clone())
}

fn versions(overlay: &Overlay<'_>, after: &Closure) -> Result<(), Error> {
    for object in &after.objects {
        for (library, versions) in &object.elf.needs {
            // A library without versions serves all that ask for one, with a warning of the loader's.
            let Some(of) = after.named(library).filter(|of| !of.elf.defines.is_empty()) else { continue };
            if let Some(version) = versions.iter().find(|version| !of.elf.defines.contains(version)) {
                let (by, path) = (file(overlay, object), file(overlay, of));
                return Err(Error::TooOld { by, version: version.clone(), library: library.clone(), path });
            }
        }
    }
    Ok(())
}

/// What a program lacked before, it may lack afterwards.
fn symbols(question: &Question<'_>, overlay: &Overlay<'_>, before: &Closure, after: &Closure) -> Result<(), Error> {
    let all =
        after.objects.iter().map(|object| Ok((object, names(overlay, object)?))).collect::<io::Result<Vec<_>>>()?;
    let unserved: Vec<(&Object, &String)> = all
        .iter()
        .flat_map(|(object, of)| of.wants.iter().map(move |name| (*object, name)))
        .filter(|(_, name)| !all.iter().any(|(_, of)| of.has.contains(*name)))
        .collect();
    if unserved.is_empty() {
        return Ok(());
    }
    let earlier =
        before.objects.iter().map(|object| names(question.container, object)).collect::<io::Result<Vec<_>>>()?;
    let had = |name: &String| earlier.iter().any(|of| of.has.contains(name));
    let wanted = |name: &String| earlier.iter().any(|of| of.wants.contains(name));
    match unserved.into_iter().filter(|(_, name)| had(name) || !wanted(name)).min_by_key(|(_, name)| *name) {
        Some((object, symbol)) => Err(Error::Symbol { by: file(overlay, object), symbol: symbol.clone() }),
        None => Ok(()),
    }
}
