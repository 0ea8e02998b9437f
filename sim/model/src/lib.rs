//! What a path does to packets: one direction of one link, as arithmetic on times.
//!
//! Nothing here waits, reads a clock or moves bytes: [`Pipe::offer`] says for each packet whether it gets through, and when.
//! The simulator asks it in virtual time, the emulator in real time, so that both mean the same by "1 Gbit/s, 60 ms,
//! 0.5 %".
//!
//! ```text
//!  offer --> blocked? --> MTU --> policer --> queue (tail drop, ECN mark) --> rate --> loss --> delay + jitter --> arrival(s)
//! ```
//!
//! Lost packets have occupied the queue and the link. All random numbers of a packet are drawn whatever becomes of it, so
//! that with the same seed the same packets are lost whatever the queue does.

mod pipe;
mod schedule;
mod spec;
#[cfg(test)]
mod tests;

pub use pipe::{Arrival, Counts, Drop, Packet, Passage, Pipe};
pub use spec::{Burst, Direction, Event, Police, SpecError};
