//! Errors as HTTP answers: a status, a code, a sentence, and what to do next.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use palisade::{Error, Failure};
use serde_json::{Value, json};

/// A refusal on its way to the caller.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Value,
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// A refusal of the request itself, before the service saw it.
    pub(crate) fn request(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let body = json!({
            "error": code,
            "message": message.into(),
            "disposition": "Reject",
            "help": "correct the request",
        });
        Self { status, body, retry_after_s: None }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let mut body = json!({
            "error": error.code(),
            "message": error.to_string(),
            "disposition": format!("{:?}", error.disposition()),
            "help": error.help(),
        });
        let mut retry_after_s = None;
        match &error {
            Error::NotYetApplied { required, applied } => {
                body["required"] = json!(required.get());
                body["applied"] = json!(applied.get());
            }
            Error::RateLimited { retry_after_ms } => {
                retry_after_s = Some(retry_after_ms.div_ceil(1000).max(1));
            }
            Error::Fenced { current } => body["current"] = json!(current.get()),
            Error::DomainUnavailable { domain, resource } => {
                body["domain"] = json!(domain);
                body["resource"] = json!(resource);
            }
            Error::Disconnected { .. } | Error::Degraded { .. } => retry_after_s = Some(1),
            _ => {}
        }
        let status = match error {
            Error::Disconnected { outcome_unknown: true } => StatusCode::GATEWAY_TIMEOUT,
            // What was there and is not kept.
            Error::Trimmed { .. } | Error::Compacted { .. } => StatusCode::NOT_FOUND,
            // Who asked was known, and what it did with that is not.
            Error::WindowExpired { .. } | Error::ClientEvicted { .. } => StatusCode::GONE,
            error => status_of(error.failure()),
        };
        Self { status, body, retry_after_s }
    }
}

/// The status of each failure of the closed set: only what nobody foresaw is the server's own.
const fn status_of(failure: Failure) -> StatusCode {
    match failure {
        Failure::InvalidArgument => StatusCode::BAD_REQUEST,
        Failure::NotFound => StatusCode::NOT_FOUND,
        Failure::NotYetApplied => StatusCode::PRECONDITION_FAILED,
        Failure::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Failure::DomainUnavailable | Failure::LeaseExpired | Failure::Revoked => {
            StatusCode::FORBIDDEN
        }
        Failure::Disconnected | Failure::Degraded => StatusCode::SERVICE_UNAVAILABLE,
        Failure::Fenced
        | Failure::Incompatible
        | Failure::AlreadyExists
        | Failure::IdempotencyConflict
        | Failure::PreconditionFailed => StatusCode::CONFLICT,
        Failure::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use palisade::{LogPosition, LogTime, Offset};

    use super::*;

    /// What the caller asked for wrongly, or too late, is never told as a fault of the server.
    #[test]
    fn only_what_nobody_foresaw_is_the_servers_fault() {
        let is = |error: Error, status: u16| {
            assert_eq!(ApiError::from(error.clone()).status.as_u16(), status, "{error}");
        };
        let first = LogPosition { offset: Offset::new(1), index: 0 };
        is(Error::Trimmed { first }, 404);
        is(Error::Compacted { floor: Offset::new(1) }, 404);
        is(Error::WindowExpired { floor: LogTime::new(1) }, 410);
        is(Error::ClientEvicted { client: Offset::new(1) }, 410);
        is(Error::Disconnected { outcome_unknown: true }, 504);
        is(Error::Disconnected { outcome_unknown: false }, 503);
        is(Error::RateLimited { retry_after_ms: 1 }, 429);
        is(Error::InternalError { what: "x".to_owned() }, 500);
        for failure in Failure::ALL {
            let is_ours = status_of(failure) == StatusCode::INTERNAL_SERVER_ERROR;
            assert_eq!(is_ours, failure == Failure::InternalError, "{failure:?}");
        }
    }
}
