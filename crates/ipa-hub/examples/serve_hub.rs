//! The tests' hub, to be tried with other clients: prints its address, then serves until its standard input ends or has
//! a line. With a number as argument it pauses so many milliseconds before every 16 KiB of the largest file, so that
//! clients meet. docs/weights.md compares Python's library with this one on it.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Read as _;
use std::time::Duration;

use support::server::{Fault, Server};

fn main() {
    let server = Server::start();
    if let Some(pause) = std::env::args().nth(1).and_then(|pause| pause.parse().ok()) {
        server.always_fail(support::ENCODER, Fault::Slow(Duration::from_millis(pause)));
    }
    println!("{}", server.address());
    let _ = std::io::stdin().read(&mut [0]);
}
