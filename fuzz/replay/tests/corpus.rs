//! Runs every sample that a fuzzer started from or found through its target again.
#![allow(clippy::disallowed_methods, reason = "the test reads samples")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use cepa_fuzz_targets::{TARGETS, run, seeds};

fn corpus() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "corpus"]
        .iter()
        .collect()
}

#[test]
fn every_sample_passes_its_target() {
    for (target, _) in TARGETS {
        let mut samples = 0;
        for file in fs::read_dir(corpus().join(target)).expect(target) {
            let path = file.unwrap().path();
            // The output is seen only if the target panics; the last line then names the sample.
            eprintln!("{}", path.display());
            assert!(run(target, &fs::read(&path).unwrap()).is_some());
            samples += 1;
        }
        assert!(samples > 0, "{target} has no samples");
    }
}

#[test]
fn every_corpus_has_a_target() {
    for folder in fs::read_dir(corpus()).unwrap() {
        let name = folder.unwrap().file_name();
        let known = TARGETS.iter().any(|(target, _)| name == *target);
        assert!(known, "{}", name.display());
    }
}

/// Checks that the samples whose names begin with "good" are accepted; otherwise fuzzers would not get past the first
/// checks. After a change of a format, run `cargo run -p cepa-fuzz-targets --example seeds`.
#[test]
fn good_samples_are_good() {
    for (target, name, bytes) in seeds::all() {
        let stored = fs::read(corpus().join(target).join(name)).expect(name);
        let good = name.starts_with("good");
        if good {
            assert_eq!(stored, bytes, "{target}/{name} is out of date");
            assert_eq!(run(target, &stored), Some(true), "{target}/{name}");
        }
    }
}
