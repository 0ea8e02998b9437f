//! The Metra client library
