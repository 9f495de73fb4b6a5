//! The durable report service: accepts requests, never loses one, completes each once.
//!
//! A submission reserves its id, appends the command, marks it accepted and completes the id in one
//! batch at one offset. Workers in allowed domains find the command in the log, reserve the effect,
//! compute the report and record it once. Where the service may run is a
//! [`PlacementProfile`](palisade::PlacementProfile), which changes who is let in and nothing else.

mod flights;
mod model;
mod profile;
mod service;
mod worker;

pub use flights::{AirportState, Flight, IndexedFlight, flight_key, month_bounds};
pub use model::{
    ApiCommand, Effect, Report, ReportSubmission, RequestRecord, RequestState, SubmissionReceipt,
};
pub use profile::{
    aws_zone, cross_provider_profile, cross_region_profile, gcp_region, multi_az_profile,
    profile_by_name, single_az_profile, three_domains,
};
pub use service::{FlightReceipt, ReportService};
pub use worker::Worker;
