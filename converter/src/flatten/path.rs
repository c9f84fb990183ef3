//! Names from a layer: cleaned, bounded, and turned into paths inside the root.

use super::Problem;

/// Longest name in a Linux directory, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path kept while symbolic links are followed, in bytes.
pub const PATH_MAX: usize = 16 << 10;
/// Deepest path, in components. Linux opens paths of up to 2048 by name; real images have some 30.
pub const DEPTH_MAX: usize = 1024;

/// Prefix of white-outs.
const WHITEOUT: &[u8] = b".wh.";
/// Prefix of marks that are no white-outs of a name.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Name of the mark that hides a directory's whole lower content.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes the canonical form of `raw` into `clean`: relative to the root, no empty, `.` or `..` components. `..` takes
/// back the component before it and cannot leave the root, as when other tools clean an entry's name.
pub fn clean(raw: &[u8], clean: &mut Vec<u8>) -> Result<(), Problem> {
    clean.clear();
    if raw.len() > PATH_MAX {
        return Err(Problem::PathTooLong);
    }
    let mut depth = 0;
    for component in raw.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                let end = clean.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                clean.truncate(end);
                depth -= usize::from(depth > 0);
            }
            _ if component.len() > NAME_MAX => return Err(Problem::NameTooLong),
            _ => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Problem::PathTooLong);
                }
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(component);
            }
        }
    }
    Ok(())
}

/// Parent and last component of a clean path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

/// What a layer's entry is, by its name.
#[derive(Debug, PartialEq, Eq)]
pub enum Mark<'a> {
    /// An ordinary entry.
    None,
    /// Hides this name of the same directory.
    Whiteout(&'a [u8]),
    /// Hides the lower content of its directory.
    Opaque,
    /// Belongs to AUFS's own books.
    Ignored,
}

/// Looks at the name of a clean path.
pub fn mark(path: &[u8]) -> Result<Mark<'_>, Problem> {
    let (parent, name) = split(path);
    if name == OPAQUE {
        return Ok(Mark::Opaque);
    }
    if name.starts_with(WHITEOUT_META) || parent.split(|&byte| byte == b'/').any(|part| part.starts_with(WHITEOUT_META))
    {
        return Ok(Mark::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Mark::None),
        Some(b"" | b"." | b"..") => Err(Problem::Whiteout),
        Some(hidden) => Ok(Mark::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_inside_the_root() {
        for (raw, expected) in [
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("../../x", "x"),
            ("a/../../b", "b"),
            ("a/b/../../../c/.", "c"),
            ("..", ""),
            ("", ""),
            ("/", ""),
        ] {
            let mut path = Vec::new();
            clean(raw.as_bytes(), &mut path).unwrap();
            assert_eq!(path, expected.as_bytes(), "{raw}");
        }
        let mut path = Vec::new();
        assert!(matches!(clean(&[b'n'; 256], &mut path), Err(Problem::NameTooLong)));
        assert!(clean(&[b'n'; 255], &mut path).is_ok());
        assert!(matches!(clean(&b"a/".repeat(1025), &mut path), Err(Problem::PathTooLong)));
    }

    #[test]
    fn marks_are_told_apart() {
        assert_eq!(mark(b"a/.wh.b").unwrap(), Mark::Whiteout(b"b"));
        assert_eq!(mark(b".wh..wh..opq").unwrap(), Mark::Opaque);
        assert_eq!(mark(b".wh..wh.plnk/1.2").unwrap(), Mark::Ignored);
        assert_eq!(mark(b"a/.wh.b/c").unwrap(), Mark::None);
        for bad in ["a/.wh.", "a/.wh..", "a/.wh..."] {
            assert!(matches!(mark(bad.as_bytes()), Err(Problem::Whiteout)), "{bad}");
        }
    }
}
