//! The palisade command, its HTTP face, and the durable report service.
