//! The container that edits are applied to: the parts of the composed specification that they change.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder, Spec};

use crate::spec::{self, is_below};

/// What the container shows at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// The image.
    Image,
    /// A new file system that can be written to.
    New,
    /// This path of the host.
    Host(PathBuf),
    /// Another file system, in which nothing can be made.
    Fixed,
}

/// Mounts, environment and annotations of a specification, taken out of it for the time of the changes.
#[derive(Debug, Default)]
pub(super) struct Container {
    pub(super) mounts: Vec<Mount>,
    pub(super) env: Vec<String>,
    pub(super) annotations: HashMap<String, String>,
}

impl Container {
    pub(super) fn take(spec: &mut Spec) -> Self {
        let env = spec.process().as_ref().and_then(|process| process.env().clone()).unwrap_or_default();
        Self {
            mounts: spec.mounts().clone().unwrap_or_default(),
            env,
            annotations: spec.annotations().clone().unwrap_or_default(),
        }
    }

    /// Puts everything back. Parents come before what is mounted below them; what was in order stays so.
    pub(super) fn put(self, spec: &mut Spec) {
        let mut mounts = self.mounts;
        mounts.sort_by_key(|mount| mount.destination().components().count());
        spec.set_mounts(Some(mounts));
        spec.set_annotations(Some(self.annotations));
        if let Some(process) = spec.process_mut() {
            process.set_env(Some(self.env));
        }
    }

    fn nearest(&self, path: &Path) -> Option<&Mount> {
        let above = self.mounts.iter().filter(|mount| is_below(path, mount.destination()));
        // The last of equals is the one on top.
        above.max_by_key(|mount| mount.destination().components().count())
    }

    /// What is shown at `path` as things stand.
    pub(super) fn shown(&self, path: &Path) -> Shown {
        let Some(mount) = self.nearest(path) else { return Shown::Image };
        let kind = mount.typ().as_deref().unwrap_or_default();
        let has = |word: &str| mount.options().iter().flatten().any(|option| option == word);
        if kind == "bind" || has("bind") || has("rbind") {
            let below = path.strip_prefix(mount.destination()).unwrap_or(Path::new(""));
            return match mount.source() {
                Some(source) if below.as_os_str().is_empty() => Shown::Host(source.clone()),
                Some(source) => Shown::Host(source.join(below)),
                None => Shown::Fixed,
            };
        }
        if kind == "tmpfs" && !has("ro") { Shown::New } else { Shown::Fixed }
    }

    /// Whether the specification mounts something at `path` or below.
    pub(super) fn mounts_below(&self, path: &Path) -> bool {
        self.mounts.iter().any(|mount| is_below(mount.destination(), path))
    }

    /// Adds a mount, in place of others at the same destination, of which the last is given back.
    pub(super) fn mount(
        &mut self,
        kind: &str,
        source: &Path,
        destination: &Path,
        options: Vec<String>,
    ) -> Result<Option<Mount>, OciSpecError> {
        let mount =
            MountBuilder::default().typ(kind).source(source).destination(destination).options(options).build()?;
        let (there, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.mounts).into_iter().partition(|other| other.destination() == destination);
        self.mounts = others;
        self.mounts.push(mount);
        // A device's mount is none that may be left out.
        if let Some(optional) = self.annotations.get_mut(spec::OPTIONAL) {
            let path = destination.display().to_string();
            *optional = optional.lines().filter(|line| *line != path).collect::<Vec<_>>().join("\n");
        }
        Ok(there.into_iter().next_back())
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.env.iter().position(|setting| setting.split_once('=').is_some_and(|(other, _)| other == name))
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let setting = self.env.get(self.position(name)?)?;
        setting.split_once('=').map(|(_, value)| value)
    }

    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        let settings = self.env.iter().filter_map(|setting| setting.split_once('='));
        settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        let setting = format!("{name}={value}");
        let position = self.position(name);
        match position.and_then(|position| self.env.get_mut(position)) {
            Some(there) => {
                *there = setting;
                // What is set here is text, whatever the old value was.
                self.annotations.remove(&format!("{}{}", spec::RAW_ENV, position.unwrap_or_default()));
            }
            None => self.env.push(setting),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_follows_the_nearest_mount() {
        let mut container = Container::default();
        let mut add = |kind: &str, source: &str, destination: &str, options: &[&str]| {
            let options = options.iter().map(|word| (*word).to_owned()).collect();
            container.mount(kind, Path::new(source), Path::new(destination), options).unwrap()
        };
        add("bind", "/dev", "/dev", &["rbind"]);
        add("tmpfs", "tmpfs", "/dev/shm", &[]);
        add("none", "/data", "/d", &["bind", "ro"]);
        add("proc", "proc", "/p", &[]);
        assert!(add("bind", "/other", "/d", &["rbind"]).is_some());
        let shown = |path: &str| container.shown(Path::new(path));
        assert_eq!(shown("/dev/null"), Shown::Host("/dev/null".into()));
        assert_eq!(shown("/dev"), Shown::Host("/dev".into()));
        assert_eq!((shown("/dev/shm/x"), shown("/devices"), shown("/p/x")), (Shown::New, Shown::Image, Shown::Fixed));
        assert_eq!(shown("/d/x"), Shown::Host("/other/x".into()));
    }

    #[test]
    fn variables_are_replaced_where_they_stand() {
        let annotations = HashMap::from([(format!("{}1", spec::RAW_ENV), "ff".to_owned())]);
        let mut container = Container { env: vec!["A=1".into(), "B=?".into()], annotations, ..Container::default() };
        container.set("B", "2");
        container.set("C", "x=y");
        assert_eq!(container.env, ["A=1", "B=2", "C=x=y"]);
        assert!(container.annotations.is_empty());
        assert_eq!(container.variable("C"), Some("x=y"));
    }
}
