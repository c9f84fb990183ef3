//! `NVIDIA_REQUIRE_*`: what an image demands of driver and GPUs, checked before it is started.
//!
//! An expression is alternatives with a space between, each of conditions with a comma between; several variables all have
//! to be met. What is not known of the host is not checked, and said.

use std::collections::BTreeMap;
use std::fmt;

use super::facts::{Facts, Range};
use super::version::Version;

/// What the variables' names begin with.
const PREFIX: &str = "NVIDIA_REQUIRE_";
/// Old images for Jetson boards have other things in this one.
const JETPACK: &str = "NVIDIA_REQUIRE_JETPACK";
/// Switches the check off.
const DISABLE: &str = "NVIDIA_DISABLE_REQUIRE";
/// Set by old images in place of a requirement.
const CUDA_VERSION: &str = "CUDA_VERSION";
/// What the name of the requirement is that replaced it.
const CUDA: &str = "NVIDIA_REQUIRE_CUDA";
/// Bytes of an expression; NVIDIA's own have some thousands.
const LENGTH_MAX: usize = 64 << 10;

/// Compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// By length, so that the longer is found first.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// What a condition is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// Version of CUDA that the driver supports.
    Cuda(Version),
    /// Version of the driver.
    Driver(Version),
    /// Compute capability of the GPUs.
    Architecture(Version),
    /// Brand of the GPUs.
    Brand(String),
    /// Something that is not known here.
    Other,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is about, and the value to compare with.
    pub property: Property,
    /// How.
    pub operator: Operator,
    /// As written.
    text: String,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Alternatives, each of conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression(pub Vec<Vec<Condition>>);

/// An expression that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// Why an image cannot work with the driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An expression cannot be read.
    #[error("cannot check the image's requirement {name}={value}: {reason}; with --env {DISABLE}=1 it is not checked")]
    Malformed {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// Why.
        reason: Malformed,
    },
    /// It is not met.
    #[error(
        "cannot run the image with this host's driver: it requires {name}={value}, and {failing} is not so: {has}{others}; \
         use a node with a newer driver or an image for an older one; with --env {DISABLE}=1 it is not checked"
    )]
    NotMet {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// The condition of the first alternative.
        failing: String,
        /// What the host has instead.
        has: String,
        /// How many more alternatives there are.
        others: Others,
    },
}

/// Further alternatives that do not hold, either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Others(usize);

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(", and the other alternative does not hold, either"),
            number => write!(f, ", and {number} other alternatives do not hold, either"),
        }
    }
}

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    /// The host is not known that well.
    Unknown,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// When a condition has no operator, or its value is no version where it has to be.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > LENGTH_MAX {
            return Err(Malformed("it is unreasonably long".to_owned()));
        }
        let alternatives = text.split_whitespace().map(|alternative| {
            let conditions = alternative.split(',').filter(|condition| !condition.is_empty());
            conditions.map(Condition::parse).collect::<Result<Vec<_>, _>>()
        });
        let alternatives: Vec<_> = alternatives.collect::<Result<_, _>>()?;
        Ok(Self(alternatives.into_iter().filter(|conditions| !conditions.is_empty()).collect()))
    }

    /// Whether an alternative holds; else conditions that are not known to hold, as far as they decide.
    fn holds(&self, facts: &Facts) -> (Holds, Vec<&Condition>) {
        if self.0.is_empty() {
            return (Holds::Yes, Vec::new());
        }
        let mut failing = Vec::new();
        let mut unknown = Vec::new();
        for conditions in &self.0 {
            let results: Vec<(Holds, &Condition)> =
                conditions.iter().map(|condition| (condition.holds(facts), condition)).collect();
            if let Some((_, condition)) = results.iter().find(|(holds, _)| *holds == Holds::No) {
                failing.push(*condition);
                continue;
            }
            let open = results.iter().filter(|(holds, _)| *holds == Holds::Unknown);
            let open: Vec<&Condition> = open.map(|(_, condition)| *condition).collect();
            if open.is_empty() {
                return (Holds::Yes, Vec::new());
            }
            unknown.extend(open);
        }
        if unknown.is_empty() { (Holds::No, failing) } else { (Holds::Unknown, unknown) }
    }
}

