//! The Metra gateway service.
//!
//! ```text
//! listener --Arrival--> open::stack (trace, metrics, record, place, deadline, greet, authenticate, authorize, join)
//!                                        |
//!                                     Session --requests--> jobs: push, pull;  browse: list, remove
//!                                                                   `--> content: which files get their names
//! all of them --records--> audit --> a file, a syslog server
//! ```
//!
//! A listener produces links; whichever way they came, the stack decides, and after it nothing can tell the difference.

mod account;
mod audit;
mod authority;
mod browse;
pub mod config;
mod content;
mod drain;
mod http;
mod http3;
mod identities;
mod jobs;
mod measure;
mod open;
mod paces;
mod places;
mod rates;
mod service;
mod sessions;
mod shaping;
mod tcp;
mod throttles;
mod tunnels;
mod watched;

pub use account::{ANONYMOUS, Account};
pub use audit::AuditError;
pub use service::{Gateway, StartError};
