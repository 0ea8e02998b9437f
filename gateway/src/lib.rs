//! The Metra gateway service
