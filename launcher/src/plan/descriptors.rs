//! Which inherited descriptors the program keeps.

use std::collections::HashMap;

use super::Error;
use crate::spec;

/// Reads [`spec::DESCRIPTORS`].
pub(super) fn kept(annotations: Option<&HashMap<String, String>>) -> Result<Vec<i32>, Error> {
    let Some(text) = annotations.and_then(|all| all.get(spec::DESCRIPTORS)) else { return Ok(Vec::new()) };
    let number = |word: &str| match word.parse::<i32>() {
        Ok(number) if number > 2 => Ok(number),
        _ => Err(Error::Annotation { name: spec::DESCRIPTORS, reason: format!("{word:?} is no number from 3 on") }),
    };
    text.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_between_commas() {
        let read = |text: &str| kept(Some(&HashMap::from([(spec::DESCRIPTORS.to_owned(), text.to_owned())])));
        assert_eq!(kept(None), Ok(vec![]));
        assert_eq!(read("8,11"), Ok(vec![8, 11]));
        for wrong in ["", "1", "-1", "8,", "8 ,9", "x"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("is no number from 3 on"), "{error}");
        }
    }
}
