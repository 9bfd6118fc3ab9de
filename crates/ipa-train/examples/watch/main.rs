//! What there is to watch, without a training: a made-up run of 2,000 steps that was interrupted and resumed, for TensorBoard
//! and as a report.
//!
//! ```sh
//! cargo run --release -p ipa-train --example watch -- out/watch
//! ```

mod run;

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("out/watch"), PathBuf::from);
    let report = run::write(&folder)?;
    println!("wrote {}", report.display());
    println!("and events: tensorboard --logdir {}", folder.join("tensorboard").display());
    Ok(())
}
