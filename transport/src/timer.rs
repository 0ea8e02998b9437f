//! A timer for pacing: on Linux the kernel's own (timerfd_create(2)), which fires tens of microseconds after its deadline.
//! tokio's ticks each millisecond, in which 10 Gbit/s are 1.25 MB.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use std::{fmt, io};

use quinn::AsyncTimer;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// Fires at `deadline`. Must be called where tokio's runtime is current.
    ///
    /// # Errors
    /// The process has too many files open.
    #[expect(
        deprecated,
        reason = "unsound for what is closed elsewhere; an `OwnedFd` that `AsyncFd` owns is not"
    )]
    pub(crate) fn new(deadline: Instant) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let timer = Self(AsyncFd::with_interest(fd, Interest::READABLE)?);
        timer.start(deadline)?;
        Ok(timer)
    }

    fn start(&self, deadline: Instant) -> io::Result<()> {
        // Zero would switch it off.
        let left = deadline
            .saturating_duration_since(tokio::time::Instant::now().into_std())
            .max(Duration::from_nanos(1));
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &time)?;
        Ok(())
    }
}

impl AsyncTimer for Timer {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        // Fails for times only that cannot be; what waits is then sent when something else happens.
        if let Err(error) = self.start(deadline) {
            tracing::debug!(%error, "a timer cannot be set");
        }
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut ready) = ready!(self.0.poll_read_ready(cx)) else { return Poll::Ready(()) };
            let fired = ready.try_io(|fd| {
                let mut count = [0; 8];
                Ok(rustix::io::read(fd, &mut count)?)
            });
            // What was ready may be the deadline before.
            if fired.is_ok() {
                return Poll::Ready(());
            }
        }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::future::poll_fn;

    use super::*;

    async fn fired(timer: &mut Pin<Box<Timer>>) {
        poll_fn(|cx| timer.as_mut().poll(cx)).await;
    }

    #[tokio::test]
    async fn it_fires_at_its_deadline_and_not_before() {
        let mut least = Duration::MAX;
        let mut timer = Box::pin(Timer::new(Instant::now()).unwrap());
        fired(&mut timer).await;
        for _ in 0..50 {
            let deadline = Instant::now() + Duration::from_micros(300);
            timer.as_mut().reset(deadline);
            fired(&mut timer).await;
            let now = Instant::now();
            assert!(now >= deadline);
            least = least.min(now - deadline);
        }
        // Even a busy machine is in time once.
        assert!(least < Duration::from_micros(700), "{least:?}");
    }

    #[tokio::test]
    async fn a_new_deadline_replaces_the_old_one() {
        let start = Instant::now();
        let mut timer = Box::pin(Timer::new(start).unwrap());
        // The old one has passed, and nobody has looked.
        std::thread::sleep(Duration::from_millis(5));
        timer.as_mut().reset(start + Duration::from_millis(40));
        fired(&mut timer).await;
        assert!(start.elapsed() >= Duration::from_millis(40));
        timer.as_mut().reset(start + Duration::from_secs(3600));
        timer.as_mut().reset(Instant::now());
        fired(&mut timer).await;
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
