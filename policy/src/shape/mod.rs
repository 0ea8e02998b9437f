//! Tenants: how fast, how much, and how many at once.
//!
//! ```text
//! [shaping], [tenants] --config::Shaping::check--> shares, calendars, quotas, limits
//!
//! job arrives --> Quota::charge --> Admission::arrive --Started--> Shaper::add_job
//!                                                                       |  ask, poll
//!                 Calendar::cap_at --> Share::capped --> Shaper::set_*  +---------> Grant
//! ```
//!
//! | | decides |
//! |---|---|
//! | [`shaper`] | who may move how many bytes now |
//! | [`calendar`] | what the ceilings are at this time of the week |
//! | [`Quota`] | whether a day or a month is used up |
//! | [`Admission`] | whose job runs, whose waits, and where in the queue |
//! | [`config`] | from what is written to all of these |
//!
//! `docs/policy-shaping.md` says what it promises, with examples. Non-goals: to know the time (all of it is arguments), to
//! move bytes, to keep counts over a restart (the gateway stores a [`QuotaState`]).

mod admission;
mod bucket;
pub mod calendar;
pub mod config;
#[cfg(test)]
mod config_tests;
mod quota;
mod rate;
pub mod shaper;
mod zone;

pub use admission::{Admission, AdmissionError, AdmissionEvent};
pub use quota::{Exceeded, Quota, QuotaLimit, QuotaLimits, QuotaState};
pub use rate::{Rate, RateError};
pub use zone::{Zone, ZoneError};
