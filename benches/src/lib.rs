//! Shared workloads, the load tool, and comparisons with peers.
//!
//! One canonical workload: durable, replicated appends of 256 bytes by a closed loop of so many
//! callers, over three nodes on one machine and one disk. `make bench` runs it and etcd in turn.

mod closed_loop;
mod echo;
mod etcd;
mod grpc_calls;
mod palisade_nodes;
mod payloads;
mod usage;
mod writers;

use std::process::ExitCode;

pub use closed_loop::{Course, Sample, Tally, Until, closed_loop, closed_loop_of_threads, median};
pub use echo::Echo;
pub use etcd::Etcd;
pub use grpc_calls::{GrpcCalls, Shape, connect};
pub use palisade_nodes::{
    GrpcNode, HttpNodes, Nodes, builder, data_dir, free_addresses, node_at, spec, voting,
};
pub use payloads::{Payloads, mixed};
pub use usage::{
    Memory, cpu_seconds, cpu_seconds_of, disk_bytes_written, forget_peak, memory, memory_of,
};
pub use writers::{Lap, Stretch, Writers};

/// How a tool ends: what went wrong is said, and its exit code is another.
#[must_use]
pub fn ended(run: Result<(), String>) -> ExitCode {
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Bytes of a record.
pub const RECORD_BYTES: usize = 256;

/// A record that differs from the ones before.
#[must_use]
pub fn record(number: u64) -> Vec<u8> {
    let mut record = vec![b'x'; RECORD_BYTES];
    record[..8].copy_from_slice(&number.to_le_bytes());
    record
}
