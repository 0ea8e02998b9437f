//! Network namespaces with emulated links between them.
fn main() {}
