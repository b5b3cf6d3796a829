//! Trigger dispatcher.
fn main() {}
