//! A client of Palisade's endpoint.
