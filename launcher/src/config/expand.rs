//! Variables in texts of the configuration and of environment definition files.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Why a text's variables cannot be filled in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unexpandable {
    /// One that is not there.
    #[error("variable {variable} is not set; write ${{{variable}:-}} where it may be missing")]
    Unset {
        /// Its name.
        variable: String,
    },
    /// Not closed, or no name.
    #[error("{text:?} has a $ that begins no variable: write ${{NAME}} or ${{NAME:-DEFAULT}}, and $$ for a $")]
    Syntax {
        /// The whole text.
        text: String,
    },
}

/// Fills in `${NAME}`, `$NAME` and `${NAME:-DEFAULT}`, which takes the default when the variable is unset or empty; `$$` is a `$`.
///
/// # Errors
/// When a variable without a default is not set, or a `$` begins nothing of these.
pub fn expand(text: &str, value: &dyn Fn(&str) -> Option<OsString>) -> Result<OsString, Unexpandable> {
    let syntax = || Unexpandable::Syntax { text: text.to_owned() };
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = rest.split_at(at);
        result.extend_from_slice(before.as_bytes());
        rest = &after[1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push(b'$');
            rest = after;
            continue;
        }
        let (name, default) = match rest.strip_prefix('{') {
            Some(inner) => {
                let (inner, after) = inner.split_once('}').ok_or_else(syntax)?;
                rest = after;
                inner.split_once(":-").map_or((inner, None), |(name, default)| (name, Some(default)))
            }
            None => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                rest = after;
                (name, None)
            }
        };
        let named = !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        if !named {
            return Err(syntax());
        }
        match (value(name), default) {
            (Some(value), None) => result.extend_from_slice(value.as_bytes()),
            (Some(value), Some(_)) if !value.is_empty() => result.extend_from_slice(value.as_bytes()),
            (_, Some(default)) => result.extend_from_slice(default.as_bytes()),
            (None, None) => return Err(Unexpandable::Unset { variable: name.to_owned() }),
        }
    }
    result.extend_from_slice(rest.as_bytes());
    Ok(OsString::from_vec(result))
}

/// The same where colons and commas separate: those of a variable's value do not.
pub(crate) fn expand_part(text: &str, value: &dyn Fn(&str) -> Option<OsString>) -> Result<OsString, Unexpandable> {
    let escaped = |name: &str| {
        let value = value(name)?;
        let mut bytes = Vec::with_capacity(value.len());
        for byte in value.as_bytes() {
            if b":,\\".contains(byte) {
                bytes.push(b'\\');
            }
            bytes.push(*byte);
        }
        Some(OsString::from_vec(bytes))
    };
    expand(text, &escaped)
}

/// What stands for all variables where it is only looked whether a text is well formed.
#[expect(clippy::unnecessary_wraps, reason = "is used where variables are looked up")]
pub(crate) fn anything(_: &str) -> Option<OsString> {
    Some("/x".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let value = |name: &str| match name {
            "A" => Some("x:y".into()),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        };
        let full = |text: &str| expand(text, &value).map(|text| text.into_string().unwrap());
        assert_eq!(full("a ${A} $A/b $$A $${A} 5$$").unwrap(), "a x:y x:y/b $A ${A} 5$");
        assert_eq!(full("${B:-z}${B:-}${EMPTY:-e}${EMPTY}").unwrap(), "ze");
        assert_eq!(expand_part("${A}:b", &value).unwrap(), "x\\:y:b");
        assert_eq!(
            full("${B}").unwrap_err().to_string(),
            "variable B is not set; write ${B:-} where it may be missing"
        );
        for bad in ["$(ls)", "${A", "${}", "${1}", "$", "$1", "${A-b}", "a$ b"] {
            assert!(matches!(full(bad), Err(Unexpandable::Syntax { .. })), "{bad}");
        }
    }
}
