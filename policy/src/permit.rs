//! What was decided, as a value.

/// A `T` that may be used. Only this crate makes permits, after a decision on this very `T`: a function that takes one
/// cannot be called with anything that was not decided on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permit<T>(T);

impl<T> Permit<T> {
    pub(crate) fn new(permitted: T) -> Self {
        Self(permitted)
    }

    /// What is permitted. What is made of it (another port, another address) is not.
    pub fn permitted(&self) -> &T {
        &self.0
    }

    /// What is permitted, without the permit.
    pub fn into_permitted(self) -> T {
        self.0
    }
}
