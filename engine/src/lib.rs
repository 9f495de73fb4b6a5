//! An embedded, replicated storage engine: one quorum-replicated, fenced log, and projections of it.
