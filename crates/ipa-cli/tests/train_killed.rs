//! Training that is killed at any moment, a save included, and goes on each time to the bytes of an uninterrupted run.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use support::Ipa;
use support::files::{entries_below, two_pictures};

/// Kills unless `IPA_KILLS` says how many; `IPA_KILLS_MODEL=pocket` trains that model in place of the tiny one.
const KILLS: usize = 8;

/// The settings in which most can go wrong: a save after every step, an average, and a validation with pictures.
fn train(data: &Path, output: &Path) -> Ipa {
    let command = Ipa::train(data, output).with("--save-steps", "1").with("--epochs", "1000");
    let command = command.with("--config", output.with_extension("toml"));
    match std::env::var("IPA_KILLS_MODEL") {
        Ok(model) => command.with("--model", model),
        Err(_) => command,
    }
}

fn settings(output: &Path, steps: u64) {
    let text = format!(
        "[schedule]\nmax_steps = {steps}\naccumulation = 2\nlearning_rate = \"cosine\"\nwarmup_steps = 2\n\
         [optimizer]\nema_decay = 0.9\n[output]\nkeep_checkpoints = 2\ntensorboard = true\n\
         [validation]\nheld_out = 0.5\nevery = 5\nnum_references = 1\nnum_steps = 1\nscales = [1.0]\n"
    );
    fs::write(output.with_extension("toml"), text).unwrap();
}

#[test]
fn runs_killed_at_random_moments_end_in_the_same_bytes() {
    let kills = std::env::var("IPA_KILLS").map_or(KILLS, |number| number.parse().unwrap());
    let (data, folder) = (two_pictures(), tempfile::tempdir().unwrap());
    let [killed, whole] = ["killed", "whole"].map(|name| folder.path().join(name));
    let steps = 10 * kills as u64;
    [&killed, &whole].into_iter().for_each(|output| settings(output, steps));
    let started = Instant::now();
    train(data.path(), &whole).run().done();
    let (mut random, mut done, mut in_a_save) = (ChaCha8Rng::seed_from_u64(0), 0, 0);
    let per_step = started.elapsed() / steps as u32;
    while done < kills {
        let goes_on = entries_below(&killed).iter().any(|entry| entry.starts_with("checkpoint-"));
        let command = train(data.path(), &killed).and("--json");
        let mut running = if goes_on { command.and("--resume") } else { command }.start();
        assert!(running.line().contains("loss"), "it ended before {kills} kills");
        sleep(random.random_range(Duration::ZERO..8 * per_step));
        running.signal("KILL");
        running.ended();
        done += 1;
        in_a_save += usize::from(entries_below(&killed).iter().any(|entry| entry.contains("tmp")));
    }
    println!("{done} kills, {in_a_save} of them in a save");
    train(data.path(), &killed).and("--resume").run().done();
    let state = format!("checkpoint-{steps}/optimizer.safetensors");
    let names = ["ip_adapter.safetensors", "best/ip_adapter.safetensors", "losses.jsonl", "validation.jsonl"];
    for name in names.into_iter().chain(["training_report.html", &state]) {
        let result = |folder: &Path| fs::read(folder.join(name)).unwrap();
        assert!(result(&killed) == result(&whole), "{name} differs");
    }
}
