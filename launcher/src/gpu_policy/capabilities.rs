//! `NVIDIA_DRIVER_CAPABILITIES`: which parts of the driver a container wants.

use std::collections::BTreeSet;

use super::{Environments, require};

/// The variable.
pub const VARIABLE: &str = "NVIDIA_DRIVER_CAPABILITIES";
/// All that there are.
pub const ALL: [&str; 7] = ["compute", "compat32", "graphics", "utility", "video", "display", "ngx"];
/// Where nobody says anything.
pub const DEFAULT: [&str; 2] = ["utility", "compute"];

/// A word that is no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE}={value} has {word:?}, which is none of all, {}", ALL.join(", "))]
pub struct Unknown {
    value: String,
    word: String,
}

/// The capabilities that are wanted.
///
/// # Errors
/// When a word is none: half of a driver would fail later, and say less.
pub fn wanted(environments: &Environments) -> Result<BTreeSet<&'static str>, Unknown> {
    let value = environments.get(VARIABLE).map(|(value, _)| value.trim()).unwrap_or_default();
    if value.is_empty() {
        // Images from before there were capabilities want all.
        let old = require::is_legacy(&environments.image);
        return Ok(if old { ALL.into() } else { DEFAULT.into() });
    }
    let mut wanted = BTreeSet::new();
    for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match ALL.iter().find(|known| known.eq_ignore_ascii_case(word)) {
            Some(known) => drop(wanted.insert(*known)),
            None if word.eq_ignore_ascii_case("all") => wanted.extend(ALL),
            None if word.eq_ignore_ascii_case("none") => {}
            None => return Err(Unknown { value: value.to_owned(), word: word.to_owned() }),
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_counts_before_the_image() {
        let of = |caller: Option<&str>, image: &[(&str, &str)]| {
            let set = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let caller = caller.iter().map(|value| set(&(VARIABLE, value))).collect();
            let environments =
                Environments { caller, image: image.iter().map(set).collect(), ..Environments::default() };
            wanted(&environments).map(|wanted| wanted.into_iter().collect::<Vec<_>>().join(","))
        };
        assert_eq!(of(None, &[]).unwrap(), "compute,utility");
        assert_eq!(of(None, &[(VARIABLE, "video, compute")]).unwrap(), "compute,video");
        assert_eq!(of(Some("graphics"), &[(VARIABLE, "all")]).unwrap(), "graphics");
        assert_eq!(of(Some("all"), &[]).unwrap().split(',').count(), ALL.len());
        assert_eq!(of(Some("none"), &[]).unwrap(), "");
        assert_eq!(of(None, &[("CUDA_VERSION", "8.0.61")]).unwrap().split(',').count(), ALL.len());
        assert!(of(Some("cuda"), &[]).unwrap_err().to_string().contains("\"cuda\""));
    }
}
