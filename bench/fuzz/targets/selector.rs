//! Can a text break the selector parser, and is its normal form read as the same selector?
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy::selector::Selector;

fuzz_target!(|text: &str| {
    let Ok(selector) = text.parse::<Selector>() else { return };
    let normal = selector.to_string();
    let again: Selector = normal.parse().expect("the normal form is a selector");
    assert_eq!(again, selector, "{text:?} became {normal:?}");
    assert_eq!(again.to_string(), normal);
});
