//! Downloads from a server that keeps to the protocol or not: each ends right or with a clear error, and the cache is
//! never damaged.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::time::Duration;

use ipa_hub::HubError;
use support::server::{Fault, content};
use support::{ADAPTER, CONFIG, ENCODER, Site, assert_fetched, fetch, fetch_told, set};

#[test]
fn a_fresh_fetch_brings_every_file_into_the_standard_layout() {
    let site = Site::new();
    let plan = site.hub().plan(&set("clip-h")).unwrap();
    let size = (content(CONFIG).len() + content(ENCODER).len()) as u64;
    assert_eq!((plan.bytes_to_fetch(), plan.card_licence()), (size, Some("apache-2.0")));
    let local = fetch(&site.hub(), "clip-h").unwrap();
    assert_fetched(&local, &[CONFIG, ENCODER]);
    assert_eq!(local.path, site.snapshot().join("models/image_encoder"));
    assert_eq!(fs::read_to_string(site.repo().join("refs/main")).unwrap(), site.server.commit());
    let link = fs::read_link(site.snapshot().join(ENCODER)).unwrap();
    assert_eq!(link, std::path::Path::new("../../../../blobs").join(site.blob(ENCODER).file_name().unwrap()));
    site.assert_intact();
}

#[test]
fn an_adapter_is_handed_on_as_its_file() {
    let site = Site::new();
    assert_eq!(fetch(&site.hub(), "ip-adapter").unwrap().path, site.snapshot().join(ADAPTER));
}

#[test]
fn what_is_cached_is_not_downloaded_again() {
    let site = Site::new();
    fetch(&site.hub(), "clip-h").unwrap();
    let plan = site.hub().plan(&set("clip-h")).unwrap();
    assert!(plan.bytes_to_fetch() == 0 && plan.files().iter().all(|file| file.is_cached()));
    site.hub().fetch(&plan, &|file, event| panic!("{file}: {event:?}")).unwrap();
    assert_eq!(site.server.requests(ENCODER).len(), 1);
}

#[test]
fn a_new_commit_shares_the_files_that_did_not_change() {
    let site = Site::new();
    fetch(&site.hub(), "clip-h").unwrap();
    site.server.move_on(&"ab".repeat(20));
    assert_fetched(&fetch(&site.hub(), "clip-h").unwrap(), &[CONFIG, ENCODER]);
    assert!(site.hub().local(&set("clip-h")).unwrap().path.starts_with(site.snapshot()));
    assert_eq!(site.server.requests(ENCODER).len(), 1);
    site.assert_intact();
}

#[test]
fn a_download_that_was_cut_goes_on_at_that_byte() {
    let len = content(ADAPTER).len();
    for at in [1, 17, 4_096, 131_071, 131_073, 222_222, len - 1] {
        let site = Site::new();
        site.server.fail(ADAPTER, [Fault::Cut(at)]);
        let error = fetch(&site.hub_without_patience(), "ip-adapter").unwrap_err();
        assert!(matches!(error, HubError::Network { attempts: 1, .. }), "{error}");
        assert_eq!(fs::read(site.incomplete(ADAPTER)).unwrap(), &content(ADAPTER)[..at]);
        assert!(site.hub().local(&set("ip-adapter")).is_err());
        site.assert_intact();

        assert_eq!(site.hub().plan(&set("ip-adapter")).unwrap().bytes_to_fetch(), (len - at) as u64);
        assert_fetched(&fetch(&site.hub(), "ip-adapter").unwrap(), &[ADAPTER]);
        assert_eq!(site.server.ranges(ADAPTER), [0, at]);
        assert!(!site.incomplete(ADAPTER).exists());
        site.assert_intact();
    }
}

