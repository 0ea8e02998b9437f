//! Tenants: how fast and how much.
mod admission;
mod bucket;
pub mod calendar;
mod quota;
mod rate;
pub mod shaper;
mod zone;
pub use admission::{Admission, AdmissionError, AdmissionEvent};
pub use quota::{Exceeded, Quota, QuotaLimit, QuotaLimits, QuotaState};
pub use rate::{Rate, RateError};
pub use zone::{Zone, ZoneError};
