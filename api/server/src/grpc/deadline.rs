//! How long a call may take: what its caller says, carried to the end.

use std::time::Duration;

use palisade::Error;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;

/// Longest that a read waits for what it asks for.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long one waits that does not say.
const WAIT: Duration = Duration::from_secs(1);
/// What is left of a deadline for the answer's way back.
const MARGIN: Duration = Duration::from_millis(5);

/// The deadline that a call came with, less what the way back takes.
pub(crate) fn of(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let left = parse(text)?;
    Some(left.saturating_sub(MARGIN.min(left / 10)))
}

/// At most eight digits and a unit, as gRPC has it.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// How long a read waits, of what it says and what is left.
pub(crate) fn wait(asked_ms: Option<u64>, left: Option<Duration>) -> Duration {
    let asked = asked_ms.map_or(WAIT, Duration::from_millis).min(WAIT_MAX);
    left.map_or(asked, |left| asked.min(left))
}

/// Gives up a call whose time is over. What a write has done by then is not known.
pub(crate) async fn within<T>(
    left: Option<Duration>,
    writes: bool,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match left {
        None => call.await,
        Some(left) => timeout(left, call)
            .await
            .unwrap_or(Err(Error::Disconnected { outcome_unknown: writes })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "m", "1", "1x", "-1S", "+1S", "123456789S", "1.5S", "ä"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_read_waits_no_longer_than_its_call() {
        let ms = Duration::from_millis;
        assert_eq!(wait(None, None), ms(1000));
        assert_eq!(wait(Some(0), Some(ms(9))), ms(0));
        assert_eq!(wait(Some(50), Some(ms(9))), ms(9));
        assert_eq!(wait(Some(u64::MAX), None), WAIT_MAX);
    }
}