#[test]
fn one_run_survives_several_cuts() {
    let site = Site::new();
    site.server.fail(ENCODER, [Fault::Cut(100_000), Fault::Cut(0), Fault::Cut(250_000)]);
    assert_fetched(&fetch(&site.hub(), "clip-h").unwrap(), &[CONFIG, ENCODER]);
    assert_eq!(site.server.ranges(ENCODER), [0, 100_000, 100_000, 350_000]);
    site.assert_intact();
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let site = Site::new();
    site.server.fail(ADAPTER, [Fault::Cut(1_000), Fault::Whole]);
    let (local, told) = fetch_told(&site.hub(), "ip-adapter");
    assert_fetched(&local.unwrap(), &[ADAPTER]);
    assert!(told[ADAPTER].contains(&"restarted".to_owned()), "{told:?}");
}

#[test]
fn the_beginning_that_another_program_left_is_used() {
    let site = Site::new();
    site.leave_partial(ADAPTER, &content(ADAPTER)[..200_000]);
    assert_fetched(&fetch(&site.hub(), "ip-adapter").unwrap(), &[ADAPTER]);
    assert_eq!(site.server.ranges(ADAPTER), [200_000]);

    let site = Site::new();
    site.leave_partial(ADAPTER, &content(ADAPTER));
    assert_fetched(&fetch(&site.hub(), "ip-adapter").unwrap(), &[ADAPTER]);
    assert_eq!(site.server.requests(ADAPTER).len(), 0);
}

#[test]
fn a_beginning_that_is_wrong_or_too_long_is_thrown_away() {
    for left in [vec![7; 200_000], vec![7; 300_007], vec![7; 300_008]] {
        let site = Site::new();
        site.leave_partial(ADAPTER, &left);
        assert_fetched(&fetch(&site.hub(), "ip-adapter").unwrap(), &[ADAPTER]);
        site.assert_intact();
    }
}

#[test]
fn a_wrong_byte_is_found_and_the_file_fetched_again() {
    for file in [CONFIG, ENCODER] {
        let site = Site::new();
        site.server.fail(file, [Fault::Flipped]);
        assert_fetched(&fetch(&site.hub(), "clip-h").unwrap(), &[CONFIG, ENCODER]);
        assert_eq!(site.server.ranges(file), [0, 0]);
        site.assert_intact();
    }
}

#[test]
fn a_file_that_stays_wrong_never_gets_its_name() {
    let site = Site::new();
    site.server.always_fail(ENCODER, Fault::Flipped);
    let error = fetch(&site.hub(), "clip-h").unwrap_err();
    assert!(matches!(error, HubError::Damaged { attempts: 2, .. }) && error.to_string().contains(ENCODER), "{error}");
    assert!(
        !site.blob(ENCODER).exists() && !site.incomplete(ENCODER).exists() && !site.snapshot().join(ENCODER).exists()
    );
    site.assert_intact();
}

#[test]
fn a_truncated_body_is_found_by_its_length() {
    let site = Site::new();
    site.server.fail(ADAPTER, [Fault::Short(1)]);
    assert_fetched(&fetch(&site.hub(), "ip-adapter").unwrap(), &[ADAPTER]);
    site.assert_intact();

    let site = Site::new();
    site.server.always_fail(ADAPTER, Fault::Short(1));
    let error = fetch(&site.hub(), "ip-adapter").unwrap_err().to_string();
    assert!(error.contains("offers 300006 bytes in place of 300007"), "{error}");
    site.assert_intact();
}

#[test]
fn a_file_that_was_cut_short_under_its_final_name_is_fetched_again() {
    let site = Site::new();
    fetch(&site.hub(), "ip-adapter").unwrap();
    fs::write(site.blob(ADAPTER), "cut short").unwrap();
    assert_eq!(site.hub().plan(&set("ip-adapter")).unwrap().bytes_to_fetch(), 300_007);
    assert_fetched(&fetch(&site.hub(), "ip-adapter").unwrap(), &[ADAPTER]);
    site.assert_intact();
}

