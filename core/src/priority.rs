//! [`Priority`]: how urgent a job is.

/// How urgent a job is: 0 (urgent) to 7 (background). What a gateway makes of it is its own affair; one that divides rates
/// among its clients serves the smallest number first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// The most urgent.
    pub const URGENT: Self = Self(0);
    /// Of jobs that name none.
    pub const NORMAL: Self = Self(4);
    /// The least urgent.
    pub const BACKGROUND: Self = Self(7);

    /// `None` above 7.
    pub const fn new(number: u8) -> Option<Self> {
        if number <= Self::BACKGROUND.0 { Some(Self(number)) } else { None }
    }

    /// 0 to 7.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}
