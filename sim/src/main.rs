//! metra-sim
fn main() {}
