//! Bytes as people look at them: the place, sixteen bytes in hex, and what of them is text.

use std::fmt::Write;

const LINE_BYTES: usize = 16;

/// Lines for bytes that begin at a place.
pub(super) fn hexdump(from: u64, raw: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in raw.chunks(LINE_BYTES).enumerate() {
        let _ = write!(text, "  {:08x} ", from + (number * LINE_BYTES) as u64);
        for byte in line {
            let _ = write!(text, " {byte:02x}");
        }
        text.push_str(&"   ".repeat(LINE_BYTES - line.len()));
        let plain = line.iter().map(|byte| match byte {
            0x20..0x7f => char::from(*byte),
            _ => '.',
        });
        let _ = writeln!(text, "  |{}|", plain.collect::<String>());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_sixteen_bytes() {
        let text = hexdump(32, b"PLSDWAL\n\x00\x01 and on");
        assert_eq!(
            text,
            "  00000020  50 4c 53 44 57 41 4c 0a 00 01 20 61 6e 64 20 6f  |PLSDWAL... and o|\n  \
             00000030  6e                                               |n|\n"
        );
    }
}
