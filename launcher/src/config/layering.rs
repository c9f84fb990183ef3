//! Options of several origins become one: flags over variables over a profile.

use std::path::{Path, PathBuf};

use crate::options::{Bind, BindSource, Capabilities, Home, Namespaces, Options};

/// `upper`, and what it does not decide of `under`. Lists add up, what is asked for stays asked for, and of single values `upper`'s
/// counts. Layers are one decision: what is written to is either's, not both's.
#[must_use]
pub fn over(upper: Options, under: Options) -> Options {
    let writes = upper.writable || !upper.layers.is_empty();
    // All by name, so that none is forgotten.
    let Options {
        binds,
        early_env,
        env,
        env_files,
        clean_env,
        working_dir,
        home,
        no_env,
        contain,
        no_mount,
        work_dir,
        scratch,
        layers,
        writable,
        namespaces,
        no_init,
        hostname,
        dns,
        fakeroot,
        map_groups,
        capabilities,
        seccomp,
        shell,
        gpu,
        mpi,
        devices,
        cdi_dirs,
        annotations,
    } = upper;
    let mut kept = under.binds;
    kept.retain(|bind| !binds.iter().any(|other| destination(other) == destination(bind)));
    Options {
        binds: joined(kept, binds),
        early_env: joined(under.early_env, early_env),
        env: joined(under.env, env),
        env_files: joined(under.env_files, env_files),
        clean_env: clean_env || under.clean_env,
        working_dir: working_dir.or(under.working_dir),
        home: if home == Home::Own { under.home } else { home },
        no_env: joined(under.no_env, no_env),
        contain: contain || under.contain,
        no_mount: no_mount.into_iter().chain(under.no_mount).collect(),
        work_dir: work_dir.or(under.work_dir),
        scratch: joined(under.scratch.into_iter().filter(|path| !scratch.contains(path)).collect(), scratch),
        layers: if writes { layers } else { under.layers },
        writable: if writes { writable } else { under.writable },
        namespaces: Namespaces {
            pid: namespaces.pid || under.namespaces.pid,
            ipc: namespaces.ipc || under.namespaces.ipc,
            uts: namespaces.uts || under.namespaces.uts,
            net: namespaces.net || under.namespaces.net,
        },
        no_init: no_init || under.no_init,
        hostname: hostname.or(under.hostname),
        dns: if dns.is_empty() { under.dns } else { dns },
        fakeroot: fakeroot || under.fakeroot,
        map_groups: map_groups || under.map_groups,
        capabilities: Capabilities {
            add: capabilities.add.into_iter().chain(under.capabilities.add).collect(),
            drop: capabilities.drop.into_iter().chain(under.capabilities.drop).collect(),
        },
        seccomp: seccomp.or(under.seccomp),
        shell: shell.or(under.shell),
        mpi: mpi.or(under.mpi),
        gpu: gpu.over(under.gpu),
        devices: joined(under.devices.into_iter().filter(|name| !devices.contains(name)).collect(), devices),
        cdi_dirs: joined(under.cdi_dirs, cdi_dirs),
        annotations: under.annotations.into_iter().chain(annotations).collect(),
    }
}

fn joined<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    let mut all = first;
    all.extend(second);
    all
}

/// Where a bind is in the container, as far as that is known before the working directory is.
pub(super) fn destination(bind: &Bind) -> Option<PathBuf> {
    // Slashes at the end, and more than one, mean nothing.
    let plain = |path: &Path| path.components().collect();
    match (&bind.destination, &bind.source) {
        (Some(path), _) => Some(plain(path)),
        (None, BindSource::Host(source) | BindSource::Image { file: source, .. }) => Some(plain(source)),
        (None, BindSource::Empty { .. }) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{DefaultMount, EnvSetting, Layer};

    #[test]
    fn upper_counts_and_lists_add_up() {
        let set = |value: &str| EnvSetting::Set("A".into(), value.into());
        let under = Options {
            binds: vec![Bind::of_host("/a", None), Bind::of_host("/b", Some("/c/".into()))],
            early_env: vec![set("under")],
            working_dir: Some("/under".into()),
            home: Home::Without,
            contain: true,
            no_mount: [DefaultMount::Tmp].into(),
            layers: vec![Layer::Memory { size: None }],
            ..Options::default()
        };
        let upper = Options {
            binds: vec![Bind::of_host("/x", Some("/c".into()))],
            early_env: vec![set("upper")],
            working_dir: Some("/upper".into()),
            clean_env: true,
            ..Options::default()
        };
        let both = over(upper.clone(), under.clone());
        assert_eq!(both.binds, [Bind::of_host("/a", None), Bind::of_host("/x", Some("/c".into()))]);
        assert_eq!(both.early_env, [set("under"), set("upper")]);
        assert_eq!((both.working_dir, both.home), (Some("/upper".into()), Home::Without));
        assert!(both.contain && both.clean_env && both.no_mount.contains(&DefaultMount::Tmp));
        assert_eq!(both.layers, under.layers);
        let own = vec![Layer::At { path: "o".into(), read_only: false }];
        assert_eq!(over(Options { layers: own.clone(), ..Options::default() }, under.clone()).layers, own);
        let writable = over(Options { writable: true, ..Options::default() }, under.clone());
        assert!(writable.writable && writable.layers.is_empty());
        assert_eq!(over(Options::default(), under.clone()), under);
        assert_eq!(over(upper.clone(), Options::default()), upper);
    }
}
