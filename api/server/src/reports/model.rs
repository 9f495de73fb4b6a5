//! What is asked for, what is answered, and how both are kept.

use bytes::Bytes;
use palisade::{DecodeError, Error, Fingerprint, Stored};
use serde::{Deserialize, Serialize};

/// A request for a report: one airport, one month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportSubmission {
    /// The client's own id for this request, the same in every repetition.
    pub request_id: String,
    /// Where the flights begin, by its three letters.
    pub airport: String,
    /// Which month, as `2001-03`.
    pub month: String,
}

/// Longest request id.
const REQUEST_ID_BYTES_MAX: usize = 128;

impl ReportSubmission {
    /// Refuses what can never be served.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], naming the field and its rule.
    pub fn check(&self) -> Result<(), Error> {
        let id = self.request_id.as_bytes();
        let broken = if id.is_empty() || id.len() > REQUEST_ID_BYTES_MAX {
            "request_id has 1 to 128 bytes"
        } else if !id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte)) {
            "request_id has letters, digits, '-', '_' and '.' only"
        } else if !is_airport(&self.airport) {
            "airport has three capital letters or digits"
        } else if !is_month(&self.month) {
            "month is written as 2001-03"
        } else {
            return Ok(());
        };
        Err(Error::InvalidArgument { what: broken.to_owned() })
    }

    /// Over the fields in a fixed order, each with its length before it: the same request always
    /// has the same fingerprint, however its JSON was written.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut canonical = b"report-submission.v1".to_vec();
        for field in [&self.request_id, &self.airport, &self.month] {
            canonical.extend_from_slice(&(field.len() as u64).to_le_bytes());
            canonical.extend_from_slice(field.as_bytes());
        }
        Fingerprint::of(&canonical)
    }
}

pub(super) fn is_airport(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

pub(super) fn is_month(text: &str) -> bool {
    let (year, month) = text.split_once('-').unwrap_or_default();
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    digits(year, 4) && digits(month, 2) && ("01"..="12").contains(&month)
}

/// What stands in the log of accepted commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiCommand {
    /// The request.
    pub submission: ReportSubmission,
}

/// How a request stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RequestState {
    /// On stable storage at a quorum; a worker will do it.
    Accepted,
    /// Done.
    Completed {
        /// Which worker did it.
        worker: String,
        /// The report.
        report: Report,
    },
}

/// What stands in the map of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The request.
    pub submission: ReportSubmission,
    /// How it stands.
    #[serde(flatten)]
    pub state: RequestState,
}

/// Flights from one airport in one month.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How many.
    pub flights: u64,
    /// Mean delay in minutes, to two places.
    pub mean_delay: f64,
    /// 95th percentile of the delay, by nearest rank: the least delay that at least 95 of 100
    /// flights did not exceed.
    pub p95_delay: i64,
    /// Where most of them went; of several, the first by name.
    pub busiest_destination: Option<String>,
    /// Every record up to here was looked at.
    pub computed_at: u64,
}

/// What stands in the log of effects: a report that was handed out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// For which request.
    pub request_id: String,
    /// By which worker.
    pub worker: String,
}

/// The answer to a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmissionReceipt {
    /// The request.
    pub request_id: String,
    /// Read at least here to see it.
    pub accepted_offset: u64,
    /// It had been accepted before.
    pub duplicate: bool,
    /// Where its state is.
    pub status_path: String,
}

/// Keeps a type as JSON behind a version byte. Field order is the declaration's, so equal values
/// have equal bytes.
macro_rules! stored_as_json {
    ($($name:ty),* $(,)?) => {$(
        impl Stored for $name {
            fn to_bytes(&self) -> Bytes {
                let mut out = vec![1];
                serde_json::to_writer(&mut out, self).expect("plain data encodes");
                out.into()
            }

            fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
                let malformed = DecodeError { what: stringify!($name) };
                match bytes.split_first() {
                    Some((1, json)) => serde_json::from_slice(json).map_err(|_| malformed),
                    _ => Err(malformed),
                }
            }
        }
    )*};
}
pub(super) use stored_as_json;

stored_as_json!(ApiCommand, RequestRecord, Effect);

#[cfg(test)]
mod tests {
    use super::*;

    fn submission() -> ReportSubmission {
        ReportSubmission {
            request_id: "r-1".into(),
            airport: "ATL".into(),
            month: "2001-02".into(),
        }
    }

    #[test]
    fn the_fingerprint_is_of_the_meaning_not_of_the_spelling() {
        let spelled: ReportSubmission = serde_json::from_str(
            r#"{ "month": "2001-02", "airport": "ATL", "request_id": "r-1" }"#,
        )
        .unwrap();
        assert_eq!(spelled.fingerprint(), submission().fingerprint());
        let moved =
            ReportSubmission { airport: "AT".into(), month: "L2001-02".into(), ..submission() };
        assert_ne!(moved.fingerprint(), submission().fingerprint());
    }

    #[test]
    fn submissions_are_checked_field_by_field() {
        assert!(submission().check().is_ok());
        for bad in [
            ReportSubmission { request_id: String::new(), ..submission() },
            ReportSubmission { request_id: "a b".into(), ..submission() },
            ReportSubmission { request_id: "a".repeat(129), ..submission() },
            ReportSubmission { airport: "atl".into(), ..submission() },
            ReportSubmission { month: "2001-13".into(), ..submission() },
            ReportSubmission { month: "2001".into(), ..submission() },
        ] {
            assert!(matches!(bad.check(), Err(Error::InvalidArgument { .. })), "{bad:?}");
        }
        let unknown = r#"{"request_id":"r","airport":"ATL","month":"2001-02","extra":1}"#;
        assert!(serde_json::from_str::<ReportSubmission>(unknown).is_err());
    }

    #[test]
    fn records_round_trip() {
        let report = Report {
            flights: 3,
            mean_delay: 1.25,
            p95_delay: 9,
            busiest_destination: Some("LAX".into()),
            computed_at: 7,
        };
        for state in
            [RequestState::Accepted, RequestState::Completed { worker: "w".into(), report }]
        {
            let record = RequestRecord { submission: submission(), state };
            assert_eq!(RequestRecord::from_bytes(&record.to_bytes()), Ok(record));
        }
    }
}
