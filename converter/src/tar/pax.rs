//! PAX extended headers: `length keyword=value\n` records.

use super::error::Problem;

/// Most extended attributes of one entry; a Linux file cannot have more than its 64 KiB list of names holds.
const XATTRS_MAX: usize = 1024;

/// What the records of one extended header say; absent keywords are `None`.
#[derive(Debug, Default)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<i64>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: PaxSparse,
}

/// GNU's sparse keywords, versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub struct PaxSparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    /// `GNU.sparse.size` (0.x) or `GNU.sparse.realsize` (1.0).
    pub real_size: Option<u64>,
    /// Offset, length, offset, length … of versions 0.0 and 0.1.
    pub map: Option<Vec<u64>>,
    /// The offset of a 0.0 pair whose length has not come yet.
    half: bool,
}

impl Pax {
    /// Parses a whole extended header.
    pub fn parse(mut records: &[u8]) -> Result<Self, Problem> {
        let mut pax = Self::default();
        while !records.is_empty() {
            // Some writers pad with NUL up to the block.
            if records.iter().all(|&byte| byte == 0) {
                break;
            }
            let (keyword, value, rest) = record(records).ok_or(Problem::Pax("length"))?;
            pax.apply(keyword, value)?;
            records = rest;
        }
        if pax.sparse.half {
            return Err(Problem::Sparse("offset without length"));
        }
        Ok(pax)
    }

    fn apply(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Problem> {
        match keyword {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = optional(value, "size")?,
            b"uid" => self.uid = optional(value, "uid")?,
            b"gid" => self.gid = optional(value, "gid")?,
            b"mtime" => self.mtime = time(value)?,
            b"GNU.sparse.name" => self.sparse.name = name(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = optional(value, "sparse size")?,
            b"GNU.sparse.major" => self.sparse.major = optional(value, "sparse version")?,
            b"GNU.sparse.minor" => self.sparse.minor = optional(value, "sparse version")?,
            b"GNU.sparse.map" => {
                let numbers = value.split(|&byte| byte == b',').map(decimal).collect::<Option<Vec<_>>>();
                let numbers = if value.is_empty() { Some(Vec::new()) } else { numbers };
                self.sparse.map = Some(numbers.ok_or(Problem::Sparse("not a list of numbers"))?);
            }
            b"GNU.sparse.numblocks" => {
                self.sparse.map.get_or_insert_default();
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.half_pair(keyword, value)?,
            _ => {
                if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name.to_vec(), value.to_vec())?;
                } else if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = percent_decode(name);
                    // libarchive writes both forms; this one is only needed by readers that cannot take binary values.
                    if !self.xattrs.iter().any(|(known, _)| *known == name) {
                        let value = base64_decode(value).ok_or(Problem::Pax("LIBARCHIVE.xattr"))?;
                        self.set_xattr(name, value)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), Problem> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > 65_536 {
            return Err(Problem::Pax("extended attribute"));
        }
        if let Some(known) = self.xattrs.iter_mut().find(|(known, _)| *known == name) {
            known.1 = value;
            return Ok(());
        }
        if self.xattrs.len() >= XATTRS_MAX {
            return Err(Problem::Pax("extended attribute"));
        }
        self.xattrs.push((name, value));
        Ok(())
    }
}

impl PaxSparse {
    /// Whether the entry is a sparse file, and one whose map precedes its content (version 1.0).
    pub fn version(&self) -> Result<Option<bool>, Problem> {
        match (self.major, self.minor) {
            (Some(1), Some(0) | None) => Ok(Some(true)),
            (None | Some(0), _) => Ok(self.map.as_ref().map(|_| false)),
            _ => Err(Problem::Sparse("version is not supported")),
        }
    }

    fn half_pair(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Problem> {
        let length = keyword.ends_with(b"numbytes");
        if length != self.half {
            return Err(Problem::Sparse("offsets and lengths do not alternate"));
        }
        self.half = !length;
        self.map.get_or_insert_default().push(decimal(value).ok_or(Problem::Sparse("not a number"))?);
        Ok(())
    }
}

/// Splits the first record off: keyword, value and what follows.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(records.get(..space)?)?).ok()?;
    let body = records.get(space + 1..length)?;
    let body = body.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    let keyword = body.get(..equals)?;
    if keyword.is_empty() {
        return None;
    }
    Some((keyword, body.get(equals + 1..)?, records.get(length..)?))
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, Problem> {
    if value.contains(&0) {
        return Err(Problem::Nul);
    }
    // An empty value takes an earlier record back.
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn optional(value: &[u8], name: &'static str) -> Result<Option<u64>, Problem> {
    if value.is_empty() { Ok(None) } else { decimal(value).map(Some).ok_or(Problem::Pax(name)) }
}

/// Whole seconds of a decimal time; the fraction is dropped towards the past.
fn time(value: &[u8]) -> Result<Option<i64>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match digits.iter().position(|&byte| byte == b'.') {
        Some(dot) => (digits.get(..dot).unwrap_or_default(), digits.get(dot + 1..).unwrap_or_default()),
        None => (digits, &[][..]),
    };
    let seconds = decimal(whole).and_then(|seconds| i64::try_from(seconds).ok());
    match seconds {
        Some(seconds) if fraction.iter().all(u8::is_ascii_digit) => Ok(Some(if negative { -seconds } else { seconds })),
        _ => Err(Problem::Pax("mtime")),
    }
}

/// An unsigned decimal number, nothing around it.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn percent_decode(text: &[u8]) -> Vec<u8> {
    let hex = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%'
            && let [high, low, after @ ..] = tail
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(first);
        }
    }
    out
}

/// Base 64 with or without padding, as libarchive writes it.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in text.iter().filter(|byte| !matches!(byte, b'=' | b'\n')) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_takes_padded_and_unpadded_text() {
        assert_eq!(base64_decode(b"AQAAAg==").as_deref(), Some(&[1, 0, 0, 2][..]));
        assert_eq!(base64_decode(b"AQAAAg").as_deref(), Some(&[1, 0, 0, 2][..]));
        assert_eq!(base64_decode(b"A*"), None);
    }

    #[test]
    fn percent_text_decodes_and_keeps_stray_signs() {
        assert_eq!(percent_decode(b"user.a%3db%"), b"user.a=b%");
    }

    #[test]
    fn times_lose_their_fraction() {
        assert_eq!(time(b"12.9").unwrap(), Some(12));
        assert_eq!(time(b"-3.5").unwrap(), Some(-3));
        assert!(time(b"1.x").is_err());
        assert!(time(b"nan").is_err());
    }
}
