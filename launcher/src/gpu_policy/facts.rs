//! What a host's NVIDIA driver is, as far as images have requirements.

use std::collections::BTreeSet;

pub use super::version::Version;

/// The greatest version of CUDA that a driver supports, by the first number of the driver's version, newest first.
///
/// From the table of toolkits and the drivers that came with them in the release notes of CUDA. The driver itself says it
/// only to those who load its library, which a launch does not do.
const CUDA_OF_DRIVER: [(u32, [u32; 2]); 31] = [
    (590, [13, 1]),
    (580, [13, 0]),
    (575, [12, 9]),
    (570, [12, 8]),
    (565, [12, 7]),
    (560, [12, 6]),
    (555, [12, 5]),
    (550, [12, 4]),
    (545, [12, 3]),
    (535, [12, 2]),
    (530, [12, 1]),
    (525, [12, 0]),
    (520, [11, 8]),
    (515, [11, 7]),
    (510, [11, 6]),
    (495, [11, 5]),
    (470, [11, 4]),
    (465, [11, 3]),
    (460, [11, 2]),
    (455, [11, 1]),
    (450, [11, 0]),
    (440, [10, 2]),
    (418, [10, 1]),
    (410, [10, 0]),
    (396, [9, 2]),
    (390, [9, 1]),
    (384, [9, 0]),
    (375, [8, 0]),
    (367, [8, 0]),
    (352, [7, 5]),
    (346, [7, 0]),
];

/// A version that is known to lie between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Not below.
    pub least: Version,
    /// Not above; `None` when nothing is known.
    pub most: Option<Version>,
}

impl Range {
    /// Exactly this.
    #[must_use]
    pub fn exactly(version: Version) -> Self {
        Self { most: Some(version.clone()), least: version }
    }
}

/// What is known of a host. What is not known is not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Version of the kernel's driver.
    pub driver: Option<Version>,
    /// Version of CUDA that it supports.
    pub cuda: Option<Range>,
    /// Compute capability of each GPU that is shown.
    pub architectures: Option<Vec<Version>>,
    /// Brands that each GPU that is shown may be of, in small letters without spaces.
    pub brands: Option<Vec<BTreeSet<String>>>,
}

impl Facts {
    /// Of a driver of this version.
    #[must_use]
    pub fn of_driver(version: &str) -> Self {
        let driver = Version::parse(version.trim());
        let cuda = driver.as_ref().map(cuda_of_driver);
        Self { driver, cuda, ..Self::default() }
    }

    /// With GPUs that are sold under these names; `None` for one of which it is not known.
    #[must_use]
    pub fn with_models(self, models: &[Option<&str>]) -> Self {
        let brands: Option<Vec<_>> = models.iter().map(|model| model.and_then(brands_of_model)).collect();
        Self { brands: brands.filter(|brands| !brands.is_empty()), ..self }
    }
}

/// The version of CUDA that a driver supports.
#[must_use]
pub fn cuda_of_driver(driver: &Version) -> Range {
    let branch = driver.major();
    let version = |row: &(u32, [u32; 2])| Version::of(&row.1);
    match CUDA_OF_DRIVER.iter().position(|(known, _)| *known <= branch) {
        // Older than all that is known.
        None => Range { least: Version::of(&[0]), most: CUDA_OF_DRIVER.last().map(version) },
        Some(position) => {
            let row = CUDA_OF_DRIVER.get(position);
            let least = row.map(version).unwrap_or_else(|| Version::of(&[0]));
            if row.is_some_and(|(known, _)| *known == branch) {
                return Range::exactly(least);
            }
            // A branch that the table lacks: a beta, or one that is newer than this program.
            let newer = position.checked_sub(1).and_then(|newer| CUDA_OF_DRIVER.get(newer));
            Range { least, most: newer.map(version) }
        }
    }
}

/// The brands that a GPU of this name may be of, as the driver has them; `None` when the name does not tell.
#[must_use]
pub fn brands_of_model(model: &str) -> Option<BTreeSet<String>> {
    let model = model.to_ascii_lowercase();
    let has = |word: &str| model.contains(word);
    let brands: &[&str] = match () {
        () if has("geforce") && has("rtx") => &["geforcertx", "geforce"],
        () if has("geforce") => &["geforce"],
        () if has("quadro") && has("rtx") => &["quadrortx", "quadro"],
        () if has("quadro") => &["quadro"],
        () if has("titan") && has("rtx") => &["titanrtx", "titan"],
        () if has("titan") => &["titan"],
        () if has("tesla") => &["tesla"],
        // Cards for servers have lost their brand with newer drivers, those for workstations have one of their own.
        () if has("nvidia rtx") => &["nvidiartx", "quadrortx", "nvidia"],
        () if has("nvidia ") => &["nvidia", "tesla", "unknown"],
        () => return None,
    };
    Some(brands.iter().map(|brand| (*brand).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_supports_a_version_of_cuda() {
        let of = |driver: &str| cuda_of_driver(&Version::parse(driver).unwrap());
        let version = |text: &str| Version::parse(text).unwrap();
        assert_eq!(of("550.54.14"), Range::exactly(version("12.4")));
        assert_eq!(of("470.57"), Range::exactly(version("11.4")));
        assert_eq!(of("572.1"), Range { least: version("12.8"), most: Some(version("12.9")) });
        assert_eq!(of("990.1"), Range { least: version("13.1"), most: None });
        assert_eq!(of("304.1"), Range { least: version("0"), most: Some(version("7.0")) });
        assert!(CUDA_OF_DRIVER.is_sorted_by(|newer, older| newer.0 > older.0 && newer.1 >= older.1));
    }

    #[test]
    fn names_tell_brands_more_or_less() {
        let of = |model: &str| brands_of_model(model).map(|brands| brands.into_iter().collect::<Vec<_>>().join(" "));
        assert_eq!(of("Tesla V100-SXM2-16GB").as_deref(), Some("tesla"));
        assert_eq!(of("NVIDIA GeForce RTX 4090").as_deref(), Some("geforce geforcertx"));
        assert_eq!(of("NVIDIA H100 80GB HBM3").as_deref(), Some("nvidia tesla unknown"));
        assert_eq!(of("Graphics Device"), None);
    }
}
