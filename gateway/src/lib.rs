//! The Metra gateway service.
//!
//! ```text
//! listener --Arrival--> open::stack (trace, metrics, place, deadline, greet, authenticate, join)
//!                                        |
//!                                     Session --requests--> jobs: push, pull;  browse: list, remove
//!                                                                   `--> content: which files get their names
//! ```
//!
//! A listener produces links; whichever way they came, the stack decides, and after it nothing can tell the difference.

mod account;
mod browse;
pub mod config;
mod content;
mod drain;
mod http;
mod http3;
mod jobs;
mod measure;
mod open;
mod places;
mod rates;
mod service;
mod sessions;
mod tcp;
mod tunnels;

pub use account::{ANONYMOUS, Account};
pub use service::{Gateway, StartError};
