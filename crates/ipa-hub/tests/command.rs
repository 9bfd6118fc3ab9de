//! The program itself: what it prints, how it ends, and several of it at once.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::server::{Fault, content};
use support::{ADAPTER, CONFIG, ENCODER, Site};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipa-hub");

/// The program with nothing but the site in its environment.
fn program(site: &Site, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    with_site(command, site)
}

fn with_site(mut command: Command, site: &Site) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HF_HOME", site.folder.path()).env("HF_ENDPOINT", site.server.address());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(site: &Site, args: &[&str]) -> Output {
    program(site, args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_adapter_comes_with_its_encoder_and_its_licence_first() {
    let site = Site::new();
    let output = run(&site, &["ip-adapter"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (adapter, encoder) = (site.snapshot().join(ADAPTER), site.snapshot().join("models/image_encoder"));
    let lines: Vec<String> =
        stdout(&output).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, [format!("ip-adapter {}", adapter.display()), format!("clip-h {}", encoder.display())]);
    assert!(stderr(&output).contains("licence   apache-2.0\n"), "{}", stderr(&output));
    assert_eq!(fs::read(site.snapshot().join(ENCODER)).unwrap(), content(ENCODER));
    site.assert_intact();
}

#[test]
fn only_leaves_the_encoder_out() {
    let site = Site::new();
    assert!(run(&site, &["ip-adapter", "--only"]).status.success());
    assert!(site.server.requests(ENCODER).is_empty());
}

#[test]
fn a_dry_run_names_the_files_and_downloads_none() {
    let site = Site::new();
    let output = run(&site, &["clip-h", "--dry-run"]);
    assert!(output.status.success());
    for said in ["licence   apache-2.0", CONFIG, ENCODER, "700.00 kB", "to fetch"] {
        assert!(stdout(&output).contains(said), "{said}: {}", stdout(&output));
    }
    assert!(!site.cache().exists());
}

#[test]
fn json_is_an_object_a_line() {
    let site = Site::new();
    let objects = objects(&run(&site, &["clip-h", "--json"]));
    assert_eq!(objects.len(), 2);
    assert_eq!((&objects[0]["event"], &objects[0]["bytes_to_fetch"]), (&"plan".into(), &700_023.into()));
    assert_eq!((&objects[0]["licence"], &objects[0]["files"][0]["name"]), (&"apache-2.0".into(), &CONFIG.into()));
    let path = site.snapshot().join("models/image_encoder");
    assert_eq!((&objects[1]["event"], &objects[1]["path"]), (&"done".into(), &path.to_str().unwrap().into()));
}

#[test]
fn the_list_needs_no_network_and_knows_the_cache() {
    let site = Site::new();
    assert!(run(&site, &["clip-h"]).status.success());
    site.server.go_down();
    let text = stdout(&run(&site, &["--list"]));
    let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
    assert!(line("clip-h").ends_with("(in the cache)") && !line("sd15").contains("cache"), "{text}");
    let objects = objects(&run(&site, &["--list", "--json", "clip-h", "ip-adapter-plus"]));
    assert_eq!(objects.len(), 2);
    assert!(objects[0]["path"].is_null() && objects[1]["path"].is_string());
    assert_eq!((&objects[0]["image_encoder"], &objects[0]["kind"]), (&"clip-h".into(), &"adapter".into()));
}

#[test]
fn wrong_arguments_end_with_2_and_failures_with_1() {
    let site = Site::new();
    let unknown = run(&site, &["ip-adapter-pluss"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("did you mean `ip-adapter-plus`?"), "{}", stderr(&unknown));
    assert_eq!(run(&site, &[]).status.code(), Some(2));
    assert_eq!(run(&site, &["sd15", "--list", "--verify"]).status.code(), Some(2));
    assert!(site.server.requests("").is_empty());
    let absent = run(&site, &["vae-ft-mse"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(stderr(&absent).contains("does not exist"), "{}", stderr(&absent));
    let offline = program(&site, &["clip-h"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(offline.status.code(), Some(1));
}

#[test]
fn help_ends_with_examples() {
    let help = stdout(&run(&Site::new(), &["--help"]));
    assert!(help.contains("fetch ip-adapter-plus") && help.contains("HF_HUB_OFFLINE=1"), "{help}");
}

#[test]
fn damaged_files_are_replaced_on_request() {
    let site = Site::new();
    assert!(run(&site, &["clip-h"]).status.success());
    fs::write(site.blob(ENCODER), vec![0; 700_001]).unwrap();
    let output = run(&site, &["clip-h", "--verify"]);
    assert!(output.status.success() && stderr(&output).contains("was damaged"), "{}", stderr(&output));
    site.assert_intact();
}

#[test]
fn two_programs_at_once_both_succeed_with_one_download() {
    let site = Site::new();
    site.server.always_fail(ENCODER, Fault::Slow(Duration::from_millis(10)));
    let running: Vec<_> = (0..3).map(|_| program(&site, &["clip-h", "--json"]).spawn().unwrap()).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(objects(&output).pop().unwrap()["event"], "done");
    }
    assert_eq!(site.server.requests(ENCODER).len(), 1);
    assert_eq!(fs::read(site.snapshot().join(ENCODER)).unwrap(), content(ENCODER));
    site.assert_intact();
}

#[test]
fn a_program_that_is_killed_leaves_its_lock_and_its_bytes_to_the_next() {
    let site = Site::new();
    site.server.fail(ENCODER, [Fault::Silent(Some(300_000))]);
    let mut first = program(&site, &["clip-h"]).spawn().unwrap();
    while fs::metadata(site.incomplete(ENCODER)).map_or(0, |found| found.len()) < 300_000 {
        std::thread::sleep(Duration::from_millis(5));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    site.assert_intact();
    assert!(run(&site, &["clip-h"]).status.success());
    assert_eq!(site.server.ranges(ENCODER), [0, 300_000]);
    site.assert_intact();
}

/// No file can grow beyond 400 blocks of 512 bytes: to the program that is a disk that fills up in the middle of a file,
/// for which no privileges are needed.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_is_told_and_what_came_is_kept() {
    let site = Site::new();
    let mut shell = Command::new("sh");
    // Without the trap the system would end the program in place of refusing the write.
    shell.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"", "400", PROGRAM, "clip-h"]);
    let output = with_site(shell, &site).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let name = format!("{}.incomplete", support::server::etag(ENCODER));
    assert!(stderr(&output).contains(&name) && stderr(&output).contains("space left"), "{}", stderr(&output));
    let kept = fs::read(site.incomplete(ENCODER)).unwrap();
    assert!(content(ENCODER).starts_with(&kept) && !kept.is_empty());
    site.assert_intact();
    assert!(run(&site, &["clip-h"]).status.success());
    assert_eq!(site.server.ranges(ENCODER), [0, kept.len()]);
    site.assert_intact();
}

#[cfg(unix)]
#[test]
fn a_cache_that_may_not_be_written_to_is_told() {
    let site = Site::new();
    fs::write(site.cache(), "a file in place of the folder").unwrap();
    let output = run(&site, &["clip-h"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("cannot write") && stderr(&output).contains("HF_HUB_CACHE"),
        "{}",
        stderr(&output)
    );
}
