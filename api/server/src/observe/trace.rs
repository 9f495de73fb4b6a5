//! `traceparent`, as W3C Trace Context has it: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, of calls and of
//! the records that they write.

use palisade::{Engine, Freshness, NodeId, TraceContext, TracedRecord};
use tokio::task::futures::TaskLocalFuture;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};
use tracing::Span;
use tracing::field::Empty;

/// Spans of calls and of records, and nothing else, have this target.
#[cfg(feature = "otel")]
pub(super) const TARGET: &str = module_path!();

/// Where a call comes from, as its caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceParent<'a> {
    /// Of the whole trace.
    pub(super) trace_id: &'a str,
    /// Of the caller's part of it.
    pub(super) parent_id: &'a str,
    /// The caller keeps its part.
    pub(super) sampled: bool,
    flags: u8,
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
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace_id, parent_id, sampled: flags & 1 == 1, flags })
    }

    /// What is stored of it.
    fn context(&self) -> Option<TraceContext> {
        let trace = u128::from_str_radix(self.trace_id, 16).ok()?.to_be_bytes();
        let span = u64::from_str_radix(self.parent_id, 16).ok()?.to_be_bytes();
        TraceContext::new(trace, span, self.flags)
    }
}

tokio::task_local! {
    /// Of the call that is served.
    static CALL: TraceContext;
}

/// Which trace the call is part of that is served, for what it writes.
pub(crate) fn current() -> Option<TraceContext> {
    CALL.try_get().ok()
}

fn parent(headers: &HeaderMap) -> Option<TraceParent<'_>> {
    headers.get("traceparent")?.to_str().ok().and_then(TraceParent::parse)
}

/// What the caller says of his trace.
pub(super) fn context(headers: &HeaderMap) -> Option<TraceContext> {
    parent(headers)?.context()
}

/// Serves a call as a part of a trace.
pub(super) fn serve<F: Future>(trace: TraceContext, call: F) -> TaskLocalFuture<TraceContext, F> {
    CALL.scope(trace, call)
}

/// Goes on with a call whose answer is a stream.
pub(super) fn go_on<T>(trace: Option<TraceContext>, step: impl FnOnce() -> T) -> T {
    match trace {
        None => step(),
        Some(trace) => CALL.sync_scope(trace, step),
    }
}

/// Goes on with the traces of records as this node applies them, as long as it is polled.
pub(crate) async fn continue_traces(engine: &Engine) -> ! {
    let mut records = engine.traced_records();
    while let Some(record) = records.next().await {
        applied(engine.node(), &record);
    }
    std::future::pending().await
}

/// The span of a record that was applied here.
fn applied(node: NodeId, record: &TracedRecord) {
    let TracedRecord { trace, group, offset, outcome, .. } = record;
    let span = tracing::info_span!(
        "apply",
        trace_id = format!("{:032x}", u128::from_be_bytes(trace.trace_id())),
        parent_id = format!("{:016x}", u64::from_be_bytes(trace.span_id())),
        node = node.get(),
        group = group.get(),
        offset = offset.get(),
        outcome,
        otel.name = Empty,
        otel.kind = Empty,
    );
    #[cfg(feature = "otel")]
    super::spans::follow_record(&span, trace);
    span.in_scope(|| tracing::debug!("a record is applied"));
}

/// The span of a call: what is logged while it is served says which trace it is of. None without a trace.
pub(super) fn span(headers: &HeaderMap, path: &str) -> Span {
    let Some(parent) = parent(headers) else { return Span::none() };
    let TraceParent { trace_id, parent_id, sampled, .. } = parent;
    let span = tracing::info_span!(
        "call",
        path,
        trace_id,
        parent_id,
        sampled,
        group = Empty,
        offset = Empty,
        code = Empty,
        otel.name = Empty,
        otel.kind = Empty,
        otel.status_code = Empty,
    );
    #[cfg(feature = "otel")]
    {
        let state = headers.get("tracestate").and_then(|state| state.to_str().ok());
        super::spans::follow(&span, parent, state, path);
    }
    span
}

/// Says in the span of the call that is served where it took effect, or what its answer reflects. It is asked
/// for that only if there is a span.
pub(crate) fn note_place(place: impl FnOnce() -> Option<Freshness>) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    if let Some(Freshness { group, offset, .. }) = place() {
        span.record("group", group.get());
        span.record("offset", offset.get());
    }
}

/// Says in the span of a call how it has ended.
pub(super) fn note_end(span: &Span, status: &Status) {
    span.record("code", tracing::field::debug(status.code()));
    // As OpenTelemetry has it for servers: what is wrong with a request is no error of who serves it.
    let is_error = matches!(
        status.code(),
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if is_error {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

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

    /// What was logged, for one thread.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_a_traced_call_says_where_it_took_effect() {
        let (lines, mut headers) = (Lines::default(), HeaderMap::new());
        let to = lines.clone();
        let json = tracing_subscriber::fmt().json().with_writer(move || to.clone()).finish();
        let text = format!("00-{TRACE}-00f067aa0ba902b7-01");
        tracing::subscriber::with_default(json, || {
            assert!(span(&headers, "/a/b").is_disabled(), "nobody traces it");
            headers.insert("traceparent", text.parse().unwrap());
            let span = span(&headers, "/a/b");
            let cluster = palisade::ClusterId::new(1);
            let (group, offset) = (palisade::GroupId::new(2), palisade::Offset::new(3));
            span.in_scope(|| note_place(|| Some(Freshness { cluster, group, offset })));
            note_end(&span, &Status::unavailable("no quorum"));
            span.in_scope(|| tracing::info!("it ends"));
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        let of = &line["span"];
        assert_eq!((of["trace_id"].as_str(), of["path"].as_str()), (Some(TRACE), Some("/a/b")));
        assert_eq!((of["group"].as_u64(), of["offset"].as_u64()), (Some(2), Some(3)), "{of}");
        assert_eq!(of["code"].as_str(), Some("Unavailable"), "{of}");
        assert_eq!(of["otel.status_code"].as_str(), Some("ERROR"), "{of}");
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
