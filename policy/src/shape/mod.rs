//! Tenants: how fast and how much.
mod bucket;
mod rate;
pub mod shaper;
pub use rate::{Rate, RateError};
