//! Where chunks come from and land.
//!
//! - [`source`] reads file trees into the records of a manifest, and chunks again on demand.
//! - [`catalogue`] keeps what must survive a crash: hashes of files, the journal of jobs, receipts.

pub mod catalogue;
pub mod source;
