//! Shared workloads, the load tool, and comparisons with peers.
