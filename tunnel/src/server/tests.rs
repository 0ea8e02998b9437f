//! What is granted and what is refused, by requests made here and by real ones; and relays.

#![allow(clippy::unwrap_used)]

mod relays;
mod requests;
