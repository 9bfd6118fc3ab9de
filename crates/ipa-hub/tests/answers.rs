//! Refusals, redirects, gates, and a network that is not there.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use ipa_hub::{Hub, HubError, Settings, Token};
use support::server::{Fault, Server};
use support::{ADAPTER, CONFIG, ENCODER, REPO, Site, assert_fetched, fetch, set};

const LISTING: &str = "/revision/main";

fn with_token(site: &Site, token: &str) -> Hub {
    Hub::new(Settings { token: Token::new(token), ..site.settings() }).unwrap()
}

fn status(status: u16) -> Fault {
    Fault::Status(status, "X-Test", "1")
}

#[test]
fn lasting_refusals_are_told_at_once() {
    for place in [LISTING, ADAPTER] {
        for code in [401, 403, 404, 410, 400, 418] {
            let site = Site::new();
            site.server.always_fail(place, status(code));
            let error = fetch(&site.hub(), "ip-adapter").unwrap_err();
            let fits = match code {
                401 => matches!(error, HubError::Unauthorized { with_token: false, .. }),
                403 => matches!(error, HubError::Forbidden { with_token: false, .. }),
                404 | 410 => matches!(error, HubError::NotFound { .. }),
                _ => matches!(error, HubError::Status { attempts: 1, .. }),
            };
            assert!(fits && error.to_string().contains(REPO), "{code}: {error}");
            assert_eq!(site.server.requests(place).len(), 1, "{code}");
            site.assert_intact();
        }
    }
}

#[test]
fn a_refused_token_is_told_from_a_missing_one() {
    let site = Site::new();
    site.server.fail(LISTING, [status(401), status(401)]);
    assert!(fetch(&site.hub(), "ip-adapter").unwrap_err().to_string().contains("set HF_TOKEN"));
    let error = fetch(&with_token(&site, "hf_old"), "ip-adapter").unwrap_err().to_string();
    assert!(error.contains("renew HF_TOKEN") && !error.contains("hf_old"), "{error}");
}

#[test]
fn passing_refusals_are_asked_again() {
    for place in [LISTING, ADAPTER] {
        for code in [408, 425, 429, 500, 502, 503, 504] {
            let site = Site::new();
            site.server.fail(place, [status(code), status(code)]);
            assert_fetched(&fetch(&site.hub(), "ip-adapter").unwrap(), &[ADAPTER]);
            assert_eq!(site.server.requests(place).len(), 3, "{code}");
            site.assert_intact();
        }
    }
}

#[test]
fn refusals_that_do_not_pass_are_told_with_their_status() {
    for place in [LISTING, ADAPTER] {
        for code in [429, 503] {
            let site = Site::new();
            site.server.always_fail(place, status(code));
            let error = fetch(&site.hub(), "ip-adapter").unwrap_err();
            assert!(matches!(error, HubError::Status { status, attempts: 4, .. } if status == code), "{error}");
            site.assert_intact();
        }
    }
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let site = Site::new();
    site.server.fail(ADAPTER, [Fault::Status(429, "Retry-After", "1")]);
    let hub = site.hub_with(|patience| patience.longest_delay = Duration::from_secs(5));
    let start = Instant::now();
    assert_fetched(&fetch(&hub, "ip-adapter").unwrap(), &[ADAPTER]);
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn another_host_gets_no_token() {
    let (site, storage) = (Site::new(), Server::start());
    site.server.store_at(&storage);
    let hub = with_token(&site, "hf_secret");
    storage.fail("", [Fault::Cut(70_000)]);
    assert_fetched(&fetch(&hub, "ip-adapter").unwrap(), &[ADAPTER]);
    let at_hub = site.server.requests(ADAPTER);
    assert!(at_hub.iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));
    let elsewhere = storage.requests("");
    assert_eq!((elsewhere.len(), storage.ranges("")), (2, vec![0, 70_000]));
    assert!(elsewhere.iter().all(|request| !format!("{request:?}").contains("hf_secret")));
    site.assert_intact();
}

#[test]
fn a_token_follows_a_redirect_within_the_hub() {
    let site = Site::new();
    let moved = format!("/{REPO}/resolve/main/{ADAPTER}");
    site.server.fail(ADAPTER, [Fault::Redirect(moved)]);
    assert_fetched(&fetch(&with_token(&site, "hf_secret"), "ip-adapter").unwrap(), &[ADAPTER]);
    assert!(site.server.requests(ADAPTER).iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));
}

#[test]
fn an_expired_address_elsewhere_is_asked_for_anew() {
    let (site, storage) = (Site::new(), Server::start());
    site.server.store_at(&storage);
    storage.fail("", [status(403)]);
    assert_fetched(&fetch(&site.hub(), "ip-adapter").unwrap(), &[ADAPTER]);
    assert_eq!(site.server.requests(ADAPTER).len(), 2);

    storage.always_fail("", status(403));
    let error = fetch(&site.hub(), "clip-h").unwrap_err();
    assert!(matches!(error, HubError::Status { status: 403, .. }), "{error}");
    assert!(!error.to_string().contains("signature"), "{error}");
    site.assert_intact();
}

