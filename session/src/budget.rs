//! Memory that several jobs share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An amount of memory for the manifests of all jobs of a process. Bytes.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// `limit` bytes, all free.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// One job's part of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Option<Arc<Budget>>,
    held: u64,
}

impl Reservation {
    /// Nothing yet, of `budget`; without one everything fits.
    pub(crate) fn new(budget: Option<Arc<Budget>>) -> Self {
        Self { budget, held: 0 }
    }

    /// Grows to `bytes` in all. `false`: it does not fit; nothing has changed.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        let Some(budget) = &self.budget else { return true };
        let more = bytes.saturating_sub(self.held);
        if more == 0 {
            return true;
        }
        let taken = budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= budget.limit)
        });
        if taken.is_ok() {
            self.held += more;
        }
        taken.is_ok()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.used.fetch_sub(self.held, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_bounded_and_given_back() {
        let budget = Budget::new(100);
        let mut one = Reservation::new(Some(budget.clone()));
        let mut two = Reservation::new(Some(budget.clone()));
        assert!(one.grow(60));
        assert!(one.grow(60), "growing to what is held takes nothing");
        assert!(!two.grow(41));
        assert!(two.grow(40));
        assert!(!one.grow(61));
        assert_eq!(budget.used(), 100);
        drop(one);
        assert_eq!(budget.used(), 40);
        assert!(two.grow(100));
    }
}
