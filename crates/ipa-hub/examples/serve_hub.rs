//! The tests' hub, to be tried with other clients: prints its address and serves until it is killed.
//!
//! `HF_ENDPOINT=$(cargo run -p ipa-hub --example serve_hub | head -1)` is not enough, as it has to go on: see
//! docs/weights.md for the comparison with Python's library.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Read as _;

fn main() {
    let server = support::server::Server::start();
    println!("{}", server.address());
    // Ends with its standard input, so that a script that starts it cannot leave it behind.
    let _ = std::io::stdin().read(&mut [0]);
}
