//! The comparison of adapters, a few steps of two arms.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../examples/ablations/arms.rs"]
mod arms;
#[path = "../examples/ablations/command.rs"]
mod command;
#[path = "../examples/ablations/draw.rs"]
mod draw;
#[path = "../examples/ablations/page.rs"]
mod page;
#[path = "../examples/ablations/plots.rs"]
mod plots;
#[path = "../examples/ablations/results.rs"]
mod results;
#[path = "../examples/support/scenes.rs"]
mod scenes;
#[path = "../examples/ablations/tables.rs"]
mod tables;
#[path = "../examples/ablations/work.rs"]
mod work;

use std::fs;
use std::path::Path;

use clap::Parser as _;
use command::Args;
use draw::{Condition, SWEPT, SWEPT_IN};
use results::{Measure, Results};

fn run(words: &[&str]) {
    command::run(&Args::parse_from(["ablations"].iter().chain(words))).unwrap();
}

/// The cells of the first row that begins with a word, after a heading.
fn row<'a>(page: &'a str, heading: &str, first: &str) -> Vec<&'a str> {
    let after = page.split_once(heading).unwrap().1;
    let line = after.lines().find(|line| line.starts_with(&format!("| {first} |"))).unwrap();
    line.trim_matches('|').split('|').map(str::trim).collect()
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn two_arms_are_compared_kept_and_told_again_from_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let (work, docs) = (folder.path().join("work"), folder.path().join("docs"));
    let words = ["--short", "--arms", "decoupled,unet", "--seeds", "2", "--folder", work.to_str().unwrap()];
    let command = [&words[..], &["--output", docs.to_str().unwrap()]].concat();
    run(&command);

    let results = Results::read(&docs.join("ablations.json")).unwrap();
    let found: Vec<_> = results.runs.iter().map(|run| (run.arm.as_str(), run.seed, run.drawings.len())).collect();
    let swept = 3 + SWEPT_IN.len() * SWEPT.len();
    assert_eq!(found, [("decoupled", 0, swept), ("decoupled", 1, swept), ("unet", 0, 3), ("unet", 1, 3)]);
    assert!(results.runs[2].parameters > 10 * results.runs[0].parameters);

    let page = read(&docs, "ablations.md");
    let mean = results.mean("unet", (Condition::Image, 1.0), Measure::ClipI).unwrap().mean;
    assert_eq!(row(&page, "## From the reference alone", "`unet`")[1], format!("{mean:.3}"));
    let difference = results.difference(("unet", "decoupled"), Condition::Image, Measure::ClipI).unwrap();
    let cell = row(&page, "| arm, less", "`unet`, `decoupled`")[1].trim_matches('*').to_owned();
    assert!(cell.starts_with(&format!("{:+.3} (", difference.interval.mean)), "{cell}");
    assert_eq!(difference.by_seed.len(), 2);
    assert!(page.contains("- The paper: an adapter is as good") && !page.contains("| `text-only` |"));
    assert!(image::open(docs.join("images/ablations.webp")).unwrap().height() == 3 * 66);

    // A second start finds all of it done; numbers alone give the same page.
    let measured = work.join("short/unet-1/measured.json");
    let before = fs::metadata(&measured).unwrap().modified().unwrap();
    run(&command);
    assert_eq!(fs::metadata(&measured).unwrap().modified().unwrap(), before);
    let again = folder.path().join("again");
    run(&["--from", docs.join("ablations.json").to_str().unwrap(), "--output", again.to_str().unwrap()]);
    for name in ["ablations.md", "ablations.json", "images/ablations-differences.svg", "images/ablations-scales.svg"] {
        assert_eq!(read(&docs, name), read(&again, name), "{name}");
    }
}

/// Two references, two seeds.
fn made_up(arm: &str, clip_i: [[f64; 2]; 2]) -> impl Iterator<Item = results::Run> {
    let settings = results::Settings { steps: 1, batch: 1, num_scenes: 1, num_references: 2, drawing_steps: 1 };
    let machine = results::Machine { system: "none".into(), cores: 1, jobs: 1 };
    (0..).zip(clip_i).map(move |(seed, clip_i)| results::Run {
        arm: arm.into(),
        seed,
        settings: settings.clone(),
        machine: machine.clone(),
        parameters: 1,
        seconds_a_step: 1.0,
        drawings: vec![results::Drawing {
            condition: Condition::Image,
            scale: 1.0,
            clip_i: clip_i.to_vec(),
            clip_t: vec![0.0; 2],
            judged: vec![0b10011, 0b01111],
        }],
    })
}

#[test]
fn a_difference_is_clear_only_if_every_seed_agrees() {
    let clear = |plus| {
        let runs = made_up("decoupled", [[0.5, 0.4], [0.6, 0.5]]).chain(made_up("plus", plus)).collect();
        Results::new(runs).unwrap().difference(("plus", "decoupled"), Condition::Image, Measure::ClipI).unwrap()
    };
    let agreed = clear([[0.7, 0.6], [0.7, 0.6]]);
    assert!((agreed.interval.mean - 0.15).abs() < 1e-12 && agreed.is_clear(), "{agreed:?}");
    let split = clear([[0.9, 0.8], [0.55, 0.45]]);
    assert!(split.interval.excludes_zero() && !split.is_clear(), "{split:?}");
}

#[test]
fn bits_become_shares() {
    let results = Results::new(made_up("plus", [[0.5; 2]; 2]).collect()).unwrap();
    let mean = |measure| results.mean("plus", (Condition::Image, 1.0), measure).unwrap().mean;
    assert_eq!(mean(Measure::Share(5)), 0.7);
    assert_eq!(mean(Measure::Share(4)), 0.75);
    assert_eq!([mean(Measure::Attribute(0)), mean(Measure::Attribute(4))], [1.0, 0.5]);
}
