//! [`Rt`]: time and tasks, whichever executor runs.
//!
//! Code above this crate takes the time, sleeps and spawns through an `Rt` only. An [`Executor`] that is not tokio's
//! can thus run all of it in virtual time, over sockets of its own. Non-goal: I/O; what is sent belongs to the
//! transports, which ask the `Rt` for the sockets that they send it on.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use quinn::{AsyncTimer, AsyncUdpSocket};
use tokio::sync::oneshot;

use crate::quic::{Tuning, Unmarked};
use crate::socket::{self, Paced, Packets};

/// A handle to the executor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rt(Arc<dyn Executor>);

/// A socket, and what runs the endpoint that uses it.
pub(crate) type Carried = (Arc<dyn AsyncUdpSocket>, Arc<dyn quinn::Runtime>);

/// A spawned task. Dropping it lets the task run on; see [`AbortOnDrop`] for the other wish. Awaiting it gives
/// what the task returned.
#[derive(Debug)]
pub struct Task<T> {
    abort: AbortHandle,
    end: oneshot::Receiver<Result<T, TaskError>>,
}

/// A task that is aborted when this is dropped.
#[derive(Debug)]
pub struct AbortOnDrop<T>(Task<T>);

/// Why a task has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// [`Task::abort`] came first. Fault: nobody.
    #[error("the task was aborted")]
    Aborted,
    /// The task panicked, or the executor shut down under it. Fault: this program.
    #[error("the task panicked")]
    Panicked,
}

/// A [`Rt::timeout`] ran out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed")]
pub struct Elapsed;

impl Rt {
    /// The tokio runtime that is current where the handle is used. Every method but [`Rt::now`] panics outside
    /// of one.
    pub fn tokio() -> Self {
        Self(Arc::new(TokioExecutor))
    }

    /// An executor of one's own.
    pub fn new(executor: Arc<dyn Executor>) -> Self {
        Self(executor)
    }

    /// The time. Monotonic; in virtual time it moves only when every task waits.
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// Resolves after `duration`; late by up to the timer's granularity (1 ms on tokio), never early.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        self.sleep_until(self.now() + duration)
    }

    /// Resolves at `deadline`; at once if that has passed.
    pub fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send + use<> {
        self.0.sleep_until(deadline)
    }

    /// What `future` gives if it does so within `duration`. A future that is ready wins over a deadline that
    /// has passed.
    ///
    /// # Errors
    /// [`Elapsed`]; `future` has been dropped then.
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Result<F::Output, Elapsed> {
        let sleep = self.sleep(duration);
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = sleep => Err(Elapsed),
        }
    }

    /// Runs `future` as a task of its own.
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (abort, registration) = AbortHandle::new_pair();
        let future = Abortable::new(future, registration);
        let (tx, end) = oneshot::channel();
        self.0.spawn(Box::pin(async move {
            let output = future.await.map_err(|_| TaskError::Aborted);
            // Nobody waits for the end of a detached task.
            let _ = tx.send(output);
        }));
        Task { abort, end }
    }

    /// Runs `work` where it may block: disk, hashing. It runs to its end even if the future is dropped. A panic
    /// in `work` comes out of the future.
    pub fn blocking<T, W>(&self, work: W) -> impl Future<Output = T> + Send + use<T, W>
    where
        W: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        self.0.blocking(Box::new(move || {
            let _ = tx.send(catch_unwind(AssertUnwindSafe(work)));
        }));
        async move {
            match rx.await {
                Ok(Ok(output)) => output,
                Ok(Err(panic)) => resume_unwind(panic),
                // The executor shuts down and has dropped the work; this future is about to be dropped as well.
                Err(_) => std::future::pending().await,
            }
        }
    }

    pub(crate) fn quinn_runtime(&self) -> Arc<dyn quinn::Runtime> {
        self.0.quinn_runtime()
    }

    pub(crate) fn bind(
        &self,
        address: SocketAddr,
        tuning: &Tuning,
        unmarked: &Arc<Unmarked>,
    ) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Paced::new(self.0.bind(address, tuning)?, self.clone(), unmarked.clone()))
    }

    /// What carries datagrams, as a socket; and what runs the endpoint that uses it.
    pub(crate) fn carried(&self, packets: Arc<dyn Packets>) -> Carried {
        let (socket, runtime) = socket::carried(packets, self.quinn_runtime());
        (Paced::new(socket, self.clone(), Arc::default()), runtime)
    }

    pub(crate) fn source(&self, peer: IpAddr) -> Option<IpAddr> {
        self.0.source(peer.to_canonical())
    }

    pub(crate) fn precise_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.0.precise_timer(deadline)
    }

    pub(crate) fn seed(&self) -> Option<u64> {
        self.0.seed()
    }

    pub(crate) fn interface_mtu(&self) -> Option<u32> {
        self.0.interface_mtu()
    }
}

