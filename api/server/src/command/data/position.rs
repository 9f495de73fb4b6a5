//! Places in a log, as `OFFSET` or `OFFSET.INDEX`.

use palisade_client::Position;

/// Reads one.
pub(super) fn position(text: &str) -> Result<Position, String> {
    let (offset, index) = text.split_once('.').unwrap_or((text, "0"));
    match (offset.parse(), index.parse::<u16>()) {
        (Ok(offset), Ok(index)) => Ok(Position { offset, index: index.into() }),
        _ => Err("a position is written OFFSET or OFFSET.INDEX".to_owned()),
    }
}

/// Writes one.
pub(super) fn show(position: &Position) -> String {
    format!("{}.{}", position.offset, position.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_shown() {
        assert_eq!(position("7"), Ok(Position { offset: 7, index: 0 }));
        assert_eq!(show(&position("7.12").unwrap()), "7.12");
        for bad in ["", "7.", ".1", "7.70000", "-1", "7.1.1"] {
            assert!(position(bad).is_err(), "{bad}");
        }
    }
}
