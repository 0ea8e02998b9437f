//! The Metra gateway service

pub mod config;