impl Condition {
    fn parse(text: &str) -> Result<Self, Malformed> {
        let at = text.find(['<', '>', '=', '!']).filter(|at| *at > 0);
        let at = at.ok_or_else(|| Malformed(format!("{text:?} is not of the form property, operator, value")))?;
        let (name, rest) = text.split_at(at);
        let found = OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?)));
        let (operator, value) =
            found
                .filter(|(_, value)| !value.is_empty() && !value.contains(['<', '>', '=', '!']))
                .ok_or_else(|| Malformed(format!("{text:?} has no operator and value that can be read")))?;
        let version = || Version::parse(value).ok_or_else(|| Malformed(format!("{value:?} in {text:?} is no version")));
        let property = match name.to_ascii_lowercase().as_str() {
            "cuda" => Property::Cuda(version()?),
            "driver" => Property::Driver(version()?),
            "arch" => Property::Architecture(version()?),
            "brand" if !matches!(operator, Operator::Equal | Operator::NotEqual) => {
                return Err(Malformed(format!("{text:?} compares brands, which have no order")));
            }
            "brand" => Property::Brand(value.to_ascii_lowercase()),
            _ => Property::Other,
        };
        Ok(Self { property, operator, text: text.to_owned() })
    }

    fn holds(&self, facts: &Facts) -> Holds {
        let exact = |has: &Option<Version>, wanted| {
            has.as_ref().map_or(Holds::Unknown, |has| self.operator.of(&Range::exactly(has.clone()), wanted))
        };
        match &self.property {
            Property::Cuda(wanted) => {
                facts.cuda.as_ref().map_or(Holds::Unknown, |range| self.operator.of(range, wanted))
            }
            Property::Driver(wanted) => exact(&facts.driver, wanted),
            Property::Architecture(wanted) => match &facts.architectures {
                None => Holds::Unknown,
                Some(all) => {
                    let one = |has: &Version| self.operator.of(&Range::exactly(has.clone()), wanted) == Holds::Yes;
                    if all.iter().all(one) { Holds::Yes } else { Holds::No }
                }
            },
            Property::Brand(wanted) => match &facts.brands {
                None => Holds::Unknown,
                Some(all) => {
                    let surely = all.iter().all(|brands| brands.len() == 1 && brands.contains(wanted));
                    let possible = all.iter().all(|brands| brands.contains(wanted));
                    let equal = match (surely, possible) {
                        (true, _) => Holds::Yes,
                        (false, true) => Holds::Unknown,
                        (false, false) => Holds::No,
                    };
                    if self.operator == Operator::Equal { equal } else { equal.not() }
                }
            },
            Property::Other => Holds::Unknown,
        }
    }

    /// What the host has, where the condition does not hold.
    fn has(&self, facts: &Facts) -> String {
        let driver = facts.driver.as_ref().map_or("the driver".to_owned(), |driver| format!("driver {driver}"));
        match (&self.property, &facts.cuda) {
            (Property::Cuda(_), Some(Range { least, most: Some(most) })) if least == most => {
                format!("{driver} supports CUDA up to {least}")
            }
            (Property::Cuda(_), Some(Range { most: Some(most), .. })) => {
                format!("{driver} supports no CUDA above {most}")
            }
            (Property::Cuda(_), _) => format!("{driver} supports newer versions of CUDA"),
            (Property::Driver(_), _) => format!("the host has {driver}"),
            (Property::Architecture(_), _) => {
                let all: Vec<String> = facts.architectures.iter().flatten().map(ToString::to_string).collect();
                format!("the GPUs have compute capability {}", all.join(", "))
            }
            (Property::Brand(_), _) => {
                let all = facts.brands.iter().flatten();
                let all: Vec<String> =
                    all.map(|brands| brands.iter().map(String::as_str).collect::<Vec<_>>().join(" or ")).collect();
                format!("the GPUs are of brand {}", all.join(", "))
            }
            (Property::Other, _) => "it is not known here".to_owned(),
        }
    }
}

