//! Errors as HTTP answers: a status, a code, a sentence, and what to do next.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use palisade::Error;
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
        let status = match &error {
            Error::NotYetApplied { required, applied } => {
                body["required"] = json!(required.get());
                body["applied"] = json!(applied.get());
                StatusCode::PRECONDITION_FAILED
            }
            Error::RateLimited { retry_after_ms } => {
                retry_after_s = Some(retry_after_ms.div_ceil(1000).max(1));
                StatusCode::TOO_MANY_REQUESTS
            }
            Error::Fenced { current } => {
                body["current"] = json!(current.get());
                StatusCode::CONFLICT
            }
            Error::DomainUnavailable { domain, resource } => {
                body["domain"] = json!(domain);
                body["resource"] = json!(resource);
                StatusCode::FORBIDDEN
            }
            Error::Disconnected { outcome_unknown } => {
                retry_after_s = Some(1);
                if *outcome_unknown {
                    StatusCode::GATEWAY_TIMEOUT
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            }
            Error::Degraded { .. } => {
                retry_after_s = Some(1);
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::IdempotencyConflict
            | Error::AlreadyExists { .. }
            | Error::Incompatible { .. }
            | Error::PreconditionFailed { .. }
            | Error::VersionMismatch { .. }
            | Error::TailMismatch { .. }
            | Error::GuardFailed { .. }
            | Error::InProgress { .. }
            | Error::Refused { .. } => StatusCode::CONFLICT,
            Error::InvalidArgument { .. } => StatusCode::BAD_REQUEST,
            Error::NotFound { .. } | Error::Trimmed { .. } => StatusCode::NOT_FOUND,
            Error::LeaseExpired | Error::Revoked => StatusCode::FORBIDDEN,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, body, retry_after_s }
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
