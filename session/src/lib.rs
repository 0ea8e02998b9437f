//! Drives the core's state machines over links and disks.
//!
//! A [`Session`] has links and jobs. A link is attached and pumped: its control stream is decoded and each frame goes
//! to its job, its chunks go to their sinks. When a link is lost, what was in flight on it goes out on another; when
//! the last one is lost, the jobs wait until a link is attached again.
//!
//! ```text
//!             control frames                      chunks
//!   Link ---> pump ---> Session ---> SourceJob ---> sender tasks ---> Link
//!                          |            ^ reader (disk)
//!                          +-------> SinkJob <--- receiver tasks <--- Link
//!                                       | planner, writer, keeper (disk)
//! ```
//!
//! Who waits for whom: a source handles every frame at once and never waits; a sink queues records (bounded), and its
//! planner waits for the disk, and for room among the statuses that wait to be sent. Sending is done by tasks of its
//! own. So a circle needs two sinks, one on each side of a session, that both report thousands of entries while neither
//! peer reads: a client that runs its jobs one after the other cannot close it. Nothing that waits keeps the loss of a
//! link, or the end of a job, from being noticed.
//!
//! The gateway and the client use the same code; which of them opens a job makes no difference here.

mod allowance;
mod budget;
mod early;
mod job;
mod link;
mod meter;
mod progress;
mod session;
mod silence;
mod sink_job;
mod source_job;
mod traffic;
mod waiting;

pub use allowance::{Allowance, Grantor};
pub use budget::Budget;
pub use job::{EntryReport, JobError};
pub use link::{LinkHandle, ReadError, read_frame};
pub use meter::{Kpis, Meter, Rtts, Side};
pub use progress::{Binding, Progress};
pub use session::{Begun, Request, Session, SessionConfig};
pub use sink_job::{Planner, SinkConfig, SinkJob, SinkOutcome};
pub use source_job::{SourceConfig, SourceJob, SourceOutcome};
pub use traffic::Traffic;
pub use waiting::Waiting;
