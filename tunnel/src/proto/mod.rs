//! The protocol, sans-io.
