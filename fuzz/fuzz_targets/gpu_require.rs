//! Reads bytes as an image's requirement of a driver and as lists of GPUs, and evaluates it for hosts of several kinds.
#![no_main]

use coracle::gpu_policy::facts::{Facts, Version};
use coracle::gpu_policy::require::{Expression, check};
use coracle::gpu_policy::visible::{List, ranges, until_invalid};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

fuzz_target!(|text: &str| {
    let _ = (List::parse(text), ranges(text), until_invalid(text));
    let driver = Facts::of_driver("550.54.14");
    let whole = Facts { architectures: Some(vec![Version::of(&[9, 0])]), ..driver.clone().with_models(&[Some("Tesla T4")]) };
    let env = BTreeMap::from([("NVIDIA_REQUIRE_X".to_owned(), text.to_owned())]);
    let readable = Expression::parse(text).is_ok();
    for facts in [Facts::default(), driver, whole, Facts::of_driver(text)] {
        let checked = check(&env, &facts);
        assert!(readable || checked.is_err(), "what cannot be read is not met");
        // A host of which nothing is known meets everything that can be read.
        assert!(!readable || facts != Facts::default() || checked.is_ok());
    }
});
