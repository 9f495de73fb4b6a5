//! Flights: what is loaded, what is kept of it, and what a report says about it.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade::{DecodeError, Error, Stored};
use serde::{Deserialize, Serialize};

use super::model::{Report, is_airport, is_month, stored_as_json};

/// One flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flight {
    /// Departure, as `2001-01-31 23:59`.
    pub date: String,
    /// Minutes late; negative when early.
    pub delay: i64,
    /// Miles.
    pub distance: u64,
    /// From which airport.
    pub origin: String,
    /// To which airport.
    pub destination: String,
}

impl Flight {
    /// Refuses what is no flight.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], naming the field and its rule.
    pub fn check(&self) -> Result<(), Error> {
        let broken = if !self.date.is_ascii() || self.date.len() != 16 || !is_month(self.month()) {
            "date is written as 2001-01-31 23:59"
        } else if !is_airport(&self.origin) || !is_airport(&self.destination) {
            "origin and destination have three capital letters or digits"
        } else {
            return Ok(());
        };
        Err(Error::InvalidArgument { what: broken.to_owned() })
    }

    /// The month it left in.
    #[must_use]
    pub fn month(&self) -> &str {
        self.date.get(..7).unwrap_or_default()
    }
}

/// What is known of an airport's departures so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AirportState {
    /// How many.
    pub flights: u64,
    /// Their delays, summed, in minutes.
    pub delay_sum: i64,
    /// The latest of them.
    pub last_date: String,
}

impl AirportState {
    /// The state with one more flight.
    #[must_use]
    pub fn with(&self, flight: &Flight) -> Self {
        Self {
            flights: self.flights + 1,
            delay_sum: self.delay_sum + flight.delay,
            last_date: self.last_date.clone().max(flight.date.clone()),
        }
    }
}

/// What a report needs of a flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedFlight {
    /// Minutes late.
    pub delay: i64,
    /// To which airport.
    pub destination: String,
}

stored_as_json!(Flight, AirportState, IndexedFlight);

/// Where a flight stands in the index: by airport and month.
#[must_use]
pub fn flight_key(flight: &Flight, id: u64) -> String {
    format!("{}/{}/{id:010}", flight.origin, flight.month())
}

/// The index keys of an airport's month lie from the first up to before the second.
#[must_use]
pub fn month_bounds(airport: &str, month: &str) -> (String, String) {
    // '0' follows '/'.
    (format!("{airport}/{month}/"), format!("{airport}/{month}0"))
}

impl Report {
    /// Of these flights, looked at up to this offset.
    #[must_use]
    pub fn of(flights: &[IndexedFlight], computed_at: u64) -> Self {
        let mut delays: Vec<i64> = flights.iter().map(|flight| flight.delay).collect();
        delays.sort_unstable();
        let mut visits: BTreeMap<&str, u64> = BTreeMap::new();
        for flight in flights {
            *visits.entry(&flight.destination).or_default() += 1;
        }
        let mut busiest = None;
        for (destination, count) in visits {
            if busiest.is_none_or(|(_, most)| most < count) {
                busiest = Some((destination, count));
            }
        }
        let sum: i64 = delays.iter().sum();
        let hundredths = (100.0 * sum as f64 / delays.len().max(1) as f64).round();
        Self {
            flights: delays.len() as u64,
            mean_delay: hundredths / 100.0,
            p95_delay: nearest_rank(&delays, 95),
            busiest_destination: busiest.map(|(destination, _)| destination.to_owned()),
            computed_at,
        }
    }
}

/// The value at rank `ceil(percent / 100 * n)` of a sorted list, or 0 of an empty one.
fn nearest_rank(sorted: &[i64], percent: usize) -> i64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).map_or(0, |at| sorted[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(delay: i64, destination: &str) -> IndexedFlight {
        IndexedFlight { delay, destination: destination.into() }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let delays: Vec<i64> = (1..=100).collect();
        assert_eq!(nearest_rank(&delays, 95), 95);
        assert_eq!(nearest_rank(&delays[..20], 95), 19);
        assert_eq!(nearest_rank(&delays[..1], 95), 1);
        assert_eq!(nearest_rank(&[], 95), 0);
    }

    #[test]
    fn a_report_counts_and_breaks_ties_by_name() {
        let flights = [
            flight(-5, "SFO"),
            flight(10, "LAX"),
            flight(1, "SFO"),
            flight(0, "LAX"),
            flight(1, "ATL"),
        ];
        let report = Report::of(&flights, 9);
        assert_eq!((report.flights, report.p95_delay, report.computed_at), (5, 10, 9));
        assert_eq!(report.mean_delay, 1.4);
        assert_eq!(report.busiest_destination.as_deref(), Some("LAX"));
        assert_eq!(Report::of(&[], 0).busiest_destination, None);
    }

    #[test]
    fn keys_of_a_month_lie_between_its_bounds() {
        let flight = Flight {
            date: "2001-01-31 23:59".into(),
            delay: 1,
            distance: 2,
            origin: "ATL".into(),
            destination: "LAX".into(),
        };
        assert!(flight.check().is_ok());
        let (from, end) = month_bounds("ATL", "2001-01");
        for id in [0, 7, 19_999] {
            let key = flight_key(&flight, id);
            assert!(from <= key && key < end);
        }
        let (next, _) = month_bounds("ATL", "2001-02");
        assert!(end <= next);
        assert!(Flight { date: "yesterday".into(), ..flight.clone() }.check().is_err());
        assert!(Flight { origin: "Atlanta".into(), ..flight }.check().is_err());
    }
}
