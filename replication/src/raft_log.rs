//! Carries the consensus library's own log lines to `tracing`.

use slog::{Drain, KV, Level, Logger, OwnedKVList, Record, Serializer};

/// A logger whose lines become `tracing` events of the target `raft`.
pub(crate) fn logger() -> Logger {
    Logger::root(ToTracing.fuse(), slog::o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "raft", "{}{}", record.msg(), values(record));
            }
            Level::Warning => tracing::warn!(target: "raft", "{}{}", record.msg(), values(record)),
            // Library users want the outcome, which the status shows, not each step to it.
            Level::Info | Level::Debug | Level::Trace => {}
        }
        Ok(())
    }
}

fn values(record: &Record<'_>) -> String {
    struct Values(String);

    impl Serializer for Values {
        fn emit_arguments(
            &mut self,
            key: slog::Key,
            value: &std::fmt::Arguments<'_>,
        ) -> slog::Result {
            use std::fmt::Write;
            write!(self.0, " {key}={value}").map_err(slog::Error::from)
        }
    }

    let mut values = Values(String::new());
    match record.kv().serialize(record, &mut values) {
        Ok(()) => values.0,
        Err(_) => String::new(),
    }
}
