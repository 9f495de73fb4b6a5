//! Files of rows that rot, for tests.

use std::path::Path;

/// Changes a byte of this wherever it is in a file of rows, and says in how many it was.
pub(crate) fn rot(dir: &Path, what: &[u8]) -> usize {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut hit = 0;
    for path in files.filter(|path| path.extension().is_some_and(|kind| kind == "sst")) {
        let mut raw = std::fs::read(&path).unwrap();
        if let Some(at) = raw.windows(what.len()).position(|part| part == what) {
            raw[at] ^= 0x40;
            std::fs::write(&path, raw).unwrap();
            hit += 1;
        }
    }
    hit
}
