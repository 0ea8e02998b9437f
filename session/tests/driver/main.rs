//! Jobs between two sessions over links in memory, in virtual time.
#![allow(clippy::unwrap_used)]

mod allowed;
mod early;
mod faults;
mod hostile;
mod landing;
mod lifecycle;
mod link;
mod links;
mod measured;
mod rates;
mod rig;
mod transfer;
