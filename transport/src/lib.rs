//! The Link seam and native QUIC.
//!
//! A [`Link`] is one connection that carries part of a session. Everything above this crate speaks to links
//! and never learns what carries them; everything that knows a transport stays below. Time and tasks go through
//! [`Rt`], so that the same session code runs on a real executor and in virtual time.
//!
//! ```text
//!      session / gateway / client              frames, chunks, credit
//!  ------------------------------------------------------------------- the seam
//!      Link   control()  send_chunk()  accept_chunk()  close()  stats()
//!      Rt     now()  sleep()  spawn()  blocking()
//!  -------------------------------------------------------------------
//!      quic::QuicServer, QuicClient            (other kinds of links later)
//!        quinn                                 streams, recovery, TLS 1.3
//!          socket                              batches to and from the kernel, when they may leave
//! ```
//!
//! Non-goals: what the bytes mean (the wire format is the core's), which link a chunk goes to (the session's),
//! and where certificates come from.

mod link;
pub mod quic;
mod rt;
mod socket;
#[cfg(target_os = "linux")]
mod timer;

pub use link::{
    BoxFuture, ChunkRecv, ControlRecv, ControlSend, ControlStream, Link, LinkError, LinkId, LinkKind,
    LinkStats,
};
pub use rt::{AbortOnDrop, Elapsed, Executor, Rt, Task, TaskError};
pub use socket::{EcnSeen, Grants, Packets, ROOM, any, grants, interface_mtu, source};
