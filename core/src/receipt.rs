//! Receipts: what a gateway signs when a job is finished.
