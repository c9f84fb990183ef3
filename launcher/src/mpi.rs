//! Ranks of MPI programs: what they keep of who starts them.

use std::collections::HashMap;
use std::ffi::OsString;

use coracle_mpi_hooks::starter;
use oci_spec::runtime::Spec;

use crate::spec;

/// Has the descriptors stay open over which ranks speak to their starter, where there are several ranks.
pub fn keep_descriptors(spec: &mut Spec, env: &[(OsString, OsString)]) {
    // Plain launches pay for no more than this.
    if !env.iter().any(|(name, _)| name == "PMI_FD") {
        return;
    }
    let variables = env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    let Some(starter) = starter::recognise(variables).filter(starter::Starter::has_several) else { return };
    let numbers: Vec<String> = starter.needs.descriptors.iter().map(ToString::to_string).collect();
    if !numbers.is_empty() {
        let annotations = spec.annotations_mut().get_or_insert_with(HashMap::new);
        annotations.insert(spec::DESCRIPTORS.to_owned(), numbers.join(","));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(env: &[(&str, &str)]) -> Option<String> {
        let env: Vec<_> = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let mut spec = Spec::default();
        keep_descriptors(&mut spec, &env);
        spec.annotations().as_ref().and_then(|all| all.get(spec::DESCRIPTORS)).cloned()
    }

    #[test]
    fn descriptors_stay_open_for_several_ranks_alone() {
        let hydra = |size| [("PMI_FD", "8"), ("PMI_RANK", "0"), ("PMI_SIZE", size), ("MPI_LOCALNRANKS", size)];
        assert_eq!(kept(&hydra("2")).as_deref(), Some("8"));
        assert_eq!(kept(&hydra("1")), None);
        assert_eq!(kept(&[("PMI_FD", "8")]), None, "nobody is known to have started this");
    }
}
