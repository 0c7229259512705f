//! Can a manifest break the node, and is an accepted object accepted again as it is stored?
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vrouter::api::parse_documents;

fuzz_target!(|text: &str| {
    let file = Path::new("fuzz.yaml");
    let parsed = parse_documents(text, file);
    for refusal in &parsed.refusals {
        assert!(!refusal.to_string().is_empty());
    }
    for object in &parsed.objects {
        let stored = object.resource.to_yaml();
        let again = parse_documents(&stored, file);
        assert!(again.refusals.is_empty(), "stored as {stored}\nrefused: {:?}", again.refusals);
        assert_eq!(again.objects.len(), 1, "{stored}");
        assert_eq!(again.objects[0].resource, object.resource, "{stored}");
    }
});
