//! Every bound and interval of a replica, by name (G12).

use crate::error::NodeError;
use crate::frame::BODY_BYTES_MAX;

/// Bounds and intervals of a replica and its driver. The defaults suit a service on a local
/// network; `validate` says what does not fit together.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of one tick, in milliseconds. Everything below that counts ticks is scaled by it.
    pub tick_ms: u64,
    /// Ticks without a word from the leader before an election; each term adds up to as many again.
    pub election_ticks: u32,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: u32,
    /// Ticks after which an unanswered proposal or read is sent to the leader again.
    pub resend_ticks: u32,
    /// Ticks between two reports of the flushed position, by which the others trim their logs.
    pub report_ticks: u32,
    /// Largest payload of one record.
    pub record_bytes_max: usize,
    /// Records are packed into one entry up to this size.
    pub entry_bytes_target: usize,
    /// Own proposals that wait for their outcome, in records and in bytes.
    pub proposals_max: usize,
    /// See [`Options::proposals_max`].
    pub proposals_bytes_max: usize,
    /// Linearizable reads that wait for their barrier.
    pub reads_max: usize,
    /// A leader's own appends on their way to its disk. More than one lets the next entry be
    /// written while the last one syncs.
    pub appends_in_flight_max: usize,
    /// Appends on their way to one follower. With `message_bytes_max` they must fit into
    /// `peer_queue_bytes_max`, or a follower that is far behind would lose some of them again.
    pub messages_in_flight_max: usize,
    /// Largest append message.
    pub message_bytes_max: usize,
    /// Entries proposed and not yet committed. Over it the leader takes no more.
    pub uncommitted_bytes_max: usize,
    /// Entries handed to apply and not yet applied. Over it a follower takes no appends and a
    /// leader no proposals.
    pub apply_backlog_bytes_max: usize,
    /// Recent entries kept in memory for followers and for apply.
    pub entry_cache_bytes_max: usize,
    /// Fewer trimmable entries than this are not worth a write.
    pub trim_entries_min: u64,
    /// A member that lacks more entries than this no longer holds the log: it gets a snapshot.
    pub lag_entries_max: u64,
    /// The log keeps so many entries that nobody needs any more, while there is room: for incremental
    /// backups and for proofs, which read records from it.
    pub kept_entries: u64,
    /// A follower with more unapplied entries than this does not campaign.
    pub unapplied_entries_max: u64,
    /// Ticks after a start for which a node waits to hear what its peers remember of its directory, before it votes or
    /// confirms anything. Those it has not heard by then are taken for gone.
    pub vigil_ticks: u32,
    /// Ticks after which a leader whose disk does not come back steps aside.
    pub slow_disk_ticks: u32,
    /// Ticks without a word after which the transfer of a snapshot is given up, and begun again.
    pub snapshot_patience_ticks: u32,
    /// How fast a snapshot is exported, and how fast it is asked for, in each group.
    pub snapshot_bytes_per_second: u64,
    /// How fast the log is read again, to find what rots (a scrub); 0 if never.
    pub scrub_bytes_per_second: u64,
    /// Between two rounds of that.
    pub scrub_pause_ms: u64,
    /// State that is not yet flushed is flushed after this much applied log.
    pub flush_bytes_target: usize,
    /// Unread messages from one peer, and unsent ones to it. Over it the newest are dropped.
    pub peer_queue_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tick_ms: 20,
            election_ticks: 25,
            heartbeat_ticks: 3,
            resend_ticks: 25,
            report_ticks: 50,
            record_bytes_max: 1 << 20,
            entry_bytes_target: 512 << 10,
            proposals_max: 16_384,
            proposals_bytes_max: 16 << 20,
            reads_max: 16_384,
            appends_in_flight_max: 2,
            messages_in_flight_max: 24,
            message_bytes_max: 1 << 20,
            uncommitted_bytes_max: 64 << 20,
            apply_backlog_bytes_max: 64 << 20,
            entry_cache_bytes_max: 32 << 20,
            trim_entries_min: 1024,
            lag_entries_max: 65_536,
            kept_entries: 0,
            unapplied_entries_max: 65_536,
            vigil_ticks: 100,
            slow_disk_ticks: 50,
            snapshot_patience_ticks: 250,
            snapshot_bytes_per_second: 32 << 20,
            scrub_bytes_per_second: 4 << 20,
            scrub_pause_ms: 600_000,
            flush_bytes_target: 32 << 20,
            peer_queue_bytes_max: 32 << 20,
        }
    }
}