#[test]
fn damage_under_a_final_name_is_found_on_request() {
    let site = Site::new();
    fetch(&site.hub(), "clip-h").unwrap();
    assert!(site.hub().discard_damaged(&set("clip-h")).unwrap().is_empty());
    for file in [CONFIG, ENCODER] {
        let mut bytes = content(file);
        bytes[3] ^= 1;
        fs::write(site.blob(file), bytes).unwrap();
    }
    let damaged = site.hub().discard_damaged(&set("clip-h")).unwrap();
    assert_eq!(damaged, [site.snapshot().join(CONFIG), site.snapshot().join(ENCODER)]);
    assert!(site.hub().local(&set("clip-h")).is_err());
    assert_fetched(&fetch(&site.hub(), "clip-h").unwrap(), &[CONFIG, ENCODER]);
    site.assert_intact();
}

#[test]
fn a_slow_connection_is_waited_for_as_long_as_something_comes() {
    let site = Site::new();
    site.server.fail(ADAPTER, [Fault::Slow(Duration::from_millis(40))]); // 19 pieces: 760 ms in all
    let hub = site.hub_with(|patience| {
        patience.read = Duration::from_millis(700);
        patience.attempts = 1;
    });
    assert_fetched(&fetch(&hub, "ip-adapter").unwrap(), &[ADAPTER]);
}

#[test]
fn silence_ends_an_attempt_and_the_next_goes_on() {
    let site = Site::new();
    site.server.fail(ADAPTER, [Fault::Silent(None), Fault::Silent(Some(50_000))]);
    let hub = site.hub_with(|patience| patience.read = Duration::from_millis(400));
    let (local, told) = fetch_told(&hub, "ip-adapter");
    assert_fetched(&local.unwrap(), &[ADAPTER]);
    assert_eq!(site.server.ranges(ADAPTER), [0, 0, 50_000]);
    assert!(told[ADAPTER].contains(&"retrying: no answer for 400ms".to_owned()), "{told:?}");
    site.assert_intact();
}

#[test]
fn lasting_silence_is_an_error() {
    let site = Site::new();
    site.server.always_fail(ADAPTER, Fault::Silent(Some(10)));
    let hub = site.hub_with(|patience| {
        patience.read = Duration::from_millis(100);
        patience.attempts = 2;
    });
    let error = fetch(&hub, "ip-adapter").unwrap_err();
    assert!(
        matches!(error, HubError::Network { attempts: 2, .. }) && error.to_string().contains("no answer"),
        "{error}"
    );
    site.assert_intact();
}

#[test]
fn the_failure_of_one_file_ends_the_others_early() {
    let site = Site::new();
    site.server.fail(CONFIG, [Fault::Status(404, "X", "y")]);
    site.server.fail(ENCODER, [Fault::Slow(Duration::from_millis(100))]); // 43 pieces: 4.3 s if not ended
    let start = std::time::Instant::now();
    assert!(matches!(fetch(&site.hub(), "clip-h"), Err(HubError::NotFound { .. })));
    assert!(start.elapsed() < Duration::from_secs(4));
    site.assert_intact();
}

#[test]
fn what_a_listing_says_beyond_its_form_is_not_believed() {
    let site = Site::new();
    site.server.change_listing(|listing| {
        let evil = ["../../../../evil", "/etc/evil", "models/../../../../evil", "C:\\evil"];
        let digest = "0".repeat(40);
        let files = listing["siblings"].as_array_mut().unwrap();
        files.extend(evil.map(|name| serde_json::json!({"rfilename": name, "size": 1, "blobId": digest})));
    });
    assert_fetched(&fetch(&site.hub(), "clip-h").unwrap(), &[CONFIG, ENCODER]);
    site.assert_intact();
    for change in [
        (|listing| listing["sha"] = "../../../../../../../../../../../../evil".into()) as fn(&mut serde_json::Value),
        |listing| listing["siblings"][0]["lfs"]["sha256"] = "../../../../evil".into(),
        |listing| listing["siblings"] = "none".into(),
        |listing| listing["siblings"] = serde_json::json!([]),
    ] {
        let site = Site::new();
        site.server.change_listing(change);
        let error = fetch(&site.hub(), "ip-adapter").unwrap_err();
        assert!(matches!(error, HubError::Protocol { .. } | HubError::NoFile { .. }), "{error}");
        site.assert_intact();
    }
}
