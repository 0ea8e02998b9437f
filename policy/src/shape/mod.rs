//! Tenants: how fast and how much.
mod bucket;
pub mod calendar;
mod rate;
pub mod shaper;
mod zone;
pub use rate::{Rate, RateError};
pub use zone::{Zone, ZoneError};
