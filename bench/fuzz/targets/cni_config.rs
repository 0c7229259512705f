//! Can what a container runtime hands to the plugin break it, and is an accepted configuration
//! accepted again as it is passed on to the node?
#![no_main]

use libfuzzer_sys::fuzz_target;
use vrouter::cni::config::{NetConf, PodArgs};

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        _ = PodArgs::parse(text);
    }
    let Ok(config) = NetConf::parse(input) else { return };
    let passed_on = serde_json::to_vec(&config).expect("a configuration is JSON");
    let again = NetConf::parse(&passed_on).expect("what was accepted is accepted");
    assert_eq!(again, config);
});
