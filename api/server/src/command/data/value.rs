//! Values, as they are given on the command line and as they are shown.

use std::fs::File;
use std::io::Read;

use bytes::Bytes;
use clap::Args;
use palisade_client::{Key, Stored};
use palisade_proto::MESSAGE_BYTES_MAX;
use serde_json::{Value, json};

use crate::command::failed::Failed;
use crate::command::printable::printable;

/// How values are written.
#[derive(Args, Clone, Copy)]
pub(super) struct ValueArgs {
    /// Keys and values are hexadecimal, in and out.
    #[arg(long)]
    hex: bool,
}

/// Bytes of any schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) data: Bytes,
    /// The one they were written with, if it is not the one that was asked with.
    pub(super) schema: Option<String>,
}

impl From<Bytes> for Raw {
    fn from(data: Bytes) -> Self {
        Self { data, schema: None }
    }
}

impl Stored for Raw {
    fn to_bytes(&self) -> Bytes {
        self.data.clone()
    }

    fn from_bytes(bytes: &Bytes) -> Option<Self> {
        Some(bytes.clone().into())
    }

    fn from_schema(schema: &str, bytes: &Bytes) -> Option<Self> {
        Some(Self { data: bytes.clone(), schema: Some(schema.to_owned()) })
    }
}

impl Key for Raw {}

impl ValueArgs {
    /// The bytes of a value: its text, or of `@FILE` what is in it; `@-` is stdin, and `@@` begins a text with `@`.
    pub(super) fn value(self, text: &str) -> Result<Bytes, Failed> {
        match text.strip_prefix('@') {
            Some(rest) if rest.starts_with('@') => self.key(rest),
            Some("-") => read("-", std::io::stdin()),
            Some(path) => match File::open(path) {
                Ok(file) => read(path, file),
                Err(error) => Err(unreadable(path, &error.to_string())),
            },
            None => self.key(text),
        }
    }

    /// The bytes of a key: never a file.
    pub(super) fn key(self, text: &str) -> Result<Bytes, Failed> {
        if !self.hex {
            return Ok(Bytes::copy_from_slice(text.as_bytes()));
        }
        from_hex(text).ok_or_else(|| {
            let help = "two digits of 0-9 and a-f for each byte";
            Failed::new("Usage", format!("{text:?} is not hexadecimal"), help)
        })
    }

    /// As people read it, on one line.
    pub(super) fn text(self, data: &[u8]) -> String {
        match std::str::from_utf8(data) {
            _ if self.hex => hex(data),
            Ok(text) => printable(text),
            Err(_) => data.escape_ascii().to_string(),
        }
    }

    /// Into a document: `NAME` if it is text, `NAME_hex` if it is not.
    pub(super) fn into(self, document: &mut Value, name: &str, data: &[u8]) {
        match std::str::from_utf8(data) {
            Ok(text) if !self.hex => document[name] = json!(text),
            _ => document[format!("{name}_hex")] = json!(hex(data)),
        }
    }
}

fn read(name: &str, from: impl Read) -> Result<Bytes, Failed> {
    let mut data = Vec::new();
    let read = from.take(MESSAGE_BYTES_MAX as u64 + 1).read_to_end(&mut data);
    read.map_err(|error| unreadable(name, &error.to_string()))?;
    if MESSAGE_BYTES_MAX < data.len() {
        return Err(unreadable(name, "it is longer than 8 MiB"));
    }
    Ok(data.into())
}

fn unreadable(name: &str, why: &str) -> Failed {
    let help = "check its path, and the rights to read it; a text that begins with @ is written @@";
    Failed::new("UnreadableFile", format!("{name}: {why}"), help)
}

pub(super) fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Bytes> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let pairs = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(pairs.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: ValueArgs = ValueArgs { hex: false };
    const HEX: ValueArgs = ValueArgs { hex: true };

    #[test]
    fn values_are_text_files_or_hex() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, b"from a file\n").unwrap();
        let file = format!("@{}", path.display());
        assert_eq!(TEXT.value("apples").unwrap(), "apples");
        assert_eq!(TEXT.value(&file).unwrap(), "from a file\n");
        assert_eq!(TEXT.value("@@home").unwrap(), "@home");
        assert_eq!(TEXT.key("@home").unwrap(), "@home");
        assert_eq!(HEX.value("00fF").unwrap(), &[0, 255][..]);
        for bad in ["0", "0g", "0 ", "é"] {
            assert!(HEX.value(bad).is_err(), "{bad}");
        }
        assert!(TEXT.value("@/nothing/is/here").is_err());
    }

    /// What is shown moves no cursor and colors nothing.
    #[test]
    fn what_is_shown_is_harmless_and_on_one_line() {
        assert_eq!(TEXT.text("häm\x1b[2J\n".as_bytes()), "häm\\u{1b}[2J\\n");
        assert_eq!(TEXT.text(b"\xff\x1b"), "\\xff\\x1b");
        assert_eq!(HEX.text(b"ab"), "6162");
        let mut document = json!({});
        TEXT.into(&mut document, "value", b"a");
        TEXT.into(&mut document, "key", b"\xff");
        assert_eq!(document, json!({ "value": "a", "key_hex": "ff" }));
    }
}
