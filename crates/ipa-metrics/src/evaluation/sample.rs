//! Made-up measurements for the tests.

use std::collections::BTreeMap;

use super::{Method, MethodKind, Row, Set, Settings};

/// Two adapters and both baselines.
pub(super) fn settings() -> Settings {
    let method = |name: &str, kind| Method { name: name.to_owned(), kind, num_parameters: None, sha256: None };
    Settings {
        title: "Mascot".to_owned(),
        model: "pocket".to_owned(),
        metric_model: "pocket/clip".to_owned(),
        methods: vec![
            method("mascot", MethodKind::Adapter),
            method("base", MethodKind::Adapter),
            method("text only", MethodKind::TextOnly),
            method("reference itself", MethodKind::ReferenceItself),
        ],
        scale: 0.5,
        scales: vec![0.5, 1.0],
        sampler: "ddim".to_owned(),
        num_steps: 50,
        guidance_scale: 7.5,
        size: [64, 64],
        protocol: None,
        calibration: None,
        choices: Vec::new(),
    }
}

/// A picture of an adapter at the settings' strength.
pub(super) fn row(case: &str, method: &str, seed: u64) -> Row {
    Row {
        set: Set::Tests,
        case: case.to_owned(),
        method: method.to_owned(),
        prompt_index: 0,
        prompt: "a hat".to_owned(),
        reference: format!("references/{case}.png"),
        seed,
        scale: 0.5,
        file: format!("pictures/{method}-{case}-{seed}.png"),
        image_cosine: 0.75 + seed as f64 / 100.0,
        text_cosine: Some(0.25),
        caption_cosines: Vec::new(),
        captions: Vec::new(),
        nearest_training: None,
        judged: BTreeMap::new(),
        embedding: None,
    }
}
