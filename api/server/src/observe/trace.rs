//! `traceparent`, as W3C Trace Context has it: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`.

use tonic::codegen::http::HeaderMap;
use tracing::Span;

/// Where a call comes from, as its caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceParent<'a> {
    /// Of the whole trace.
    pub(super) trace_id: &'a str,
    /// Of the caller's part of it.
    pub(super) parent_id: &'a str,
    /// The caller keeps its part.
    pub(super) sampled: bool,
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl<'a> TraceParent<'a> {
    /// None for what is none: it is passed over then, as the standard has it.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version, trace_id, parent_id, flags] = [(); 4].map(|()| parts.next());
        let (version, trace_id) = (version?, trace_id?);
        let (parent_id, flags) = (parent_id?, flags?);
        // A later version may have more parts, and begins with these.
        let is_known = is_hex(version, 2) && version != "ff";
        let ends = version != "00" || parts.next().is_none();
        let has_ids = is_hex(trace_id, 32) && is_hex(parent_id, 16);
        let no_zeros = [trace_id, parent_id].iter().all(|id| id.bytes().any(|b| b != b'0'));
        if !(is_known && ends && has_ids && no_zeros && is_hex(flags, 2)) {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Some(Self { trace_id, parent_id, sampled })
    }
}

/// The span of a call: what is logged while it is served says which trace it is of. None without a trace.
pub(super) fn span(headers: &HeaderMap, path: &str) -> Span {
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    match parent.and_then(TraceParent::parse) {
        Some(TraceParent { trace_id, parent_id, sampled }) => {
            tracing::info_span!("call", path, trace_id, parent_id, sampled)
        }
        None => Span::none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_parent_is_read_as_the_standard_writes_it() {
        let text = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let parent = TraceParent::parse(&text).unwrap();
        assert_eq!((parent.trace_id, parent.parent_id), (TRACE, "00f067aa0ba902b7"));
        assert!(parent.sampled);
        let later = format!("01-{TRACE}-00f067aa0ba902b7-00-more");
        assert!(!TraceParent::parse(&later).unwrap().sampled);
    }

    #[test]
    fn what_is_no_parent_is_passed_over() {
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }
}
