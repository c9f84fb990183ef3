//! Lists of GPUs, as variables have them.

use std::collections::BTreeSet;

/// Most numbers of a range, so that `0-4294967295` is none.
const RANGE_MAX: u32 = 4096;

/// The value of a variable like `NVIDIA_VISIBLE_DEVICES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// Every GPU.
    All,
    /// The driver, but no GPU.
    None,
    /// Nothing of the driver: as when GPUs were not spoken of.
    Void,
    /// These.
    Of(Vec<Id>),
}

/// A GPU, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// By number.
    Index(u32),
    /// The second number's part of the first number's GPU.
    Part(u32, u32),
    /// `GPU-…`, or the beginning of that.
    Uuid(String),
    /// `MIG-GPU-…/3/0`: the GPU, and the numbers of the instances for GPU and computing.
    Instance(String, u32, u32),
    /// `MIG-…`
    MigUuid(String),
}

impl Id {
    /// Reads it; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number =
            |text: &str| text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
        if let Some(index) = number(text) {
            return Some(Self::Index(index));
        }
        if let Some((gpu, part)) = text.split_once(':') {
            return Some(Self::Part(number(gpu)?, number(part)?));
        }
        let lower = text.to_ascii_lowercase();
        let uuid = |text: &str| {
            text.len() > 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b"gpu-mi".contains(&byte))
        };
        if let Some(rest) = lower.strip_prefix("mig-") {
            let mut parts = rest.split('/');
            let gpu = parts.next().filter(|gpu| uuid(gpu))?.to_owned();
            return match (parts.next(), parts.next(), parts.next()) {
                (None, None, None) => Some(Self::MigUuid(lower)),
                (Some(instance), Some(computing), None) => {
                    Some(Self::Instance(gpu, number(instance)?, number(computing)?))
                }
                _ => None,
            };
        }
        (lower.starts_with("gpu-") && uuid(&lower)).then_some(Self::Uuid(lower))
    }
}

/// Why a list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no GPU: write a number, GPU:PART, GPU-… or MIG-…, with commas between")]
pub struct Malformed {
    word: String,
}

impl List {
    /// Reads `NVIDIA_VISIBLE_DEVICES`.
    ///
    /// # Errors
    /// The first word that is none.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        let has = |wanted: &str| words.iter().any(|word| word.eq_ignore_ascii_case(wanted));
        if words.is_empty() || has("void") {
            return Ok(Self::Void);
        }
        if has("all") {
            return Ok(Self::All);
        }
        if has("none") {
            return Ok(Self::None);
        }
        let id = |word: &&str| Id::parse(word).ok_or_else(|| Malformed { word: (*word).to_owned() });
        words.iter().map(id).collect::<Result<_, _>>().map(Self::Of)
    }
}

/// Reads what CUDA and its like make of their variables: the list ends before the first word that is no GPU.
#[must_use]
pub fn until_invalid(text: &str) -> Vec<Id> {
    text.split(',').map(str::trim).map_while(Id::parse).collect()
}

/// Reads the numbers of a scheduler's list, `0-2,5`; `None` when it is something else.
#[must_use]
pub fn ranges(text: &str) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > RANGE_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let of = |text: &str| List::parse(text).unwrap();
        assert_eq!(
            (of("all"), of("none"), of("void"), of(""), of(" , ")),
            (List::All, List::None, List::Void, List::Void, List::Void)
        );
        assert_eq!(of("1, 0:1"), List::Of(vec![Id::Index(1), Id::Part(0, 1)]));
        assert_eq!(of("GPU-B8ea3855-276c"), List::Of(vec![Id::Uuid("gpu-b8ea3855-276c".into())]));
        assert_eq!(of("MIG-GPU-b8ea/3/0"), List::Of(vec![Id::Instance("gpu-b8ea".into(), 3, 0)]));
        assert_eq!(of("MIG-b8ea3855"), List::Of(vec![Id::MigUuid("mig-b8ea3855".into())]));
        for wrong in ["x", "-1", "GPU-", "0:x", "MIG-b8ea3/1", "1 2"] {
            assert!(List::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(until_invalid("1,-1,0"), [Id::Index(1)]);
        assert_eq!(until_invalid("NoDevFiles"), []);
        assert_eq!(ranges("0-2,5").unwrap().into_iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!((ranges("3-1"), ranges("a"), ranges("0-99999999")), (None, None, None));
    }
}
