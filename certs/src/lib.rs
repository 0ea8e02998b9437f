//! Keys and certificates: who a gateway is, who a client trusts, and what both sign and seal.
//!
//! - [`DevCa`] makes the certificates of a first run, so that nothing has to be set up to try Metra.
//! - [`ServerIdentity`] and [`server_config`] are the TLS side of a gateway, [`TrustAnchors`] and
//!   [`client_config`] that of a client. Both speak TLS 1.3 only.
//! - [`ReceiptKey`] signs receipts, [`TicketKey`] seals session tickets, [`TokenHash`] recognises bearer tokens, [`KeySet`]
//!   those that an identity provider has signed.
//!
//! Not here: what a name may do (the gateway decides), ALPN and transport parameters (the transport sets them),
//! and revocation lists.

mod client;
mod dev;
mod error;
mod files;
mod identity;
mod inspect;
mod jwt;
mod pin;
mod receipt;
mod reset;
mod server;
mod ticket;
mod token;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod testing;

pub use client::{TrustAnchors, Untrusted, client_config};
pub use dev::DevCa;
pub use error::Error;
pub use identity::{ClientName, ServerIdentity, client_identity, client_names};
pub use jwt::{Identity, Issuer, JwtError, KeySet, KeySetError};
pub use pin::{Pin, PinError, pin_of};
pub use receipt::{ReceiptKey, SignatureError, verify};
pub use reset::ResetKey;
pub use server::server_config;
pub use ticket::{TicketError, TicketKey};
pub use token::{TokenHash, TokenHashError};

use std::sync::Arc;

/// The cryptography in use: aws-lc-rs, post-quantum key exchange (X25519MLKEM768) preferred.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
