//! The Link seam and native QUIC