impl Options {
    /// Refuses values that cannot work together.
    ///
    /// # Errors
    /// [`NodeError::InvalidArgument`], naming the rule.
    pub fn validate(&self) -> Result<(), NodeError> {
        let rules = [
            (self.tick_ms >= 1, "tick_ms must be at least 1"),
            (self.tick_ms <= TICK_MS_LIMIT, "tick_ms must be at most 10000, which is ten seconds"),
            (self.heartbeat_ticks >= 1, "heartbeat_ticks must be at least 1"),
            (
                self.election_ticks >= self.heartbeat_ticks.saturating_mul(3),
                "election_ticks must be at least three times heartbeat_ticks",
            ),
            (self.resend_ticks >= 1, "resend_ticks must be at least 1"),
            (self.report_ticks >= 1, "report_ticks must be at least 1"),
            (self.slow_disk_ticks >= 1, "slow_disk_ticks must be at least 1"),
            (
                self.snapshot_patience_ticks > self.resend_ticks.saturating_mul(2),
                "snapshot_patience_ticks must be more than twice resend_ticks",
            ),
            (
                self.snapshot_bytes_per_second.saturating_mul(self.tick_ms) >= 1000,
                "snapshot_bytes_per_second must be at least one byte a tick",
            ),
            (self.scrub_pause_ms >= 1, "scrub_pause_ms must be at least 1"),
            (self.record_bytes_max >= 1, "record_bytes_max must be at least 1"),
            (self.record_bytes_max <= RECORD_BYTES_LIMIT, "record_bytes_max must be at most 4 MiB"),
            (
                self.entry_bytes_target <= RECORD_BYTES_LIMIT,
                "entry_bytes_target must be at most 4 MiB",
            ),
            (
                self.proposals_bytes_max >= self.record_bytes_max,
                "proposals_bytes_max must hold at least one record",
            ),
            (self.proposals_max >= 1, "proposals_max must be at least 1"),
            (self.reads_max >= 1, "reads_max must be at least 1"),
            (self.appends_in_flight_max >= 1, "appends_in_flight_max must be at least 1"),
            (self.messages_in_flight_max >= 1, "messages_in_flight_max must be at least 1"),
            (
                self.message_bytes_max <= MESSAGE_BYTES_LIMIT,
                "message_bytes_max must be at most 8 MiB, half of the largest frame",
            ),
            (
                self.uncommitted_bytes_max >= 2 * RECORD_BYTES_LIMIT,
                "uncommitted_bytes_max must be at least 8 MiB",
            ),
            (
                self.peer_queue_bytes_max >= 2 * RECORD_BYTES_LIMIT,
                "peer_queue_bytes_max must be at least 8 MiB",
            ),
        ];
        let window = self.messages_in_flight_max.saturating_mul(self.message_bytes_max);
        let window_fits = window <= self.peer_queue_bytes_max;
        let rules = rules.into_iter().chain([(
            window_fits,
            "messages_in_flight_max times message_bytes_max must fit into peer_queue_bytes_max",
        )]);
        match rules.collect::<Vec<_>>().iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(NodeError::InvalidArgument { what: (*rule).to_owned() }),
            None => Ok(()),
        }
    }

    /// Largest message of entries that is taken: what a peer with these options sends at most, with what
    /// raft does not count. At least one entry is sent, however small messages are to be.
    pub(crate) fn append_bytes_limit(&self) -> usize {
        2 * self.message_bytes_max.max(RECORD_BYTES_LIMIT)
    }
}

/// What `tick_ms` may be raised to.
const TICK_MS_LIMIT: u64 = 10_000;
/// What `record_bytes_max` and `entry_bytes_target` may be raised to.
pub(crate) const RECORD_BYTES_LIMIT: usize = 4 << 20;
/// What `message_bytes_max` may be raised to: raft does not count what its encoding adds to each
/// entry, which is less than a half.
const MESSAGE_BYTES_LIMIT: usize = BODY_BYTES_MAX / 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// The receiver closes the connection over a longer frame, and the sender would send it again.
    #[test]
    fn a_message_that_fits_no_frame_is_refused() {
        let with = |message_bytes_max| Options {
            message_bytes_max,
            peer_queue_bytes_max: usize::MAX,
            ..Options::default()
        };
        assert!(with(MESSAGE_BYTES_LIMIT).validate().is_ok());
        let refused = with(MESSAGE_BYTES_LIMIT + 1).validate();
        let Err(NodeError::InvalidArgument { what }) = refused else { panic!("{refused:?}") };
        assert!(what.contains("message_bytes_max"), "{what}");
    }
}
