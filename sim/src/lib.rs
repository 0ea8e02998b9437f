//! The real stack in virtual time.
