//! Makes Rust of the `.proto` files, and the set of their descriptors for reflection. No `protoc` is needed.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message;

const ROOT: &str = "proto";

fn protos(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut files = Vec::new();
    protos(Path::new(ROOT), &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("palisade.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::MessageCodec")
        .include_file("palisade.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
