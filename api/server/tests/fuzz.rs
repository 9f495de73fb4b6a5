//! Every fuzz target of this crate, over its corpus and some mutations of it.

#[path = "../../../wal/tests/fuzz/campaign.rs"]
mod campaign;

use std::collections::BTreeSet;
use std::path::Path;

use palisade_server::fuzz::targets;
use palisade_wal::fuzz::Target;
use prost::Message;

#[test]
fn every_target_holds() {
    let fuzz_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let targets: Vec<Target> = targets()
        .into_iter()
        .map(|target| Target { name: target.name, run: target.run, seeds: target.seeds })
        .collect();
    campaign::run(&targets, "every_target_holds", &fuzz_dir);
}

/// `ChangeMembers` as `change_members`.
fn snake(method: &str) -> String {
    let mut name = String::new();
    for letter in method.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// Of each method there is a target, and of each target what libFuzzer runs.
#[test]
fn no_method_is_left_out() {
    let described = prost_types::FileDescriptorSet::decode(palisade_proto::DESCRIPTORS).unwrap();
    let known: BTreeSet<String> = targets().iter().map(|it| it.name.to_owned()).collect();
    let mut methods = 0;
    for file in &described.file {
        let package = file.package().trim_start_matches("palisade.").trim_end_matches(".v1");
        for method in file.service.iter().flat_map(|service| &service.method) {
            let name = format!("{package}_{}", snake(method.name()));
            assert!(known.contains(&name), "{name} has no target");
            methods += 1;
        }
    }
    assert!(palisade_proto::SERVICES.len() < methods, "{methods}");
    let fuzz_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz_dir.join("Cargo.toml")).unwrap();
    for name in &known {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
        let text = std::fs::read_to_string(fuzz_dir.join(format!("fuzz_targets/{name}.rs")));
        assert!(text.unwrap().contains(&format!("run(\"{name}\", raw)")), "{name}");
    }
}
