//! Work that is cut off: by Ctrl-C, by the system, by a full disk. Nothing half-written remains, and training goes on.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::Command;

use support::files::{assert_empty, entries_below, read_tensors, tiny_sd, two_pictures};
use support::{Ipa, Running};

/// Asserts that every checkpoint is whole and that nothing but losses and settings lies beside them.
#[track_caller]
fn assert_only_whole_checkpoints(folder: &Path) {
    let parts = ["ip_adapter.safetensors", "optimizer.safetensors", "training.json"];
    let entries = entries_below(folder);
    let beside_losses = entries.iter().filter(|entry| !["losses.jsonl", "config.toml"].contains(&entry.as_str()));
    let (folders, files): (Vec<_>, Vec<_>) = beside_losses.partition(|entry| !entry.contains('/'));
    for name in &folders {
        assert!(name.strip_prefix("checkpoint-").is_some_and(|step| step.parse::<u64>().is_ok()), "{entries:#?}");
        assert!(read_tensors(&folder.join(name).join(parts[0])).len() > 1);
    }
    let expected: Vec<_> = folders.iter().flat_map(|name| parts.map(|part| format!("{name}/{part}"))).collect();
    assert!(files.into_iter().eq(&expected), "{entries:#?}");
}

/// A training of 1000 steps that has done one.
fn start_training(data: &Path, output: &Path, save_steps: &str) -> Running {
    let command = Ipa::train(data, output).with("--epochs", "500").with("--save-steps", save_steps);
    let mut running = command.and("--json").start();
    assert!(running.line().contains("loss"));
    running
}

#[test]
fn training_stops_between_two_steps_and_leaves_whole_checkpoints() {
    for signal in ["INT", "TERM"] {
        let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
        let running = start_training(data.path(), output.path(), "1");
        running.signal(signal);
        running.ended().refused(1, &["interrupted", "--resume"]);
        assert_only_whole_checkpoints(output.path());
        assert!(output.path().join("checkpoint-1").is_dir());
    }
}

#[test]
fn an_interrupted_run_can_go_on_as_it_says() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let running = start_training(data.path(), output.path(), "1000");
    running.signal("INT");
    let ended = running.ended().refused(1, &["interrupted"]);
    assert_only_whole_checkpoints(output.path());
    let has_checkpoint = entries_below(output.path()).iter().any(|entry| entry.starts_with("checkpoint-"));
    assert_eq!(ended.stderr.contains("--resume"), has_checkpoint, "{ended:#?}");
}

#[test]
fn a_killed_run_goes_on_to_the_result_of_an_uninterrupted_one() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let [killed, whole] = ["killed", "whole"].map(|name| output.path().join(name));
    let train = |folder: &Path| Ipa::train(data.path(), folder).with("--save-steps", "3");
    let mut running = train(&killed).and("--json").start();
    (0..4).for_each(|_| assert!(running.line().contains("loss")));
    running.signal("KILL");
    running.ended();
    train(&killed).and("--resume").run().done();
    train(&whole).run().done();

    assert_eq!(entries_below(&killed), entries_below(&whole));
    let result = |folder: &Path| fs::read(folder.join("ip_adapter.safetensors")).unwrap();
    assert!(result(&killed) == result(&whole));
}

/// Waits until the program catches Ctrl-C, as the system tells.
#[cfg(target_os = "linux")]
fn wait_until_listening(running: &mut Running) {
    const INTERRUPT: u64 = 1 << 1; // SIGINT is signal 2, bit 1
    let caught = |status: String| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:").map(str::trim).map(str::to_owned));
        mask.is_some_and(|mask| u64::from_str_radix(&mask, 16).unwrap() & INTERRUPT != 0)
    };
    let status = format!("/proc/{}/status", running.id());
    while !fs::read_to_string(&status).is_ok_and(caught) {
        assert!(!running.has_ended());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn drawing_stops_and_writes_nothing() {
    for signal in ["INT", "TERM"] {
        let output = tempfile::tempdir().unwrap();
        let command = Ipa::generate(&tiny_sd(""), &output.path().join("new/out.png")).with("--steps", "1000");
        let mut running = command.start();
        wait_until_listening(&mut running);
        running.signal(signal);
        running.ended().refused(1, &["interrupted", "nothing was written"]);
        assert_empty(output.path());
    }
}

/// The request is a pipe that nobody writes to, so that the program never comes to a place where it could stop.
#[cfg(target_os = "linux")]
#[test]
fn a_second_ctrl_c_ends_at_once_what_cannot_stop() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("request.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = folder.path().join("out.png");
    let mut running = Ipa::generate(&tiny_sd(""), &output).with("--request", &pipe).start();
    wait_until_listening(&mut running);
    for _ in 0..500 {
        if running.has_ended() {
            break;
        }
        running.signal("INT");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(running.has_ended());
    let ended = running.ended();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""));
    assert_eq!(entries_below(folder.path()), ["request.toml"]);
}

#[test]
fn a_full_disk_leaves_no_picture_and_keeps_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.png");
    let command = Ipa::generate(&tiny_sd(""), &output);
    command.clone().run_on_a_full_disk(1).refused(1, &["out.png", "space"]);
    assert_empty(folder.path());

    fs::write(&output, "before").unwrap();
    command.run_on_a_full_disk(1).refused(1, &["out.png", "space"]);
    assert_eq!(entries_below(folder.path()), ["out.png"]);
    assert_eq!(fs::read(&output).unwrap(), b"before");
}

#[test]
fn a_full_disk_leaves_no_half_checkpoint() {
    let blocks = 300; // room for the adapter, which has 117 kB, and not for the optimizer's state of twice that
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let command = Ipa::train(data.path(), output.path()).with("--save-steps", "1");
    command.run_on_a_full_disk(blocks).refused(1, &["checkpoint-1", "space"]);
    assert_eq!(entries_below(output.path()), ["config.toml", "losses.jsonl"]);
}