impl Holds {
    const fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl Operator {
    /// Compares a version of which only bounds are known.
    fn of(self, has: &Range, wanted: &Version) -> Holds {
        let above = |or_equal: bool| {
            let surely = if or_equal { has.least >= *wanted } else { has.least > *wanted };
            let never = has.most.as_ref().is_some_and(|most| if or_equal { most < wanted } else { most <= wanted });
            match (surely, never) {
                (true, _) => Holds::Yes,
                (_, true) => Holds::No,
                _ => Holds::Unknown,
            }
        };
        let equal = || {
            let exactly = has.most.as_ref() == Some(&has.least);
            let outside = has.least > *wanted || has.most.as_ref().is_some_and(|most| most < wanted);
            match (outside, exactly) {
                (true, _) => Holds::No,
                (false, true) => Holds::Yes,
                (false, false) => Holds::Unknown,
            }
        };
        match self {
            Self::Equal => equal(),
            Self::NotEqual => equal().not(),
            Self::Greater => above(false),
            Self::GreaterOrEqual => above(true),
            Self::Less => above(true).not(),
            Self::LessOrEqual => above(false).not(),
        }
    }
}

/// Whether an image is from before there were requirements.
pub(super) fn is_legacy(env: &BTreeMap<String, String>) -> bool {
    let has = |name: &str| env.get(name).is_some_and(|value| !value.is_empty());
    has(CUDA_VERSION) && !has(CUDA)
}

/// Checks all requirements of a container's environment. Gives what could not be checked, a sentence each.
///
/// # Errors
/// The first requirement that is not met, or cannot be read.
pub fn check(env: &BTreeMap<String, String>, facts: &Facts) -> Result<Vec<String>, Error> {
    let on = ["1", "t", "T", "true", "TRUE", "True"];
    if env.get(DISABLE).is_some_and(|value| on.contains(&value.as_str())) {
        return Ok(Vec::new());
    }
    let mut required: Vec<(String, String)> = env
        .iter()
        .filter(|(name, value)| name.starts_with(PREFIX) && !name.starts_with(JETPACK) && !value.trim().is_empty())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if is_legacy(env)
        && let Some(version) = env.get(CUDA_VERSION)
    {
        // Only the first two numbers make a version of CUDA.
        let numbers: Vec<&str> = version.split('.').take(2).collect();
        required.push((CUDA_VERSION.to_owned(), format!("cuda>={}", numbers.join("."))));
    }
    let mut unchecked = Vec::new();
    for (name, value) in required {
        let expression = Expression::parse(&value).map_err(|reason| Error::Malformed {
            name: name.clone(),
            value: short(&value),
            reason,
        })?;
        let (holds, conditions) = expression.holds(facts);
        let first = conditions.first();
        match holds {
            Holds::Yes => {}
            Holds::No => {
                return Err(Error::NotMet {
                    name,
                    value: short(&value),
                    failing: first.map(ToString::to_string).unwrap_or_default(),
                    has: first.map(|condition| condition.has(facts)).unwrap_or_default(),
                    others: Others(expression.0.len().saturating_sub(1)),
                });
            }
            Holds::Unknown => {
                let what = first.map(ToString::to_string).unwrap_or_default();
                unchecked.push(format!(
                    "the image's requirement {name}={} was not checked: whether {what} holds is not known of this host",
                    short(&value)
                ));
            }
        }
    }
    Ok(unchecked)
}

/// Long expressions repeat themselves for each brand of GPU.
fn short(value: &str) -> String {
    const SHOWN: usize = 60;
    match value.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{:?} …", value.get(..at).unwrap_or_default()),
        None => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NVIDIA's images have it.
    const CUDA_12_4: &str = "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=470,driver<471 \
                             brand=tesla,driver>=535,driver<536 brand=geforce,driver>=535,driver<536";

    fn env(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn check_one(value: &str, facts: &Facts) -> Result<Vec<String>, Error> {
        check(&env(&[("NVIDIA_REQUIRE_CUDA", value)]), facts)
    }

    #[test]
    fn a_driver_meets_what_it_supports() {
        let of = Facts::of_driver;
        assert_eq!(check_one(CUDA_12_4, &of("550.54.14")), Ok(Vec::new()));
        assert_eq!(check_one(CUDA_12_4, &of("995.1")), Ok(Vec::new()), "newer than the table");
        let error = check_one(CUDA_12_4, &of("525.60.13")).unwrap_err().to_string();
        for said in [
            "NVIDIA_REQUIRE_CUDA=",
            "cuda>=12.4 is not so",
            "driver 525.60.13 supports CUDA up to 12.0",
            "4 other",
            "NVIDIA_DISABLE_REQUIRE=1",
        ] {
            assert!(error.contains(said), "{said}\n{error}");
        }
        let tesla = of("535.54.03").with_models(&[Some("Tesla V100")]);
        assert_eq!(check_one(CUDA_12_4, &tesla), Ok(Vec::new()), "by way of the libraries in the image");
        let quadro = of("535.54.03").with_models(&[Some("Tesla V100"), Some("Quadro P5000")]);
        assert!(check_one(CUDA_12_4, &quadro).is_err(), "not each of the GPUs");
        let unknown = check_one(CUDA_12_4, &of("535.54.03")).unwrap();
        assert!(unknown[0].contains("brand=tesla") && unknown[0].contains("not checked"), "{unknown:?}");
    }

    #[test]
    fn operators_and_properties() {
        let facts = Facts {
            architectures: Some(vec![Version::of(&[8, 0]), Version::of(&[9, 0])]),
            ..Facts::of_driver("572.1").with_models(&[Some("Tesla T4")])
        };
        let holds = |text: &str| Expression::parse(text).unwrap().holds(&facts).0;
        for (text, wanted) in [
            ("", Holds::Yes),
            ("driver=572.1", Holds::Yes),
            ("driver!=572.1", Holds::No),
            ("driver<=572.1.0", Holds::Yes),
            ("driver>572.1", Holds::No),
            ("DRIVER>=572", Holds::Yes),
            ("cuda>=12.8", Holds::Yes),
            ("cuda>=12.9", Holds::Unknown),
            ("cuda<12.8", Holds::No),
            ("cuda<=12.9", Holds::Yes),
            ("cuda=12.7", Holds::No),
            ("cuda!=12.7", Holds::Yes),
            ("cuda=12.9", Holds::Unknown),
            ("arch>=8.0", Holds::Yes),
            ("arch>=9.0", Holds::No),
            ("brand=Tesla", Holds::Yes),
            ("brand!=tesla", Holds::No),
            ("brand=grid", Holds::No),
            ("weather=fine", Holds::Unknown),
            ("driver<1 driver>1", Holds::Yes),
            ("driver>1,driver<2 cuda>=99", Holds::No),
            ("driver<2,weather=fine", Holds::No),
            (",driver>1, ", Holds::Yes),
            ("\u{b}", Holds::Yes),
        ] {
            assert_eq!(holds(text), wanted, "{text}");
        }
        for wrong in ["cuda", "cuda>=", ">=12", "cuda>=x", "brand>tesla", "cuda==12", "cuda=>12", "driver>=1.x"] {
            assert!(Expression::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn which_variables_count() {
        let facts = Facts::of_driver("450.1");
        let fails = |settings: &[(&str, &str)]| check(&env(settings), &facts).is_err();
        assert!(fails(&[("CUDA_VERSION", "12.1.105")]), "an old image");
        assert!(!fails(&[("CUDA_VERSION", "12.1.105"), ("NVIDIA_REQUIRE_CUDA", "cuda>=9.0")]));
        assert!(!fails(&[("NVIDIA_REQUIRE_JETPACK", "csv-mounts=all")]));
        assert!(fails(&[("NVIDIA_REQUIRE_CUDA", "cuda>=9.0"), ("NVIDIA_REQUIRE_X", "driver>=999")]), "all of them");
        assert!(!fails(&[("NVIDIA_REQUIRE_X", "driver>=999"), ("NVIDIA_DISABLE_REQUIRE", "1")]));
        assert!(fails(&[("NVIDIA_REQUIRE_X", "driver>=999"), ("NVIDIA_DISABLE_REQUIRE", "0")]));
        assert!(fails(&[("NVIDIA_REQUIRE_X", "nonsense")]));
        assert!(
            check(&env(&[("NVIDIA_REQUIRE_CUDA", "cuda>=12")]), &Facts::default()).unwrap()[0].contains("not checked")
        );
    }
}
