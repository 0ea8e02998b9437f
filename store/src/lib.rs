//! Where chunks come from and land.
//!
//! - [`source`] reads file trees into the records of a manifest, and chunks again on demand.
//! - [`landing`] plans, writes, syncs and finishes what a sink receives.
//! - [`catalogue`] keeps what must survive a crash: hashes of files, the journal of jobs, receipts.
//! - [`beneath`] opens paths below a root and never out of it.

pub mod beneath;
pub mod catalogue;
mod existing;
mod guard;
pub mod landing;
pub mod source;

pub use beneath::Beneath;
pub use catalogue::{Catalogue, CatalogueError};
pub use guard::Guard;
