//! One node's durable, ordered frames for many groups.