#[test]
fn redirects_without_end_or_to_odd_places_are_refused() {
    for to in [format!("/{REPO}/resolve/main/{ADAPTER}"), "file:///etc/passwd".to_owned(), "ftp://host/x".to_owned()] {
        let site = Site::new();
        site.server.always_fail(ADAPTER, Fault::Redirect(to));
        let error = fetch(&site.hub(), "ip-adapter").unwrap_err();
        assert!(matches!(error, HubError::Redirect { .. }), "{error}");
        assert!(site.server.requests(ADAPTER).len() <= 6);
        site.assert_intact();
    }
}

#[test]
fn a_gate_is_told_with_its_page_before_anything_is_downloaded() {
    let site = Site::new();
    site.server.gate("hf_accepted");
    let plan = site.hub().plan(&set("ip-adapter")).unwrap();
    assert!(plan.is_gated());
    let error = site.hub().fetch(&plan, &|_, _| {}).unwrap_err();
    let page = format!("{}/{REPO}", site.server.address());
    assert!(matches!(error, HubError::Gated { with_token: false, .. }), "{error}");
    assert!(error.to_string().contains(&page) && error.to_string().contains("HF_TOKEN"), "{error}");
    assert_eq!(site.server.requests(ADAPTER).len(), 0);

    let error = fetch(&with_token(&site, "hf_another"), "ip-adapter").unwrap_err();
    assert!(matches!(error, HubError::Gated { with_token: true, .. }), "{error}");
    assert_fetched(&fetch(&with_token(&site, "hf_accepted"), "ip-adapter").unwrap(), &[ADAPTER]);
    site.assert_intact();
}

#[test]
fn a_gate_that_the_listing_hides_is_told_too() {
    let site = Site::new();
    site.server.gate("hf_accepted");
    site.server.change_listing(|listing| listing["gated"] = false.into());
    assert!(matches!(fetch(&site.hub(), "ip-adapter"), Err(HubError::Gated { with_token: false, .. })));
}

#[test]
fn offline_the_cache_is_enough() {
    let site = Site::new();
    let there = fetch(&site.hub(), "clip-h").unwrap();
    let asked = site.server.requests("").len();
    let offline = Hub::new(Settings { offline: true, ..site.settings() }).unwrap();
    let plan = offline.plan(&set("clip-h")).unwrap();
    assert!(plan.is_from_cache() && plan.bytes_to_fetch() == 0);
    assert_eq!(offline.fetch(&plan, &|_, _| {}).unwrap(), there);
    assert_eq!(offline.local(&set("clip-h")).unwrap(), there);
    assert_eq!(site.server.requests("").len(), asked);
}

#[test]
fn offline_a_missing_file_is_named() {
    let site = Site::new();
    let offline = Hub::new(Settings { offline: true, ..site.settings() }).unwrap();
    let error = fetch(&offline, "clip-h").unwrap_err().to_string();
    assert!(error.contains(&format!("{CONFIG} and 1 more of `clip-h`")) && error.contains("HF_HUB_OFFLINE"), "{error}");
    fetch(&site.hub(), "clip-h").unwrap();
    std::fs::remove_file(site.snapshot().join(ENCODER)).unwrap();
    let error = fetch(&offline, "clip-h").unwrap_err().to_string();
    assert!(error.starts_with(ENCODER), "{error}");
    let error = site.hub().local(&set("clip-h")).unwrap_err().to_string();
    assert!(error.contains("ipa fetch clip-h"), "{error}");
    assert_eq!(site.server.requests(LISTING).len(), 1);
}

#[test]
fn a_hub_out_of_reach_is_no_loss_with_a_complete_cache() {
    let site = Site::new();
    let there = fetch(&site.hub(), "clip-h").unwrap();
    site.server.go_down();
    let plan = site.hub().plan(&set("clip-h")).unwrap();
    assert!(plan.is_from_cache());
    assert_eq!(site.hub().fetch(&plan, &|_, _| {}).unwrap(), there);
    let error = fetch(&site.hub(), "ip-adapter").unwrap_err();
    assert!(matches!(error, HubError::Network { attempts: 4, .. }), "{error}");
}

#[test]
fn nobody_listening_is_an_error_of_the_network() {
    let site = Site::new();
    // The port of a listener that is gone.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hub = Hub::new(Settings { endpoint: format!("http://127.0.0.1:{port}"), ..site.settings() }).unwrap();
    assert!(matches!(fetch(&hub, "ip-adapter"), Err(HubError::Network { .. })));
}

#[test]
fn a_failed_fetch_leaves_the_commit_before_in_use() {
    let site = Site::new();
    let there = fetch(&site.hub(), "ip-adapter").unwrap();
    site.server.move_on(&"ab".repeat(20));
    site.server.always_fail(CONFIG, status(404));
    fetch(&site.hub(), "clip-h").unwrap_err();
    assert_eq!(site.hub().local(&set("ip-adapter")).unwrap(), there);
    site.assert_intact();
}

#[test]
fn a_file_larger_than_the_disk_is_refused_before_it_begins() {
    let site = Site::new();
    site.server.change_listing(|listing| listing["siblings"][0]["lfs"]["size"] = (u64::MAX / 2).into());
    let error = fetch(&site.hub(), "ip-adapter").unwrap_err();
    assert!(matches!(error, HubError::Space { .. }) && error.to_string().contains("HF_HUB_CACHE"), "{error}");
    assert_eq!(site.server.requests(ADAPTER).len(), 0);
    site.assert_intact();
}