impl<T> Task<T> {
    /// Ends the task at its next await point. What it returned before stays its result.
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// Ties the task's life to the returned value.
    pub fn abort_on_drop(self) -> AbortOnDrop<T> {
        AbortOnDrop(self)
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The sender is dropped without a word only by a panic or a shutdown.
        Pin::new(&mut self.end).poll(cx).map(|end| end.unwrap_or(Err(TaskError::Panicked)))
    }
}

impl<T> AbortOnDrop<T> {
    /// Ends the task now.
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an executor must be able to do. Object safe: everything is boxed here, so that nothing above is
/// generic.
pub trait Executor: Send + Sync + fmt::Debug + 'static {
    /// See [`Rt::now`].
    fn now(&self) -> Instant;
    /// See [`Rt::sleep_until`].
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
    /// Runs `future` as a task. A panic in it ends nothing else.
    fn spawn(&self, future: BoxFuture<'static, ()>);
    /// Runs `work` where it may block; nobody but `work` knows when it is done.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>);
    /// The same, as the QUIC library wants it.
    fn quinn_runtime(&self) -> Arc<dyn quinn::Runtime>;
    /// A timer that fires well within a millisecond of its deadline, for pacing.
    fn precise_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.quinn_runtime().new_timer(deadline)
    }
    /// A UDP socket.
    ///
    /// # Errors
    /// What the system says of the address.
    fn bind(&self, address: SocketAddr, tuning: &Tuning) -> io::Result<Arc<dyn AsyncUdpSocket>>;
    /// The address of this host from which the system would send to `peer`; `None`: not known.
    fn source(&self, _peer: IpAddr) -> Option<IpAddr> {
        None
    }
    /// The longest IP packet that any network interface takes, loopback apart. Bytes; `None`: not known.
    fn interface_mtu(&self) -> Option<u32>;
    /// What the random choices of a new endpoint are made from, where a run is to be repeated; another one at each
    /// call. `None`, as it must be on a real network: from the system's randomness. Keys never come from it.
    fn seed(&self) -> Option<u64> {
        None
    }
}

#[derive(Debug)]
struct TokioExecutor;

impl Executor for TokioExecutor {
    fn now(&self) -> Instant {
        // tokio's clock, not the system's: tests pause it.
        tokio::time::Instant::now().into_std()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(deadline.into()))
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }

    fn quinn_runtime(&self) -> Arc<dyn quinn::Runtime> {
        Arc::new(quinn::TokioRuntime)
    }

    #[cfg(target_os = "linux")]
    fn precise_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        match crate::timer::Timer::new(deadline) {
            Ok(timer) => Box::pin(timer),
            Err(_) => self.quinn_runtime().new_timer(deadline),
        }
    }

    fn bind(&self, address: SocketAddr, tuning: &Tuning) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        socket::bind(address, tuning)
    }

    fn source(&self, peer: IpAddr) -> Option<IpAddr> {
        // The port of "discard": any will do.
        socket::source((peer, 9).into()).ok()
    }

    fn interface_mtu(&self) -> Option<u32> {
        socket::interface_mtu()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_task_gives_its_end() {
        let rt = Rt::tokio();
        assert_eq!(rt.spawn(async { 7 }).await, Ok(7));
        let panicking = rt.spawn(async { panic!("on purpose") });
        assert_eq!(panicking.await, Err::<(), _>(TaskError::Panicked));
        let waiting = rt.spawn(std::future::pending::<()>());
        waiting.abort();
        assert_eq!(waiting.await, Err(TaskError::Aborted));
    }

    #[tokio::test]
    async fn a_dropped_task_runs_on_and_a_guarded_one_does_not() {
        let rt = Rt::tokio();
        let (tx, rx) = oneshot::channel();
        drop(rt.spawn(async move { tx.send(1) }));
        assert_eq!(rx.await, Ok(1));

        let (tx, rx) = oneshot::channel::<u32>();
        let guarded = rt.spawn(async move {
            std::future::pending::<()>().await;
            tx.send(1)
        });
        tokio::task::yield_now().await;
        drop(guarded.abort_on_drop());
        assert!(rx.await.is_err(), "the future is dropped, and the sender with it");
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_the_executors() {
        let rt = Rt::tokio();
        let start = rt.now();
        rt.sleep(Duration::from_secs(3600)).await;
        assert!(rt.now() - start >= Duration::from_secs(3600));
        let late = rt.timeout(Duration::from_secs(1), rt.sleep(Duration::from_secs(2))).await;
        assert_eq!(late, Err(Elapsed));
        let early = rt.timeout(Duration::from_secs(2), rt.sleep(Duration::from_secs(1))).await;
        assert_eq!(early, Ok(()));
        assert_eq!(rt.timeout(Duration::ZERO, async { 1 }).await, Ok(1));
    }

    #[tokio::test]
    async fn blocking_work_returns_and_its_panic_travels() {
        let rt = Rt::tokio();
        assert_eq!(rt.blocking(|| 5).await, 5);
        let work = rt.blocking(|| panic!("on purpose"));
        let end: Result<(), TaskError> = rt.spawn(work).await;
        assert_eq!(end, Err(TaskError::Panicked));
    }
}
