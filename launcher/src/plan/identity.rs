//! Reads from a specification who the program is.

use oci_spec::runtime::{LinuxIdMapping, LinuxSeccomp, Spec};

use super::Error;
use crate::capabilities::Capabilities;
use crate::ids::{Ids, Range};
use crate::seccomp::{self, Filter, Foreign};
use crate::spec::ROOT_FILTER;

/// The maps of the user namespace. The program's user must be the first of each, for it is the caller.
pub(super) fn ids(spec: &Spec) -> Result<Ids, Error> {
    let user = spec.process().as_ref().ok_or(Error::Missing("process"))?.user();
    let linux = spec.linux().as_ref();
    let ranges = |mappings: Option<&Vec<LinuxIdMapping>>, own: u32, what: &str| -> Result<Vec<Range>, Error> {
        let Some(mappings) = mappings.filter(|mappings| !mappings.is_empty()) else {
            return Ok(vec![Range::one(own, own)]);
        };
        let range =
            |one: &LinuxIdMapping| Range { inside: one.container_id(), outside: one.host_id(), length: one.size() };
        let ranges: Vec<Range> = mappings.iter().map(range).collect();
        match ranges.first() {
            Some(first) if first.inside == own && first.length == 1 => Ok(ranges),
            _ => Err(Error::Unsupported(format!("a map of {what} that does not begin with the program's own"))),
        }
    };
    Ok(Ids {
        users: ranges(linux.and_then(|linux| linux.uid_mappings().as_ref()), user.uid(), "users")?,
        groups: ranges(linux.and_then(|linux| linux.gid_mappings().as_ref()), user.gid(), "groups")?,
    })
}

/// The capabilities of the program.
pub(super) fn capabilities(spec: &Spec) -> Capabilities {
    let sets = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    sets.map(Capabilities::from).unwrap_or_default()
}

/// The filters, in the order in which they are to be installed.
pub(super) fn filters(spec: &Spec) -> Result<Vec<Filter>, Error> {
    let mut filters = Vec::new();
    if let Some(text) = spec.annotations().as_ref().and_then(|annotations| annotations.get(ROOT_FILTER)) {
        let profile: LinuxSeccomp = serde_json::from_str(text)
            .map_err(|error| Error::Annotation { name: ROOT_FILTER, reason: error.to_string() })?;
        filters.push(seccomp::compile(&profile, Foreign::Allow)?);
    }
    if let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        filters.push(seccomp::compile(profile, Foreign::Kill)?);
    }
    Ok(filters)
}
