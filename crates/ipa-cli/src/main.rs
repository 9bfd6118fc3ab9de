//! The `ipa` program.
fn main() {}
