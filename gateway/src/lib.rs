//! The Metra gateway service.
//!
//! ```text
//! listener --Arrival--> open::stack (trace, metrics, shed, limit, deadline, greet, authenticate, join)
//!                                        |
//!                                     Session --requests--> jobs: push, pull;  browse: list, remove
//! ```
//!
//! A listener produces links; whichever way they came, the stack decides, and after it nothing can tell the difference.

mod account;
mod browse;
pub mod config;
mod http;
mod jobs;
mod measure;
mod open;
mod rates;
mod service;
mod sessions;
mod tcp;

pub use account::{ANONYMOUS, Account};
pub use service::{Gateway, StartError};
