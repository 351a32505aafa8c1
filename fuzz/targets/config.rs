//! The config: its plain part, and the opened parameters, which the chunker must be able to work with.
#![no_main]

use alluvium::format::FORMAT_VERSION;
use alluvium::format::config::{Config, KNOWN_FEATURES, Parameters};
use alluvium::transform::chunk::Chunker;
use alluvium_fuzz::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(config) = json(input, Config::decode, Config::encode) {
        assert!(
            config.version == FORMAT_VERSION
                && config.required_features.iter().all(|f| KNOWN_FEATURES.contains(&f.as_str())),
            "nothing unknown is accepted"
        );
    }
    if let Some(parameters) = json(input, Parameters::decode, Parameters::encode) {
        for sizes in [parameters.chunks, parameters.recipes] {
            let chunker = Chunker::new(&[1; 32], sizes.min as usize, sizes.average as usize, sizes.max as usize);
            let cut = chunker.cut(input);
            assert!((1..=input.len()).contains(&cut) && cut <= chunker.max());
        }
    }
});
