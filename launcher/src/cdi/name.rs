//! Names of devices, and annotations that ask for them.

use std::collections::HashMap;
use std::fmt;

/// Asks for all devices of a kind, unless one is called so.
pub const ALL: &str = "all";
/// Annotations that begin so ask for devices.
pub const ANNOTATION: &str = "cdi.k8s.io/";

/// `vendor.com/class=name`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// `vendor.com`
    pub vendor: String,
    /// `class`
    pub class: String,
    /// `name`
    pub device: String,
}

/// Why a text names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no CDI device: {reason}; write vendor.com/class=name, like nvidia.com/gpu=all")]
pub struct Unqualified {
    text: String,
    reason: String,
}

impl Name {
    /// Reads a qualified name.
    ///
    /// # Errors
    /// With the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, Unqualified> {
        let refused = |reason: String| Unqualified { text: text.to_owned(), reason };
        let (kind, device) = text.split_once('=').ok_or_else(|| refused("it has no =".to_owned()))?;
        let (vendor, class) = kind.split_once('/').ok_or_else(|| refused(format!("{kind:?} has no /")))?;
        check_part(vendor).map_err(|reason| refused(format!("the vendor {vendor:?} {reason}")))?;
        check_part(class).map_err(|reason| refused(format!("the class {class:?} {reason}")))?;
        check_device(device).map_err(|reason| refused(format!("the name {device:?} {reason}")))?;
        Ok(Self { vendor: vendor.to_owned(), class: class.to_owned(), device: device.to_owned() })
    }

    /// `vendor.com/class`
    #[must_use]
    pub fn kind(&self) -> String {
        format!("{}/{}", self.vendor, self.class)
    }

    /// Whether both are of one kind.
    #[must_use]
    pub fn is_of_kind(&self, other: &Self) -> bool {
        self.vendor == other.vendor && self.class == other.class
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}", self.vendor, self.class, self.device)
    }
}

/// The devices that annotations ask for, in the order of the annotations' names.
///
/// # Errors
/// The first that is no qualified name.
pub fn annotated(annotations: &HashMap<String, String>) -> Result<Vec<Name>, Unqualified> {
    let mut asking: Vec<_> = annotations.iter().filter(|(name, _)| name.starts_with(ANNOTATION)).collect();
    asking.sort_unstable();
    asking.into_iter().flat_map(|(_, value)| value.split(',')).map(|name| Name::parse(name.trim())).collect()
}

/// A vendor or class.
pub(super) fn check_part(text: &str) -> Result<(), &'static str> {
    check(text, "-_.", |first| first.is_ascii_alphabetic(), "does not begin with a letter")
}

/// A device's name within its kind.
pub(super) fn check_device(text: &str) -> Result<(), &'static str> {
    check(text, "-_.:", |first| first.is_ascii_alphanumeric(), "does not begin with a letter or digit")
}

fn check(
    text: &str,
    others: &str,
    first: impl Fn(char) -> bool,
    unlike_first: &'static str,
) -> Result<(), &'static str> {
    let Some(last) = text.chars().last() else { return Err("is empty") };
    if !text.starts_with(first) {
        return Err(unlike_first);
    }
    if text.contains(|letter: char| !letter.is_ascii_alphanumeric() && !others.contains(letter)) {
        return Err("has a letter that names do not have");
    }
    if last.is_ascii_alphanumeric() { Ok(()) } else { Err("does not end with a letter or digit") }
}

/// What Kubernetes takes for the name of an annotation: at most 63 letters, with a domain and `/` before, perhaps.
pub(super) fn is_annotation(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let (prefix, name) = text.split_once('/').map_or((None, text.as_str()), |(prefix, name)| (Some(prefix), name));
    let alphanumeric = |text: &str, others: &str| {
        let inner = |letter: char| letter.is_ascii_alphanumeric() || others.contains(letter);
        let ends = |letter: char| letter.is_ascii_alphanumeric();
        !text.is_empty() && text.chars().all(inner) && text.starts_with(ends) && text.ends_with(ends)
    };
    let domain = |prefix: &str| prefix.len() <= 253 && prefix.split('.').all(|label| alphanumeric(label, "-"));
    name.len() <= 63 && alphanumeric(name, "-_.") && prefix.is_none_or(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_qualified() {
        let name = Name::parse("nvidia.com/gpu=GPU-1:0").unwrap();
        assert_eq!((name.kind().as_str(), name.device.as_str()), ("nvidia.com/gpu", "GPU-1:0"));
        assert_eq!(name.to_string(), "nvidia.com/gpu=GPU-1:0");
        for wrong in ["nvidia.com/gpu", "gpu=0", "/dev/x=0", "1a/b=0", "a/b=", "a/b=-0", "a/b=0-", "a/b c=0", "a/b/c=0"]
        {
            let text = Name::parse(wrong).unwrap_err().to_string();
            assert!(text.contains("vendor.com/class=name"), "{text}");
        }
        assert!(Name::parse("a/b.c=0").is_ok());
    }

    #[test]
    fn annotations_ask_for_devices() {
        let all = [("cdi.k8s.io/b_1", "v.com/c=x,v.com/c=y"), ("cdi.k8s.io/a", "w.com/c=0"), ("other", "no")];
        let all: HashMap<String, String> = all.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let names: Vec<String> = annotated(&all).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["w.com/c=0", "v.com/c=x", "v.com/c=y"]);
        let wrong = HashMap::from([("cdi.k8s.io/a".to_owned(), "v.com/c=x,".to_owned())]);
        assert!(annotated(&wrong).is_err());
        assert!(
            is_annotation("vendor.com/Key.x") && is_annotation("k") && !is_annotation("-k") && !is_annotation("a/b/c")
        );
    }
}
