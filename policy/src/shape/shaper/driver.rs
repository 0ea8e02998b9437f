#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

//! Runs a shaper in virtual time and keeps what it granted.

use super::*;

/// A shaper, its time, and what came of it.
pub(super) struct Driver {
    pub(super) shaper: Shaper,
    start: Instant,
    pub(super) now: Duration,
    pub(super) log: Vec<(Duration, Grant)>,
}

impl Driver {
    pub(super) fn new(gateway: Share) -> Self {
        let start = Instant::now();
        Self { shaper: Shaper::new(gateway, start), start, now: Duration::ZERO, log: Vec::new() }
    }

    pub(super) fn instant(&self) -> Instant {
        self.start + self.now
    }

    pub(super) fn tenant(&mut self, share: Share) -> TenantId {
        self.shaper.add_tenant(share, self.instant())
    }

    pub(super) fn user(&mut self, tenant: TenantId, share: Share) -> UserId {
        self.shaper.add_user(tenant, share, self.instant()).unwrap()
    }

    pub(super) fn job(&mut self, user: UserId, lane: u8, share: Share) -> JobId {
        self.shaper.add_job(user, Priority::new(lane).unwrap(), share, self.instant()).unwrap()
    }

    /// A job of a user of its own without limits, that wants more than it can ever have.
    pub(super) fn hungry(&mut self, tenant: TenantId, lane: u8) -> JobId {
        let user = self.user(tenant, Share::default());
        let job = self.job(user, lane, Share::default());
        self.ask(job, 1 << 50);
        job
    }

    pub(super) fn ask(&mut self, job: JobId, bytes: u64) {
        assert!(self.shaper.ask(job, bytes, self.instant()));
    }

    /// Grants all that is due at this moment.
    pub(super) fn drain(&mut self) {
        while let Some(grant) = self.shaper.poll(self.instant()) {
            self.log.push((self.now, grant));
        }
    }

    /// Polls whenever there is something to grant, until `end` (since the start), which is included.
    pub(super) fn run_until(&mut self, end: Duration) {
        loop {
            self.drain();
            let wake = self.shaper.next_wake().map(|at| at - self.start);
            if let Some(wake) = wake {
                assert!(wake > self.now, "it would grant more, but has not");
            }
            match wake.filter(|at| *at <= end) {
                Some(at) => self.now = at,
                None => break,
            }
        }
        self.now = end;
    }

    pub(super) fn run(&mut self, seconds: f64) {
        self.run_until(self.now + Duration::from_secs_f64(seconds));
    }

    /// Bytes granted to those jobs, from a time until now.
    pub(super) fn granted(&self, jobs: &[JobId], since: Duration) -> u64 {
        let wanted = |(at, grant): &&(Duration, Grant)| *at >= since && jobs.contains(&grant.job);
        self.log.iter().filter(wanted).map(|(_, grant)| grant.bytes).sum()
    }
}

/// A share with a ceiling, in Mbit/s.
pub(super) fn ceiling(mbit: u64) -> Share {
    Share { ceiling: Some(Rate::from_mbit(mbit)), ..Share::default() }
}

/// A share with a floor, in Mbit/s.
pub(super) fn floor(mbit: u64) -> Share {
    Share { floor: Rate::from_mbit(mbit), ..Share::default() }
}

/// Checks against the definition that no window of a log has more than `rate` times it and `burst`.
pub(super) fn assert_within(log: impl Iterator<Item = (Duration, i128)>, rate: Rate, burst: u64) {
    const BYTE: i128 = 1_000_000_000;
    let (mut sum, mut lowest) = (0, 0);
    for (at, bytes) in log {
        let allowed = i128::from(rate.bytes()) * at.as_nanos() as i128;
        lowest = lowest.min(sum - allowed);
        sum += bytes * BYTE;
        assert!(
            sum - allowed - lowest <= i128::from(burst) * BYTE,
            "too much in a window that ends at {at:?}"
        );
    }
}
