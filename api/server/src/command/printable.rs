//! Text of others on a terminal: nothing in it moves the cursor, colors, or begins a line.

/// The text with control characters written out.
pub(super) fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_harmful(letter) {
            plain.extend(letter.escape_default());
        } else {
            plain.push(letter);
        }
    }
    plain
}

/// Controls, and what turns the direction of the text around it.
fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_written_out() {
        assert_eq!(
            printable("a\tb\r\n\x1b[31m\u{9b}\u{202e}ü"),
            "a\\tb\\r\\n\\u{1b}[31m\\u{9b}\\u{202e}ü"
        );
    }
}
