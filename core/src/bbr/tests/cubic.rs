//! [`Cubic`]: what most of the Internet uses (RFC 9438), to see who gets how much beside it.

/// RFC 9438 section 5: C in packets per second cubed, and what is kept after a loss.
const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// A window in packets; times in seconds.
#[derive(Debug)]
pub(super) struct Cubic {
    pub(super) cwnd: f64,
    threshold: f64,
    w_max: f64,
    /// When this stage of congestion avoidance began, and how long until the window is `w_max` again.
    epoch: Option<(f64, f64)>,
    w_est: f64,
    /// What was made before is of a loss that has been answered.
    recovers: f64,
}

impl Cubic {
    pub(super) fn new() -> Self {
        Self { cwnd: 10.0, threshold: f64::INFINITY, w_max: 0.0, epoch: None, w_est: 0.0, recovers: -1.0 }
    }

    pub(super) fn on_acked(&mut self, now: f64, made: f64, packets: f64, rtt: f64) {
        if made < self.recovers {
            return;
        }
        if self.cwnd < self.threshold {
            self.cwnd += packets;
            return;
        }
        let (began, k) = *self.epoch.get_or_insert_with(|| {
            self.w_est = self.cwnd;
            self.w_max = self.w_max.max(self.cwnd);
            (now, ((self.w_max - self.cwnd) / C).cbrt())
        });
        // Sections 4.2 and 4.3.
        let alpha = if self.w_est < self.w_max { 3.0 * (1.0 - BETA) / (1.0 + BETA) } else { 1.0 };
        self.w_est += alpha * packets / self.cwnd;
        let target = C * (now - began + rtt - k).powi(3) + self.w_max;
        let target = target.clamp(self.cwnd, 1.5 * self.cwnd);
        self.cwnd = (self.cwnd + (target - self.cwnd) / self.cwnd * packets).max(self.w_est);
    }

    pub(super) fn on_lost(&mut self, now: f64, made: f64) {
        if made < self.recovers {
            return;
        }
        self.recovers = now;
        // Sections 4.6 and 4.7.
        self.w_max = if self.cwnd < self.w_max { self.cwnd * (1.0 + BETA) / 2.0 } else { self.cwnd };
        self.cwnd = (self.cwnd * BETA).max(2.0);
        self.threshold = self.cwnd;
        self.epoch = None;
    }
}
